"""Several whole engines behind one daemon: they share the work, die and are replaced, and no answer shows it."""

import http.client
import os
import re
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, MODEL, SRC, Answer, Daemon
from crowd import Client, metrics, read_all, total, wait_until
from test_survive import ask_all, asks, bytes_of

ONE = ("--threads", "1", "--admin-listen", "127.0.0.1:0")
TWO = ("--replicas", "2", *ONE)
OTHER = str(SRC / "tests/golden/tiny/qwen2")
LONG = {"prompt": [5, 6, 7, 8], "max_tokens": 200, "temperature": 0, "ignore_eos": True, "stream": True}


def admin(server, path="", method="GET"):
    found = re.search(r"listening on http://127\.0\.0\.1:(\d+) \(admin\)", server.drain_log())
    connection = http.client.HTTPConnection("127.0.0.1", int(found.group(1)), timeout=60)
    connection.request(method, f"/admin/replicas{path}")
    response = connection.getresponse()
    answer = Answer(response, response.read())
    connection.close()
    return answer


def post(server, path):
    return admin(server, path, "POST")


def replicas(server):
    """Of the model that is served; it comes first."""
    return admin(server).json["engines"][0]["replicas"]


def states(server):
    return [r["state"] for r in replicas(server)]


def wait_steady(server, n=2):
    def steady():
        found = admin(server).json
        return (
            len(found["engines"]) == 1
            and not found["engines"][0]["restarting"]
            and [r["state"] for r in found["engines"][0]["replicas"]] == ["ready"] * n
        )

    wait_until(steady, "all replicas are ready")


@pytest.fixture(scope="module")
def slow(programs):
    """Steps are slow, so that streams are in the middle when something happens."""
    return {"bin": programs("faulty_engine"), "env": {"SKEIN_FAULT": "slow:3"}}


@pytest.fixture(scope="module")
def server(start, slow):
    return start(*TWO, "--max-seqs", "64", **slow)


@pytest.fixture(scope="module")
def crowd(start, slow):
    """What to ask, what one engine says to it, and how many bytes its streams then have."""
    bodies, n_bytes = asks(), []
    quiet = start("--threads", "1", "--max-seqs", "64", **slow)
    expected = ask_all(quiet, bodies, lambda clients: (read_all(clients), n_bytes.append(bytes_of(clients))))
    return bodies, expected, n_bytes[0]


def check(found, crowd):
    for (path, body), have, want in zip(crowd[0], found, crowd[1]):
        assert have == want, (path, body)


def read_share(clients, share, crowd):
    read_all(clients, until=lambda: bytes_of(clients) >= share * crowd[2])
    assert not all(c.over for c in clients)


def test_both_work_and_say_the_same(server, crowd):
    wait_steady(server)
    before = metrics(server)
    seen = []

    def look(clients):
        read_share(clients, 0.3, crowd)
        seen.append([r["running"] for r in replicas(server)])

    check(ask_all(server, crowd[0], look), crowd)
    assert all(n > 0 for n in seen[0]), seen
    after = metrics(server)
    assert total(after, "skein_engine_up") == 2
    assert [total(after, "skein_replica_up", replica=str(i)) for i in range(2)] == [1, 1]
    done = lambda found: total(found, "skein_requests_total", end="done")
    assert done(after) - done(before) == len(crowd[0])
    wait_until(lambda: total(metrics(server), "skein_replica_outstanding_tokens") == 0, "nothing is left to do")


def test_killed_replica(server, crowd):
    """Its streams go on at the other one at once, from where they were."""
    wait_steady(server)
    before = metrics(server)

    def kill(clients):
        for i, share in ((0, 0.2), (1, 0.5)):
            read_share(clients, share, crowd)
            os.kill(replicas(server)[i]["pid"], signal.SIGKILL)
            wait_steady(server)

    check(ask_all(server, crowd[0], kill), crowd)
    after = metrics(server)
    gained = lambda name, **labels: total(after, name, **labels) - total(before, name, **labels)
    assert gained("skein_engine_ends_total", reason="killed") == 2
    assert gained("skein_readmissions_total") > 0
    assert gained("skein_requests_total", end="done") == len(crowd[0])
    assert [gained("skein_replica_restarts_total", replica=str(i)) for i in range(2)] == [1, 1]
    wait_until(lambda: total(metrics(server), "skein_journal_tokens") == 0, "the journal is empty")


