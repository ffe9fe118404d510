"""The terminal chat: as a command of scripts, at a terminal (a pty), and against servers that misbehave."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
from conftest import BUILD, SRC

SKEIN = str(BUILD / "skein")
OK, USAGE, UNREACHED, REFUSED, BROKEN, STOPPED = 0, 1, 2, 3, 4, 130
WAIT_S = 60
CERTS = SRC / "tests/golden/tls"


def environment(home, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_") and not k.lower().endswith("_proxy")}
    return {**clean, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "LC_ALL": "C.UTF-8", "TERM": "xterm", **more}


# ---- servers that say what a test wants ----


def event(text):
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Fake:
    """Answers each POST with the next of `answers`: pieces of bytes as they are, or functions to call between them."""

    def __init__(self, *answers, tls=None, port=0):
        self.answers = list(answers)
        self.tls = tls
        self.requests = []
        self.heads = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            stream = connection.makefile("rb")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = stream.readline()
                if not line:
                    return
                head += line
            if head.startswith(b"GET"):
                body = b'{"object":"list","data":[{"id":"fake-1"},{"id":"fake-2"}]}'
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                return
            length = int(re.search(rb"(?i)content-length: (\d+)", head).group(1))
            self.heads.append(head.decode())
            self.requests.append(json.loads(stream.read(length)))
            for piece in self.answers.pop(0):
                if callable(piece):
                    piece()
                else:
                    connection.sendall(piece)

    def close(self):
        self.listener.close()


@pytest.fixture
def fake():
    made = []

    def make(*answers, **kw):
        made.append(Fake(*answers, **kw))
        return made[-1]

    yield make
    for f in made:
        f.close()


@pytest.fixture
def skein(tmp_path):
    def run(*args, input=b"", env=None):
        return subprocess.run(
            [SKEIN, *args], input=input, capture_output=True, timeout=WAIT_S, env=environment(tmp_path, **(env or {}))
        )

    return run


def check(done, code, out=None, err=""):
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert out is None or done.stdout == out, done.stdout
    assert err in done.stderr.decode(), done.stderr


# ---- in scripts ----


def test_one_question(server, skein):
    url = f"http://127.0.0.1:{server.port}/v1"
    options = ("--url", url, "--temperature", "0", "--max-tokens", "8")
    model = server.get("/v1/models").json["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    want = server.ok("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    done = skein("Hello", *options, "--stats")
    check(done, OK, err="tokens, the first after ")
    assert done.stdout.decode() in (want, want + "\n")
    assert re.search(r"^\[8 tokens, ", done.stderr.decode(), re.M)


def test_pipe_is_added_to_the_question(fake, skein):
    server = fake(*[(HEAD, event("ok"), STOP, DONE)] * 3)
    check(skein("summarise", "--url", server.url, input=b"the file\n"), OK, b"ok\n")
    check(skein("--url", server.url, input=b"only this\n"), OK, b"ok\n")
    check(skein("only that", "--url", server.url), OK, b"ok\n")
    asked = [r["messages"] for r in server.requests]
    assert asked[0] == [{"role": "user", "content": "summarise\n\nthe file"}]
    assert asked[1] == [{"role": "user", "content": "only this"}]
    assert asked[2] == [{"role": "user", "content": "only that"}]


def test_request(fake, skein, tmp_path):
    server = fake((HEAD, event("ok"), STOP, DONE), (HEAD, event("ok"), STOP, DONE))
    (tmp_path / "system").write_text("line 1\nline 2\n")
    env = {"OPENAI_API_KEY": "secret-1", "OPENAI_BASE_URL": server.url}
    check(skein("q", "--system-file", str(tmp_path / "system"), "--seed", "7", "--top-p", "0.5", env=env), OK)
    assert "Authorization: Bearer secret-1" in server.heads[0]
    assert server.requests[0] == {
        "model": "fake-1",
        "messages": [{"role": "system", "content": "line 1\nline 2\n"}, {"role": "user", "content": "q"}],
        "stream": True,
        "top_p": 0.5,
        "seed": 7,
    }
    check(skein("q", "--url", server.url, "--api-key", "secret-2", "--model", "other", "--stop", "x", env=env), OK)
    assert "Authorization: Bearer secret-2" in server.heads[1]
    assert server.requests[1]["model"] == "other" and server.requests[1]["stop"] == "x"


def test_a_pipe_gets_the_very_bytes(fake, skein):
    text = "**b** `c` \x1b[31m \u202e ä\n"
    server = fake((HEAD, event(text), STOP, DONE))
    check(skein("q", "--url", server.url), OK, text.encode())


def test_usage_errors(skein, tmp_path):
    check(skein("--help"), OK, err="")
    assert b"exit status: 0 done" in skein("--help").stdout
    assert skein("--version").stdout.startswith(b"skein ")
    check(skein("a", "b"), USAGE, b"", "unexpected argument 'b'")
    check(skein("a", "--temprature", "1"), USAGE, b"", "did you mean 'temperature'?")
    check(skein("a", "--url", "localhost:1"), USAGE, b"", "must begin with http://")
    check(skein("a", "--ca-file", "/nonexistent"), USAGE, b"", "/nonexistent")
    check(skein("a", "--system-file", "/nonexistent"), USAGE, b"", "/nonexistent")
    check(skein("a", "--system", "x", "--system-file", "y"), USAGE, b"", "exclude each other")
    check(skein("a", env={"OPENAI_API_KEY": "two\nlines"}), USAGE, b"", "API key")
    check(skein(input=b" \n"), USAGE, b"", "there is no question")
    check(skein(input=b"\xff\xfe"), USAGE, b"", "not UTF-8")
    check(skein("a", input=b"x" * (4 << 20)), USAGE, b"", "more than 4194304 bytes")


def test_unreachable(skein):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    check(skein("q", "--url", f"http://127.0.0.1:{port}"), UNREACHED, b"", f"cannot reach http://127.0.0.1:{port}/v1")
    check(skein("q", "--url", "unix:/nonexistent.sock"), UNREACHED, b"", "cannot reach /nonexistent.sock")


def test_tls(fake, skein, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTS / "first.crt", CERTS / "first.key")
    server = fake(*[(HEAD, event("ok"), STOP, DONE)] * 2, tls=context)
    ask = ("q", "--url", server.url, "--model", "m")
    check(skein(*ask), UNREACHED, b"", "TLS: ")
    check(skein(*ask, "--ca-file", str(CERTS / "second.crt")), UNREACHED, b"", "--ca-file FILE says who may sign")
    (tmp_path / "no.pem").write_text("no certificate")
    check(skein(*ask, "--ca-file", str(tmp_path / "no.pem")), UNREACHED, b"", "TLS: ")
    check(skein("q", "--url", server.url.replace("https", "http")), BROKEN, b"", "the answer broke off")
    assert not server.requests
    check(skein(*ask, "--ca-file", str(CERTS / "first.crt")), OK, b"ok\n")
    check(skein(*ask, "--insecure"), OK, b"ok\n")


def test_refused(server, fake, skein):
    url = f"http://127.0.0.1:{server.port}/v1"
    check(skein("q", "--url", url, "--model", "nope"), REFUSED, b"", "answered 404: The model `nope` does not exist")
    check(skein("q", "--url", url + "/wrong"), REFUSED, b"", "answered 404")
    page = b"HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<h1>\x1b[2Jbad\xff gateway</h1>"
    check(skein("q", "--url", fake((page,)).url), REFUSED, b"", "answered 502: <h1>\\x1b[2Jbad\ufffd gateway</h1>")


@pytest.mark.parametrize(
    "rest, why",
    [
        (b'data: {"choices": [\n\n', "line 5 of the stream"),
        (b'data: {"choices": "\xff"}\n\n', "line 5 of the stream"),
        (b'data: {"cho', "broke off inside an event, at line 5"),
        (b"", "the stream ended before the answer did, after 2 events"),
        (b"<html>oops</html>\n\n", "its line 5 is not of an event"),
        (b"data: " + b"x" * (2 << 20) + b"\n\n", "line 5 of the stream: more than 1048576 bytes in one event"),
        (b'data: {"error": {"message": "engine lost"}}\n\n', "the server gave up: engine lost"),
    ],
    ids=["json", "utf8", "inside", "early", "no-field", "huge", "error"],
)
def test_broken_streams(fake, skein, rest, why):
    server = fake((HEAD, event("kept"), event(" too"), rest))
    check(skein("q", "--url", server.url), BROKEN, b"kept too\n", why)


def test_broken_http(fake, skein):
    chunked = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    first = event("kept")
    server = fake(
        (chunked, b"%x\r\n" % len(first), first, b"\r\n"),
        (b"SSH-2.0-OpenSSH_9.2\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>",),
        (),
    )
    check(skein("q", "--url", server.url), BROKEN, b"kept\n", "the answer broke off")
    check(skein("q", "--url", server.url), BROKEN, b"", "HTTP/0.9")
    check(skein("q", "--url", server.url), BROKEN, b"", "is the URL right?")
    check(skein("q", "--url", server.url), BROKEN, b"", "the answer broke off: Empty reply from server")


def test_server_that_does_not_stream(fake, skein):
    body = b'{"choices":[{"message":{"role":"assistant","content":"all at once"},"finish_reason":"stop"}]}'
    server = fake((b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body), body))
    check(skein("q", "--url", server.url), OK, b"all at once\n")


def test_silent_server(fake, skein):
    server = fake((HEAD, event("kept"), threading.Event().wait))
    check(skein("q", "--url", server.url, "--timeout", "1000"), BROKEN, b"kept\n", "nothing came for 1000 ms")


def test_server_that_does_not_close(fake, skein):
    server = fake((HEAD, event("kept"), STOP, DONE, threading.Event().wait))
    check(skein("q", "--url", server.url), OK, b"kept\n")


def test_interrupt_ends_a_script(fake, tmp_path):
    server = fake((HEAD, event("kept"), threading.Event().wait))
    process = subprocess.Popen(
        [SKEIN, "q", "--url", server.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdout.read(4) == b"kept"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, err) == (STOPPED, b"\n", b"skein: interrupted\n")


def test_reader_that_leaves(fake, tmp_path):
    gone = threading.Event()
    server = fake((HEAD, event("kept"), lambda: gone.wait(WAIT_S), event("more"), STOP, DONE))
    process = subprocess.Popen(
        [SKEIN, "q", "--url", server.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdout.read(4) == b"kept"
    process.stdout.close()
    gone.set()
    assert b"cannot write the answer: Broken pipe" in process.stderr.read()
    assert process.wait(WAIT_S) == USAGE


# ---- at a terminal ----


class Terminal:
    def __init__(self, home, *args, **env):
        self.seen = ""
        self.mark = 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(SKEIN, [SKEIN, *args], environment(home, **env))

    def type(self, text):
        """At once: while an answer comes, the terminal is not the line editor's."""
        os.write(self.fd, text.encode())

    def enter(self, text):
        """At the next prompt."""
        self.wait("> ")
        self.type(text)

    def wait(self, pattern):
        """Until what came since the last wait matches."""
        until = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.seen[self.mark :])):
            self._read(until)
        self.mark += found.end()
        return found

    def _read(self, until):
        assert select.select([self.fd], [], [], max(0, until - time.monotonic()))[0], "it is silent: " + self.seen
        try:
            got = os.read(self.fd, 65536)
        except OSError:  # EIO: the program has ended
            got = b""
        assert got, "it ended: " + self.seen
        self.seen += got.decode(errors="replace")

    def end(self):
        """The exit status; the rest of what it wrote is in `seen`."""
        until = time.monotonic() + WAIT_S
        with pytest.raises(AssertionError, match="it ended"):
            while True:
                self._read(until)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(tmp_path):
    made = []

    def run(*args, **env):
        made.append(Terminal(tmp_path, *args, **env))
        return made[-1]

    yield run
    for t in made:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(t.pid, os.WNOHANG)[0] == 0:
                os.kill(t.pid, signal.SIGKILL)
                os.waitpid(t.pid, 0)


