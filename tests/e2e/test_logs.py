"""One line for each request, whose figures are those of /metrics and of the answers; no texts unless they are asked
for."""

import json
import os
import re
import shlex
import signal
import time

import pytest
from crowd import Client, let_work, metrics, read_all, total

C, H = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "marmalade"}]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
SLOW = {"prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True}
ENDS = {"done", "gone", "refused", "deadline", "poison", "error", "stopped"}


@pytest.fixture(scope="module", params=["text", "json"])
def logged(start, request):
    server = start("--threads", "1", "--log-format", request.param)
    server.format = request.param
    return server


def parse(server, line):
    if server.format == "json":
        return json.loads(line)
    words = shlex.split(line)
    return {"event": words[3], **dict(w.split("=", 1) for w in words[4:] if "=" in w)}


def events(server, name):
    """All events of that name so far."""
    lines = [x for x in server.drain_log().splitlines() if re.match(r"\{|\S+ \w+ \w+: ", x)]
    return [e for e in (parse(server, x) for x in lines if name in x) if e.get("event") == name]


def of(server, request_id, name="request", n=1):
    """The events of one request: exactly n, waited for."""
    until = time.monotonic() + 20
    while len(found := [e for e in events(server, name) if e["id"] == request_id]) < n:
        assert time.monotonic() < until, server.log[-20:]
        time.sleep(0.005)
    assert len(found) == n
    return found


def test_a_line(logged):
    body = {"prompt": "marmalade", "max_tokens": 7, "ignore_eos": True, "n": 2}
    answer = logged.post(C, body, headers={"x-request-id": "one", **TRACEPARENT})
    assert answer.headers["x-request-id"] == "one"
    [line] = of(logged, "one")
    usage = answer.json["usage"]
    assert line["trace"] == TRACE and line["route"] == "completions" and line["end"] == "done"
    assert int(line["status"]) == 200 and line["peer"] == "127.0.0.1" and "key" not in line and "error" not in line
    assert int(line["prompt_tok"]) == usage["prompt_tokens"]
    assert int(line["answer_tok"]) == 14 and int(line["choices"]) == 2
    assert int(line["cached_tok"]) == usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 <= float(line["queue_ms"]) <= float(line["ttft_ms"]) <= float(line["ms"])


def test_wrong_traceparent_is_left_out(logged):
    zeros = f"00-{'0' * 32}-00f067aa0ba902b7-01"
    logged.post(C, {"prompt": "x"}, headers={"x-request-id": "two", "traceparent": zeros})
    assert "trace" not in of(logged, "two")[0]


def test_no_texts(logged):
    bodies = [
        (C, {"prompt": "marmalade"}),
        (H, {"messages": USER}),
        (C, {"prompt": "marmalade", "stop": ["marmalade"], "top_p": 7}),
    ]
    for i, (path, body) in enumerate(bodies):
        logged.post(path, {**body, "max_tokens": 5}, headers={"x-request-id": f"no-texts-{i}"})
        of(logged, f"no-texts-{i}")
    assert "marmalade" not in logged.drain_log()


def test_audit(logged):
    """Requests of every end: the answers, the log and the metrics tell the same, each of them once."""
    before = metrics(logged)
    ids = {}

    def ask(end, path, body, **headers):
        ids[f"audit-{len(ids)}-{logged.format}"] = end
        return Client(logged, body, path, {"x-request-id": list(ids)[-1], **headers})

    pid = logged.engine_pid()
    done = [ask("done", C, {**SLOW, "stream": i % 2 == 0, "n": 1 + i % 3}) for i in range(6)]
    done += [ask("done", H, {"messages": USER, "max_tokens": 5, "ignore_eos": True})]
    bad = [{"prompt": 5}, {"model": "x"}, {**SLOW, "max_tokens": 10**6}, {**SLOW, "best_of": 0}, b"{"]
    refused = [ask("refused", C, b) for b in bad if isinstance(b, dict)]
    refused += [ask("refused", H, {"messages": [{"role": "user", "content": "x"}], "chat_template": "{% if %}"})]
    read_all(done + refused)
    os.kill(pid, signal.SIGSTOP)
    late = [ask("deadline", C, {**SLOW, "deadline_ms": 50, "stream": s}) for s in (False, True)]
    read_all(late)
    gone = [ask("gone", C, {**SLOW, "stream": True}) for _ in range(4)]
    let_work(logged, gone[:2], lambda: all(c.began for c in gone[:2]))  # two after their first token
    read_all(gone, until=lambda: all(b"\r\n\r\n" in c.data for c in gone))
    for c in gone:
        c.leave()
    lines = {i: of(logged, i)[0] for i in ids}
    os.kill(pid, signal.SIGCONT)

    assert {i: line["end"] for i, line in lines.items()} == ids
    assert all(c.outcome()[:2] == (200, None) for c in done)
    assert all(400 <= c.outcome()[0] < 500 and c.outcome()[1] for c in refused)
    assert [c.outcome()[:2] for c in late] == [(504, "deadline_exceeded"), (200, "deadline_exceeded")]
    for c, line in zip(done + refused + late, lines.values()):
        assert int(line["status"]) == c.outcome()[0] and line.get("error") == c.outcome()[1]
    assert all(int(lines[i]["status"]) == 499 for i in ids if ids[i] == "gone")

    after = metrics(logged)
    more = lambda name, **labels: total(after, name, **labels) - total(before, name, **labels)
    for end in ENDS:
        n = sum(e == end for e in ids.values())
        assert more("skein_requests_total", end=end) == more("skein_key_requests_total", end=end) == n, end
    n_choice = sum(len(c.outcome()[2]) for c in done)
    assert more("vllm:request_success_total") == n_choice
    assert more("vllm:e2e_request_latency_seconds_count") == len(done)
    first = [line for line in lines.values() if "ttft_ms" in line]
    assert more("vllm:time_to_first_token_seconds_count") == len(first)
    tokens = sum(int(line["answer_tok"]) for line in lines.values())
    assert more("skein_key_tokens_total", kind="answer") == tokens
    assert more("skein_key_tokens_total", kind="prompt") == sum(int(line["prompt_tok"]) for line in lines.values())
    n_began = n_choice + sum(int(line["choices"]) for line in first if line["end"] != "done")
    assert more("vllm:inter_token_latency_seconds_count") == tokens - n_began


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_prompts(start, form):
    server = start("--threads", "1", "--log-prompts", "on", "--log-format", form)
    server.format = form
    body = {"prompt": "marmalade", "max_tokens": 5, "seed": 1, "ignore_eos": True}
    whole = server.post(C, body, headers={"x-request-id": "w"}).json["choices"][0]["text"]
    assert of(server, "w", "prompt")[0]["text"] == "marmalade"
    assert whole.startswith(of(server, "w", "answer")[0]["text"][:3])
    server.post(C, {**body, "stream": True, "n": 2}, headers={"x-request-id": "s"})
    said = [e["text"] for e in of(server, "s", "answer", 2)]
    assert said[0] == of(server, "w", "answer")[0]["text"]
    server.post(C, {**body, "prompt": "word " * 40, "max_tokens": 2}, headers={"x-request-id": "long"})
    server.post(H, {"messages": USER, "max_tokens": 2}, headers={"x-request-id": "chat"})
    assert "marmalade" in of(server, "chat", "prompt")[0]["text"]


def test_access_log_off(start):
    server = start("--threads", "1", "--access-log", "off")
    server.ok(C, {"prompt": "x", "max_tokens": 2})
    server.close()
    assert " request id=" not in "".join(server.log)
