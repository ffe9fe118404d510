"""Shapes that no golden file has: random checkpoints of each family through the whole road (skein-build, engine, HTTP) against a numpy reference,
which is itself held against the golden logits first."""
import json
import shutil

import numpy as np
import pytest
from conftest import SRC, Daemon
from refmodel import forward, load_safetensors, save_checkpoint, save_gguf

TINY = SRC / "tests/golden/tiny"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 64, "intermediate_size": 160,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
         "max_position_embeddings": 512, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 2}
MISTRAL = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
QWEN2 = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 24}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 320, "n_embd": 60, "n_head": 5, "n_layer": 2, "n_positions": 300,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "bos_token_id": 0, "eos_token_id": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SCALED = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}



def without(config, *keys):
    return {k: v for k, v in config.items() if k not in keys}


SHAPES = {
    "llama-mha-tied": {**LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama-mqa-odd-ffn": {**LLAMA, "num_key_value_heads": 1, "intermediate_size": 173},
    "llama-7-heads": {**LLAMA, "hidden_size": 84, "num_attention_heads": 7, "num_key_value_heads": 1, "intermediate_size": 100},
    "llama-gqa-3": {**LLAMA, "hidden_size": 144, "num_attention_heads": 9, "num_key_value_heads": 3, "rope_scaling": SCALED},
    "llama-wide-head": {**LLAMA, "head_dim": 128, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 40},
    "llama-new-rope-parameters": {**without(LLAMA, "rope_theta"), "rope_parameters": {**SCALED, "rope_theta": 50000.0}},
    "llama-yarn": {**LLAMA, "rope_scaling": YARN},
    "llama-yarn-of-own-length": {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 2.0}},
    "llama-attention-bias": {**LLAMA, "attention_bias": True},
    "llama-what-may-be-absent": without(LLAMA, "num_key_value_heads", "tie_word_embeddings", "rope_theta"),
    "llama-333-words": {**LLAMA, "vocab_size": 333, "num_hidden_layers": 1, "hidden_size": 72, "head_dim": 18},
    "llama-1000-wide": {**LLAMA, "hidden_size": 1000, "num_attention_heads": 10, "num_key_value_heads": 5, "intermediate_size": 72},
    "qwen3-attention-bias": {**QWEN3, "attention_bias": True},
    "llama-linear-rope": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral-window": {**MISTRAL, "sliding_window": 37},
    "mistral-window-of-a-block": {**MISTRAL, "sliding_window": 32, "num_hidden_layers": 3},
    "qwen2-tied": {**QWEN2, "tie_word_embeddings": True, "num_key_value_heads": 1},
    "qwen2-some-windows": {**QWEN2, "use_sliding_window": True, "sliding_window": 33, "max_window_layers": 1, "num_hidden_layers": 3},
    "qwen3-odd-head": {**QWEN3, "num_attention_heads": 6, "num_key_value_heads": 3},
    "qwen3-untied-mha": {**QWEN3, "num_key_value_heads": 4, "head_dim": 80},
    "gpt2-5-heads": GPT2,
    "gpt2-inner": {**GPT2, "n_embd": 48, "n_head": 3, "n_inner": 77},
}
N_PROMPT, N_GREEDY = 150, 16
TEXT = "The sea in 1234 isn't far,  naïve 海!\n"


@pytest.mark.parametrize("name", ["llama", "llama-bf16-tied", "llama-sharded", "qwen2", "qwen3", "gpt2"])
def test_reference_equals_golden(name):
    config = json.loads((TINY / name / "config.json").read_text())
    config = {**config, **config.get("rope_parameters", {})}
    weights = {}
    for path in (TINY / name).glob("*.safetensors"):
        weights.update(load_safetensors(path))
    for case in json.loads((TINY / name / "golden.json").read_text())["cases"]:
        assert np.abs(forward(config, weights, case["input_ids"])[-1] - case["last_logits"]).max() < 5e-5


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# What weights cost that are kept as they are stored: bf16 ones meet activations rounded to bf16 where the CPU multiplies those.
ROUNDED = {"F32": 2e-4, "BF16": 0.15, "F16": 0.02}


