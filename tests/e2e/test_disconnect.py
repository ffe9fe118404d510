"""A client that goes away takes its sequences with it, and harms nobody."""

import json
import os
import signal
import socket
import time

import pytest

from crowd import Client, let_work, metrics, standstill, total, unfinished, wait_until

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


def test_blocks_come_back(start, programs):
    """Clients leave in every state: waiting here, waiting there, in a prompt, in an answer, after giving up their
    blocks for others. Nothing of them stays. Steps are slow, so that no answer is over before its client leaves."""
    small = ["--max-seqs", "8", "--kv-memory", "300K", "--kv-dtype", "f32", "--max-step-tokens", "16"]
    server = start("--threads", "1", *small, bin=programs("faulty_engine"), env={"SKEIN_FAULT": "slow:5"})

    def preemptions():
        return total(metrics(server), "vllm:num_preemptions_total")

    for leave_after in (0, 1, 4, 16, None):
        prompts = [[20 + i + (leave_after or 99), *range(30, 110)] for i in range(24)]
        bodies = [
            {"prompt": p, "max_tokens": 150, "ignore_eos": True, "stream": i % 3 > 0, "n": 1 + i % 2}
            for i, p in enumerate(prompts)
        ]
        clients, before = [Client(server, b) for b in bodies], preemptions()
        if leave_after is None:
            let_work(server, clients, lambda: preemptions() > before)
        else:
            let_work(server, clients, lambda: sum(c.data.count(b"data:") for c in clients) >= leave_after)
        assert not any(c.over for c in clients)
        for c in clients:
            c.leave()
        os.kill(server.engine_pid(), signal.SIGCONT)
        wait_until(lambda: nothing_left(metrics(server)), "nothing of them is left")
    found = metrics(server)
    assert total(found, "skein_requests_total", end="gone") == total(found, "skein_requests_total") == 5 * 24


def nothing_left(found):
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return not any(total(found, n) for n in names) and total(found, "skein_kv_blocks", state="held") == 0


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("when", ["whole", "before the first token", "between tokens"])
def test_every_way_of_leaving(server, how, when):
    gone = server.drain_log().count("end=gone")
    with standstill(server):
        client = Client(server, {**ASK, "temperature": 1, "max_tokens": 200, "n": 4, "stream": when != "whole"})
        if when == "between tokens":
            let_work(server, [client], lambda: b"data:" in client.data)
        else:
            wait_until(lambda: unfinished(server) > 0, "the request is there")
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        if how == "half":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.socket.close()
        wait_for_log(server, "end=gone", gone + 1)
    client.socket.close()
    wait_until(lambda: unfinished(server) == 0, "nothing of it is left")
