"""A reference decoder in numpy (float64 inside) and a writer of random checkpoints in Hugging Face layout.

It says in a hundred lines what transformers computes for the llama, qwen2, qwen3 and gpt2 families; test_shapes.py first holds it against the golden
logits that transformers made, then uses it on shapes that no golden file has."""
import json
import os
import shutil
import struct

import numpy as np


def load_safetensors(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        head, data = json.loads(f.read(n)), f.read()
    out = {}
    for name, t in head.items():
        if name == "__metadata__":
            continue
        raw = data[t["data_offsets"][0]:t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            a = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            a = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[t["dtype"]])
        out[name] = a.astype(np.float64).reshape(t["shape"])
    return out


def rounded(a, dtype):
    """`a` as a checkpoint of that type holds it, in float32."""
    a = a.astype(np.float32)
    if dtype == "F16":
        return a.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        u = a.view(np.uint32)
        return ((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return a


def save_safetensors(path, tensors, dtype="F32"):
    """`tensors` are rounded already."""
    head, parts, at = {}, [], 0
    for name, a in tensors.items():
        raw = (a.view(np.uint32) >> 16).astype("<u2") if dtype == "BF16" else a.astype({"F32": "<f4", "F16": "<f2"}[dtype])
        raw = raw.tobytes()
        head[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    h = json.dumps(head).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(parts))


def yarn(c, r, f):
    """Peng et al. 2023, section 3.2, with the ends of the ramp rounded as transformers does."""
    dim, theta, factor = 2 * len(f), c.get("rope_theta", 10000.0), r["factor"]
    old = r.get("original_max_position_embeddings", c["max_position_embeddings"])

    def turning(n):
        return dim * np.log(old / (n * 2 * np.pi)) / (2 * np.log(theta))

    low = max(np.floor(turning(r.get("beta_fast", 32))), 0)
    high = min(np.ceil(turning(r.get("beta_slow", 1))), dim - 1)
    keep = 1 - np.clip((np.arange(len(f)) - low) / (high - low), 0, 1)
    return f / factor * (1 - keep) + f * keep, r.get("attention_factor", 0.1 * np.log(factor) + 1)


def inv_freq(c, dim):
    """Radians per position, and what the rotated vectors are multiplied by."""
    c = {**c, **(c.get("rope_parameters") or {})}
    r = c.get("rope_scaling") or c.get("rope_parameters") or {}
    f = 1.0 / c.get("rope_theta", 10000.0) ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    kind = r.get("rope_type", r.get("type", "default"))
    if kind == "linear":
        f = f / r["factor"]
    elif kind == "llama3":
        low, high, old = r["low_freq_factor"], r["high_freq_factor"], r["original_max_position_embeddings"]
        wave = 2 * np.pi / f
        smooth = np.clip((old / wave - low) / (high - low), 0, 1)
        f = (1 - smooth) * f / r["factor"] + smooth * f
    elif kind == "yarn":
        return yarn(c, r, f)
    return f, 1.0


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def layer_norm(x, w, b, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w + b


def attention(q, k, v, window):
    """q [n, heads, d], k and v [n, kv heads, d] -> [n, heads * d], causal, positions > pos - window."""
    n, heads, d = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    s = np.where((j <= i) & ((window == 0) | (j > i - window)), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", p, v).reshape(n, heads * d)


def forward_llama(c, w, ids):
    n, heads = len(ids), c["num_attention_heads"]
    kv = c.get("num_key_value_heads", heads)
    d = c.get("head_dim") or c["hidden_size"] // heads
    eps = c["rms_norm_eps"]
    frequencies, scale = inv_freq(c, d)
    angle = np.arange(n)[:, None] * frequencies[None, :]
    cos, sin = scale * np.cos(angle)[:, None, :], scale * np.sin(angle)[:, None, :]
    window = c.get("sliding_window") or 0
    if c["model_type"] in ("qwen2", "qwen3") and not c.get("use_sliding_window"):
        window = 0

    def rope(x):
        a, b = x[..., :d // 2], x[..., d // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (h @ w[p + f"self_attn.{t}_proj.weight"].T + w.get(p + f"self_attn.{t}_proj.bias", 0.0) for t in "qkv")
        q, k, v = q.reshape(n, heads, d), k.reshape(n, kv, d), v.reshape(n, kv, d)
        if p + "self_attn.q_norm.weight" in w:
            q, k = rms(q, w[p + "self_attn.q_norm.weight"], eps), rms(k, w[p + "self_attn.k_norm.weight"], eps)
        layer_window = window if i >= c.get("max_window_layers", 0) or c["model_type"] == "mistral" else 0
        a = attention(rope(q), rope(k), v, layer_window)
        x = x + a @ w[p + "self_attn.o_proj.weight"].T + w.get(p + "self_attn.o_proj.bias", 0.0)
        h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
        g, u = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (g / (1 + np.exp(-g)) * u) @ w[p + "mlp.down_proj.weight"].T
    return rms(x, w["model.norm.weight"], eps) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def forward_gpt2(c, w, ids):
    n, heads, e, eps = len(ids), c["n_head"], c["n_embd"], c["layer_norm_epsilon"]
    w = {k.removeprefix("transformer."): v for k, v in w.items()}
    x = w["wte.weight"][ids] + w["wpe.weight"][:n]
    for i in range(c["n_layer"]):
        p = f"h.{i}."
        h = layer_norm(x, w[p + "ln_1.weight"], w[p + "ln_1.bias"], eps)
        q, k, v = np.split(h @ w[p + "attn.c_attn.weight"] + w[p + "attn.c_attn.bias"], 3, -1)
        a = attention(*(t.reshape(n, heads, e // heads) for t in (q, k, v)), 0)
        x = x + a @ w[p + "attn.c_proj.weight"] + w[p + "attn.c_proj.bias"]
        h = layer_norm(x, w[p + "ln_2.weight"], w[p + "ln_2.bias"], eps)
        h = h @ w[p + "mlp.c_fc.weight"] + w[p + "mlp.c_fc.bias"]
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w[p + "mlp.c_proj.weight"] + w[p + "mlp.c_proj.bias"]
    return layer_norm(x, w["ln_f.weight"], w["ln_f.bias"], eps) @ w["wte.weight"].T


def forward(config, weights, ids):
    """Logits [len(ids), vocab]."""
    return (forward_gpt2 if config["model_type"] == "gpt2" else forward_llama)(config, weights, np.asarray(ids))


def shapes(c):
    if c["model_type"] == "gpt2":
        e, f, v = c["n_embd"], c.get("n_inner") or 4 * c["n_embd"], c["vocab_size"]
        yield from [("wte.weight", (v, e)), ("wpe.weight", (c["n_positions"], e)), ("ln_f.weight", (e,)), ("ln_f.bias", (e,))]
        for i in range(c["n_layer"]):
            for name, shape in [("ln_1.weight", (e,)), ("ln_1.bias", (e,)), ("attn.c_attn.weight", (e, 3 * e)), ("attn.c_attn.bias", (3 * e,)),
                                ("attn.c_proj.weight", (e, e)), ("attn.c_proj.bias", (e,)), ("ln_2.weight", (e,)), ("ln_2.bias", (e,)),
                                ("mlp.c_fc.weight", (e, f)), ("mlp.c_fc.bias", (f,)), ("mlp.c_proj.weight", (f, e)), ("mlp.c_proj.bias", (e,))]:
                yield f"h.{i}.{name}", shape
        return
    e, f, v, heads = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["num_attention_heads"]
    kv = c.get("num_key_value_heads", heads)
    d = c.get("head_dim") or e // heads
    yield from [("model.embed_tokens.weight", (v, e)), ("model.norm.weight", (e,))]
    if not c.get("tie_word_embeddings"):
        yield "lm_head.weight", (v, e)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield from [(p + "input_layernorm.weight", (e,)), (p + "post_attention_layernorm.weight", (e,)), (p + "self_attn.q_proj.weight", (heads * d, e)),
                    (p + "self_attn.k_proj.weight", (kv * d, e)), (p + "self_attn.v_proj.weight", (kv * d, e)),
                    (p + "self_attn.o_proj.weight", (e, heads * d)), (p + "mlp.gate_proj.weight", (f, e)), (p + "mlp.up_proj.weight", (f, e)),
                    (p + "mlp.down_proj.weight", (e, f))]
        if c["model_type"] == "qwen2" or c.get("attention_bias"):
            yield from [(p + f"self_attn.{t}_proj.bias", (n * d,)) for t, n in (("q", heads), ("k", kv), ("v", kv))]
        if c.get("attention_bias"):
            yield p + "self_attn.o_proj.bias", (e,)
        if c["model_type"] == "qwen3":
            yield from [(p + "self_attn.q_norm.weight", (d,)), (p + "self_attn.k_norm.weight", (d,))]


def save_checkpoint(directory, config, tokenizer_from, seed, dtype="F32"):
    """A random checkpoint whose logits are spread widely enough for greedy gaps to mean something. Returns its weights."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(config):
        a = rng.standard_normal(shape) / (np.sqrt(shape[0 if config["model_type"] == "gpt2" else -1]) if len(shape) == 2 else 10.0)
        if len(shape) == 1 and name.endswith("weight"):
            a = 1 + a
        tensors[name] = rounded(a * (4.0 if "embed" in name or "wte" in name else 1.0), dtype)
    os.makedirs(directory)
    save_safetensors(os.path.join(directory, "model.safetensors"), tensors, dtype)
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(config, f)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tokenizer_from, name), directory)
    return {k: v.astype(np.float64) for k, v in tensors.items()}


GGUF_NAMES = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"), ("model.layers.", "blk."),
              ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"), ("self_attn.o_proj", "attn_output"), ("self_attn.", "attn_"),
              ("mlp.", "ffn_"), ("_proj", "")]


def gguf_string(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def gguf_value(v):
    """Kind and bytes of a metadata value: uint32, float32, string, or an array of strings or int32."""
    if isinstance(v, list):
        words = isinstance(v[0], str)
        return struct.pack("<IIQ", 9, 8 if words else 5, len(v)) + b"".join(gguf_string(x) if words else struct.pack("<i", x) for x in v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + gguf_string(v)
    return struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v)


def save_gguf(path, c, weights, tokenizer_from, dtype):
    """A llama checkpoint as a GGUF file whose matrices are of that type; q and k rows in the order of interleaved rotary, as such files have them."""
    with open(os.path.join(tokenizer_from, "tokenizer.json")) as f:
        t = json.load(f)
    words = sorted(t["model"]["vocab"], key=t["model"]["vocab"].get)
    special = {a["content"] for a in t["added_tokens"] if a["special"]}
    meta = {"general.architecture": "llama", "llama.block_count": c["num_hidden_layers"], "llama.embedding_length": c["hidden_size"],
            "llama.feed_forward_length": c["intermediate_size"], "llama.context_length": c["max_position_embeddings"],
            "llama.attention.head_count": c["num_attention_heads"], "llama.attention.head_count_kv": c["num_key_value_heads"],
            "llama.attention.key_length": c["head_dim"], "llama.attention.value_length": c["head_dim"], "llama.rope.freq_base": c["rope_theta"],
            "llama.attention.layer_norm_rms_epsilon": c["rms_norm_eps"], "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": [3 if w in special else 1 for w in words],
            "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]],
            "tokenizer.ggml.bos_token_id": c["bos_token_id"], "tokenizer.ggml.eos_token_id": c["eos_token_id"]}
    table, data = b"", b""
    for name, a in weights.items():
        if "q_proj" in name or "k_proj" in name:
            d = c["head_dim"]
            a = a.reshape(-1, 2, d // 2, a.shape[1]).swapaxes(1, 2).reshape(a.shape)
        for old, new in GGUF_NAMES:
            name = name.replace(old, new)
        kind = {"F32": 0, "F16": 1, "BF16": 30}[dtype if a.ndim == 2 else "F32"]
        a = a.astype("<f4")
        raw = {0: a, 1: a.astype("<f2"), 30: (a.view(np.uint32) >> 16).astype("<u2")}[kind].tobytes()
        table += gguf_string(name) + struct.pack("<I", a.ndim) + struct.pack(f"<{a.ndim}Q", *a.shape[::-1]) + struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(meta)) + b"".join(gguf_string(k) + gguf_value(v) for k, v in meta.items()) + table
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)
