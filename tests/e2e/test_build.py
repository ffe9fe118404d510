"""skein-build on damaged and unusual checkpoints: status 1, one line that names what is wrong, and nothing left behind; and builds that are
killed, told to stop, or running twice at once."""
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import time

import pytest
from conftest import BUILD, SRC

TINY = SRC / "tests/golden/tiny"
GGUF = SRC / "tests/golden/gguf/llama-q4_0.gguf"
UP = "model.layers.1.mlp.up_proj.weight"


def skein_build(*args):
    return subprocess.run([BUILD / "skein-build", *map(str, args)], capture_output=True, text=True, timeout=60)


def refused(src, tmp_path, says, *options):
    done = skein_build(src, "-o", tmp_path / "out", *options)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("out*"))


def copy(tmp_path, name="llama"):
    return shutil.copytree(TINY / name, tmp_path / "src", dirs_exist_ok=True)


def edit_json(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def edit_safetensors(path, edit):
    """edit(header, data)"""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8:8 + n]), bytearray(raw[8 + n:])
    edit(header, data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_cut_off(tmp_path):
    gguf, src = tmp_path / "cut.gguf", copy(tmp_path)
    whole = GGUF.read_bytes()
    for n in [*range(0, len(whole), 8192), len(whole) - 1]:
        gguf.write_bytes(whole[:n])
        refused(gguf, tmp_path, str(gguf))
    whole = (src / "model.safetensors").read_bytes()
    for n in [*range(0, len(whole), 131072), 7, 9, len(whole) - 1]:
        (src / "model.safetensors").write_bytes(whole[:n])
        refused(src, tmp_path, "model.safetensors")


def set_weight(value):
    def edit(header, data):
        at = header[UP]["data_offsets"][0] + 4 * 100
        data[at:at + 4] = struct.pack("<f", value)

    return edit


def retype(dtype, size):
    """Gives the tensor another type, of values of that size."""

    def edit(header, data):
        tensor = header[UP]
        n = tensor["shape"][0] * tensor["shape"][1] * size
        data.extend(bytes(n))
        tensor.update(dtype=dtype, data_offsets=[len(data) - n, len(data)])

    return edit


TENSORS = {
    "nan": (set_weight(float("nan")), f"tensor {UP}, row 1: a weight is infinite, not a number"),
    "inf": (set_weight(float("-inf")), f"tensor {UP}, row 1: a weight is infinite"),
    "huge": (set_weight(3e38), "the model's log-probs are not finite"),
    "int64": (retype("I64", 8), f"tensor {UP} is of type I64, which is not supported"),
    "fp8": (retype("F8_E4M3", 1), f"tensor {UP} is of type F8_E4M3, which is not supported"),
    "missing": (lambda h, d: h.pop(UP), f"tensor {UP} is missing"),
    "reversed": (lambda h, d: h[UP].update(shape=h[UP]["shape"][::-1]), f"tensor {UP} has shape [96, 256], the configuration calls for [256, 96]"),
    "overlap": (lambda h, d: h.update(more=h[UP]), "overlap"),
    "control characters": (lambda h, d: h.update({"a\n\x1b[1m": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}), "tensor a??[1m has 8 bytes"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name, tmp_path):
    edit, says = TENSORS[name]
    src = copy(tmp_path)
    edit_safetensors(src / "model.safetensors", edit)
    refused(src, tmp_path, says)


def test_too_large_for_bf16(tmp_path):
    src = copy(tmp_path)
    edit_safetensors(src / "model.safetensors", set_weight(3.4e38))
    refused(src, tmp_path, f"tensor {UP}, row 1: a weight is infinite, not a number or too large", "--dtype", "bf16")


@pytest.mark.parametrize("file", ["missing.safetensors", "../llama/model.safetensors", "/etc/passwd", "..", ""])
def test_index(file, tmp_path):
    src = copy(tmp_path, "llama-sharded")
    edit_json(src / "model.safetensors.index.json", lambda j: j["weight_map"].update({UP: file}))
    refused(src, tmp_path, f"weight_map.{UP} is not a file name" if not file or "/" in file else f"{src}/{file}")


CONFIGS = [
    ({"num_hidden_layers": 1e30}, "num_hidden_layers must be from 0 to"),
    ({"num_hidden_layers": 0}, "n_layer is 0"),
    ({"num_attention_heads": 0}, "n_head is 0"),
    ({"hidden_size": "96"}, "hidden_size must be a number"),
    ({"vocab_size": 321}, "has shape [320, 96], the configuration calls for [321, 96]"),
    ({"model_type": "mamba"}, "'mamba' are not supported; known ones: llama"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantised with 'gptq'"),
    ({"rope_scaling": "yarn"}, "rope_scaling is string"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
    ({"attention_bias": True}, "self_attn.q_proj.bias is missing"),
]


@pytest.mark.parametrize("change,says", CONFIGS, ids=[str(c) for c, _ in CONFIGS])
def test_config(change, says, tmp_path):
    src = copy(tmp_path)
    edit_json(src / "config.json", lambda j: j.update(change))
    refused(src, tmp_path, says)
    refused(src, tmp_path, str(src))


def test_other_files(tmp_path):
    src = copy(tmp_path)
    (src / "generation_config.json").write_text("[]")
    refused(src, tmp_path, "generation_config.json is array")
    (src / "generation_config.json").unlink()
    (src / "tokenizer.json").rename(src / "tokenizer.model")
    refused(src, tmp_path, "has no tokenizer.json")
    (src / "model.safetensors").unlink()
    os.mkfifo(src / "model.safetensors")
    refused(src, tmp_path, "not a regular file")
    (src / "model.safetensors").unlink()
    (src / "pytorch_model.bin").touch()
    refused(src, tmp_path, "neither model.safetensors nor")


def test_killed_at_any_moment(tmp_path):
    """Whatever has a key for a name is whole."""
    chance = random.Random(5)
    for _ in range(15):
        process = subprocess.Popen([BUILD / "skein-build", "--cache", TINY / "llama", "--cache-dir", tmp_path], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0, 0.08))
        process.kill()
        process.wait()
        for entry in tmp_path.iterdir():
            if len(entry.name) == 32:
                assert skein_build("--verify", entry).returncode == 0
                shutil.rmtree(entry)
    assert skein_build("--cache", TINY / "llama", "--cache-dir", tmp_path).returncode == 0
    assert [len(entry.name) for entry in tmp_path.iterdir()] == [32]


def test_two_at_once(tmp_path):
    command = [BUILD / "skein-build", "--cache", TINY / "qwen3", "--cache-dir", tmp_path]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(3)]
    assert skein_build("--list", "--cache-dir", tmp_path).returncode == 0
    assert skein_build("--prune", "--cache-dir", tmp_path).returncode == 0
    paths = {b.communicate()[0] for b in builds}
    assert [b.returncode for b in builds] == [0, 0, 0] and len(paths) == 1
    assert skein_build("--verify", paths.pop().strip()).returncode == 0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop(sig, tmp_path):
    """A build that is told to stop either ends with 1 and leaves nothing, or was done already."""
    process = subprocess.Popen([BUILD / "skein-build", TINY / "llama", "-o", tmp_path / "out"], stderr=subprocess.PIPE, text=True)
    time.sleep(0.015)
    process.send_signal(sig)
    said = process.communicate()[1]
    if (tmp_path / "out").exists():
        assert process.returncode == 0
    else:
        assert not list(tmp_path.iterdir())
        assert process.returncode == -sig or (process.returncode == 1 and "interrupted" in said)
