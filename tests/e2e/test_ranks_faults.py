"""Ranks die in the middle of streams, and so does what started them: streams go on as if nothing had happened, nobody is blamed for what came
from outside, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading

import hosts
import pytest
from conftest import BUILD, MODEL
from crowd import Client, metrics, read_all, total, wait_until
from hosts import Hosts
from test_hosts import HostDaemon
from test_ranks import Ranks, litter, processes

N = 8
BODIES = [
    {"prompt": [20 + i, 30, 40], "max_tokens": 200, "seed": i, "temperature": i % 2, "ignore_eos": True, "stream": True, "logprobs": i % 3}
    for i in range(N)
]


def outcomes(clients):
    read_all(clients)
    return [c.outcome() for c in clients]


def in_the_middle(server, which):
    """Streams that have begun and cannot end: rank `which` is stopped, and so are all that need it. (clients, pid)"""
    pid = server.ranks()[which]["pid"]
    os.kill(pid, signal.SIGSTOP)
    clients = [Client(server, b) for b in BODIES]
    read_all(clients, until=lambda: all(b"\r\n\r\n" in c.data for c in clients))
    while not any(c.began for c in clients):
        os.kill(pid, signal.SIGCONT)
        read_all(clients, until=lambda: any(c.began for c in clients))
        os.kill(pid, signal.SIGSTOP)
    assert not all(c.over for c in clients), "some are in the middle of their answers"
    return clients, pid


def ends(server):
    found = metrics(server)
    return {r: total(found, "skein_engine_ends_total", reason=r) for r in ("crash", "hang", "killed", "start")}


@pytest.fixture(scope="module", params=[(2, 1), (1, 2)], ids=lambda g: f"tp{g[0]}-pp{g[1]}")
def crowd(request, cache):
    with Ranks(cache, *request.param, "--engine-timeout", "2000") as server:
        yield server, outcomes([Client(server, b) for b in BODIES])


@pytest.mark.parametrize("which", [0, 1])
def test_killed_rank(crowd, which):
    server, want = crowd
    before, gone = ends(server), [r["pid"] for r in server.ranks()]
    clients, pid = in_the_middle(server, which)
    os.kill(pid, signal.SIGKILL)
    assert outcomes(clients) == want
    after = ends(server)
    assert after["killed"] == before["killed"] + 1 and after["crash"] == before["crash"]
    assert not [p for p in gone if p in processes("skein-engine")]
    assert len(server.ranks()) == 2


@pytest.mark.parametrize("which", [0, 1])
def test_crashed_rank(crowd, which):
    """Its requests are suspects, run alone, and are not refused."""
    server, want = crowd
    before = ends(server)
    clients, pid = in_the_middle(server, which)
    os.kill(pid, signal.SIGSEGV)
    os.kill(pid, signal.SIGCONT)
    assert outcomes(clients) == want
    assert ends(server)["crash"] == before["crash"] + 1


@pytest.mark.parametrize("which", [0, 1])
def test_stopped_rank(crowd, which):
    server, want = crowd
    before = ends(server)
    clients, pid = in_the_middle(server, which)
    assert outcomes(clients) == want
    after = ends(server)
    assert after["killed"] == before["killed"] + 1 and after["hang"] == before["hang"]
    assert pid not in [r["pid"] for r in server.ranks()]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_mpirun_ended(crowd, signum):
    server, want = crowd
    before = ends(server)
    mpirun = server.engine_pid()
    assert mpirun not in [r["pid"] for r in server.ranks()]
    clients, pid = in_the_middle(server, 0)
    os.kill(mpirun, signum)
    assert outcomes(clients) == want
    after = ends(server)
    assert after["killed"] == before["killed"] + 1 and after["crash"] == before["crash"]
    assert pid not in processes("skein-engine")


def test_many_ends(cache):
    """Twenty deaths, of any rank, while requests come; none is lost or altered."""
    with Ranks(cache, 2, 1) as server:
        want = outcomes([Client(server, b) for b in BODIES])
        for i in range(20):
            clients, pid = in_the_middle(server, i % 2)
            os.kill(pid, signal.SIGKILL)
            assert outcomes(clients) == want, f"death {i}"
            wait_until(lambda: len(server.ranks()) == 2, "two ranks")
        assert ends(server) == {"crash": 0, "hang": 0, "killed": 20, "start": 0}


def test_daemon_killed(cache):
    """Its ranks go with it; its folders go when the next daemon starts a job."""
    command = [str(BUILD / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache), "--tp", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        for line in p.stdout:
            if line.rstrip().endswith("skeind: ready"):
                break
        n_rank = len(processes(f"/job-{p.pid}-"))
        p.kill()
        assert n_rank >= 2
    wait_until(lambda: not processes(f"/job-{p.pid}-"), "its ranks are gone")
    assert litter(p.pid)
    with Ranks(cache, 2, 1):
        assert litter(p.pid) == []


# Takes a terminal for itself, so that a Ctrl-C there reaches all of its foreground group, as a shell's would.
TERMINAL = """
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
print(pid, flush=True)
text = b""
while b"skeind: ready" not in text:
    text += os.read(fd, 4096)
