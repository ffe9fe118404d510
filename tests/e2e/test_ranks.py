"""skeind with several ranks on this host: what one rank can do, several can; what cannot be had is an error before anything is served; and
nothing is left when they end."""

import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import BUILD, MODEL, Daemon
from crowd import metrics, total, wait_until

C = "/v1/completions"
PROMPT = list(range(20, 90))  # two blocks and a bit
GRIDS = [(2, 1), (1, 2), (2, 2), (3, 1)]
KINDS = [
    {"temperature": 0},
    {"temperature": 1, "n": 3, "logprobs": 3},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    {"temperature": 0.5, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5, "no_repeat_ngram_size": 3},
    {"temperature": 1, "echo": True, "logprobs": 2},
    {"temperature": 0, "logit_bias": {"60": 2}, "min_tokens": 10, "stop_token_ids": [61]},
]


def processes(text):
    """Processes, other than ourselves, with `text` among their arguments."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in p.read_bytes():
                found.append(int(p.parent.name))
        except OSError:
            pass
    return found


def litter(pid):
    """What is left of the jobs of a daemon: processes, folders, and whatever Open MPI leaves where it likes."""
    here = [*pathlib.Path("/tmp").glob("skein-*"), *pathlib.Path("/dev/shm").glob("skein-*")]
    here += [pathlib.Path(os.environ[v]) for v in ("RUNTIME_DIRECTORY",) if v in os.environ]
    here += [pathlib.Path(os.environ[v], "skein") for v in ("XDG_RUNTIME_DIR",) if v in os.environ]
    return processes(f"/job-{pid}-") + [str(f) for h in here if h.is_dir() for f in h.glob(f"job-{pid}-*")]


class Ranks(Daemon):
    """With the /admin routes; checks at its end that nothing is left."""

    def __init__(self, cache, tp, pp, *args, **kw):
        super().__init__(cache, "--tp", str(tp), "--pp", str(pp), "--threads", "1", "--admin-listen", "127.0.0.1:0", *args, **kw)

    def admin(self, path):
        port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+) \(admin\)", "".join(self.log) + self.drain_log()).group(1))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    def ranks(self):
        return self.admin("/admin/ranks")["ranks"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        code = self.close()
        assert code == 0, "".join(self.log)
        assert litter(self.process.pid) == []


def ask(server, fields, **more):
    body = {"prompt": PROMPT, "max_tokens": 40, "seed": 7, "ignore_eos": True, "return_token_ids": True, **fields, **more}
    return server.ok(C, body)["choices"]


@pytest.fixture(scope="module")
def one(shared):
    return [ask(shared, kind) for kind in KINDS]


@pytest.fixture(scope="module", params=GRIDS, ids=lambda g: f"tp{g[0]}-pp{g[1]}")
def grid(request, cache):
    tp, pp = request.param
    with Ranks(cache, tp, pp) as server:
        yield server, tp, pp


def test_same_bits_every_time(grid):
    server, _, _ = grid
    first = [ask(server, kind, cache_salt="a") for kind in KINDS]
    assert [ask(server, kind, cache_salt="b") for kind in KINDS] == first


@pytest.fixture(scope="module")
def one_stage(cache, one):
    """What ranks of one stage say, by how many they are."""
    said = {1: one}
    for tp in {tp for tp, _ in GRIDS} - {1}:
        with Ranks(cache, tp, 1) as server:
            said[tp] = [ask(server, kind) for kind in KINDS]
    return said


def test_stages_change_no_bit(grid, one_stage):
    server, tp, _ = grid
    assert [ask(server, kind) for kind in KINDS] == one_stage[tp]


def test_near_one_rank(grid, one):
    """The first token's log-probabilities: sums in another order differ in their last bits."""
    server, _, _ = grid
    for kind, want in zip(KINDS, one):
        if "logprobs" not in kind:
            continue
        have = ask(server, kind)
        at = len(PROMPT) if kind.get("echo") else 0
        assert have[0]["logprobs"]["token_logprobs"][at] == pytest.approx(want[0]["logprobs"]["token_logprobs"][at], abs=2e-2)


def test_streams_say_what_whole_answers_say(grid):
    server, _, _ = grid
    for kind in KINDS[:4]:
        body = {"prompt": PROMPT, "max_tokens": 40, "seed": 7, "ignore_eos": True, **kind}
        whole = server.ok(C, body)["choices"]
        events = server.stream(C, body)
        for choice in whole:
            parts = [c["text"] for e in events for c in e["choices"] if c["index"] == choice["index"]]
            assert "".join(parts) == choice["text"]


def test_prefix_cache(grid):
    server, _, _ = grid
    body = {"prompt": [9, *PROMPT], "max_tokens": 8, "temperature": 0, "cache_salt": "own"}
    cold, warm = server.ok(C, body), server.ok(C, body)
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] == 64
    assert warm["choices"] == cold["choices"]


