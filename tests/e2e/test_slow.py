"""Clients that are slow, silent or many: each is bounded, and the others do not notice."""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import time

import pytest

ASK = {"prompt": "The capital", "temperature": 0, "ignore_eos": True}
STREAM = {**ASK, "max_tokens": 20, "stream": True}


@pytest.fixture(scope="module")
def hasty(start):
    return start("--threads", "1", "--request-timeout", "700", "--keepalive", "200")


def dial(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def read_all(s):
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(65536):
            got += part
    return got


def post(body):
    data = json.dumps(body).encode()
    return f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


@pytest.mark.parametrize(
    "start_of_it",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n",
    ],
    ids=["head", "body", "chunk"],
)
def test_a_byte_at_a_time(hasty, start_of_it):
    with dial(hasty) as s:
        s.sendall(start_of_it)
        until = time.monotonic() + 30
        while not select.select([s], [], [], 0.05)[0]:
            assert time.monotonic() < until
            with contextlib.suppress(OSError):
                s.sendall(b"x")
        answer = read_all(s)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def test_many_slow_ones_hurt_nobody(hasty):
    slow = [dial(hasty) for _ in range(100)]
    for i, s in enumerate(slow):
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"[: 5 + i])
    for _ in range(5):
        assert hasty.ok("/v1/completions", {**ASK, "max_tokens": 2})
    for s in slow:
        read_all(s)
        s.close()


def test_an_idle_connection_is_closed(hasty):
    with dial(hasty) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_all(s).count(b"HTTP/1.1 200") == 1


def test_a_stream_waits_as_long_as_it_must(hasty):
    """Longer than any time-out of a client, kept open by comments."""
    pid = hasty.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with dial(hasty) as s:
            s.sendall(post(STREAM))
            got = b""
            while got.count(b": keep-alive\n\n") < 6:
                part = s.recv(4096)
                assert part
                got += part
            os.kill(pid, signal.SIGCONT)
            while b"[DONE]" not in got:
                part = s.recv(4096)
                assert part
                got += part
    finally:
        os.kill(pid, signal.SIGCONT)


def test_who_does_not_read_is_cut(start):
    """An answer far larger than what sockets hold, whole and as a stream: nobody reads it."""
    server = start("--threads", "1", "--request-timeout", "300", "--max-seqs", "64")
    with dial(server) as stream, dial(server) as whole:
        for s, body in (
            (stream, {"stream": True, "n": 16, "max_tokens": 200, "logprobs": 20}),
            (whole, {"n": 8, "max_tokens": 200, "logprobs": 8}),
        ):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(post({**ASK, "temperature": 1, **body}))
        until = time.monotonic() + 60
        while server.drain_log().count("http cut") < 2:
            assert time.monotonic() < until, server.log[-10:]
            time.sleep(0.02)
    assert server.ok("/v1/completions", {**ASK, "max_tokens": 2})


def test_beyond_the_limit_there_is_an_answer(start):
    server = start("--threads", "1", "--max-connections", "8")
    held = [dial(server) for _ in range(8)]
    for s in held:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    answer = server.get("/health")
    assert answer.status == 503 and answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    for s in held:
        s.close()
    until = time.monotonic() + 20
    while server.get("/health").status != 200:
        assert time.monotonic() < until


def test_out_of_descriptors(start):
    """It stops accepting without spinning, and goes on when there are some again."""
    server = start("--threads", "1")
    pid = server.process.pid
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, old[1]))
    held = [dial(server) for _ in range(8)]
    until = time.monotonic() + 20
    while "Too many open files" not in server.drain_log():
        assert time.monotonic() < until, server.log
        time.sleep(0.01)
    before = cpu_seconds(pid)
    time.sleep(0.3)
    assert cpu_seconds(pid) - before < 0.2
    for s in held:
        s.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    assert server.get("/health").status == 200


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
