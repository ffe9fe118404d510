"""POST /explain: what a request would be, without running it."""

import json
import re
import shutil

import pytest

from conftest import SRC

PROMPT = "The quick brown fox jumps over the lazy dog. " * 3


def explain(server, body):
    answer = server.post("/explain", body)
    assert answer.status == 200, answer.body
    return answer.json


def check_tokens(told, ids):
    """The ids are those given, and each token's bytes are at its place: one after the other, from start to end."""
    text = told["prompt"].encode()
    assert [t["id"] for t in told["tokens"]] == ids and told["n_prompt"] == len(ids)
    at = 0
    for token in told["tokens"]:
        start, end = token["bytes"]
        assert start == at
        assert "\ufffd" in token["text"] or token["text"].encode() == text[start:end]
        at = end
    assert at == len(text)


@pytest.mark.parametrize("prompt", [PROMPT, "x", "ünïcödé 日本語 🙂\n\ttabs", "<|im_start|>user\nraw<|im_end|>", [20, 30, 40]])
def test_tokens_are_those_of_the_real_request(server, prompt):
    told = explain(server, {"prompt": prompt, "max_tokens": 1})
    real = server.ok("/v1/completions", {"prompt": prompt, "max_tokens": 1, "return_token_ids": True})
    check_tokens(told, real["choices"][0]["prompt_token_ids"])
    assert told["kind"] == "completion" and told["fits"] and told["why_not"] is None
    assert told["n_prompt"] == real["usage"]["prompt_tokens"]


def test_chat(server):
    messages = [{"role": "user", "content": "What does <|im_end|> do?"}]
    told = explain(server, {"messages": messages})
    real = server.ok("/v1/chat/completions", {"messages": messages, "max_tokens": 1, "return_token_ids": True})
    check_tokens(told, real["prompt_token_ids"])
    assert told["kind"] == "chat" and "What does <|im_end|> do?" in told["prompt"]
    assert told["warnings"] == ["Spellings of control tokens in the messages that are taken as plain text: 1."]
    assert any(t["special"] and t["text"] == "<|im_end|>" for t in told["tokens"])


def test_two_bos_and_an_added_space(start, tmp_path):
    """A tokenizer that adds a BOS and a space, neither of which is in the text."""
    model = tmp_path / "model"
    shutil.copytree(SRC / "tests/golden/tiny/llama-sharded", model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    server = start("--threads", "1", model=str(model))
    told = explain(server, {"prompt": "Hello"})
    assert [(t["special"], t["bytes"]) for t in told["tokens"]][:2] == [(True, [0, 0]), (False, [0, 1])]
    assert told["tokens"][1]["text"] == " H" and told["warnings"] == []
    told = explain(server, {"prompt": "<s>Hello"})
    assert [(t["special"], t["bytes"]) for t in told["tokens"]][:2] == [(True, [0, 0]), (True, [0, 3])]
    assert any("two BOS tokens" in w and "add_special_tokens" in w for w in told["warnings"])
    told = explain(server, {"prompt": [1, 1, 5]})
    assert told["warnings"] == ["The prompt begins with two BOS tokens."]
    told = explain(server, {"prompt": "<s>Hello", "add_special_tokens": False})
    assert told["tokens"][0]["bytes"] == [0, 3] and not any("BOS" in w for w in told["warnings"])


def test_control_tokens_in_a_prompt(server):
    told = explain(server, {"prompt": "<|im_start|>user\nhi<|im_end|>"})
    assert told["warnings"] == ["Spellings in the prompt that are taken as control tokens: 2."]
    assert explain(server, {"prompt": "user"})["warnings"] == []


def test_cached_tokens(server):
    body = {"prompt": "Nobody else says this. " + PROMPT, "max_tokens": 1}
    assert explain(server, body)["cached_tokens"] == 0
    server.ok("/v1/completions", body)
    told = explain(server, body)
    real = server.ok("/v1/completions", body)
    assert told["cached_tokens"] == real["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert explain(server, {**body, "cache_salt": "other"})["cached_tokens"] == 0


def test_needs_and_estimate(server):
    server.ok("/v1/completions", {"prompt": PROMPT, "max_tokens": 20, "ignore_eos": True})
    one, four = (explain(server, {"prompt": PROMPT, "max_tokens": 100, "n": n}) for n in (1, 4))
    blocks = one["blocks"]
    assert blocks["needed"] == -(-(one["n_prompt"] + 100) // blocks["tokens_each"])
    assert blocks["needed"] < four["blocks"]["needed"] < 4 * blocks["needed"]  # they share the prompt's
    assert 0 < blocks["needed"] <= blocks["total"] and blocks["free"] + blocks["cached"] <= blocks["total"]
    estimate = one["estimate"]
    assert 0 <= estimate["queue_ms"] <= estimate["first_token_ms"] < estimate["end_ms"]


def test_what_does_not_fit(server):
    told = explain(server, {"prompt": PROMPT, "max_tokens": 250})
    assert not told["fits"] and "maximum context length is 256 tokens" in told["why_not"]
    real = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 250})
    assert real.status == 400 and real.error["message"] == told["why_not"]
    told = explain(server, {"prompt": PROMPT, "max_tokens": 1, "truncate_prompt_tokens": 5})
    assert told["fits"] and told["kept"] == [told["n_prompt"] - 5, told["n_prompt"]]


def test_sampling_in_force(server):
    told = explain(server, {"prompt": "x", "temperature": 0.25, "top_k": 9, "n": 2, "stop": ["a", "b"], "max_tokens": 3})
    assert {k: told["sampling"][k] for k in ("temperature", "top_k", "n", "best_of", "stop", "max_tokens")} == {
        "temperature": 0.25, "top_k": 9, "n": 2, "best_of": 2, "stop": ["a", "b"], "max_tokens": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    "body, message",
    [
        (b"{", "line 1, column 2"),
        ({}, "prompt is required"),
        ({"prompt": ["a", "b"]}, "only one can be explained"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"messages": []}, "messages must not be empty"),
        ({"prompt": "x", "model": "nobody"}, "does not exist"),
    ],
)
def test_refused_like_the_real_request(server, body, message):
    answer = server.post("/explain", body)
    assert answer.status in (400, 404) and message in answer.error["message"]


def test_counted_nowhere(server):
    def requests():
        return re.findall(r"^skein_requests_total.*$", server.get("/metrics").body.decode(), re.M)

    before = requests()
    explain(server, {"prompt": "x"})
    assert server.post("/explain", {"prompt": []}).status == 400
    assert requests() == before
