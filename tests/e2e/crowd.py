"""Many requests at once, from one thread: what tests of load, crashes and fairness share."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import time

PATIENCE_S = 60
SLICE_S = 0.004
SLICE_S, QUIET_S = 0.003, 0.005


class Client:
    """One request. `outcome()` is the same for a stream and for a whole answer: (status, error code or None, choices),
    a choice being (text, token ids, log-probs, finish_reason)."""

    def __init__(self, server, body, path="/v1/completions", headers=None):
        self.body, self.path = body, path
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        data = json.dumps(body).encode()
        head = {"Host": "x", "Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}
        lines = "".join(f"{k}: {v}\r\n" for k, v in head.items())
        self.socket.sendall(f"POST {path} HTTP/1.0\r\n{lines}\r\n".encode() + data)
        self.data = b""
        self.over = False

    def fileno(self):
        return self.socket.fileno()

    def read(self):
        try:
            part = self.socket.recv(1 << 16)
        except ConnectionResetError:
            part = b""
        self.data += part
        if not part:
            self.over = True
            self.socket.close()

    def leave(self):
        self.over = True
        self.socket.close()

    @property
    def began(self):
        return b"\r\n\r\n" in self.data and (not self.body.get("stream") or b"data:" in self.data)

    def outcome(self):
        head, _, body = self.data.partition(b"\r\n\r\n")
        status = int(head.split()[1]) if head else 0
        if not self.body.get("stream") or status != 200:
            return (status, *whole(json.loads(body))) if body else (status, "nothing", [])
        return status, *streamed(body.decode())


def whole(answer):
    if "error" in answer:
        return answer["error"]["code"], []
    return None, [piece(c) for c in sorted(answer["choices"], key=lambda c: c["index"])]


def streamed(text):
    """The pieces of each choice, put together; every byte of a stream belongs to an event."""
    choices, error, events = {}, None, [b for b in text.split("\n\n") if b and not b.startswith(":")]
    assert text.endswith("\n\n"), text[-200:]
    for event in events[:-1]:
        assert event.startswith("data: "), event
        data = json.loads(event[len("data: ") :])
        error = data["error"]["code"] if "error" in data else error
        for choice in data.get("choices", []):
            one, more = choices.setdefault(choice["index"], ("", [], [], None)), piece(choice)
            choices[choice["index"]] = (one[0] + more[0], one[1] + more[1], one[2] + more[2], one[3] or more[3])
    assert events[-1] == "data: [DONE]", text[-300:]
    return error, [choices[i] for i in sorted(choices)]


def piece(choice):
    text = choice["text"] if "text" in choice else choice.get("message", choice.get("delta", {})).get("content") or ""
    return text, choice.get("token_ids") or [], log_probs(choice.get("logprobs")), choice["finish_reason"]


def log_probs(found):
    if not found:
        return []
    if "content" in found:
        return [(x["logprob"], [y["logprob"] for y in x["top_logprobs"]]) for x in found["content"]]
    return list(zip(found["token_logprobs"], [sorted((x or {}).items()) for x in found["top_logprobs"]]))


def read_once(clients, wait_s=0.05):
    """Reads what is there, or comes soon; says whether there was anything."""
    ready = select.select([c for c in clients if not c.over], [], [], wait_s)[0]
    for c in ready:
        c.read()
    return bool(ready)


def read_all(clients, until=None, patience=PATIENCE_S):
    """Reads until `until()`, or until all are over; fails when nothing has come for `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (until and until()) and not all(c.over for c in clients):
        if read_once(clients):
            deadline = time.monotonic() + patience
        waiting = [c for c in clients if not c.over]
        assert time.monotonic() < deadline, f"{len(waiting)} clients get nothing; the first asked {waiting[0].body}"


def ask_all(server, bodies, **kw):
    """All at once; their outcomes in order."""
    clients = [Client(server, b, **kw) for b in bodies]
    read_all(clients)
    return [c.outcome() for c in clients]


def metrics(server, headers=None):
    """{'name{label="value"}': number} of GET /metrics."""
    text = server.get("/metrics", headers=headers).body.decode()
    return {k: float(v) for k, v in re.findall(r"^([^#\s][^\s]*(?:\{[^}]*\})?) (\S+)$", text, re.M)}


def total(found, name, **labels):
    """Sum of the samples of that name that have these labels."""
    return sum(
        v
        for k, v in found.items()
        if k.partition("{")[0] == name and all(f'{label}="{value}"' in k for label, value in labels.items())
    )


def unfinished(server, headers=None):
    """Sequences that the daemon has, waiting or running."""
    found = metrics(server, headers)
    return total(found, "vllm:num_requests_running") + total(found, "vllm:num_requests_waiting")


def wait_until(condition, what, patience=PATIENCE_S):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def standstill(server):
    """The engine is stopped, so that what is asked meanwhile comes to it at one time."""
    pid = server.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def let_work(server, clients, until):
    """Lets the engine (or the next, where there is none) work until a client hears of it, again and again, so that it
    cannot have finished, until `until()`. Then it stands still; its process id."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        pid = None
        with contextlib.suppress(RuntimeError, OSError):
            pid = server.engine_pid()
            os.kill(pid, signal.SIGCONT)
            select.select([c for c in clients if not c.over], [], [], SLICE_S)
            os.kill(pid, signal.SIGSTOP)
        while read_once(clients, wait_s=0.01):
            pass
        if pid and until():
            return pid
    raise AssertionError("the engine works, but what is waited for does not come")


def ask_together(server, bodies):
    """Outcomes of requests that come to the engine at one time."""
    with standstill(server):
        clients = [Client(server, b) for b in bodies]
        n_seq = sum(b.get("n", 1) for b in bodies)
        wait_until(lambda: unfinished(server) >= n_seq, f"{n_seq} sequences are queued")
    read_all(clients)
    return [c.outcome() for c in clients]
