#!/usr/bin/env python3
"""What a request feels of crashes and of other keys, on a real model: bench_service.py MODEL [KILLS]. SK_BUILD as for tests/e2e.

kills   32 streams, the engine is killed again and again: lost or altered streams; from each kill to the first token of any stream, and until
        all that were not over have moved, also as a ratio to the time to the first token plus what their prompts and answers so far take at the
        rate at which prompts of 600 words are computed
share   time to the first token of one key's request, alone and while another key has 200 queued"""
import hashlib
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from conftest import Daemon  # noqa: E402
from crowd import Client, ask_all, read_all, unfinished, wait_until  # noqa: E402

N_STREAM, N_QUEUED, N_TRY, PROMPT_WORDS, PROMPT_TOK = 32, 200, 5, (6, 60, 600), 8


def prefill_rate(server):
    """Prompt tokens a second."""
    n_tok, begin = 0, time.monotonic()
    for i in range(N_TRY):
        n_tok += server.ok("/v1/completions", {"prompt": f"{i} times " + "the wind blew cold. " * 120, "max_tokens": 1})["usage"]["prompt_tokens"]
    return n_tok / (time.monotonic() - begin)


def kills(cache, model, n_kill):
    server = Daemon(cache, model=model)
    rate = prefill_rate(server)
    asks = [{"prompt": f"Chapter {i}. Once upon a time", "max_tokens": 400, "temperature": 0.8 * (i % 2), "seed": i, "ignore_eos": True,
             "stream": True, "return_token_ids": True} for i in range(N_STREAM)]
    first, everyone, ratio, altered, done = [], [], [], 0, 0
    expected = ask_all(server, asks)
    while done < n_kill:
        clients = [Client(server, a) for a in asks]
        read_all(clients, until=lambda: all(c.began for c in clients))
        while done < n_kill and not all(c.over for c in clients):
            sizes = [len(c.data) for c in clients]
            read_all(clients, until=lambda: sum(len(c.data) for c in clients) > sum(sizes) + N_STREAM * 4000)
            if all(c.over for c in clients):
                break
            os.kill(server.engine_pid(), signal.SIGKILL)
            killed = time.monotonic()
            time.sleep(0.02)  # what was on its way
            drained = time.monotonic() + 0.005
            read_all(clients, until=lambda: time.monotonic() > drained)
            sizes = {c: len(c.data) for c in clients if not c.over}
            read_all(clients, until=lambda: any(len(c.data) > n for c, n in sizes.items()))
            first.append(time.monotonic() - killed)
            read_all(clients, until=lambda: all(len(c.data) > n for c, n in sizes.items()))
            everyone.append(time.monotonic() - killed)
            n_tok = sum(PROMPT_TOK + c.data[:n].count(b"data: ") for c, n in sizes.items())
            ratio.append(everyone[-1] / (first[-1] + n_tok / rate))
            done += 1
        read_all(clients)
        altered += sum(c.outcome() != e for c, e in zip(clients, expected))
    server.close()
    print(f"kills: {done}, streams lost or altered: {altered}")
    print(f"  first token after a kill   median {statistics.median(first):.2f} s, most {max(first):.2f} s")
    print(f"  all {N_STREAM} moving            median {statistics.median(everyone):.2f} s, most {max(everyone):.2f} s; {statistics.median(ratio):.2f} and {max(ratio):.2f} "
          f"times the restart and their tokens at {rate:.0f} a second")


def time_to_first_token(server, key, words, number):
    """Of a prompt that no other begins like."""
    ask = {"prompt": f"{number} " + "The sea is wide and old. " * (words // 6), "max_tokens": 8, "stream": True}
    begin = time.monotonic()
    client = Client(server, ask, headers={"Authorization": f"Bearer {key}"})
    read_all([client], until=lambda: client.began)
    took = time.monotonic() - begin
    read_all([client])
    return took


def share(cache, model):
    keys = cache / "keys"
    keys.write_text("".join(f"{k} sha256:{hashlib.sha256(k.encode()).hexdigest()} scope=inference,metrics\n" for k in ("one", "many")))
    server = Daemon(cache, "--api-key-file", str(keys), model=model)
    many = {"Authorization": "Bearer many"}
    idle = {n: [time_to_first_token(server, "one", n, i) for i in range(N_TRY)] for n in PROMPT_WORDS}
    asks = [{"prompt": f"Letter {i}: My dear friend,", "max_tokens": 1000, "ignore_eos": True} for i in range(N_QUEUED)]
    clients = [Client(server, a, headers=many) for a in asks]
    wait_until(lambda: unfinished(server, many) >= N_QUEUED, "all are queued")
    time.sleep(1)
    for n in PROMPT_WORDS:
        busy = [time_to_first_token(server, "one", n, 100 + i) for i in range(N_TRY)]
        a, b = statistics.median(idle[n]), statistics.median(busy)
        print(f"share: prompt of {n} words, first token {1e3 * a:.0f} ms alone, {1e3 * b:.0f} ms with {N_QUEUED} of another key: {b / a:.1f} times")
    for c in clients:
        c.leave()
    server.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        share(pathlib.Path(folder), sys.argv[1])
        kills(pathlib.Path(folder), sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20)
