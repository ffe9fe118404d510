"""What a client can get wrong: each gets an error that says what, where and what limit, and the daemon goes on."""

import contextlib
import socket

import pytest

from conftest import SRC

C, H, T, D = "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"
USER = [{"role": "user", "content": "hi"}]


def completion(**fields):
    return {"prompt": "hi", "max_tokens": 2, **fields}


def chat(**fields):
    return {"messages": USER, "max_tokens": 2, **fields}


NOT_JSON = {
    "empty": b"",
    "cut": b'{"prompt":"hi"',
    "single quotes": b"{'prompt':'hi'}",
    "trailing comma": b'{"prompt":"hi",}',
    "text after": b'{"prompt":"hi"} x',
    "comment": b'{"prompt":"hi" /* no */}',
    "NaN": b'{"prompt":"hi","temperature":NaN}',
    "leading zero": b'{"prompt":"hi","max_tokens":01}',
    "control character": b'{"prompt":"h\x01i"}',
    "raw NUL": b'{"prompt":"h\x00i"}',
    "escaped NUL": b'{"prompt":"h\\u0000i"}',
    "lone high surrogate": b'{"prompt":"\\ud800"}',
    "lone low surrogate": b'{"prompt":"\\udc00x"}',
    "invalid UTF-8": b'{"prompt":"\xff\xfe"}',
    "overlong UTF-8": b'{"prompt":"\xc0\xaf"}',
    "UTF-8 surrogate": b'{"prompt":"\xed\xa0\x80"}',
    "deep": b"[" * 100000,
    "deep object": b'{"a":' * 100000,
    "deep and closed": b'{"prompt":"hi","x":' + b"[" * 1000 + b"]" * 1000 + b"}",
}


@pytest.mark.parametrize("path", [C, H, T, D])
@pytest.mark.parametrize("name", NOT_JSON)
def test_not_json(server, path, name):
    answer = server.post(path, NOT_JSON[name])
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] in ("invalid_json", "invalid_utf8")
    assert answer.error["message"]


@pytest.mark.parametrize("path", [C, H, T, D])
@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_not_an_object(server, path, body):
    answer = server.post(path, body)
    assert answer.status == 400 and "object" in answer.error["message"]