def test_health_while_one_is_down(server):
    wait_steady(server)
    os.kill(replicas(server)[0]["pid"], signal.SIGSTOP)
    pid = replicas(server)[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        assert server.get("/health").status == 200
    wait_steady(server)


def test_prefix_affinity(server):
    """Requests go to where their prefix is, and different prefixes to different replicas."""
    wait_steady(server)
    before = metrics(server)
    prompts = [[10 + k] * 64 + [100 + k] * 33 for k in range(4)]
    for _ in range(3):
        for p in prompts:
            server.ok("/v1/completions", {"prompt": p, "max_tokens": 1})
    after = metrics(server)
    gained = lambda name, **labels: total(after, name, **labels) - total(before, name, **labels)
    assert gained("skein_replica_prefix_routed_total") == 2 * len(prompts)
    assert all(gained("skein_replica_prefix_routed_total", replica=str(i)) > 0 for i in range(2))
    assert gained("vllm:prefix_cache_hits_total") == 2 * 96 * len(prompts), "the engines have what was guessed"
    found = server.ok("/explain", {"prompt": prompts[0], "max_tokens": 1})
    assert found["cached_tokens"] == 96, "the one that has it is asked"


def test_load_before_prefix(server):
    """A replica that has much more to do gets no more for a short prefix that it has."""
    wait_steady(server)
    prompt = [77] * 40
    clients = [Client(server, {**LONG, "prompt": prompt + [k], "max_tokens": 150}) for k in range(6)]
    read_all(clients, until=lambda: all(c.began for c in clients))
    running = [r["running"] for r in replicas(server)]
    read_all(clients)
    assert sorted(running) == [3, 3]


def test_drain(server, crowd):
    wait_steady(server)
    assert post(server, "/2/drain").status == 400
    assert post(server, "/drain").status == 404

    def drain(clients):
        read_share(clients, 0.3, crowd)
        answer = post(server, "/0/drain")
        assert answer.status == 200, answer.body
        wait_until(lambda: replicas(server)[0]["running"] == 0, "it has nothing")
        assert states(server) == ["drained", "ready"]
        assert post(server, "/1/drain").status == 503, "nobody else would serve"

    check(ask_all(server, crowd[0], drain), crowd)
    assert replicas(server)[0]["running"] == 0
    assert post(server, "/0/restart").status == 200
    wait_steady(server)


def test_five_rolling_restarts(server, crowd):
    """Under load: nothing is lost or altered."""
    wait_steady(server)
    before, pids = metrics(server), [r["pid"] for r in replicas(server)]

    def restart(clients):
        for i in range(5):
            read_share(clients, 0.1 + 0.12 * i, crowd)
            answer = post(server, "/restart")
            assert answer.status == 200, answer.body
            assert post(server, "/restart").status == 503, "one at a time"
            wait_steady(server)

    check(ask_all(server, crowd[0], restart), crowd)
    after = metrics(server)
    assert total(after, "skein_replica_restarts_total") - total(before, "skein_replica_restarts_total") == 10
    assert total(after, "skein_engine_ends_total") == total(before, "skein_engine_ends_total"), "they were asked to end"
    assert not set(pids) & {r["pid"] for r in replicas(server)}


def test_one_replica_restarts(start, slow, crowd):
    """With no other one they wait for it, and go on."""
    server = start(*ONE, "--max-seqs", "64", **slow)

    def restart(clients):
        read_share(clients, 0.4, crowd)
        assert post(server, "/restart").status == 200
        wait_steady(server, 1)

    check(ask_all(server, crowd[0], restart), crowd)


def test_poison_crashes_not_both(start, programs):
    """What crashes one replica runs alone after that, and is refused before it has ended many."""
    fault = {"bin": programs("faulty_engine"), "env": {"SKEIN_FAULT": "crash:222,slow:2"}}
    server = start(*TWO, **fault)
    clients = [Client(server, {**LONG, "prompt": [5, 6, k], "max_tokens": 60}) for k in range(8)]
    read_all(clients, until=lambda: all(c.began for c in clients))
    bad = Client(server, {**LONG, "prompt": [5, 6, 222]})
    read_all([*clients, bad])
    assert all(c.outcome()[1] is None and c.outcome()[2][0][3] == "length" for c in clients)
    assert bad.outcome()[1] == "request_crashes_engine"
    assert total(metrics(server), "skein_engine_ends_total", reason="crash") == 2


# --- another model ---


class Changing(Daemon):
    """--model stands in a file."""

    def __init__(self, cache, folder, *args, model=MODEL, **kw):
        self.file = folder / "skein.conf"
        self.say(model)
        super().__init__(cache, "--config", str(self.file), *ONE, *args, model=None, **kw)

    def say(self, model):
        self.file.write_text(f"model = {model}\n")

    def reload(self, model):
        self.say(model)
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture
def changing(cache, tmp_path):
    running = []

    def run(*args, **kw):
        running.append(Changing(cache, tmp_path, *args, **kw))
        return running[-1]

    yield run
    for daemon in running:
        assert daemon.close() == 0, "".join(daemon.log)


def serves(server):
    return server.get("/v1/models").json["data"][0]["id"]


def settled(server):
    return len(admin(server).json["engines"]) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_other_model(changing, start, slow, n):
    """What runs ends with the model that it began with; what comes later gets the new one."""
    server = changing("--replicas", str(n), **slow)
    text = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "ignore_eos": True, "stream": True}
    want = {}
    for model in (MODEL, OTHER):
        quiet = start("--threads", "1", model=model)
        clients = [Client(quiet, text), Client(quiet, LONG)]
        read_all(clients)
        want[model] = [c.outcome() for c in clients]
    old = [Client(server, LONG) for _ in range(6)]
    read_all(old, until=lambda: all(c.began for c in old))
    digests = {r["digest"] for r in replicas(server)}
    server.reload(OTHER)
    wait_until(lambda: serves(server) == "qwen2", "the new model serves")
    assert not all(c.over for c in old), "it does not wait for the old ones"
    new = Client(server, text)
    read_all([new, *old])
    assert new.outcome() == want[OTHER][0]
    assert [c.outcome() for c in old] == [want[MODEL][1]] * 6
    wait_until(lambda: settled(server), "the old one is gone")
    wait_steady(server, n)
    assert not digests & {r["digest"] for r in replicas(server)}
    assert server.get("/health").status == 200
    server.reload(MODEL)
    wait_until(lambda: serves(server) == "llama", "and back again")
    again = Client(server, text)
    read_all([again])
    assert again.outcome() == want[MODEL][0]
    wait_until(lambda: settled(server), "the other one is gone")
    found = metrics(server)
    assert total(found, "skein_requests_total", end="done") == 8


