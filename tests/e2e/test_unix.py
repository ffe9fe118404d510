"""A Unix socket as the listener."""

import http.client
import json
import os
import pathlib
import re
import socket
import stat
import time

import pytest

from conftest import Daemon, joined_text
from crowd import standstill, unfinished, wait_until

ASK = {"prompt": "The capital", "temperature": 0, "ignore_eos": True}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class UnixDaemon(Daemon):
    def __init__(self, cache, path, *args):
        self.path = str(path)
        super().__init__(cache, "--listen", f"unix:{path}", "--threads", "1", "--max-seqs", "4", *args)

    def _find_port(self):
        for line in self.process.stdout:
            self.log.append(line)
            if re.search(r"listening on unix:" + re.escape(self.path), line):
                return 0
        raise RuntimeError("skeind ended:\n" + "".join(self.log))

    def connect(self):
        return UnixConnection(self.path)

    def wait_for_log(self, text, n=1):
        until = time.monotonic() + 20
        while self.drain_log().count(text) < n:
            assert time.monotonic() < until, self.log[-20:]
            time.sleep(0.01)


@pytest.fixture(scope="module")
def unix(cache, tmp_path_factory):
    daemon = UnixDaemon(cache, tmp_path_factory.mktemp("unix") / "skein.sock", "--socket-mode", "0640")
    yield daemon
    assert daemon.close() == 0, "".join(daemon.log)
    assert not os.path.exists(daemon.path), "the socket file is left behind"


def test_answers_and_streams(unix):
    text = unix.ok("/v1/completions", {**ASK, "max_tokens": 20})["choices"][0]["text"]
    assert joined_text(unix.stream("/v1/completions", {**ASK, "max_tokens": 20})) == text


def test_permissions(unix):
    found = os.stat(unix.path)
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o640


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving(unix, stream, half):
    """Before the first token; of a stream, when its head has come."""
    before = unix.drain_log().count("end=gone")
    connection = unix.connect()
    with standstill(unix):
        body = {"prompt": [5, 6, 7], "max_tokens": 200, "n": 4, "ignore_eos": True, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(body))
        if stream:
            assert connection.sock.recv(1)
        wait_until(lambda: unfinished(unix) > 0, "the request is there")
        if half:
            connection.sock.shutdown(socket.SHUT_WR)
        else:
            connection.close()
        unix.wait_for_log("end=gone", before + 1)
    connection.close()


def test_a_second_daemon_is_refused(unix, cache):
    with pytest.raises(RuntimeError, match=re.escape(unix.path)):
        UnixDaemon(cache, unix.path)
    assert unix.get("/health").status == 200


def test_what_a_killed_daemon_leaves_is_replaced(cache, tmp_path):
    path = pathlib.Path(tmp_path / "s")
    first = UnixDaemon(cache, path)
    first.process.kill()
    first.process.wait()
    assert path.exists()
    second = UnixDaemon(cache, path)
    assert second.get("/health").status == 200
    assert second.close() == 0
    assert not path.exists()
