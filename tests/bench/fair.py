#!/usr/bin/env python3
"""How long one key's request waits while another key's fill the queue: fair.py MODEL [options]. SK_BUILD as for tests/e2e.

Rounds take turns: in one the server is idle, in the other another key keeps its queue full. In each, single requests one after another;
printed are the medians of their times to the first token, of each round and of all of a kind, and how many prompt and answer tokens were
computed meanwhile."""
import argparse
import hashlib
import pathlib
import random
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from conftest import Daemon  # noqa: E402
from crowd import Client, metrics, read_all, total, unfinished, wait_until  # noqa: E402

KEYS = {k: {"Authorization": f"Bearer {k}"} for k in ("one", "many")}
IDS = (100, 10000)  # that every vocabulary has
SETTLE_S = 6


class Crowd:
    """The other key: n requests at any time."""

    def __init__(self, server, n, ask):
        self.server, self.n, self.ask, self.clients = server, n, ask, []
        self.fill()

    def fill(self):
        self.clients = [c for c in self.clients if not c.over]
        while len(self.clients) < self.n:
            self.clients.append(Client(self.server, self.ask(), headers=KEYS["many"]))

    def run(self, more, until):
        while not until():
            self.fill()
            read_all([*self.clients, *more], until=lambda: until() or len([c for c in self.clients if not c.over]) < self.n)

    def leave(self):
        for c in self.clients:
            c.leave()
        wait_until(lambda: unfinished(self.server, KEYS["many"]) == 0, "the queue is empty")


def pause(crowd, seconds):
    end = time.monotonic() + seconds
    crowd.run([], lambda: time.monotonic() > end)


def time_to_first_token(crowd, ask):
    begin = time.monotonic()
    client = Client(crowd.server, ask, headers=KEYS["one"])
    crowd.run([client], lambda: client.began)
    took = time.monotonic() - begin
    crowd.run([client], lambda: client.over)
    return took


def ms(times):
    return " ".join(f"{1e3 * t:.0f}" for t in sorted(times))


def tokens_so_far(server):
    found = metrics(server, KEYS["many"])
    return [total(found, f"vllm:{kind}_tokens_total") for kind in ("prompt", "generation")]


def measure(server, o):
    dice = random.Random(o.seed)
    times = {False: [], True: []}

    def ask(n_prompt, max_tokens):
        return {"prompt": [dice.randrange(*IDS) for _ in range(n_prompt)], "max_tokens": max_tokens, "ignore_eos": True}

    for k in range(2 * o.rounds):
        busy = k % 2 == 1
        crowd = Crowd(server, o.queued if busy else 0, lambda: ask(o.many_prompt, o.answer))
        pause(crowd, SETTLE_S if busy else 1)
        begin, before, found = time.monotonic(), tokens_so_far(server), []
        for _ in range(o.tries):
            found.append(time_to_first_token(crowd, {**ask(o.prompt, 8), "stream": True}))
            pause(crowd, dice.uniform(0.2, 1.2))
        took, after = time.monotonic() - begin, tokens_so_far(server)
        n_prompt, n_answer = ((b - a) / took for a, b in zip(before, after))
        name = "busy" if busy else "idle"
        print(f"  {name} {1e3 * statistics.median(found):5.0f} ms  ({ms(found)})  {n_prompt:.0f} + {n_answer:.0f} tokens/s", flush=True)
        times[busy] += found
        crowd.leave()
    idle, busy = (statistics.median(times[b]) for b in (False, True))
    print(f"idle {1e3 * idle:.0f} ms, busy {1e3 * busy:.0f} ms: {busy / idle:.2f} times ({len(times[True])} requests each)")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--prompt", type=int, default=128, help="tokens of a single request's prompt")
    p.add_argument("--many-prompt", type=int, help="of the other key's (default: the same)")
    p.add_argument("--answer", type=int, default=128, help="tokens of the other key's answers")
    p.add_argument("--queued", type=int, default=200, help="requests of the other key at any time")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tries", type=int, default=5, help="single requests in a round")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--option", action="append", default=[], help="one more argument of skeind")
    o = p.parse_args()
    o.many_prompt = o.many_prompt or o.prompt
    with tempfile.TemporaryDirectory() as folder:
        keys = pathlib.Path(folder) / "keys"
        keys.write_text("".join(f"{k} sha256:{hashlib.sha256(k.encode()).hexdigest()} scope=inference,metrics\n" for k in KEYS))
        server = Daemon(folder, "--api-key-file", str(keys), *o.option, model=o.model)
        print(f"single prompts of {o.prompt} tokens; {o.queued} others: prompts of {o.many_prompt}, answers of {o.answer}")
        measure(server, o)
        server.close()


if __name__ == "__main__":
    main()
