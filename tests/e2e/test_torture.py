"""System calls that fail or do less than they were asked for (tests/tools/torture_shim.c): the daemon answers all the
same, and says what it cannot do."""

import os
import signal

import pytest
from conftest import BUILD
from crowd import Client, ask_all, metrics, read_all, total, wait_until
from test_chaos import fd_count, kinds, settle

SHIM = BUILD / "tests/tools/torture_shim.so"
ROUNDS = 4

# What the kernel may do at any time: nobody notices.
HARMLESS = {
    "short": "short=300",
    "eintr": "eintr=200",
    "eagain": "eagain=200",
    "accept": "accept=300",
    "clock": "clock=300",
    "all": "seed=7,short=150,eintr=100,eagain=100,accept=100,clock=50",
}


@pytest.fixture(scope="module")
def expected(shared):
    return outcomes(shared)


def outcomes(server):
    """Completions and chats, at once; none has so short a deadline that it may miss it."""
    asks = kinds()
    clients = [Client(server, {**body, "deadline_ms": 50000}, path) for path, body in asks]
    read_all(clients)
    return [c.outcome() for c in clients]


@pytest.fixture
def tortured(start, tmp_path):
    def run(faults, *args, **kw):
        on = tmp_path / "on"
        env = {"LD_PRELOAD": str(SHIM), "SKEIN_TORTURE": faults, "SKEIN_TORTURE_ON": str(on), "ASAN_OPTIONS": "verify_asan_link_order=0"}
        server = start("--threads", "1", *args, env=env, **kw)
        ask_all(server, [{"prompt": [20], "max_tokens": 1}])
        server.get("/health")
        on.touch()
        return server

    return run


@pytest.mark.parametrize("faults", HARMLESS.values(), ids=HARMLESS)
def test_nobody_notices(tortured, expected, faults):
    server = tortured(faults)
    before = fd_count(server)
    for _ in range(ROUNDS):
        assert outcomes(server) == expected
    settle(server)
    found = metrics(server)
    assert total(found, "skein_requests_total", end="done") == ROUNDS * len(expected) + 1
    assert total(found, "skein_requests_total") == ROUNDS * len(expected) + 1
    wait_until(lambda: fd_count(server) <= before + 6, "connections are closed")  # two template helpers stay


def test_engine_dies_while_calls_fail(tortured, expected):
    """It is started again although descriptors are short, and streams go on over a channel that stutters."""
    server = tortured("seed=3,short=200,eintr=100,eagain=100,emfile=60")
    asks = [body for path, body in kinds() if path == "/v1/completions"]
    for _ in range(3):
        clients = [Client(server, a) for a in asks]
        read_all(clients, until=lambda: any(c.began for c in clients if c.body["stream"]))
        os.kill(server.engine_pid(), signal.SIGKILL)
        read_all(clients)
        assert [c.outcome() for c in clients] == [o for (p, _), o in zip(kinds(), expected) if p == "/v1/completions"]


@pytest.mark.parametrize("fault", ["emfile", "enospc"])
def test_nothing_can_be_opened_or_written(tortured, expected, tmp_path, fault):
    """A chat whose template helper cannot be started says so; all others are served, also by the next engine."""
    server = tortured(f"{fault}=1000", "--flight-dir", str(tmp_path / "flight"))
    if fault == "enospc":
        os.kill(server.engine_pid(), signal.SIGSEGV)
    for got, want, (path, _) in zip(outcomes(server), expected, kinds()):
        if path == "/v1/completions":
            assert got == want
        else:
            assert got[:2] in ((500, "internal_error"), (503, "unavailable"))


def outcome_or_cut(client):
    """A stream may break off, where there is no memory to say why."""
    head, _, body = client.data.partition(b"\r\n\r\n")
    try:
        return client.outcome()
    except (AssertionError, ValueError):
        return "cut" if head.startswith(b"HTTP/1.1 200") or not head else head


@pytest.mark.parametrize("seed", [1, 2])
def test_short_of_memory(tortured, expected, tmp_path, seed):
    """One allocation in a hundred fails: an answer is right, or an error, or breaks off; nothing leaks."""
    server = tortured(f"seed={seed},alloc=10")
    seen = []
    for _ in range(6):
        clients = [Client(server, body, path) for path, body in kinds()]
        read_all(clients)
        for client, want in zip(clients, expected):
            got = outcome_or_cut(client)
            seen.append("right" if got == want else got if got == "cut" else got[1])
    assert set(seen) <= {"right", "cut", "nothing", "out_of_memory"} and seen.count("right") > len(seen) / 3
    assert "out_of_memory" in seen
    (tmp_path / "on").unlink()
    server.get("/health")
    settle(server)
    found = metrics(server)
    assert total(found, "skein_kv_blocks", state="held") == total(found, "skein_journal_tokens") == 0
    assert outcomes(server) == expected
