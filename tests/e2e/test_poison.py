"""A request that crashes the engine, or makes a step hang, is found among innocent ones, which do not suffer."""

import pytest
from crowd import Client, ask_all, ask_together, metrics, read_all, standstill, total

N = 32
POISON, OTHER_POISON = 301, 302
INNOCENT = {"logit_bias": {str(POISON): -100, str(OTHER_POISON): -100}, "ignore_eos": True, "return_token_ids": True}


def innocents(n=N - 1):
    """Of every kind: greedy and drawn, streams and whole answers, several choices, log-probs, penalties."""
    for i in range(n):
        body = {**INNOCENT, "prompt": [20 + i, 30, 40 + i], "max_tokens": 12 + i % 7, "seed": i, "temperature": i % 3 / 2}
        body["stream"] = i % 2 == 0
        body["n"] = 2 if i % 8 == 3 and i % 3 else 1
        if i % 4 == 1:
            body["logprobs"] = 2
        if i % 5 == 2:
            body["repetition_penalty"] = 1.2
        yield body


def poison(token=POISON, **more):
    return {"prompt": [20, token, 40], "max_tokens": 8, "temperature": 0, **more}


def decode_poison(**more):
    """Its prompt is harmless, but what it draws is not."""
    return {"prompt": [20, 30, 40], "max_tokens": 8, "temperature": 0, "allowed_token_ids": [POISON], **more}


def end_count(server):
    return total(metrics(server), "skein_engine_ends_total")


def start_faulty(start, programs, fault, *args):
    return start("--threads", "1", *args, bin=programs("faulty_engine"), env={"SKEIN_FAULT": fault})


CRASH = f"crash:{POISON},crash-drawn:{POISON},crash:{OTHER_POISON}"


@pytest.fixture
def crashing(start, programs):
    return start_faulty(start, programs, CRASH)


@pytest.fixture(scope="module")
def expected(shared):
    return ask_all(shared, innocents())


def test_what_innocents_say(expected):
    assert all(status == 200 and error is None for status, error, _ in expected)
    assert sum(len(choices) for _, _, choices in expected) > N - 1


BAD = {
    "prefill": poison(),
    "prefill-stream": poison(stream=True),
    "choices": poison(n=2, temperature=1),
    "decode": decode_poison(),
    "decode-stream": decode_poison(stream=True),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_among_innocents(crashing, expected, bad):
    bodies = list(innocents())
    bodies.insert(N // 2, bad)
    found = ask_together(crashing, bodies)
    status, error, _ = found.pop(N // 2)
    assert error == "request_crashes_engine"
    assert status == 500 or bad.get("stream")
    assert found == expected
    assert 1 <= end_count(crashing) <= 3


def test_into_running_streams(crashing, expected):
    """It comes when the others are in the middle of their answers."""
    with standstill(crashing):
        clients = [Client(crashing, b) for b in innocents()]
    streams = [c for c in clients if c.body["stream"]]
    read_all(clients, until=lambda: any(c.began for c in streams))
    bad = Client(crashing, poison())
    read_all([*clients, bad])
    assert bad.outcome()[:2] == (500, "request_crashes_engine")
    assert [c.outcome() for c in clients] == expected
    assert end_count(crashing) <= 3


def test_two_at_once(crashing, expected):
    bodies = list(innocents(N - 2))
    bodies[5:5] = [poison()]
    bodies[20:20] = [poison(OTHER_POISON)]
    found = ask_together(crashing, bodies)
    for at in (20, 5):
        assert found.pop(at)[:2] == (500, "request_crashes_engine")
    assert found == expected[: N - 2]
    assert end_count(crashing) <= 4


def test_alone(crashing, expected):
    assert ask_all(crashing, [poison()])[0][:2] == (500, "request_crashes_engine")
    assert end_count(crashing) <= 3
    assert ask_all(crashing, innocents(4)) == expected[:4]


def test_hang(start, programs, expected):
    """A step that never ends is noticed by missing progress."""
    server = start_faulty(start, programs, f"hang:{POISON}", "--engine-timeout", "1000")
    bodies = list(innocents())
    bodies.insert(7, poison())
    found = ask_together(server, bodies)
    assert found.pop(7)[:2] == (500, "request_crashes_engine")
    assert found == expected
    ends = metrics(server)
    assert total(ends, "skein_engine_ends_total", reason="hang") == total(ends, "skein_engine_ends_total") <= 3


def test_kills_from_outside_blame_nobody(start, programs, expected):
    """SIGKILL in the middle of steps, again and again: no innocent one is refused."""
    server = start("--threads", "1", bin=programs("faulty_engine"), env={"SKEIN_FAULT": "kill-after:9"})
    assert ask_all(server, innocents(8)) == expected[:8]
    ends = metrics(server)
    assert total(ends, "skein_engine_ends_total", reason="killed") == total(ends, "skein_engine_ends_total") >= 2