def answers(*texts):
    return [(HEAD, event(t), STOP, DONE) for t in texts]


def test_chat(fake, terminal, tmp_path):
    server = fake(*answers("one", "two", "three", "four"))
    t = terminal("--url", server.url, "--system", "brief")
    t.wait(r"fake-1\. /help lists the commands")
    t.enter("first\n")
    t.wait("one\r\n")
    t.enter("sec\\\nond\n")
    t.wait("two\r\n")
    t.enter("/regen\n")
    t.wait("three\r\n")
    t.enter("/set temperature 0.5\n")
    t.wait("temperature: 0.5\r\n")
    t.enter(f"/save {tmp_path}/talk.json\n")
    t.wait("saved to")
    t.enter("/reset\n")
    t.enter('"""a\nb"""\n')
    t.wait("four\r\n")
    t.enter(f"/load {tmp_path}/talk.json\n")
    t.wait(r"\[4 messages\]")
    t.enter("/quit\n")
    assert t.end() == OK
    system = {"role": "system", "content": "brief"}
    first = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "one"}]
    second = {"role": "user", "content": "sec\nond"}
    asked = [r["messages"] for r in server.requests]
    assert asked[0] == [system, first[0]]
    assert asked[1] == asked[2] == [system, *first, second]
    assert asked[3] == [system, {"role": "user", "content": "a\nb"}]
    assert [r.get("temperature") for r in server.requests] == [None, None, None, 0.5]
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved == {"messages": [system, *first, second, {"role": "assistant", "content": "three"}]}


