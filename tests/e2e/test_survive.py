"""The engine dies in the middle of streams: they go on as if nothing had happened."""

import collections
import json
import os
import pathlib
import re
import signal
import time

import pytest
from crowd import Client, let_work, metrics, read_all, total

C, H = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "Tell me a long story."}]
N = 32
TOKENS = 150


def half_matched(text):
    """Stop strings that never come, though each character of the text begins one: something is always held back."""
    return [c + "\N{SECTION SIGN}" for c, _ in collections.Counter(text).most_common(64) if c.isprintable()]


def printable(text):
    """The first run of such characters."""
    return re.search(r"[^\x00-\x1f]{1,4}", text).group()


def kinds():
    """(path, fields), each kind once. All last for TOKENS tokens but those that a stop string ends."""
    yield C, {"temperature": 0}
    yield C, {"temperature": 1}
    yield C, {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "min_p": 0.01}
    yield C, {"temperature": 1, "logprobs": 3}
    yield C, {"temperature": 0, "logprobs": 0, "return_token_ids": True}
    yield C, {"temperature": 1, "n": 3}
    yield C, {"temperature": 1, "n": 2, "best_of": 4, "stream": False}
    yield C, {"temperature": 0.5, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5}
    yield C, {"temperature": 0.5, "no_repeat_ngram_size": 2, "logit_bias": {"60": 2}}
    yield C, {"temperature": 1, "echo": True, "logprobs": 2}
    yield C, {"temperature": 1, "echo": True, "stream": False, "prompt_logprobs": 2}
    yield C, {"temperature": 1, "min_tokens": TOKENS - 5, "ignore_eos": False, "stop_token_ids": list(range(20, 200))}
    yield C, {"temperature": 1, "stream_interval": 7, "logprobs": 1}
    yield C, {"temperature": 1, "stream": False, "n": 2, "logprobs": 1}
    yield H, {"temperature": 1, "logprobs": True, "top_logprobs": 4}
    yield H, {"temperature": 0, "stream": False, "logprobs": True}


def asks():
    found = []
    for i, (path, fields) in enumerate([*kinds(), *kinds()]):
        what = {"messages": USER} if path == H else {"prompt": [20 + i, 30, 40 + i]}
        body = {"max_tokens": TOKENS, "seed": i, "ignore_eos": True, "stream": True, **what, **fields}
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        found.append((path, body))
    assert len(found) == N
    return found


def said(client):
    """All of an answer that may not change: choices with their log-probs, and the tokens it counts."""
    status, error, choices = client.outcome()
    assert status == 200, (client.body, client.data)
    body = client.data.partition(b"\r\n\r\n")[2]
    last = body.split(b"\n\ndata: ")[-2] if client.body["stream"] else body
    answer = json.loads(last)
    usage = {k: answer["usage"][k] for k in ("prompt_tokens", "completion_tokens")}
    whole = [] if client.body["stream"] else answer["choices"]
    return status, error, choices, whole, usage


def ask_all(server, bodies, disturb=lambda clients: None):
    clients = [Client(server, body, path) for path, body in bodies]
    disturb(clients)
    read_all(clients)
    return [said(c) for c in clients]


def ask_slowly(server, bodies, disturb):
    """The engine stands still until all have asked."""
    pid = server.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    clients = [Client(server, body, path) for path, body in bodies]
    streams = [c for c in clients if c.body["stream"]]
    read_all(clients, until=lambda: all(b"\r\n\r\n" in c.data for c in streams))
    disturb(clients)
    read_all(clients)
    return [said(c) for c in clients]