def check(config, tmp_path, *options, storage="F32", n_prompt=N_PROMPT, tolerance=2e-4, gguf=False):
    """Log-probs of a random checkpoint's prompt, and of its greedy continuation, against the reference. Returns how it tokenizes."""
    weights = save_checkpoint(tmp_path / "model", config, TINY / "llama", seed=config["vocab_size"], dtype=storage)
    if gguf:
        save_gguf(tmp_path / "model.gguf", config, weights, TINY / "llama", storage)
    ids = np.random.default_rng(7).integers(4, config["vocab_size"], n_prompt).tolist()
    server = Daemon(tmp_path / "cache", "--max-step-tokens", "64", "--max-seqs", "4", "--threads", "1", "--kv-memory", "64M", "--kv-dtype", "f32", *options,
                    model=str(tmp_path / ("model.gguf" if gguf else "model")))
    try:
        tokens = server.ok("/tokenize", {"prompt": TEXT})["tokens"]
        choice = server.ok("/v1/completions", {"prompt": ids, "max_tokens": N_GREEDY, "temperature": 0, "ignore_eos": True, "prompt_logprobs": 20,
                                               "return_token_ids": True})["choices"][0]
    finally:
        assert server.close() == 0, "".join(server.log)
    logits = forward(config, weights, ids + choice["token_ids"])
    expected = log_softmax(logits)
    for i, entry in enumerate(choice["prompt_logprobs"][1:]):
        assert str(ids[i + 1]) in entry and len(entry) in (20, 21)
        for token, got in entry.items():
            assert abs(got["logprob"] - expected[i][int(token)]) < tolerance, f"position {i}, token {token}"
    for row, token in zip(logits[n_prompt - 1:], choice["token_ids"]):
        second, best = np.sort(row)[-2:]
        if best - second > 5 * tolerance:
            assert token == row.argmax()
    shutil.rmtree(tmp_path)
    return tokens


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name, tmp_path):
    check(SHAPES[name], tmp_path)


@pytest.mark.parametrize("name", ["llama-333-words", "gpt2-inner"])
@pytest.mark.parametrize("storage", ["BF16", "F16"])
def test_stored_in_16_bits(name, storage, tmp_path):
    """Exactly as stored with --dtype f32; within what 16-bit activations cost without."""
    check(SHAPES[name], tmp_path / "f32", "--dtype", "f32", storage=storage)
    check(SHAPES[name], tmp_path / "keep", storage=storage, tolerance=ROUNDED[storage])


@pytest.mark.parametrize("name", ["llama-mqa-odd-ffn", "llama-7-heads", "llama-333-words", "llama-1000-wide", "qwen3-odd-head", "gpt2-5-heads"])
@pytest.mark.parametrize("dtype", ["q8", "q4", "q4s"])
def test_quantised(name, dtype, tmp_path):
    """Shapes that are no whole blocks of 32 are padded or fall back to a wider type: near the exact values all the same."""
    check(SHAPES[name], tmp_path, "--dtype", dtype, tolerance={"q8": 0.3, "q4": 2.0, "q4s": 2.0}[dtype])


@pytest.mark.parametrize("name", ["llama-yarn", "mistral-window", "qwen2-some-windows", "gpt2-5-heads"])
def test_far_positions(name, tmp_path):
    """Beyond one split of attention (256 positions) and the 64 that YaRN stretches, with and without windows."""
    config = {**SHAPES[name], ("n_positions" if name.startswith("gpt2") else "max_position_embeddings"): 1024}
    check(config, tmp_path, n_prompt=600)


@pytest.mark.parametrize("storage", ["F32", "BF16", "F16"])
def test_gguf_equals_hf(storage, tmp_path):
    """The same weights and the same tokenizer in both formats."""
    config = {**LLAMA, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20}
    from_hf = check(config, tmp_path / "hf", "--dtype", "f32", storage=storage)
    assert check(config, tmp_path / "gguf", "--dtype", "f32", storage=storage, gguf=True) == from_hf
    check(config, tmp_path / "keep", storage=storage, gguf=True, tolerance=ROUNDED[storage])
