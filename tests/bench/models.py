#!/usr/bin/env python3
"""Speed of the engine on models, beside what the machine can do at most and beside llama.cpp.

  models.py [--build DIR] [--llama DIR] [--rounds 5] [--prefill 512,2048] [--seqs 1,8,32,64] MODEL.gguf ...

DIR of --build holds skein-engine, skein-build and tests/bench/bench_roof; DIR of --llama llama-bench and
llama-batched-bench (left out: no ratios). Speed drifts with what else the machine does, so each round measures the roof
and both programs one after the other, and what is printed are the medians over the rounds of the rates and of the
rounds' own ratios. Roof of prefill: the multiplier that the weights' type uses; of decoding: bytes of weights and KV
cache that a step must read.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

DECODE, DEPTH = 32, 128


def run(cmd):
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(c) for c in cmd)}\n{done.stderr[-2000:]}")
    return done.stdout


def objects(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ours(a, directory):
    """{("prefill", n) or ("decode", sequences): (tokens/s, bytes read/s)}"""
    out = run([a.build / "skein-engine", "--dir", directory, "--log-level", "error", "--bench", "--bench-json",
               "--bench-prefill", a.prefill, "--bench-prompt", DEPTH, "--bench-decode", DECODE, "--bench-seqs", a.seqs,
               "--bench-reps", 1, "--threads", a.threads])
    found = {}
    for o in objects(out):
        key = (o["test"], o["tokens"] if o["test"] == "prefill" else o["sequences"])
        found[key] = (o["tokens_per_s"], o["read_bytes_per_s"])
    return found


def theirs(a, model, threads):
    found = {}
    out = run([a.llama / "llama-bench", "-m", model, "-p", a.prefill, "-n", DECODE, "-t", threads, "-r", 1, "-o", "jsonl"])
    for o in objects(out):
        key = ("prefill", o["n_prompt"]) if o["n_prompt"] else ("decode", 1)
        found[key] = o["avg_ts"]
    many = [s for s in a.seqs.split(",") if s != "1"]
    if many:
        context = (DEPTH + DECODE) * max(int(s) for s in many)
        out = run([a.llama / "llama-batched-bench", "-m", model, "-c", context, "-b", 2048, "-ub", 512, "-t", threads, "-tb",
                   threads, "-npp", DEPTH, "-ntg", DECODE, "-npl", ",".join(many), "--output-format", "jsonl"])
        for o in objects(out):
            found["decode", o["pl"]] = o["speed_tg"]
    return found


def measure(a, model):
    directory = run([a.build / "skein-build", "--cache", model]).split()[-1]
    rounds = []
    for _ in range(a.rounds):
        roof = objects(run([a.build / "tests/bench/bench_roof", a.threads]))[0]
        rounds.append((roof, ours(a, directory), theirs(a, model, roof["threads"]) if a.llama else {}))
    roof = {k: statistics.median(r[0][k] for r in rounds) for k in rounds[0][0]}
    print(f"\n{model.name}: roof read {roof['read'] / 1e9:.1f} GB/s (96 MiB: {roof['read_96m'] / 1e9:.1f}), "
          f"int8 {roof['int8'] / 1e9:.0f} GOP/s, bf16 {roof['bf16'] / 1e9:.0f} GFLOP/s, f32 {roof['f32'] / 1e9:.0f} GFLOP/s; "
          f"median of {a.rounds} rounds\n")
    print("| work | tokens/s | of the read roof | llama.cpp | ratio (least .. most) |")
    print("|---|---|---|---|---|")
    for key in rounds[0][1]:
        rates = [r[1][key][0] for r in rounds]
        shares = [100 * r[1][key][1] / r[0]["read"] for r in rounds]
        name = f"prefill {key[1]} tokens" if key[0] == "prefill" else f"decode, {key[1]} at once"
        share = f"{statistics.median(shares):.0f} %" if key[0] == "decode" else ""
        line = f"| {name} | {statistics.median(rates):.1f} | {share} |"
        if all(key in r[2] for r in rounds):
            ratios = [r[1][key][0] / r[2][key] for r in rounds]
            line += f" {statistics.median(r[2][key] for r in rounds):.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f}) |"
        else:
            line += " | |"
        print(line)
    sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=pathlib.Path, default=pathlib.Path("."))
    p.add_argument("--llama", type=pathlib.Path)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--prefill", default="512,2048")
    p.add_argument("--seqs", default="1,8,32,64")
    p.add_argument("models", nargs="+", type=pathlib.Path)
    a = p.parse_args()
    for model in a.models:
        measure(a, model)


main()
