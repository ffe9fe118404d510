"""Drafts by prompt lookup change nothing but the number of steps: the same answers with and without, whatever ends them
and whatever happens to the engine. Answers of a few letters repeat themselves often, so that many drafts are right, and
many wrong."""

import os
import signal

import pytest
from crowd import Client, ask_all, let_work, metrics, read_all, total

C = "/v1/completions"
LETTERS = {"temperature": 0.5, "seed": 9, "allowed_token_ids": [68, 69, 70, 71]}  # a to d
PROMPT = [20, 30, 40, 50, 20, 30, 40, 50, 20, 30]
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"


@pytest.fixture(scope="module")
def on(start):
    return start("--threads", "1", "--max-draft", "12")


@pytest.fixture(scope="module")
def off(start):
    return start("--threads", "1", "--prompt-lookup", "off")


def kinds():
    yield {"temperature": 0}
    yield LETTERS
    yield {"temperature": 0, "logprobs": 3, "return_token_ids": True}
    yield {"temperature": 0.3, "seed": 3, "logprobs": 1}
    yield {"temperature": 0.7, "seed": 4, "top_p": 0.9, "n": 3}
    yield {"temperature": 0, "repetition_penalty": 1.05, "frequency_penalty": 0.1}
    yield {"temperature": 0, "no_repeat_ngram_size": 12, "logit_bias": {"60": 2}}
    yield {"temperature": 0, "min_tokens": 90, "ignore_eos": False, "stop_token_ids": list(range(20, 200))}
    yield {"temperature": 0, "echo": True, "logprobs": 2}


@pytest.mark.parametrize("fields", list(kinds()), ids=lambda f: "-".join(f))
def test_same_answer(on, off, fields):
    """Bit for bit: log-probs are compared as the text that JSON has for them."""
    body = {"prompt": PROMPT, "max_tokens": 120, "ignore_eos": True, **fields}
    mine, theirs = on.ok(C, body), off.ok(C, body)
    assert (mine["choices"], mine["usage"]) == (theirs["choices"], theirs["usage"])


def test_drafts_are_counted_and_right(on, off):
    """Drafts are left out while they were measured not to pay, which a machine busy with something else can cause: so one of many answers
    must have some."""
    for _ in range(50):
        before = metrics(on)
        on.ok(C, {**LETTERS, "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True})
        after = metrics(on)
        drafted, accepted = (total(after, name) - total(before, name) for name in (DRAFTED, ACCEPTED))
        steps = total(after, "skein_engine_steps_total") - total(before, "skein_engine_steps_total")
        assert accepted <= drafted and steps + accepted >= 200
        if accepted > 0:
            break
    assert 0 < accepted and steps < 200
    assert total(metrics(off), DRAFTED) == 0


@pytest.mark.parametrize("max_tokens", [1, 2, 77, 78, 79, 80, 81, 82, 83])
def test_length_inside_a_draft(on, max_tokens):
    """The answer is cut where it is to be, and no more is billed."""
    body = {**LETTERS, "prompt": PROMPT, "ignore_eos": True, "return_token_ids": True}
    whole = on.ok(C, {**body, "max_tokens": 100})["choices"][0]
    part = on.ok(C, {**body, "max_tokens": max_tokens})
    assert part["choices"][0]["token_ids"] == whole["token_ids"][:max_tokens]
    assert part["choices"][0]["finish_reason"] == "length"
    assert part["usage"]["completion_tokens"] == max_tokens


@pytest.mark.parametrize("at", range(70, 80))
def test_stop_string_inside_a_draft(on, off, at):
    """Of all that came with the stop string, what is after it is neither shown nor billed."""
    body = {**LETTERS, "prompt": PROMPT, "ignore_eos": True, "max_tokens": 150}
    text = on.ok(C, body)["choices"][0]["text"]
    ask = {**body, "stop": [text[at : at + 8]], "stream_options": {"include_usage": True}}
    found = []
    for daemon in (on, off):
        events = daemon.stream(C, ask)
        shown = "".join(c["text"] for e in events for c in e["choices"])
        ends = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
        found.append((shown, ends, events[-1]["usage"]))
    assert found[0] == found[1]
    assert found[0][1] == ["stop"] and found[0][0] == text[: text.index(ask["stop"][0])]


def test_engine_killed_between_drafts(start):
    """SIGKILL in the middle of streams: each goes on, token-exact."""
    daemon = start("--threads", "1")
    fields = [k for k in kinds() if "n" not in k]
    asks = [
        {"prompt": [*PROMPT, 10 + i], "max_tokens": 150, "ignore_eos": True, "stream": True, **k}
        for i, k in enumerate(fields)
    ]
    undisturbed = ask_all(daemon, asks)
    os.kill(daemon.engine_pid(), signal.SIGSTOP)
    clients = [Client(daemon, a) for a in asks]
    os.kill(let_work(daemon, clients, lambda: all(c.began for c in clients)), signal.SIGKILL)
    assert not all(c.over for c in clients)
    read_all(clients)
    assert [c.outcome() for c in clients] == undisturbed
