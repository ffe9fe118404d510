"""Starts the real skeind on a free port of 127.0.0.1 and talks to it.

SK_BUILD   folder with skeind, skein-engine and skein-build (default: SK_SRCDIR)
SK_SRCDIR  root of the tree (default: two folders up)
SK_MODEL   the default model, for test_smollm2.py
"""

import contextlib
import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

SRC = pathlib.Path(os.environ.get("SK_SRCDIR", pathlib.Path(__file__).parents[2])).resolve()
BUILD = pathlib.Path(os.environ.get("SK_BUILD", SRC)).resolve()
MODEL = str(SRC / "tests/golden/tiny/llama")
START_S = 120


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Daemon:
    def __init__(self, cache, *args, model=MODEL, env=None, bin=BUILD):
        command = [str(bin / "skeind"), "--listen", "127.0.0.1:0", "--cache-dir", str(cache), *args]
        command += ["--model", model] if model else []
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}
        )
        self.log = []
        self.port = self._find_port()
        os.set_blocking(self.process.stdout.fileno(), False)
        self.wait_ready()

    def _find_port(self):
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
            if found:
                return int(found.group(1))
        raise RuntimeError("skeind ended:\n" + "".join(self.log))

    def drain_log(self):
        """What it wrote since; also keeps the pipe from filling up."""
        with contextlib.suppress(BlockingIOError, TypeError):
            while line := self.process.stdout.readline():
                self.log.append(line)
        return "".join(self.log)

    def wait_ready(self):
        until = time.monotonic() + START_S
        while self.get("/ready").status != 200:
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("skeind is not ready:\n" + self.drain_log())
            time.sleep(0.02)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(self, method, path, body=None, headers=None):
        """`body`: bytes as they are, anything else as JSON."""
        connection = self.connect()
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        answer = Answer(response, response.read())
        connection.close()
        self.drain_log()
        return answer

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body, **kw):
        return self.request("POST", path, body, **kw)

    def ok(self, path, body):
        answer = self.post(path, body)
        assert answer.status == 200, answer.body
        return answer.json

    def stream(self, path, body):
        """The events of a stream, parsed; checks that [DONE] is the last."""
        answer = self.post(path, {**body, "stream": True})
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"].startswith("text/event-stream")
        return parse_events(answer.body)

    def engine_pid(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            if b"skein-engine" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        raise RuntimeError("skeind has no engine")

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.set_blocking(self.process.stdout.fileno(), True)
        self.log.append(self.process.stdout.read())
        return self.process.returncode


def parse_events(raw):
    events = []
    for block in raw.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        events.append(block[len("data: ") :])
    assert events and events[-1] == "[DONE]", raw[-200:]
    assert "[DONE]" not in events[:-1]
    return [json.loads(e) for e in events[:-1]]


def joined_text(events, index=0):
    """The text of one choice of a stream, of either endpoint."""
    text = ""
    for event in events:
        for choice in event["choices"]:
            if choice["index"] == index:
                text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
    return text


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def start(cache):
    """Starts daemons of one's own: start(*options); they are ended with the session."""
    running = []

    def run(*args, **kw):
        running.append(Daemon(cache, *args, **kw))
        return running[-1]

    yield run
    codes = [d.close() for d in running]
    assert codes == [0] * len(codes), "".join("".join(d.log) for d in running)


@pytest.fixture(scope="session")
def shared(start):
    return start("--threads", "1")


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """programs("faulty_engine") is a folder of programs, for Daemon's `bin`, in which that test tool is skein-engine."""

    @functools.cache
    def make(engine):
        folder = tmp_path_factory.mktemp(engine)
        for program in ("skeind", "skein-build"):
            shutil.copy2(BUILD / program, folder)
        shutil.copy2(BUILD / "tests/tools" / engine, folder / "skein-engine")
        return folder

    return make


@pytest.fixture
def server(shared):
    """The daemon that most tests share: it must outlive each of them, and have nothing left to do."""
    yield shared
    assert shared.process.poll() is None, shared.drain_log()
    assert shared.get("/health").status == 200