def test_other_model_while_one_is_drained(changing, slow):
    """The one that does not serve makes place first: what runs on the other one ends there."""
    server = changing("--replicas", "2", **slow)
    old = [Client(server, LONG) for _ in range(4)]
    read_all(old, until=lambda: all(c.began for c in old))
    assert post(server, "/1/drain").status == 200
    server.reload(OTHER)
    wait_until(lambda: serves(server) == "qwen2", "the new model serves")
    left = admin(server).json["engines"][1]["replicas"]
    assert [r["state"] for r in left] == ["ready", "none"]
    read_all(old)
    assert [c.outcome()[2][0][3] for c in old] == ["length"] * 4
    wait_until(lambda: settled(server), "the old one is gone")
    wait_steady(server)


def test_restart_brings_back_what_is_drained(changing, slow):
    server = changing("--replicas", "2", **slow)
    pids = [r["pid"] for r in replicas(server)]
    assert post(server, "/1/drain").status == 200
    assert post(server, "/restart").status == 200
    wait_steady(server)
    assert not set(pids) & {r["pid"] for r in replicas(server)}


def test_old_requests_have_a_time(changing, programs):
    fault = {"bin": programs("faulty_engine"), "env": {"SKEIN_FAULT": "slow:50"}}
    server = changing("--replicas", "2", "--drain-timeout", "300", **fault)
    old = Client(server, LONG)
    read_all([old], until=lambda: old.began)
    server.reload(OTHER)
    read_all([old])
    status, error, _ = old.outcome()
    assert (status, error) == (200, "model_replaced"), old.data[-300:]
    wait_until(lambda: settled(server), "the old one is gone")
    wait_steady(server)