os.write(fd, b"\\x03")
try:
    while part := os.read(fd, 4096):
        text += part
except OSError:
    pass
sys.stdout.write(text.decode(errors="replace"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_ctrl_c_is_for_the_daemon(cache):
    command = [str(BUILD / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache), "--tp", "2"]
    p = subprocess.run([sys.executable, "-c", TERMINAL, *command], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stdout + p.stderr
    assert "starting again" not in p.stdout and "mpirun" not in p.stdout, p.stdout
    assert litter(int(p.stdout.split()[0])) == []


def put_agent_before(h, folder):
    """The agent of hosts.py goes by no network, so a cut does not stop it as it would stop ssh. This one gets nowhere while the file
    that is returned is there."""
    away, agent, env = folder / "away", folder / "agent", h.env()
    agent.write_text(f'#!/bin/sh\n[ -e {away} ] && exit 255\nexec {env["OMPI_MCA_plm_rsh_agent"]} "$@"\n')
    agent.chmod(0o755)
    h.env = lambda: {**env, "OMPI_MCA_plm_rsh_agent": str(agent)}
    return away


@pytest.mark.skipif(bool(hosts.why_not()), reason=f"no hosts: {hosts.why_not()}")
def test_shrink(cache, tmp_path):
    """A host is lost and does not come back: the job goes on with the others, on a smaller grid, and what it answers is what that grid
    answers. When the host is back, the next start has them all."""
    ask = {"prompt": [5, 6, 7], "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    of = lambda d: d.ok("/v1/completions", {"prompt": [5], "max_tokens": 1})["system_fingerprint"].partition("-tp")[2]
    with Hosts(2) as h:
        away = put_agent_before(h, tmp_path)
        options = ("--tp", "2", "--on-rank-loss", "shrink", "--rank-loss-wait", "1000")
        with HostDaemon(h, cache, *options) as d:
            assert of(d) == "2-pp1"
            away.touch()
            h.cut(1)
            answers = []
            waiting = threading.Thread(target=lambda: answers.append(d.post("/v1/completions", ask)))
            waiting.start()
            wait_until(lambda: "tp 1 x pp 1 instead of 2 x 1" in d.drain_log(), "it shrinks")
            waiting.join()
            assert answers[0].status == 200 and answers[0].json["usage"]["completion_tokens"] == 200
            assert of(d) == ""
            away.unlink()
            h.mend(1)
            os.kill(h.processes(0, "skein-engine")[0], signal.SIGKILL)
            wait_until(lambda: "tp 2 x pp 1 instead of 1 x 1" in d.drain_log(), "it grows")
            assert d.ok("/v1/completions", ask)["usage"]["completion_tokens"] == 200
            assert of(d) == "2-pp1"
        assert h.processes() == []
