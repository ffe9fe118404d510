"""A client that goes away takes its sequences with it, and harms nobody."""

import json
import socket
import time

ASK = {"prompt": "x", "temperature": 0, "ignore_eos": True}


def ask_and_leave(server, path, body, wait_for=b"", reset=False):
    s = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    data = json.dumps(body).encode()
    s.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    got = b""
    while wait_for not in got:
        got += s.recv(4096)
    if reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    s.close()


def wait_for_log(server, text, n):
    until = time.monotonic() + 20
    while (found := server.drain_log().count(text)) < n:
        assert time.monotonic() < until, server.log[-20:]
        time.sleep(0.01)
    return found


def test_streams_that_end_early(server):
    limit = server.get("/v1/models").json["data"][0]["max_model_len"]
    expected = server.ok("/v1/completions", {**ASK, "max_tokens": 20})["choices"][0]["text"]
    for reset in (False, True):
        for n in (1, 3):
            body = {**ASK, "max_tokens": min(limit - 10, 2000), "stream": True, "n": n, "temperature": 1}
            ask_and_leave(server, "/v1/completions", body, b"data:", reset)
            assert server.ok("/v1/completions", {**ASK, "max_tokens": 20})["choices"][0]["text"] == expected


def test_leaving_while_the_engine_stands_still(start):
    """More clients than the engine runs at once ask and go: all must be forgotten although no token was made in between."""
    import os
    import signal

    server = start("--threads", "1", "--max-seqs", "4")
    server.ok("/v1/completions", {**ASK, "max_tokens": 1})
    pid = server.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        for i in range(12):
            body = {**ASK, "max_tokens": 200, "stream": i % 2 == 0}
            ask_and_leave(server, "/v1/completions", body, b"200 OK" if body["stream"] else b"")
        wait_for_log(server, "end=gone", 12)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server.ok("/v1/completions", {**ASK, "max_tokens": 5})["usage"]["completion_tokens"] == 5


def test_leaving_while_the_template_is_rendered(server):
    slow = "{% for i in range(2000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}"
    for _ in range(4):
        ask_and_leave(
            server, "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "chat_template": slow}
        )
    assert server.ok("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2})


def test_half_requests(server):
    for data in (b"", b"POST /v1/compl", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(data)
    assert server.get("/health").status == 200