def test_who_computes_what(grid):
    server, tp, pp = grid
    ranks = server.ranks()
    assert [r["rank"] for r in ranks] == list(range(tp * pp))
    assert [(r["stage"], r["tp_rank"]) for r in ranks] == [(s, t) for s in range(pp) for t in range(tp)]
    assert len({r["pid"] for r in ranks}) == tp * pp
    assert sum(r["layers"]["count"] for r in ranks) == 3 * tp
    assert sum(r["heads"]["count"] for r in ranks) == 8 * pp
    for r in ranks:
        assert b"skein-engine" in pathlib.Path(f"/proc/{r['pid']}/cmdline").read_bytes()
        assert r["rss_bytes"] > 0 and r["replica"] == 0
    found = metrics(server)
    assert sum(k.startswith("skein_rank_resident_bytes{") for k in found) == tp * pp
    assert total(found, "skein_engine_up") == 1


def test_fingerprint_names_the_grid(grid, shared):
    server, tp, pp = grid
    of = lambda s: s.ok(C, {"prompt": [5], "max_tokens": 1})["system_fingerprint"]
    assert of(server) == f"{of(shared)}-tp{tp}-pp{pp}"


def test_ranks_count_their_steps(grid):
    """They are told of at most once a second while steps go on."""
    server, _, _ = grid
    before = [r["steps"] for r in server.ranks()]

    def counted():
        ask(server, {"temperature": 0})
        return all(r["steps"] > b and r["busy_s"] > 0 for r, b in zip(server.ranks(), before))

    wait_until(counted, "all ranks have made steps")


@pytest.mark.parametrize("tp,pp", [(2, 1), (2, 2)])
def test_real_model(cache, tp, pp):
    if "SK_MODEL" not in os.environ:
        pytest.skip("SK_MODEL (the default model's GGUF) is not set")
    with Ranks(cache, tp, pp, model=os.environ["SK_MODEL"]) as server:
        body = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        assert "Paris" in server.ok(C, body)["choices"][0]["text"]
        assert [r["heads"]["count"] for r in server.ranks()][:2] == [5, 4]


# ---- what cannot be had ----


def refused(cache, *args, env=None):
    """What it says when it does not start; nothing of it is left."""
    command = [str(BUILD / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache), "--threads", "1", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}) as p:
        try:
            text = p.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            p.kill()
            raise
    assert p.returncode == 1, text
    assert litter(p.pid) == []
    return text.strip().split("\n")[-1]


def test_too_many_ranks(cache):
    assert "--tp 9: the model has only 8 query heads" in refused(cache, "--tp", "9")
    assert "--pp 4: the model has only 3 layers" in refused(cache, "--pp", "4")
    assert "--tp x --pp are 4096 ranks; an engine has at most 256" in refused(cache, "--tp", "64", "--pp", "64")


def test_bad_hostfiles(cache, tmp_path):
    path = tmp_path / "hosts"
    option = ("--tp", "2", "--hostfile", str(path))
    assert f"{path}" in refused(cache, *option)
    for text, why in [
        ("", "names no host"),
        ("127.0.0.1 slots=x\n", ":1: slots must be 1 to 256"),
        ("127.0.0.1\nno-such-host.invalid\n", "host no-such-host.invalid is not known"),
        ("127.0.0.1\n", "2 ranks, but the hostfile has 1 slots"),
        ("192.0.2.1 slots=2\n", "192.0.2.1, must be this one"),
    ]:
        path.write_text(text)
        assert why in refused(cache, *option)
    path.write_text("127.0.0.1\n127.0.0.2\n")
    assert "there is none" in refused(cache, *option, env={"OMPI_MCA_plm_rsh_agent": "/nowhere/agent"})


def test_no_mpirun(cache, tmp_path):
    env = {"PATH": str(tmp_path)}
    assert "mpirun, which is not in PATH" in refused(cache, "--tp", "2", env=env)
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho 'mpirun (Open MPI) 1.10.7'\n")
    (tmp_path / "mpirun").chmod(0o755)
    assert "of Open MPI 1.10" in refused(cache, "--tp", "2", env=env)


def test_engine_listen_needs_a_token(cache):
    env = {k: v for k, v in os.environ.items() if k != "SKEIN_ENGINE_TOKEN"}
    command = [str(BUILD / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache)]
    p = subprocess.run([*command, "--engine-listen", "127.0.0.1:0"], capture_output=True, text=True, env=env, timeout=60)
    assert p.returncode == 1 and "--engine-listen needs $SKEIN_ENGINE_TOKEN" in p.stderr


def test_mixed_levels(cache, tmp_path):
    """A rank on a CPU of another level would get other bits."""
    wrapper = tmp_path / "skein-engine"
    for program in ("skeind", "skein-build"):
        shutil.copy2(BUILD / program, tmp_path)
    wrapper.write_text(f'#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && export SKEIN_ISA=avx2\nexec {BUILD}/skein-engine "$@"\n')
    wrapper.chmod(0o755)
    command = [str(tmp_path / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache), "--tp", "2"]
    p = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and "--allow-mixed-isa" in p.stderr + p.stdout, p.stderr
    with Ranks(cache, 2, 1, "--allow-mixed-isa", bin=tmp_path) as server:
        assert len(server.ranks()) == 2


def test_stop_while_it_starts(cache):
    command = [str(BUILD / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache), "--tp", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        try:
            wait_until(lambda: p.poll() is not None or processes(f"/job-{p.pid}-"), "it starts ranks")
            assert p.poll() is None
            p.terminate()
            p.communicate(timeout=30)
        finally:
            p.kill()
    assert litter(p.pid) == []