def test_interrupt_stops_the_answer_only(fake, terminal, tmp_path):
    server = fake((HEAD, event("kept"), threading.Event().wait), *answers("next"))
    t = terminal("--url", server.url)
    t.enter("q1\n")
    t.wait("kept")
    t.type("\x03")
    t.wait(r"\[stopped; /regen asks again\]\r\n")
    t.enter(f"/save {tmp_path}/talk.json\n")
    t.wait("saved to")
    t.enter("q2\n")
    t.wait("next\r\n")
    t.enter("thrown away")
    t.wait("away")
    t.type("\x03")
    t.enter("\x04")
    assert t.end() == OK
    partial = {"role": "assistant", "content": "kept"}
    assert server.requests[1]["messages"] == [
        {"role": "user", "content": "q1"},
        partial,
        {"role": "user", "content": "q2"},
    ]
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][1] == {**partial, "partial": True}
    assert len(server.requests) == 2


def test_broken_answer_is_kept(fake, terminal):
    server = fake((HEAD, event("kept")), *answers("next"))
    t = terminal("--url", server.url)
    t.enter("q1\n")
    t.wait("kept\r\n")
    t.wait("skein: the stream ended before the answer did")
    t.enter("q2\n")
    t.wait("next\r\n")
    t.enter("\x04")
    assert t.end() == OK
    assert server.requests[1]["messages"][1] == {"role": "assistant", "content": "kept"}