def test_same_model_elsewhere(changing, slow, tmp_path):
    """Its directory has moved: a rolling restart, and streams go on in the middle."""
    server = changing("--replicas", "2", **slow)
    quiet = Client(server, LONG)
    read_all([quiet])
    found = admin(server).json["engines"][0]["dir"]
    moved = tmp_path / "moved"
    shutil.copytree(found, moved)
    clients = [Client(server, LONG) for _ in range(4)]
    read_all(clients, until=lambda: all(c.began for c in clients))
    server.reload(moved)
    wait_until(lambda: admin(server).json["engines"][0]["dir"] == str(moved), "it is known")
    wait_steady(server)
    read_all(clients)
    assert [c.outcome() for c in clients] == [quiet.outcome()] * 4
    assert [r["restarts"] for r in replicas(server)] == [1, 1]


def test_reload_without_a_change(changing):
    server = changing("--replicas", "2")
    pids = [r["pid"] for r in replicas(server)]
    server.reload(MODEL)
    wait_until(lambda: "the configuration was read anew" in server.drain_log(), "it was read")
    wait_steady(server)
    assert [r["pid"] for r in replicas(server)] == pids


def break_weights(folder):
    """The directory is well, what it says of its weights is not."""
    for path in sorted(folder.glob("*.skw")):
        path.write_bytes(path.read_bytes()[:4096])


@pytest.mark.parametrize("n", [1, 2])
def test_broken_model(changing, start, slow, tmp_path, n):
    """It cannot be loaded, or not be started: the old one goes on, and the log says why."""
    server = changing("--replicas", str(n), **slow)
    clients = [Client(server, LONG) for _ in range(4)]
    read_all(clients, until=lambda: all(c.began for c in clients))
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    server.reload(nothing)
    wait_until(lambda: "the model stays as it was" in server.drain_log(), "it is refused")
    broken = tmp_path / "broken"
    other = start(*ONE, model=OTHER)
    shutil.copytree(admin(other).json["engines"][0]["dir"], broken)
    break_weights(broken)
    server.reload(broken)
    wait_until(lambda: server.drain_log().count("the model stays as it was") == 2, "and again")
    wait_until(lambda: settled(server), "it is gone")
    wait_steady(server, n)
    read_all(clients)
    assert len({str(c.outcome()) for c in clients}) == 1
    assert clients[0].outcome()[2][0][3] == "length"
    assert serves(server) == "llama"


# --- bad input ---


@pytest.fixture
def second(tmp_path):
    """second(words) is a folder of programs of which the second replica's engine is started with these words before or
    behind its command line."""

    def make(before="", behind=""):
        for program in ("skeind", "skein-build"):
            shutil.copy2(BUILD / program, tmp_path)
        engine = tmp_path / "skein-engine"
        script = f"""#!/bin/sh
case "$*" in
*--cpu-share=1/2*) exec env {before} {BUILD}/skein-engine "$@" {behind} ;;
*) exec {BUILD}/skein-engine "$@" ;;
esac
"""
        engine.write_text(script)
        engine.chmod(0o755)
        return tmp_path

    return make


def test_beyond_memory(cache, second):
    """The replica that finds no memory is named, and nothing serves or stays."""
    folder = second(behind="--kv-memory=1000000000000")
    command = [folder / "skeind", "--model", MODEL, "--cache-dir", cache, "--listen", "127.0.0.1:0", *TWO]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 1
    assert re.search(r"^skeind: replica 1 of 2: .*available are", done.stdout, re.M), done.stdout
    assert not re.search(r"info skeind: ready$", done.stdout, re.M), "it never served"


def test_mixed_isa(start, second):
    """The second one is refused, and the first one serves."""
    folder = second(before="SKEIN_ISA=avx2")
    server = start(*TWO, bin=folder)
    assert states(server) == ["ready", "none"], server.drain_log()
    assert "--allow-mixed-isa" in replicas(server)[1]["text"]
    assert server.ok("/v1/completions", {"prompt": [5, 6], "max_tokens": 3})
    mixed = start(*TWO, "--allow-mixed-isa", bin=folder)
    wait_steady(mixed)
    assert len({r["isa"] for r in replicas(mixed)}) == 2
