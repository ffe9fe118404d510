"""Where prompt and answer meet: a SentencePiece-like decoder drops the space before a text's first word, but not the one before an
answer's, which is not the first of its text."""

import pytest

from conftest import SRC, joined_text


@pytest.fixture(scope="module")
def spm(start):
    return start("--threads", "1", model=str(SRC / "tests/golden/tiny/llama-sharded"))


ASK = {"prompt": "The capital", "max_tokens": 40, "ignore_eos": True, "return_token_ids": True}


@pytest.mark.parametrize("seed", range(8))
def test_answer_is_what_its_tokens_add(spm, seed):
    words = spm.ok("/tokenize", {"prompt": "the other then in a red and there", "add_special_tokens": False})["tokens"]
    ask = {**ASK, "seed": seed, "allowed_token_ids": words}
    choice = spm.ok("/v1/completions", ask)["choices"][0]
    ids = choice["prompt_token_ids"] + choice["token_ids"]
    tokens_text = spm.ok("/detokenize", {"tokens": ids})["prompt"].removeprefix("<s>").lstrip()
    assert ASK["prompt"] + choice["text"] == tokens_text
    echoed = spm.ok("/v1/completions", {**ask, "echo": True})["choices"][0]["text"]
    assert echoed == ASK["prompt"] + choice["text"]
    assert joined_text(spm.stream("/v1/completions", ask)) == choice["text"]
