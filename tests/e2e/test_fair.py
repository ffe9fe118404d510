"""Keys share the engine fairly: who has had least goes next, however much another has queued."""

import hashlib
import re

import pytest
from crowd import Client, read_all, standstill, unfinished, wait_until

MAX_SEQS = 4
ASK = {"prompt": [20, 30, 40], "max_tokens": 24, "temperature": 0, "ignore_eos": True}
KEYS = {"alice": "", "bob": "", "carol": "weight=3", "operator": "scope=metrics"}


@pytest.fixture(scope="module")
def fair(start, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("".join(f"{k} sha256:{hashlib.sha256(k.encode()).hexdigest()} {v}\n" for k, v in KEYS.items()))
    return start("--threads", "1", "--max-seqs", str(MAX_SEQS), "--api-key-file", str(keys))


def key(name):
    return {"Authorization": f"Bearer {name}"}


def ask(server, name, n, **more):
    return [
        Client(server, {**ASK, "seed": i, **more}, headers={**key(name), "X-Request-ID": f"{name}-{i}"})
        for i in range(n)
    ]


def wait_until_queued(server, n):
    wait_until(lambda: unfinished(server, key("operator")) >= n, f"{n} requests are queued")


def ends(server, clients):
    """Names in the order in which their requests ended, by the log: what a client sees depends on when it looks."""
    read_all(clients)
    assert {c.outcome()[:2] for c in clients} == {(200, None)}
    found = re.findall(r" request .*?\bid=([a-z]+)-\d+ ", server.drain_log())
    return found[-len(clients) :]


def test_one_request_passes_two_hundred(fair):
    """Of the other key's requests, no more end before it than were ahead of it on board and ran beside it."""
    with standstill(fair):
        clients = ask(fair, "alice", 200)
        wait_until_queued(fair, 200)
        clients += ask(fair, "bob", 1)
        wait_until_queued(fair, 201)
    order = ends(fair, clients)
    assert order.count("alice") == 200 and order.index("bob") <= 3 * MAX_SEQS


def test_shares_go_by_weight(fair):
    """Both want much: the key of weight 3 gets three of four tokens."""
    n = 80
    with standstill(fair):
        clients = ask(fair, "alice", n) + ask(fair, "carol", n)
        wait_until_queued(fair, 2 * n)
    first = ends(fair, clients)[:n]
    assert 0.65 <= first.count("carol") / n <= 0.85


def test_priority_goes_first_within_a_key(fair):
    with standstill(fair):
        clients = ask(fair, "alice", 40, priority=5)
        wait_until_queued(fair, 40)
        clients += [Client(fair, {**ASK, "priority": -5}, headers={**key("alice"), "X-Request-ID": "urgent-0"})]
        wait_until_queued(fair, 41)
    assert ends(fair, clients).index("urgent") <= 3 * MAX_SEQS
