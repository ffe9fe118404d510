"""HTTP as bytes: methods, headers, framing, and the form of answers and streams."""

import json
import socket
import urllib.parse

import pytest

from conftest import joined_text, parse_events

COMPLETION = {"prompt": "The capital", "max_tokens": 6, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 6, "temperature": 0}
USAGE_KEYS = {
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
}


def exchange(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR) if b"Connection: close" not in data else None
        parts = []
        while part := s.recv(65536):
            parts.append(part)
    return b"".join(parts)


def http(method, path, body=b"", *headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/v1/models"])
def test_get_and_head(server, path):
    whole = server.get(path)
    assert whole.status == 200
    assert whole.headers["content-type"] == "application/json"
    raw = exchange(server, http("HEAD", path))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("GET", "/v1/completions", "POST, OPTIONS"),
        ("HEAD", "/v1/completions", "POST, OPTIONS"),
        ("DELETE", "/v1/models", "GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("PUT", "/v1/models/x", "GET, HEAD, OPTIONS"),
    ],
)
def test_405_says_what_is_allowed(server, method, path, allow):
    answer = server.request(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    if method != "HEAD":
        assert answer.error["code"] == "method_not_allowed"


def test_options(server):
    answer = server.request("OPTIONS", "/v1/chat/completions")
    assert answer.status == 204
    assert answer.headers["allow"] == "POST, OPTIONS"
    assert answer.body == b""


def test_absolute_form(server):
    assert exchange(server, http("GET", "http://x:1/health")).startswith(b"HTTP/1.1 200")
    assert b"text/html" in exchange(server, http("GET", "http://x")).split(b"\r\n\r\n")[0]  # that is /
    assert b'"not_found"' in exchange(server, http("GET", "http://x/nowhere"))


def test_unknown_path(server):
    answer = server.get("/v1/nothing")
    assert answer.status == 404
    assert answer.error == {
        "message": "There is nothing at /v1/nothing.",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/messages"])
def test_what_is_not_there_says_so(server, path):
    answer = server.post(path, {})
    assert answer.status == 501
    assert path in answer.error["message"]


def test_models(server):
    listed = server.get("/v1/models").json
    assert listed["object"] == "list"
    model = listed["data"][0]
    assert model["object"] == "model" and model["owned_by"] and isinstance(model["created"], int)
    assert model["max_model_len"] >= 256
    assert server.get("/v1/models/" + urllib.parse.quote(model["id"])).json == model
    gone = server.get("/v1/models/nobody")
    assert gone.status == 404 and gone.error["code"] == "model_not_found"


def test_request_id_comes_back(server):
    answer = server.post("/v1/completions", COMPLETION, headers={"X-Request-Id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.json["id"] == "cmpl-abc-1"
    named = server.post("/v1/chat/completions", {**CHAT, "request_id": "mine"})
    assert named.json["id"] == "chatcmpl-mine"


def test_keep_alive(server):
    connection = server.connect()
    for _ in range(3):
        connection.request("POST", "/v1/completions", json.dumps(COMPLETION))
        response = connection.getresponse()
        assert response.status == 200
        assert response.read()
    connection.close()


def test_completion_body(server):
    body = server.ok("/v1/completions", COMPLETION)
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert set(body["usage"]) == USAGE_KEYS
    (choice,) = body["choices"]
    assert choice["index"] == 0 and choice["logprobs"] is None
    assert choice["finish_reason"] == "length" and choice["stop_reason"] is None
    assert body["usage"]["completion_tokens"] == 6
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 6


def test_chat_body(server):
    body = server.ok("/v1/chat/completions", CHAT)
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    message = body["choices"][0]["message"]
    assert message["role"] == "assistant" and isinstance(message["content"], str)
    assert message["refusal"] is None and "tool_calls" not in message


def test_stream_as_bytes(server):
    body = json.dumps({**COMPLETION, "stream": True}).encode()
    raw = exchange(server, http("POST", "/v1/completions", body))
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert b"Content-Type: text/event-stream" in head
    assert b"chunked" in head.lower()
    payload = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        n = int(size, 16)
        payload += rest[:n]
        rest = rest[n + 2 :]
    assert payload.endswith(b"data: [DONE]\n\n")
    for line in payload.decode().split("\n"):
        assert line == "" or line.startswith("data: ") or line.startswith(":")
    assert joined_text(parse_events(payload)) == server.ok("/v1/completions", COMPLETION)["choices"][0]["text"]


def test_completion_stream(server):
    events = server.stream("/v1/completions", COMPLETION)
    assert len({(e["id"], e["created"], e["model"]) for e in events}) == 1
    assert all(e["object"] == "text_completion" and "usage" not in e for e in events)
    reasons = [e["choices"][0]["finish_reason"] for e in events]
    assert reasons[:-1] == [None] * (len(events) - 1) and reasons[-1] == "length"


def test_chat_stream(server):
    events = server.stream("/v1/chat/completions", CHAT)
    assert all(e["object"] == "chat.completion.chunk" for e in events)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in e["choices"][0]["delta"] for e in events[1:])
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert joined_text(events) == server.ok("/v1/chat/completions", CHAT)["choices"][0]["message"]["content"]


def test_usage_chunk(server):
    events = server.stream("/v1/completions", {**COMPLETION, "stream_options": {"include_usage": True}})
    assert events[-1]["choices"] == []
    assert all(e["usage"] is None for e in events[:-1])
    assert events[-1]["usage"] == {
        **server.ok("/v1/completions", COMPLETION)["usage"],
        "prompt_tokens_details": events[-1]["usage"]["prompt_tokens_details"],
    }


def test_continuous_usage(server):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = server.stream("/v1/chat/completions", {**CHAT, "stream_options": options})
    counts = [e["usage"]["completion_tokens"] for e in events]
    assert counts == sorted(counts) and counts[-1] == 6
    assert len({e["usage"]["prompt_tokens"] for e in events}) == 1


def test_several_prompts_and_choices(server):
    prompts = ["The capital", [20, 30, 40], "Why"]
    single = [
        server.ok("/v1/completions", {**COMPLETION, "prompt": p, "temperature": 0.9, "seed": 7, "n": 2})
        for p in prompts
    ]
    texts = server.ok(
        "/v1/completions", {**COMPLETION, "prompt": [prompts[0], prompts[2]], "temperature": 0.9, "seed": 7, "n": 2}
    )
    assert [c["index"] for c in texts["choices"]] == [0, 1, 2, 3]
    expected = [c["text"] for s in (single[0], single[2]) for c in s["choices"]]
    assert [c["text"] for c in texts["choices"]] == expected
    assert texts["usage"]["completion_tokens"] == 24
    ids = server.ok("/v1/completions", {**COMPLETION, "prompt": [prompts[1]], "temperature": 0.9, "seed": 7, "n": 2})
    assert [c["text"] for c in ids["choices"]] == [c["text"] for c in single[1]["choices"]]
    streamed = server.stream(
        "/v1/completions", {**COMPLETION, "prompt": [prompts[0], prompts[2]], "temperature": 0.9, "seed": 7, "n": 2}
    )
    assert [joined_text(streamed, i) for i in range(4)] == expected


def test_seed(server):
    ask = {**COMPLETION, "temperature": 1, "max_tokens": 20, "seed": 5}
    first = server.ok("/v1/completions", ask)["choices"][0]["text"]
    assert server.ok("/v1/completions", ask)["choices"][0]["text"] == first
    others = {server.ok("/v1/completions", {**ask, "seed": s})["choices"][0]["text"] for s in range(10, 18)}
    assert len(others) > 1


def test_stop_strings(server):
    plain = server.ok("/v1/completions", {**COMPLETION, "max_tokens": 40})
    text = plain["choices"][0]["text"]
    stop = next(c for c in text[4:] if c.isascii() and c.isprintable() and c not in text[:4])
    cut = server.ok("/v1/completions", {**COMPLETION, "max_tokens": 40, "stop": ["never there", stop]})
    assert cut["choices"][0]["text"] == text[: text.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop" and cut["choices"][0]["stop_reason"] == stop
    assert cut["usage"]["completion_tokens"] < 40
    kept = server.ok(
        "/v1/completions", {**COMPLETION, "max_tokens": 40, "stop": stop, "include_stop_str_in_output": True}
    )
    assert kept["choices"][0]["text"] == text[: text.index(stop) + 1]
    events = server.stream("/v1/completions", {**COMPLETION, "max_tokens": 40, "stop": stop})
    assert joined_text(events) == text[: text.index(stop)]
    assert events[-1]["choices"][0]["stop_reason"] == stop


def test_partial_stop_is_given_back(server):
    text = server.ok("/v1/completions", {**COMPLETION, "max_tokens": 30})["choices"][0]["text"]
    stop = text[-3:] + "that does not follow"
    events = server.stream("/v1/completions", {**COMPLETION, "max_tokens": 30, "stop": stop})
    assert joined_text(events) == text
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_stop_token(server):
    answer = server.ok("/v1/completions", {**COMPLETION, "max_tokens": 30, "return_token_ids": True})["choices"][0]
    ids = answer["token_ids"]
    assert len(ids) == 30
    at = next(i for i in range(3, 30) if ids[i] not in ids[:i])
    cut = server.ok(
        "/v1/completions", {**COMPLETION, "max_tokens": 30, "stop_token_ids": [ids[at]], "return_token_ids": True}
    )
    assert cut["choices"][0]["token_ids"] == ids[:at]
    assert cut["choices"][0]["finish_reason"] == "stop" and cut["choices"][0]["stop_reason"] == ids[at]
    later = server.ok(
        "/v1/completions",
        {**COMPLETION, "max_tokens": 30, "stop_token_ids": [ids[at]], "min_tokens": at + 2, "return_token_ids": True},
    )
    assert len(later["choices"][0]["token_ids"]) >= at + 2


def test_bias_and_lists(server):
    only = server.ok("/v1/completions", {**COMPLETION, "allowed_token_ids": [50], "return_token_ids": True})
    assert set(only["choices"][0]["token_ids"]) == {50}
    pushed = server.ok("/v1/completions", {**COMPLETION, "logit_bias": {"60": 100}, "return_token_ids": True})
    assert set(pushed["choices"][0]["token_ids"]) == {60}
    free = server.ok("/v1/completions", {**COMPLETION, "return_tokens_as_token_ids": True, "logprobs": 0})["choices"][0]
    pieces = [
        server.ok("/detokenize", {"tokens": [int(t.split(":")[1])]})["prompt"] for t in free["logprobs"]["tokens"]
    ]
    word = next(p for p in pieces if p.strip() and "\ufffd" not in p)
    banned = server.ok(
        "/v1/completions", {**COMPLETION, "bad_words": [word], "return_tokens_as_token_ids": True, "logprobs": 0}
    )["choices"][0]
    assert word in free["text"] and banned["text"] != free["text"]
    assert free["logprobs"]["tokens"][pieces.index(word)] not in banned["logprobs"]["tokens"]


def test_return_token_ids(server):
    ask = {**COMPLETION, "return_token_ids": True}
    whole = server.ok("/v1/completions", ask)["choices"][0]
    assert whole["prompt_token_ids"] == server.ok("/tokenize", {"prompt": COMPLETION["prompt"]})["tokens"]
    events = server.stream("/v1/completions", ask)
    assert events[0]["choices"][0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert all("prompt_token_ids" not in e["choices"][0] for e in events[1:])
    assert sum((e["choices"][0]["token_ids"] for e in events), []) == whole["token_ids"]
    chat = server.ok("/v1/chat/completions", {**CHAT, "return_token_ids": True})
    assert len(chat["prompt_token_ids"]) == chat["usage"]["prompt_tokens"]
    assert len(chat["choices"][0]["token_ids"]) == 6


def test_stream_interval(start, server):
    """A chunk for each token; drafts that were right come in one chunk."""
    ask = {**COMPLETION, "max_tokens": 40, "logit_bias": {"60": 100}}
    plain = start("--no-prompt-lookup")
    every, fifth = (plain.stream("/v1/completions", {**ask, "stream_interval": n}) for n in (1, 5))
    drafted = server.stream("/v1/completions", ask)
    assert joined_text(every) == joined_text(fifth) == joined_text(drafted)
    assert len(every) == 40 and len(fifth) <= 10 and len(drafted) < 40


def test_echo(server):
    plain = server.ok("/v1/completions", COMPLETION)["choices"][0]["text"]
    assert server.ok("/v1/completions", {**COMPLETION, "echo": True})["choices"][0]["text"] == "The capital" + plain
    assert joined_text(server.stream("/v1/completions", {**COMPLETION, "echo": True})) == "The capital" + plain
    only = server.ok("/v1/completions", {**COMPLETION, "echo": True, "max_tokens": 0})
    assert only["choices"][0]["text"] == "The capital" and only["usage"]["completion_tokens"] == 0


def test_truncation(server):
    ids = server.ok("/tokenize", {"prompt": "The capital"})["tokens"]
    ask = {"prompt": "The capital", "max_tokens": 3, "temperature": 0, "return_token_ids": True}
    left = server.ok("/v1/completions", {**ask, "truncate_prompt_tokens": 3})["choices"][0]
    right = server.ok("/v1/completions", {**ask, "truncate_prompt_tokens": 3, "truncation_side": "right"})["choices"][0]
    assert left["prompt_token_ids"] == ids[-3:] and right["prompt_token_ids"] == ids[:3]


def test_unknown_fields_are_passed_over(server):
    assert server.ok("/v1/completions", {**COMPLETION, "user": "me", "store": False, "nobody_knows_this": {"a": [1]}})
    assert server.ok(
        "/v1/chat/completions", {**CHAT, "metadata": {"a": "b"}, "service_tier": "auto", "verbosity": "low"}
    )
