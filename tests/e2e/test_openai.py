"""The real openai client."""

import hashlib
import os
import signal

import openai
import pytest
from crowd import Client, metrics, read_all, total

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Why?"}]}]


def client_of(server, key="x", **kw):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0, **kw)


@pytest.fixture
def client(server):
    with client_of(server) as c:
        yield c


@pytest.fixture
def model(client):
    return client.models.list().data[0].id


def test_models(client, model):
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_completion(client, model):
    done = client.completions.create(model=model, prompt="The capital", max_tokens=8, temperature=0)
    assert done.usage.completion_tokens == 8
    events = client.completions.create(model=model, prompt="The capital", max_tokens=8, temperature=0, stream=True)
    assert "".join(e.choices[0].text for e in events) == done.choices[0].text


def test_completion_logprobs(client, model):
    done = client.completions.create(model=model, prompt="The", max_tokens=3, temperature=0, logprobs=2)
    logprobs = done.choices[0].logprobs
    assert (
        len(logprobs.tokens)
        == len(logprobs.token_logprobs)
        == len(logprobs.top_logprobs)
        == len(logprobs.text_offset)
        == 3
    )


def test_chat(client, model):
    ask = {
        "model": model,
        "messages": MESSAGES,
        "max_completion_tokens": 8,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    done = client.chat.completions.create(**ask)
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason == "length"
    assert done.usage.total_tokens == done.usage.prompt_tokens + 8
    events = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert events[-1].choices == [] and events[-1].usage.completion_tokens == 8
    text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert text == done.choices[0].message.content


def test_stream_helper(client, model):
    ends = {"logit_bias": {"60": 100}, "extra_body": {"stop_token_ids": [60], "min_tokens": 3}}
    with client.chat.completions.stream(model=model, messages=MESSAGES, temperature=0, **ends) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].finish_reason == "stop"


def test_chat_logprobs(client, model):
    done = client.chat.completions.create(
        model=model, messages=MESSAGES, max_completion_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    content = done.choices[0].logprobs.content
    assert len(content) == 4
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in content)


def test_extra_body(client, model):
    done = client.completions.create(
        model=model,
        prompt=[5, 6, 7],
        max_tokens=20,
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True},
    )
    assert done.usage.completion_tokens == 20


def test_async_client(server, model):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=0) as c:
            calls = [c.completions.create(model=model, prompt=[i], max_tokens=10, temperature=0) for i in range(10, 30)]
            return await asyncio.gather(*calls)

    assert all(a.usage.completion_tokens <= 10 for a in asyncio.run(ask()))


def test_best_of(client, model):
    done = client.completions.create(model=model, prompt="The", max_tokens=4, n=2, best_of=5, seed=1)
    assert [c.index for c in done.choices] == [0, 1]
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(model=model, prompt="The", best_of=2, stream=True)
    assert e.value.param == "best_of"


def count_ends(server, end):
    return total(metrics(server), "skein_requests_total", end=end)


def test_what_is_worth_another_try(start):
    """The client tries a 5xx again by itself, unless it is told that this will not help."""
    server = start("--threads", "1")
    pid = server.engine_pid()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=2) as c:
        model = c.models.list().data[0].id
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(openai.InternalServerError) as e:
            c.completions.create(model=model, prompt="x", extra_body={"deadline_ms": 30})
        assert e.value.status_code == 504 and e.value.code == "deadline_exceeded"
        with pytest.raises(openai.APIError, match="deadline|complete"):
            list(c.completions.create(model=model, prompt="x", stream=True, extra_body={"deadline_ms": 30}))
        os.kill(pid, signal.SIGCONT)
        assert count_ends(server, "deadline") == 2


def test_rate_limit_is_waited_for(start, tmp_path):
    """429 with retry-after-ms: the client comes again when it may."""
    keys = tmp_path / "keys"
    keys.write_text("bob sha256:" + hashlib.sha256(b"k").hexdigest() + " concurrent=1\n")
    server = start("--threads", "1", "--api-key-file", str(keys))
    long = {"prompt": [5], "max_tokens": 200, "stream": True, "ignore_eos": True}
    auth = {"Authorization": "Bearer k"}
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="k", max_retries=5) as c:
        pid = server.engine_pid()
        os.kill(pid, signal.SIGSTOP)
        first = Client(server, long, headers=auth)
        read_all([first], until=lambda: b"\r\n\r\n" in first.data)
        refused = server.post("/v1/completions", long, headers=auth)
        assert refused.status == 429 and refused.error["code"] == "rate_limit_exceeded"
        assert float(refused.headers["retry-after-ms"]) > 0 and int(refused.headers["retry-after"]) >= 1
        os.kill(pid, signal.SIGCONT)
        done = c.completions.create(model=c.models.list().data[0].id, prompt="x", max_tokens=2)
        assert done.choices
        read_all([first])


def test_errors(client, model):
    with pytest.raises(openai.NotFoundError) as e:
        client.completions.create(model="nobody", prompt="x")
    assert e.value.code == "model_not_found" and e.value.param == "model"
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(model=model, prompt="x", max_tokens=1 << 20)
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model=model, messages=MESSAGES, temperature=3)
    assert e.value.param == "temperature"
    with pytest.raises(openai.InternalServerError) as e:
        client.embeddings.create(model=model, input="x")
    assert e.value.status_code == 501


def test_keys(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# who may call\n\nalice sha256:" + hashlib.sha256(b"secret-1").hexdigest() + "\nbare-key\n")
    server = start("--threads", "1", "--api-key-file", str(keys))
    for key in ("secret-1", "bare-key"):
        with client_of(server, key) as c:
            assert c.models.list().data
    with client_of(server, "wrong") as c, pytest.raises(openai.AuthenticationError) as e:
        c.models.list()
    assert e.value.code == "invalid_api_key"
    bare = server.get("/v1/models")
    assert bare.status == 401 and bare.headers["www-authenticate"] == "Bearer"
    assert server.get("/v1/models", headers={"Authorization": "bEaReR bare-key"}).status == 200
    assert server.get("/v1/models", headers={"Authorization": "Basic bare-key"}).status == 401
    assert server.get("/v1/nothing").status == 401
    assert server.get("/health").status == 200 and server.get("/ready").status == 200
    assert server.request("OPTIONS", "/v1/completions").status == 204