@pytest.mark.parametrize("framing", ["Content-Length: 100000012", "Transfer-Encoding: chunked"])
def test_100_mb(server, framing):
    """Refused by its length, or when it has become too much."""
    block = b"x" * (1 << 20)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
        s.sendall(f"POST {C} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                s.sendall(b"100000\r\n" + block + b"\r\n" if "chunked" in framing else block)
            s.sendall(b"0\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := s.recv(65536):
                answer += part
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413"), answer[:200]


def test_100_mb_announced(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
        s.sendall(f"POST {C} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n".encode())
        assert s.recv(65536).startswith(b"HTTP/1.1 413")


BAD = [
    # path, body, status, param, a word of the message
    (C, completion(model="nobody"), 404, "model", "nobody"),
    (H, chat(model="nobody"), 404, "model", "nobody"),
    (C, completion(model=5), 400, "model", "string"),
    (C, {}, 400, "prompt", "required"),
    (C, {"prompt": None}, 400, "prompt", "required"),
    (C, {"prompt": ""}, 400, "prompt", "empty"),
    (C, {"prompt": []}, 400, "prompt", "empty"),
    (C, {"prompt": ["a", ""]}, 400, "prompt", "empty"),
    (C, {"prompt": [[]]}, 400, "prompt", "empty"),
    (C, {"prompt": {}}, 400, "prompt", "object"),
    (C, {"prompt": True}, 400, "prompt", "boolean"),
    (C, {"prompt": [True]}, 400, "prompt", "boolean"),
    (C, {"prompt": ["a", 1]}, 400, "prompt", "number"),
    (C, {"prompt": [1, "a"]}, 400, "prompt", "string"),
    (C, {"prompt": [[1], "a"]}, 400, "prompt", "string"),
    (C, {"prompt": [1.5]}, 400, "prompt", "1.5"),
    (C, {"prompt": [-1]}, 400, "prompt", "-1"),
    (C, {"prompt": [10**6]}, 400, "prompt", "1000000"),
    (C, {"prompt": [10**40]}, 400, "prompt", "token id"),
    (C, {"prompt": ["a"] * 129}, 400, "prompt", "128"),
    (C, {"prompt": "a\ufdd0b"}, 400, "prompt", "U+FDD0"),
    (C, completion(stop=["\ufdd0"]), 400, "stop", "U+FDD0"),
    (C, completion(max_tokens="2"), 400, "max_tokens", "number"),
    (C, completion(max_tokens=0), 400, "max_tokens", "1"),
    (C, completion(max_tokens=-1), 400, "max_tokens", "1"),
    (C, completion(max_tokens=1.5), 400, "max_tokens", "integer"),
    (C, completion(max_tokens=2**60), 400, "max_tokens", ""),
    (H, chat(max_tokens=0), 400, "max_tokens", "1"),
    (H, chat(max_completion_tokens=0), 400, "max_completion_tokens", "1"),
    (C, completion(temperature=-0.1), 400, "temperature", "0"),
    (C, completion(temperature=2.1), 400, "temperature", "2"),
    (C, completion(temperature="hot"), 400, "temperature", "number"),
    (C, b'{"prompt":"hi","temperature":1e999}', 400, "temperature", ""),
    (C, completion(top_p=0), 400, "top_p", ""),
    (C, completion(top_p=1.1), 400, "top_p", "1"),
    (C, completion(min_p=-1), 400, "min_p", "0"),
    (C, completion(typical_p=0), 400, "typical_p", ""),
    (C, completion(eta_cutoff=2), 400, "eta_cutoff", "1"),
    (C, completion(epsilon_cutoff=-1), 400, "epsilon_cutoff", "0"),
    (C, completion(top_k=-2), 400, "top_k", "-1"),
    (C, completion(repetition_penalty=0), 400, "repetition_penalty", ""),
    (C, completion(presence_penalty=2.5), 400, "presence_penalty", "2"),
    (C, completion(frequency_penalty=-2.5), 400, "frequency_penalty", "-2"),
    (C, completion(no_repeat_ngram_size=-1), 400, "no_repeat_ngram_size", "0"),
    (C, completion(min_tokens=-1), 400, "min_tokens", "0"),
    (C, completion(min_tokens=3), 400, "min_tokens", "max_tokens"),
    (C, completion(n=0), 400, "n", "1"),
    (C, completion(n=129), 400, "n", "128"),
    (C, completion(n=2, temperature=0), 400, "n", "greedy"),
    (C, completion(n=2, best_of=1), 400, "best_of", "n"),
    (C, completion(best_of=0), 400, "best_of", "1"),
    (C, completion(best_of=129), 400, "best_of", "128"),
    (C, completion(best_of=2, stream=True), 400, "best_of", "stream"),
    (C, completion(best_of=2, temperature=0), 400, "best_of", "greedy"),
    (H, chat(best_of=1), 400, "best_of", "chat"),
    (C, completion(deadline_ms=0), 400, "deadline_ms", "1"),
    (C, completion(deadline_ms=86400001), 400, "deadline_ms", "86400000"),
    (H, chat(deadline_ms="5"), 400, "deadline_ms", "number"),
    (H, chat(ttft_ms=1.5), 400, "ttft_ms", "integer"),
    (C, completion(usage_bill=1), 400, "usage_bill", "boolean"),
    (C, completion(usage_bill=True, stream=True), 400, "usage_bill", "include_usage"),
    (C, completion(seed="x"), 400, "seed", "integer"),
    (C, completion(seed=1.5), 400, "seed", "integer"),
    (C, completion(seed=1e30), 400, "seed", "2^63"),
    (C, completion(priority=2**40), 400, "priority", ""),
    (C, completion(logprobs=21), 400, "logprobs", "20"),
    (C, completion(logprobs=-1), 400, "logprobs", "0"),
    (C, completion(logprobs=True), 400, "logprobs", "number"),
    (C, completion(prompt_logprobs=21), 400, "prompt_logprobs", "20"),
    (C, completion(prompt_logprobs=1, stream=True), 400, "prompt_logprobs", "stream"),
    (H, chat(logprobs=1), 400, "logprobs", "boolean"),
    (H, chat(top_logprobs=2), 400, "top_logprobs", "logprobs"),
    (H, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", "20"),
    (C, completion(stop=5), 400, "stop", "string"),
    (C, completion(stop=""), 400, "stop", "1"),
    (C, completion(stop=["a", ""]), 400, "stop", "1"),
    (C, completion(stop="x" * 10000), 400, "stop", "1024"),
    (C, completion(stop=["a"] * 65), 400, "stop", "64"),
    (C, completion(stop=["a", None]), 400, "stop", "null"),
    (C, completion(stop_token_ids=[-1]), 400, "stop_token_ids", "-1"),
    (C, completion(stop_token_ids=[10**6]), 400, "stop_token_ids", "1000000"),
    (C, completion(stop_token_ids="2"), 400, "stop_token_ids", "array"),
    (C, completion(stop_token_ids=[1] * 5000), 400, "stop_token_ids", "4096"),
    (C, completion(allowed_token_ids=[]), 400, "allowed_token_ids", "empty"),
    (C, completion(allowed_token_ids=[10**6]), 400, "allowed_token_ids", "1000000"),
    (C, completion(bad_words=[""]), 400, "bad_words", "empty"),
    (C, completion(bad_words=["a", 5]), 400, "bad_words", "number"),
    (C, completion(bad_words=["a b c d e f g"] * 1000), 400, "bad_words", "4096"),
    (C, completion(logit_bias=[1]), 400, "logit_bias", "object"),
    (C, completion(logit_bias={"x": 1}), 400, "logit_bias", "x"),
    (C, completion(logit_bias={"-1": 1}), 400, "logit_bias", "-1"),
    (C, completion(logit_bias={"1.0": 1}), 400, "logit_bias", "1.0"),
    (C, completion(logit_bias={"1000000": 1}), 400, "logit_bias", "1000000"),
    (C, completion(logit_bias={"5": 101}), 400, "logit_bias", "100"),
    (C, completion(logit_bias={"5": None}), 400, "logit_bias", "number"),
    (C, completion(stream="yes"), 400, "stream", "boolean"),
    (C, completion(stream_options={"include_usage": True}), 400, "stream_options", "stream"),
    (C, completion(stream=True, stream_options=[]), 400, "stream_options", "object"),
    (C, completion(stream=True, stream_options={"include_usage": 1}), 400, "include_usage", "boolean"),
    (C, completion(stream_interval=0), 400, "stream_interval", "1"),
    (C, completion(echo=1), 400, "echo", "boolean"),
    (C, completion(truncate_prompt_tokens=-2), 400, "truncate_prompt_tokens", "-1"),
    (C, completion(truncate_prompt_tokens=0), 400, "prompt", "no tokens"),
    (C, completion(truncation_side="middle"), 400, "truncation_side", "left"),
    (C, completion(cache_salt=""), 400, "cache_salt", "128"),
    (C, completion(cache_salt="x" * 129), 400, "cache_salt", "128"),
    (C, completion(request_id="a b"), 400, "request_id", ""),
    (C, completion(suffix="end"), 400, "suffix", "not supported"),
    (C, completion(use_beam_search=True), 400, "use_beam_search", "not supported"),
    (C, completion(response_format={"type": "json_object"}), 400, "response_format", "json_object"),
    (C, completion(response_format="json"), 400, "response_format", "object"),
    (C, completion(guided_regex="a+"), 400, "guided_regex", "not supported"),
    (C, completion(structured_outputs={"choice": ["a"]}), 400, "structured_outputs", "not supported"),
    (H, {}, 400, "messages", "required"),
    (H, {"messages": None}, 400, "messages", "required"),
    (H, {"messages": []}, 400, "messages", "empty"),
    (H, {"messages": "hi"}, 400, "messages", "array"),
    (H, {"messages": ["hi"]}, 400, "messages[0]", "object"),
    (H, {"messages": [{"content": "x"}]}, 400, "messages[0].role", "string"),
    (H, {"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role", "assistant"),
    (H, {"messages": USER + [{"role": "user"}]}, 400, "messages[1].content", "required"),
    (H, {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "string"),
    (H, {"messages": [{"role": "user", "content": ["x"]}]}, 400, "messages[0].content[0]", "object"),
    (
        H,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages[0].content[0].type",
        "images",
    ),
    (
        H,
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        400,
        "messages[0].content[0].type",
        "audio",
    ),
    (H, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages[0].content[0].text", "string"),
    (H, {"messages": [{"role": "user", "content": "x", "name": 5}]}, 400, "messages[0].name", "string"),
    (
        H,
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]},
        400,
        "messages[0].tool_calls[0].function",
        "object",
    ),
    (H, {"messages": [{"role": "user", "content": "a\ufdd0"}]}, 400, "messages", "U+FDD0"),
    (H, chat(tools=[]), 400, "tools", ""),
    (H, chat(tools=[{"type": "function", "function": {"name": "f"}}]), 400, "tools", "not supported"),
    (
        H,
        chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="auto"),
        400,
        "tools",
        "not supported",
    ),
    (
        H,
        chat(tools=[{"type": "function", "function": {}}], tool_choice="none"),
        400,
        "tools[0].function.name",
        "string",
    ),
    (H, chat(tool_choice="auto"), 400, "tool_choice", "tools"),
    (H, chat(functions=[{"name": "f"}]), 400, "functions", "not supported"),
    (H, chat(modalities=["text", "audio"]), 400, "modalities", "text"),
    (H, chat(response_format={"type": "json_schema", "json_schema": {}}), 400, "response_format", "json_schema"),
    (H, chat(continue_final_message=True), 400, "continue_final_message", "add_generation_prompt"),
    (H, chat(chat_template_kwargs=[]), 400, "chat_template_kwargs", "object"),
    (H, chat(chat_template=5), 400, "chat_template", "string"),
    (T, {}, 400, "prompt", "required"),
    (T, {"prompt": 5}, 400, "prompt", "string"),
    (T, {"content": []}, 400, "content", "string"),
    (T, {"messages": []}, 400, "messages", "empty"),
    (T, {"prompt": "x" * (5 << 20)}, 400, "prompt", "4194304"),
    (D, {}, 400, "tokens", "array"),
    (D, {"tokens": "x"}, 400, "tokens", "array"),
    (D, {"tokens": [-1]}, 400, "tokens", "-1"),
    (D, {"tokens": [10**6]}, 400, "tokens", "1000000"),
    (D, {"tokens": ["a"]}, 400, "tokens", "string"),
]


@pytest.mark.parametrize("path, body, status, param, word", BAD, ids=[f"{i}-{b[3]}" for i, b in enumerate(BAD)])
def test_bad_field(server, path, body, status, param, word):
    answer = server.post(path, body)
    assert answer.status == status, answer.body
    error = answer.error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert word in error["message"], error["message"]
    assert isinstance(error["code"], str)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: (C, {"prompt": "word " * n}),
        lambda n: (C, {"prompt": [5] * n, "max_tokens": 4}),
        lambda n: (H, {"messages": [{"role": "user", "content": "word " * n}]}),
    ],
    ids=["text", "ids", "messages"],
)
def test_context_exceeded(server, make):
    limit = server.get("/v1/models").json["data"][0]["max_model_len"]
    answer = server.post(*make(limit + 1))
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["message"].startswith(
        f"This model's maximum context length is {limit} tokens. However, you requested "
    )


def test_context_is_exact(server):
    limit = server.get("/v1/models").json["data"][0]["max_model_len"]
    fits = server.ok(C, {"prompt": [50] * (limit - 4), "max_tokens": 4, "ignore_eos": True})
    assert fits["usage"]["total_tokens"] == limit
    over = server.post(C, {"prompt": [50] * (limit - 4), "max_tokens": 5})
    assert over.status == 400
    assert f"you requested {limit + 1} tokens ({limit - 4} in the prompt, 5 in the completion)" in over.error["message"]
    assert server.post(C, {"prompt": [50] * limit, "max_tokens": 1}).status == 400
    rest = server.ok(C, {"prompt": [50] * (limit - 4), "ignore_eos": True})
    assert rest["usage"]["completion_tokens"] == 4


def test_context_is_what_fits_the_memory(start):
    """Less KV memory than one sequence of the model's length takes: the limit is what fits, and all say so."""
    server = start(
        "--threads", "1", "--kv-memory", "50K", "--max-seqs", "1", model=str(SRC / "tests/golden/tiny/llama")
    )
    limit = server.get("/v1/models").json["data"][0]["max_model_len"]
    assert 32 <= limit < 256
    chat = {"messages": USER, "ignore_eos": True}
    assert server.ok(H, chat)["usage"]["total_tokens"] == limit
    assert f"maximum context length is {limit} tokens" in server.post(C, {"prompt": [50] * 256}).error["message"]


def test_context_far_exceeded(server):
    answer = server.post(C, {"prompt": "x" * 15_000_000})
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"


def test_template_raises(server):
    answer = server.post(H, chat(chat_template="{{ raise_exception('roles must alternate') }}"))
    assert answer.status == 400
    assert answer.error["code"] == "template_error"
    assert "roles must alternate" in answer.error["message"]


def test_template_never_ends(server):
    endless = "{% for i in range(100000) %}{% for j in range(100000) %}{{ '' }}{% endfor %}{% endfor %}"
    assert server.post(H, chat(chat_template=endless)).status in (400, 408)
    assert server.post(H, chat()).status == 200
