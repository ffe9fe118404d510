"""A steady mixed load leaves nothing behind: memory, descriptors and blocks are flat. SK_SOAK: seconds (10; 60 or 600 on
demand)."""

import os
import random
import time

from crowd import ask_all, metrics, total
from test_chaos import Load, children, fd_count, kinds, settle

SECONDS = float(os.environ.get("SK_SOAK", 10))
MAX_GROWTH_KB = 4096


def memory_kb(server):
    """Of the daemon and of its engine."""

    def rss(pid):
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    return {"skeind": rss(server.process.pid), "skein-engine": rss(server.engine_pid())}


def test_soak(start):
    server = start("--threads", "1", "--max-seqs", "8", "--max-queue", "4096")
    asks = kinds()
    expected = [ask_all(server, [body], path=path)[0] for path, body in asks]
    load = Load(server, random.Random(1), asks, expected)
    seen = []
    until = time.monotonic() + SECONDS
    while len(seen) < 4 or time.monotonic() < until:
        part = time.monotonic() + SECONDS / 8
        while time.monotonic() < part:
            load.turn()
            server.drain_log()
        load.finish()
        settle(server)
        for c in load.all:
            assert c.left or c.mode == "deadline" or c.outcome() == c.expected
        load.all.clear()
        seen.append((memory_kb(server), fd_count(server), len(children(server)), total(metrics(server), "skein_kv_blocks", state="held")))
    warm = seen[len(seen) // 4]
    print(*seen, sep="\n")
    for memory, fds, n_child, held in seen[len(seen) // 4 :]:
        assert all(memory[name] <= warm[0][name] + MAX_GROWTH_KB for name in memory), seen
        assert fds <= warm[1] + 2 and n_child == warm[2] and held == 0, seen
