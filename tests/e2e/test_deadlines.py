"""deadline_ms, ttft_ms, priority: what comes too late is not worked on."""

import itertools
import os
import signal
import time

import pytest
from crowd import Client, let_work, metrics, read_all, total

C, H = "/v1/completions", "/v1/chat/completions"
SLOW = {"prompt": [20, 30, 40], "max_tokens": 200, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def one_seat(start):
    return start("--threads", "1", "--max-seqs", "1")


@pytest.fixture
def stopped(one_seat):
    """The engine stands still."""
    pid = one_seat.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    yield one_seat
    os.kill(pid, signal.SIGCONT)
    assert one_seat.ok(C, {**SLOW, "max_tokens": 3})["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("field", ["deadline_ms", "ttft_ms"])
def test_no_token_in_time(stopped, field):
    before = total(metrics(stopped), "skein_requests_total", end="deadline")
    answer = stopped.post(C, {**SLOW, field: 60})
    assert answer.status == 504
    assert answer.error["code"] == "deadline_exceeded" and answer.error["param"] == field
    assert "60 ms" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert total(metrics(stopped), "skein_requests_total", end="deadline") == before + 1


def test_in_a_stream(stopped):
    client = Client(stopped, {**SLOW, "stream": True, "deadline_ms": 60})
    read_all([client])
    assert client.outcome()[:2] == (200, "deadline_exceeded")


def test_chat(stopped):
    answer = stopped.post(H, {"messages": [{"role": "user", "content": "hi"}], "deadline_ms": 300})
    assert answer.status == 504 and answer.error["param"] == "deadline_ms"


def test_after_the_first_tokens(stopped):
    """ttft_ms is kept, deadline_ms is not: what was said before the error event stays said."""
    client = Client(stopped, {**SLOW, "stream": True, "deadline_ms": 1500, "ttft_ms": 1400})
    let_work(stopped, [client], lambda: client.began)
    read_all([client])
    status, error, choices = client.outcome()
    assert (status, error) == (200, "deadline_exceeded")
    os.kill(stopped.engine_pid(), signal.SIGCONT)
    whole = stopped.ok(C, SLOW)["choices"][0]["text"]
    assert choices[0][0] and whole.startswith(choices[0][0]) and choices[0][3] is None


def test_what_is_in_time_is_the_same(one_seat):
    plain = one_seat.ok(C, {**SLOW, "max_tokens": 20})["choices"]
    assert one_seat.ok(C, {**SLOW, "max_tokens": 20, "deadline_ms": 86400000, "ttft_ms": 86400000})["choices"] == plain


def measure(server, i):
    """Something to measure rates by: long prompts, then a long answer."""
    server.ok(C, {"prompt": [[20 + k, 30 + i, *range(40, 240)] for k in range(20)], "max_tokens": 1})
    server.ok(C, SLOW)


def test_refused_at_once(one_seat):
    """By the rate measured so far, 200 tokens take longer: no work begins. Before that is known nothing is refused."""
    until = time.monotonic() + 30
    for i in itertools.count():
        measure(one_seat, i)
        answer = one_seat.post(C, {**SLOW, "deadline_ms": 1, "stream": True})
        if answer.status == 429:
            break
        assert answer.status == 200 and b"deadline_exceeded" in answer.body
        assert time.monotonic() < until, "nothing was measured"
    assert answer.error["code"] == "deadline_unreachable"
    assert answer.headers["x-should-retry"] == "true"
    assert int(answer.headers["retry-after"]) >= 1 and int(answer.headers["retry-after-ms"]) >= 1
    assert one_seat.ok(C, {**SLOW, "deadline_ms": 60000})["usage"]["completion_tokens"] == 200


def test_lower_priority_numbers_go_first(one_seat):
    pid = one_seat.engine_pid()
    first = Client(one_seat, {**SLOW, "stream": True})
    read_all([first], until=lambda: first.began)
    os.kill(pid, signal.SIGSTOP)
    order = [5, -7, 0, 2**31 - 1, -(2**31)]
    clients = {p: Client(one_seat, {**SLOW, "max_tokens": 30, "priority": p, "stream": True}) for p in order}
    read_all(clients.values(), until=lambda: all(b"\r\n\r\n" in c.data for c in clients.values()))
    os.kill(pid, signal.SIGCONT)
    ended = []
    while len(ended) < len(order):
        read_all(clients.values(), until=lambda: sum(c.over for c in clients.values()) > len(ended))
        ended += [p for p in sorted(order) if clients[p].over and p not in ended]
    read_all([first])
    assert ended == sorted(order)
