"""Log-probs in both forms, of answers and of prompts."""

import math

import pytest

PROMPT = "The capital"
ASK = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 5, "temperature": 0}


def legacy(server, **fields):
    return server.ok("/v1/completions", {**ASK, **fields})["choices"][0]


def test_legacy(server):
    logprobs = legacy(server, logprobs=3, return_tokens_as_token_ids=True, return_token_ids=True)
    ids = logprobs["token_ids"]
    lp = logprobs["logprobs"]
    assert lp["tokens"] == [f"token_id:{i}" for i in ids]
    for token, value, top in zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]):
        assert len(top) == 3 and max(top.values()) == value == top[token]
        assert sum(map(math.exp, top.values())) <= 1 + 1e-5


def test_legacy_zero_shows_the_sampled_token_only(server):
    lp = legacy(server, logprobs=0)["logprobs"]
    assert all(list(t.values()) == [v] for t, v in zip(lp["top_logprobs"], lp["token_logprobs"]))


def test_sampled_token_is_always_among_the_top(server):
    lp = legacy(server, logprobs=1, temperature=2, seed=3, max_tokens=20, return_tokens_as_token_ids=True)["logprobs"]
    for token, value, top in zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]):
        assert top[token] == value and len(top) in (1, 2)
    assert any(len(t) == 2 for t in lp["top_logprobs"])


def test_text_offset(server):
    choice = legacy(server, logprobs=0, logit_bias={"60": 100})
    lp = choice["logprobs"]
    for token, offset in zip(lp["tokens"], lp["text_offset"]):
        assert choice["text"][offset:].startswith(token)


def test_echo(server):
    """As lm-eval asks for log-likelihoods."""
    ids = server.ok("/tokenize", {"prompt": PROMPT})["tokens"]
    for prompt in (PROMPT, ids):
        choice = legacy(server, prompt=prompt, echo=True, logprobs=1, max_tokens=1, seed=1234)
        lp = choice["logprobs"]
        assert choice["text"].startswith(PROMPT)
        assert (
            len(lp["tokens"])
            == len(ids) + 1
            == len(lp["token_logprobs"])
            == len(lp["top_logprobs"])
            == len(lp["text_offset"])
        )
        assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
        assert all(v <= 0 for v in lp["token_logprobs"][1:])
        for token, offset in list(zip(lp["tokens"], lp["text_offset"]))[: len(ids)]:
            assert choice["text"][offset:].startswith(token)


def test_echo_logprobs_do_not_depend_on_the_cache(server):
    first = legacy(server, echo=True, logprobs=2)["logprobs"]
    legacy(server)
    assert legacy(server, echo=True, logprobs=2)["logprobs"] == first


def test_echo_equals_stepwise(server):
    """The log-prob of a prompt token is that of generating it."""
    answer = legacy(server, logprobs=0, return_token_ids=True, max_tokens=4)
    ids = server.ok("/tokenize", {"prompt": PROMPT})["tokens"] + answer["token_ids"]
    echoed = legacy(server, prompt=ids, echo=True, logprobs=0, max_tokens=1)["logprobs"]["token_logprobs"]
    assert echoed[len(ids) - 4 : len(ids)] == answer["logprobs"]["token_logprobs"]


def test_prompt_logprobs(server):
    choice = legacy(server, prompt_logprobs=2)
    ids = server.ok("/tokenize", {"prompt": PROMPT})["tokens"]
    plp = choice["prompt_logprobs"]
    assert len(plp) == len(ids) and plp[0] is None
    for token, entry in zip(ids[1:], plp[1:]):
        own = entry[str(token)]
        assert set(own) == {"logprob", "rank", "decoded_token"} and own["rank"] >= 1
        ranks = sorted(e["rank"] for e in entry.values())
        assert ranks[:2] == [1, 2] and len(entry) in (2, 3)


def test_chat(server):
    choice = server.ok("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2})["choices"][0]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert len(content) == 5
    raw = b"".join(bytes(t["bytes"]) for t in content)
    assert raw.decode("utf-8", "replace") == choice["message"]["content"]
    for t in content:
        assert len(t["top_logprobs"]) == 2
        assert t["top_logprobs"][0]["logprob"] == t["logprob"] and t["top_logprobs"][0]["bytes"] == t["bytes"]
        assert set(t["top_logprobs"][0]) == {"token", "logprob", "bytes"}


def test_chat_without_top(server):
    choice = server.ok("/v1/chat/completions", {**CHAT, "logprobs": True})["choices"][0]
    assert all(t["top_logprobs"] == [] for t in choice["logprobs"]["content"])


def test_prompt_logprobs_of_a_chat(server):
    body = server.ok("/v1/chat/completions", {**CHAT, "prompt_logprobs": 0})
    assert len(body["prompt_logprobs"]) == body["usage"]["prompt_tokens"]


@pytest.mark.parametrize("echo", [False, True])
def test_stream_has_the_same(server, echo):
    ask = {**ASK, "logprobs": 2, "echo": echo, "max_tokens": 12}
    whole = server.ok("/v1/completions", ask)["choices"][0]["logprobs"]
    events = server.stream("/v1/completions", ask)
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert sum((e["choices"][0]["logprobs"][key] for e in events), []) == whole[key]


def test_chat_stream_has_the_same(server):
    ask = {**CHAT, "logprobs": True, "top_logprobs": 2, "max_tokens": 12}
    whole = server.ok("/v1/chat/completions", ask)["choices"][0]["logprobs"]["content"]
    events = server.stream("/v1/chat/completions", ask)
    pieces = [e["choices"][0]["logprobs"] for e in events]
    assert sum((p["content"] for p in pieces if p), []) == whole


def test_bias_does_not_change_them(server):
    """They are of the model's own distribution."""
    plain = legacy(server, logprobs=20, max_tokens=1, return_tokens_as_token_ids=True)["logprobs"]["top_logprobs"][0]
    second = sorted(plain, key=plain.get)[-2]
    biased = legacy(
        server, logprobs=20, max_tokens=1, return_tokens_as_token_ids=True, logit_bias={second.split(":")[1]: 100}
    )["logprobs"]
    assert biased["tokens"] == [second] and biased["token_logprobs"] == [plain[second]]
    assert biased["top_logprobs"][0] == plain
