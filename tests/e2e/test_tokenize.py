"""POST /tokenize and /detokenize, in both forms."""

TEXTS = [
    "The capital of France",
    "  two  spaces\n\ttab",
    "na\u00efve \u4f60\u597d \U0001f600 e\u0301",
    "0123456789",
    "<|im_start|>user",
]


def test_vllm_form(server):
    limit = server.get("/v1/models").json["data"][0]["max_model_len"]
    for text in TEXTS:
        answer = server.ok("/tokenize", {"prompt": text})
        assert answer["count"] == len(answer["tokens"]) and answer["max_model_len"] == limit
        assert answer["token_strs"] is None
        assert server.ok("/detokenize", {"tokens": answer["tokens"]})["prompt"] == text
        named = server.ok("/tokenize", {"prompt": text, "return_token_strs": True})
        assert len(named["token_strs"]) == named["count"]


def test_llama_form(server):
    for text in TEXTS:
        answer = server.ok("/tokenize", {"content": text})
        assert set(answer) == {"tokens"}
        assert server.ok("/detokenize", {"tokens": answer["tokens"]})["content"] == text
        pieces = server.ok("/tokenize", {"content": text, "with_pieces": True})["tokens"]
        assert [p["id"] for p in pieces] == answer["tokens"]
        raw = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
        assert raw.decode() == text


def test_specials_are_recognised_unless_told(server):
    special = server.ok("/tokenize", {"content": "<|im_start|>"})["tokens"]
    plain = server.ok("/tokenize", {"content": "<|im_start|>", "parse_special": False})["tokens"]
    assert len(special) == 1 and len(plain) > 1
    assert server.ok("/detokenize", {"tokens": plain})["content"] == "<|im_start|>"


def test_messages(server):
    messages = [{"role": "user", "content": "Why?"}]
    answer = server.ok("/tokenize", {"messages": messages})
    assert server.ok("/detokenize", {"tokens": answer["tokens"]})["prompt"].endswith("<|im_start|>assistant\n")
    closed = server.ok("/tokenize", {"messages": messages, "add_generation_prompt": False})
    assert closed["tokens"] == answer["tokens"][: closed["count"]]
    chat = server.ok("/v1/chat/completions", {"messages": messages, "max_tokens": 1, "return_token_ids": True})
    assert chat["prompt_token_ids"] == answer["tokens"]


def test_tools_and_kwargs_reach_the_template(server):
    template = "{{ tools[0].function.name }}|{{ flag }}|{{ messages[0].content }}"
    ask = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {}}}],
        "chat_template": template,
        "chat_template_kwargs": {"flag": "on"},
    }
    answer = server.ok("/tokenize", ask)
    assert server.ok("/detokenize", {"tokens": answer["tokens"]})["prompt"] == "look_up|on|hi"


def test_empty(server):
    assert server.ok("/tokenize", {"prompt": ""})["tokens"] == []
    assert server.ok("/tokenize", {"prompt": "", "return_token_strs": True})["token_strs"] == []
    assert server.ok("/detokenize", {"tokens": []})["prompt"] == ""