def test_line_editing_and_history(fake, terminal, tmp_path):
    server = fake(*answers("one", "two", "three"))
    t = terminal("--url", server.url)
    t.enter("wörld\x01hello \x05!\n")  # ^A to the start, ^E to the end
    t.wait("one\r\n")
    t.enter("\x1b[A\x7f?\n")  # up, backspace
    t.wait("two\r\n")
    t.enter("\x04")
    assert t.end() == OK
    history = tmp_path / "state/skein/history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.parent.stat().st_mode & 0o777 == 0o700
    t = terminal("--url", server.url)
    t.enter("\x1b[A\x1b[A\n")
    t.wait("three\r\n")
    t.enter("\x04")
    assert t.end() == OK
    assert [r["messages"][-1]["content"] for r in server.requests] == ["hello wörld!", "hello wörld?", "hello wörld!"]


def test_terminal_gets_styles_and_no_controls(fake, terminal):
    text = "**b** \x1b[2J \u202e \x9b"
    server = fake(*answers(text, text))
    t = terminal("q", "--url", server.url)
    assert t.end() == OK
    assert t.seen == "\x1b[0;1mb\x1b[0m \\x1b[2J \\u202e \\u009b\r\n"
    t = terminal("q", "--url", server.url, NO_COLOR="1")
    assert t.end() == OK
    assert t.seen == "**b** \\x1b[2J \\u202e \\u009b\r\n"


def test_server_that_comes_back(fake, terminal):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    t = terminal("--url", f"http://127.0.0.1:{port}", XDG_STATE_HOME="/dev/null")
    t.wait("no history: ")
    t.wait("cannot reach")
    t.enter("q\n")
    t.wait("cannot reach")
    server = fake(*answers("back"), port=port)
    t.enter("/regen\n")
    t.wait("back\r\n")
    t.enter("/quit\n")
    assert t.end() == OK
    assert server.requests[0]["messages"] == [{"role": "user", "content": "q"}]
