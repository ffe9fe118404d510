"""What an answer says about its cost."""

import pytest

C, H = "/v1/completions", "/v1/chat/completions"
ASK = {"prompt": [20, 30, 40], "max_tokens": 30, "ignore_eos": True, "seed": 1}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 30, "ignore_eos": True, "seed": 1}
BILL = {"queue_ms", "prefill_ms", "decode_ms", "cpu_ms", "kv_block_seconds", "preemptions", "readmissions"}


def check_bill(bill):
    assert set(bill) == BILL
    assert bill["queue_ms"] >= 0 and bill["prefill_ms"] > 0 and bill["decode_ms"] > 0
    assert bill["cpu_ms"] > 0 and bill["kv_block_seconds"] > 0
    assert bill["preemptions"] == bill["readmissions"] == 0


@pytest.mark.parametrize("path, ask", [(C, ASK), (H, CHAT)])
def test_bill(server, path, ask):
    check_bill(server.ok(path, {**ask, "usage_bill": True})["usage"]["bill"])
    assert "bill" not in server.ok(path, ask)["usage"]
    assert "bill" not in server.ok(path, {**ask, "usage_bill": False})["usage"]


@pytest.mark.parametrize("path, ask", [(C, ASK), (H, CHAT)])
def test_bill_of_a_stream(server, path, ask):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = server.stream(path, {**ask, "usage_bill": True, "stream_options": options})
    assert events[-1]["choices"] == []
    check_bill(events[-1]["usage"]["bill"])
    assert all("bill" not in e["usage"] for e in events[:-1])


def test_truncation_is_said(server):
    """Never in silence: only where it is asked for, and then the usage says how much."""
    body = {**ASK, "prompt": [[50] * 100, [51] * 3], "max_tokens": 2}
    details = server.ok(C, {**body, "truncate_prompt_tokens": 40})["usage"]
    assert details["prompt_tokens"] == 43 and details["prompt_tokens_details"]["truncated_tokens"] == 60
    assert "truncated_tokens" not in server.ok(C, body)["usage"]["prompt_tokens_details"]
    limit = server.get("/v1/models").json["data"][0]["max_model_len"]
    assert server.post(C, {**body, "prompt": [50] * limit}).error["code"] == "context_length_exceeded"
    cut = server.ok(C, {**body, "prompt": [50] * limit, "truncate_prompt_tokens": -1})["usage"]
    assert cut["prompt_tokens_details"]["truncated_tokens"] == 2


def test_bill_is_a_sum(server):
    """Two prompts alike, one of them three times as long to answer: cost adds up, and more work costs more."""
    one = server.ok(C, {**ASK, "usage_bill": True, "max_tokens": 10})["usage"]["bill"]
    many = server.ok(C, {**ASK, "usage_bill": True, "prompt": [ASK["prompt"]] * 8, "max_tokens": 200})["usage"]["bill"]
    assert many["cpu_ms"] > one["cpu_ms"] and many["kv_block_seconds"] > one["kv_block_seconds"]


def test_bill_counts_preemptions(start):
    """Room for less than both: one of them gives up its blocks and is computed again."""
    server = start("--threads", "1", "--max-seqs", "4", "--kv-memory", "300K", "--kv-dtype", "f32")
    body = {**ASK, "prompt": [[20, 30], [21, 31], [22, 32], [23, 33]], "max_tokens": 200, "usage_bill": True}
    assert server.ok(C, body)["usage"]["bill"]["preemptions"] >= 1
