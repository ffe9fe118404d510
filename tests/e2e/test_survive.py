"""The engine dies in the middle of streams: they go on as if nothing had happened."""

import json
import os
import select
import signal
import socket
import time

from conftest import joined_text, parse_events

N = 8
SLICE_S = 0.004


class Reader:
    """A stream, read as it comes."""

    def __init__(self, server, body):
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        data = json.dumps(body).encode()
        self.socket.sendall(f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        self.data = b""
        self.over = False

    def fileno(self):
        return self.socket.fileno()

    def read(self):
        part = self.socket.recv(1 << 16)
        self.data += part
        self.over = not part

    def text(self):
        return joined_text(parse_events(self.data.partition(b"\r\n\r\n")[2]))


def read_all(readers, seconds):
    """Until nothing comes for so long."""
    while open_ones := [r for r in readers if not r.over]:
        ready, _, _ = select.select(open_ones, [], [], seconds)
        if not ready:
            return
        for r in ready:
            r.read()


def read_until_all_began(server, readers):
    """Lets the engine work for a few milliseconds at a time, so that it cannot have finished."""
    pid = server.engine_pid()
    for _ in range(1000):
        os.kill(pid, signal.SIGCONT)
        time.sleep(SLICE_S)
        os.kill(pid, signal.SIGSTOP)
        read_all(readers, 0.02)
        if all(b"data:" in r.data for r in readers):
            return pid
    raise AssertionError("the streams do not begin")


def test_kill_the_engine(start):
    server = start("--threads", "1")
    limit = min(server.get("/v1/models").json["data"][0]["max_model_len"], 300)
    asks = [
        {"prompt": [20 + i, 30, 40 + i], "max_tokens": limit - 20, "temperature": i % 2, "seed": i, "ignore_eos": True}
        for i in range(N)
    ]
    expected = [server.ok("/v1/completions", a)["choices"][0]["text"] for a in asks]

    os.kill(server.engine_pid(), signal.SIGSTOP)
    readers = [Reader(server, {**a, "stream": True}) for a in asks]
    pid = read_until_all_began(server, readers)
    assert any(b"[DONE]" not in r.data for r in readers), "all had ended before the engine was killed"
    os.kill(pid, signal.SIGKILL)
    read_all(readers, 60)
    assert all(r.over for r in readers)
    assert [r.text() for r in readers] == expected
    assert server.engine_pid() != pid
    assert server.get("/health").status == 200


def test_kill_while_whole_answers_are_made(start):
    server = start("--threads", "1")
    ask = {"prompt": [20, 30, 40], "max_tokens": 100, "temperature": 0, "ignore_eos": True, "echo": True, "logprobs": 1}
    expected = server.ok("/v1/completions", ask)["choices"]
    pid = server.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    reader = Reader(server, ask)
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    read_all([reader], 60)
    assert json.loads(reader.data.partition(b"\r\n\r\n")[2])["choices"] == expected