def bytes_of(clients):
    return sum(len(c.data) for c in clients if c.body["stream"])


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def crowd(start, programs):
    """The server, what to ask it, what it says undisturbed, and how many bytes its streams then have. Its steps are slow,
    so that it is in the middle of them all when it is killed."""
    slow = {"bin": programs("faulty_engine"), "env": {"SKEIN_FAULT": "slow:2"}}
    server = start("--threads", "1", "--max-seqs", "64", **slow)
    bodies = asks()
    plain = ask_all(server, bodies)
    for i, (path, body) in enumerate(bodies):
        text = plain[i][2][0][0]
        if path == C and i < N // 2 and "echo" not in body and body["stream"]:
            body["stop"] = half_matched(text)
        if path == C and i in (N // 2, N // 2 + 1, N // 2 + 5):
            body["stop"] = ["\N{SECTION SIGN}", printable(text[len(text) // 2 :])]
    n_bytes = []
    expected = ask_all(server, bodies, lambda clients: (read_all(clients), n_bytes.append(bytes_of(clients))))
    for i in range(N // 2):
        assert expected[i] == plain[i], "stop strings that never come change nothing"
    assert any(choice[3] == "stop" for e in expected for choice in e[2])
    return server, bodies, expected, n_bytes[0]


def test_kill_among_32_streams(crowd):
    server, bodies, expected, n_bytes = crowd
    before = metrics(server)

    def kill_thrice(clients):
        for share in (0.2, 0.4, 0.6):
            pid = let_work(server, clients, lambda: bytes_of(clients) >= share * n_bytes)
            over = [e for c, e in zip(clients, expected) if c.over]
            assert all(e[2][0][3] == "stop" for e in over), "all others are in the middle of their answers"
            os.kill(pid, signal.SIGKILL)

    found = ask_slowly(server, bodies, kill_thrice)
    for (path, body), have, want in zip(bodies, found, expected):
        assert have == want, (path, body)
    after = metrics(server)
    ends = lambda **labels: total(after, "skein_engine_ends_total", **labels) - total(
        before, "skein_engine_ends_total", **labels
    )
    assert ends() == ends(reason="killed") == 3
    assert total(after, "skein_requests_total", end="done") - total(before, "skein_requests_total", end="done") == N
    assert total(after, "skein_readmissions_total") > total(before, "skein_readmissions_total")
    wait_for(lambda: total(metrics(server), "skein_journal_tokens") == 0)


def test_stopped_engine_is_replaced(crowd, start):
    """SIGSTOP: nothing moves for --engine-timeout. It blames nobody."""
    _, bodies, expected, n_bytes = crowd
    server = start("--threads", "1", "--max-seqs", "64", "--engine-timeout", "1000")
    stopped = []

    def stop(clients):
        stopped.append(let_work(server, clients, lambda: bytes_of(clients) >= 0.3 * n_bytes))

    assert ask_slowly(server, bodies, stop) == expected
    assert server.engine_pid() not in stopped
    assert total(metrics(server), "skein_engine_ends_total") >= 1


def test_kill_before_the_first_token(crowd):
    server, bodies, expected, _ = crowd
    assert ask_slowly(server, bodies, lambda clients: os.kill(server.engine_pid(), signal.SIGKILL)) == expected


def test_bill_counts_readmissions(crowd):
    server = crowd[0]
    body = {"prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True, "stream": True, "usage_bill": True}
    client = Client(server, {**body, "stream_options": {"include_usage": True}})
    read_all([client], until=lambda: client.began)
    os.kill(server.engine_pid(), signal.SIGKILL)
    read_all([client])
    bill = json.loads(client.data.split(b"\n\ndata: ")[-2])["usage"]["bill"]
    assert bill["readmissions"] == 1 and bill["decode_ms"] > 0 and bill["cpu_ms"] > 0 and bill["kv_block_seconds"] > 0


def helper_pids(server):
    children = pathlib.Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(p) for p in children if b"/dev/fd/3" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]


def test_killed_template_helpers(start):
    """A chat whose helper is killed is rendered by another one."""
    server = start("--threads", "1")
    ask = {"messages": USER, "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    expected = server.ok(H, ask)["choices"]
    assert total(metrics(server), "skein_helper_restarts_total") == 0
    for pid in helper_pids(server):
        os.kill(pid, signal.SIGSTOP)
    clients = [Client(server, ask, H) for _ in range(8)]
    for pid in helper_pids(server):
        os.kill(pid, signal.SIGKILL)
    read_all(clients)
    assert [json.loads(c.data.partition(b"\r\n\r\n")[2])["choices"] for c in clients] == [expected] * 8
    assert total(metrics(server), "skein_helper_restarts_total") >= 1
