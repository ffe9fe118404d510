#!/usr/bin/env python3
"""What several ranks cost or gain on one machine, in turns with one rank on the same CPUs.

  ranks.py [--build DIR] [--rounds 5] [--tp 2] [--pp 2] MODEL ...

Speed of the engine alone (skein-engine --bench): decoding with --tp against one rank with all threads; prefill of 2,000
tokens and decoding of 64 and 8 sequences with --pp against the same. Then what a service feels (skeind, the first MODEL):
start until ready, CPU of all ranks while nothing is asked, from the kill of a rank to the first token of any of eight
streams. Medians over the rounds, ratios of each round with the least and the most. DIR holds skeind, skein-engine and
skein-build. MODEL is what `skeind --model` takes."""
import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))


def bench(a, directory, words):
    cmd = [a.build / "skein-engine", "--dir", directory, "--log-level", "error", "--bench", "--bench-json", "--bench-reps", 1, *words]
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(c) for c in cmd)}\n{done.stderr[-2000:]}")
    return {(o["test"], o["sequences"]): o["tokens_per_s"] for o in map(json.loads, done.stdout.splitlines())}


def row(name, one, many):
    ratios = [m / o for m, o in zip(many, one)]
    print(f"| {name} | {statistics.median(one):.1f} | {statistics.median(many):.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f}) |")


def speed(a, model):
    directory = subprocess.run([str(a.build / "skein-build"), "--cache", model], capture_output=True, text=True, check=True).stdout.split()[-1]
    few = ["--bench-prefill", "512", "--bench-prompt", "128", "--bench-decode", "64", "--bench-seqs", "1"]
    many = ["--bench-prefill", "2000", "--bench-prompt", "128", "--bench-decode", "32", "--bench-seqs", "8,64"]
    tp, pp = ["--tp", str(a.tp)], ["--pp", str(a.pp)]
    found = {w: [] for w in ("few", "tp", "many", "pp")}
    for _ in range(a.rounds):
        found["few"].append(bench(a, directory, few))
        found["tp"].append(bench(a, directory, few + tp))
        found["many"].append(bench(a, directory, many))
        found["pp"].append(bench(a, directory, many + pp))
    print(f"\n{pathlib.Path(model).name}, {a.rounds} rounds\n\n| work | one rank, tokens/s | several | ratio (least .. most) |\n|---|---|---|---|")
    for name, key, which in (("prefill 512", ("prefill", 1), "tp"), ("decode, 1 sequence", ("decode", 1), "tp"), ("prefill 2,000", ("prefill", 1), "pp"),
                             ("decode, 64 at once", ("decode", 64), "pp"), ("decode, 8 at once", ("decode", 8), "pp")):
        one = "few" if which == "tp" else "many"
        row(f"--{which} {getattr(a, which)}: {name}", [r[key] for r in found[one]], [r[key] for r in found[which]])
    sys.stdout.flush()


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def service(a, model):
    os.environ["SK_BUILD"] = str(a.build)
    from conftest import Daemon
    from crowd import Client, read_all
    from test_ranks import Ranks
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "skein"
    starts = {1: [], a.tp: []}
    for _ in range(a.rounds):
        for tp in starts:
            begin = time.monotonic()
            server = Daemon(cache, "--tp", str(tp), model=model)
            starts[tp].append(time.monotonic() - begin)
            server.close()
    print(f"\nstart until ready, seconds: one rank {statistics.median(starts[1]):.2f}, --tp {a.tp} {statistics.median(starts[a.tp]):.2f}")

    server = Ranks(cache, 2, 2, model=model)
    pids = [r["pid"] for r in server.ranks()]
    server.ok("/v1/completions", {"prompt": "One", "max_tokens": 8})
    time.sleep(1)
    before = cpu_seconds(pids)
    time.sleep(10)
    print(f"idle: {len(pids)} ranks used {(cpu_seconds(pids) - before) * 10:.2f} % of a core over 10 s")
    server.close()

    server = Ranks(cache, a.tp, 1, model=model)
    waits = []
    for i in range(a.rounds):
        clients = [Client(server, {"prompt": f"Chapter {c}. Once upon a time", "max_tokens": 200, "temperature": 0, "ignore_eos": True, "stream": True})
                   for c in range(8)]
        read_all(clients, until=lambda: all(c.began for c in clients))
        ranks = server.ranks()
        os.kill(ranks[i % len(ranks)]["pid"], signal.SIGKILL)
        killed = time.monotonic()
        drained = killed + 0.03  # what was on its way
        read_all(clients, until=lambda: time.monotonic() > drained)
        sizes = [len(c.data) for c in clients]
        read_all(clients, until=lambda: any(len(c.data) > n for c, n in zip(clients, sizes)))
        waits.append(time.monotonic() - killed)
        read_all(clients)
    server.close()
    print(f"a rank killed among 8 streams, until the first token: {statistics.median(waits):.2f} s, most {max(waits):.2f} s")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=lambda d: pathlib.Path(d).resolve(), default=pathlib.Path.cwd())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--tp", type=int, default=2)
    p.add_argument("--pp", type=int, default=2)
    p.add_argument("--no-service", action="store_true", help="the engine alone")
    p.add_argument("models", nargs="+")
    a = p.parse_args()
    for model in a.models:
        speed(a, model)
    if not a.no_service:
        service(a, a.models[0])


main()
