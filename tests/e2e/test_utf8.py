"""Characters whose bytes come in several tokens: none is shown in halves, doubled or lost."""

import pytest
from conftest import joined_text

C, H = "/v1/completions", "/v1/chat/completions"
TEXT = "\N{EURO SIGN}\N{GRINNING FACE}\u00e9\u4e2d"


@pytest.fixture(scope="module")
def pieces(shared):
    """Tokens of which these characters are made; most are parts of one."""
    ids = shared.ok("/tokenize", {"prompt": TEXT, "add_special_tokens": False})["tokens"]
    assert len(ids) > 2 * len(TEXT)
    return ids


def draw(pieces, seed):
    allowed = {"allowed_token_ids": sorted(set(pieces)), "ignore_eos": True}
    return {"max_tokens": 60, "temperature": 1, "seed": seed, **allowed}


def test_first_tokens(server, pieces):
    """However many of the tokens there are, the text has no character that they do not make."""
    for n in range(1, len(pieces) + 1):
        shown = server.ok("/detokenize", {"tokens": pieces[:n]})["prompt"].rstrip("\ufffd")
        assert TEXT.startswith(shown)
    body = {"prompt": TEXT, "echo": True, "max_tokens": 1, "temperature": 0}
    assert server.ok(C, body)["choices"][0]["text"].startswith(TEXT)


@pytest.mark.parametrize("path", [C, H])
def test_stream_equals_whole(server, pieces, path):
    n_joined = 0
    for seed in range(6):
        ask = {"prompt": "x"} if path == C else {"messages": [{"role": "user", "content": "x"}]}
        body = {**ask, **draw(pieces, seed), "n": 2}
        choices = server.ok(path, body)["choices"]
        events = server.stream(path, body)
        for choice in choices:
            whole = choice["text"] if path == C else choice["message"]["content"]
            assert joined_text(events, choice["index"]) == whole
            n_joined += sum(c in whole for c in TEXT)
    assert n_joined > 0, "no character came of several tokens"


def test_log_probs_keep_the_bytes(server, pieces):
    """What the text cannot show, the bytes of the tokens do."""
    body = {"messages": [{"role": "user", "content": "x"}], **draw(pieces, 3), "logprobs": True, "stream": True}
    events = server.stream(H, body)
    tokens = [t for e in events for c in e["choices"] for t in (c["logprobs"] or {"content": []})["content"]]
    assert len(tokens) == 60
    text = b"".join(bytes(t["bytes"]) for t in tokens).decode(errors="replace")
    assert text == joined_text(events)
