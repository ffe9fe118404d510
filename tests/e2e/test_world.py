"""Ranks started by mpirun: groups, control plane and start-up checks, on one host and over several (namespaces of hosts.py); what is lost is
noticed, and nothing is left behind. The ranks are tests/unit/comm/group/mpi_world.c, which says what each mode proves."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

import hosts
from conftest import BUILD
from hosts import Hosts

WORLD = str(BUILD / "tests/unit/comm/group/mpi_world")
LINK_LOSS_S = 10  # a lost link is noticed within that
# fmt: off
OPTIONS = [
    "--mca", "pml", "ob1", "--mca", "odls_base_sigkill_timeout", "0", "--bind-to", "none", "--oversubscribe",
    "--mca", "btl_vader_single_copy_mechanism", "none",
    "--mca", "oob_tcp_keepalive_time", "2", "--mca", "oob_tcp_keepalive_intvl", "1", "--mca", "oob_tcp_keepalive_probes", "3",
]
# fmt: on
ENV = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HWLOC_COMPONENTS": "-gl"}

pytestmark = pytest.mark.skipif(not shutil.which("mpirun"), reason="mpirun is not installed")
over_hosts = pytest.mark.skipif(bool(hosts.why_not()), reason=f"no hosts: {hosts.why_not()}")


@pytest.fixture
def litter():
    """Where MPI puts its files: one folder, in shared memory, that a job leaves empty."""
    folder = tempfile.mkdtemp(prefix="skein-test-", dir="/dev/shm")
    yield folder
    shutil.rmtree(folder)


def command(n, litter, args, more):
    where = ("orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory")
    places = [word for name in where for word in ("--mca", name, litter)]
    return ["mpirun", "-n", str(n), *OPTIONS, *places, *more, WORLD, *map(str, args)]


def local(n, litter, *args):
    return command(n, litter, args, ["--mca", "plm", "isolated", "--mca", "btl", "self,vader"])


def ranks(n, litter, *args, enter=(), timeout=60):
    p = subprocess.run([*enter, *local(n, litter, *args)], env=ENV, capture_output=True, text=True, timeout=timeout)
    return p.returncode, p.stdout + p.stderr


def over(h, n, litter, *args, slots=1):
    hostfile = h.write_hostfile(pathlib.Path(h.folder, "hostfile"), slots)
    return command(n, litter, args, ["--mca", "btl", "self,vader,tcp", "--hostfile", hostfile])


def files(folder):
    return [str(p) for p in pathlib.Path(folder).rglob("*") if not p.is_dir()]


def idle_percent(out):
    return float(re.search(r"idle ([0-9.]+) % of a core", out).group(1))


# ---- one host ----


@pytest.mark.parametrize("tp,pp", [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2), (4, 1), (1, 4)])
def test_one_host(litter, tp, pp):
    status, out = ranks(tp * pp, litter, tp, pp, "check")
    assert status == 0 and f"ok {tp} x {pp} ranks, 1 hosts" in out, out
    assert files(litter) == []


def test_ranks_that_differ(litter):
    status, out = ranks(4, litter, 2, 2, "differ")
    host = socket.gethostname().split(".")[0]
    assert status == 0, out
    assert f'same: engine directory differs: "digest 1" on rank 0 ({host}' in out
    assert f'"digest 2" on rank 3 ({host}' in out
    assert f"check: rank 1 on {host}" in out and "no file 1" in out


def test_wrong_number_of_ranks(litter):
    status, out = ranks(3, litter, 2, 2, "check")
    assert status != 0 and "3 ranks were started, but --tp 2 times --pp 2 are 4" in out, out


def test_no_launcher():
    p = subprocess.run([WORLD, "2", "2", "check"], capture_output=True, text=True, timeout=10)
    assert p.returncode == 4 and "was not started by mpirun" in p.stderr, p.stderr


def test_more_than_there_is(litter):
    """Steps so large that no shared memory has room for them."""
    status, out = ranks(2, litter, 1, 2, "room", 200_000_000)
    assert status != 0 and re.search(r"rank 0 on .*: the ranks of this host need \d+ MiB of shared memory", out), out
    assert litter in out and files(litter) == []


@pytest.mark.parametrize("free_mib,need", [(11, "12"), (22, r"\d\d")])
def test_small_shared_memory(litter, free_mib, need):
    """Too small for MPI to start, and too small for steps of 100 rows; an error, and no rank ends by a signal."""
    enter = ["unshare", *(["-Ur"] if os.getuid() else []), "-m", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={free_mib}m none {litter}"
    if subprocess.run([*enter, mount], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted: not root, and user namespaces are forbidden")
    status, out = ranks(2, litter, 1, 2, "room", 100, enter=[*enter, f'{mount} && exec "$@"', "sh"])
    assert status == 4 and re.search(rf"need {need} MiB of shared memory, but {litter} has \d+ MiB free", out), out


def test_idle(litter):
    status, out = ranks(4, litter, 2, 2, "idle")
    assert status == 0, out
    assert idle_percent(out) < 1


def test_killed_on_one_host(litter):
    """Our memory has no name while the job runs; MPI's own files lie where they were put, to be wiped."""
    p = subprocess.Popen(local(2, litter, 2, 1, "hold"), env=ENV, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "holding\n"
    mapped = [f for f in files(litter) if "osc" in f]
    rank = subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(rank[1]), signal.SIGKILL)
    assert p.wait(10) == 128 + signal.SIGKILL
    p.stdout.close()
    assert mapped == []
    assert not any(map(hosts.is_running, rank))


# ---- several ----


@over_hosts
@pytest.mark.parametrize(
    "n,slots,tp,pp",
    [(2, 1, 1, 2), (2, 1, 2, 1), (2, 2, 2, 2), (2, 2, 1, 4), (2, 2, 4, 1), (3, 1, 3, 1), (3, 1, 1, 3), (3, 2, 3, 2)],
)
def test_hosts(litter, n, slots, tp, pp):
    """With two slots each some groups share memory and some do not; 3 x 2 ranks on three hosts have both kinds side by side."""
    with Hosts(n) as h:
        status, out = h.run(0, over(h, tp * pp, litter, tp, pp, "check", slots=slots), env={**ENV, **h.env()})
        assert status == 0 and f"ok {tp} x {pp} ranks, {n} hosts" in out, out
        assert h.processes() == []
    assert files(litter) == []


@over_hosts
def test_idle_hosts(litter):
    with Hosts(2) as h:
        status, out = h.run(0, over(h, 4, litter, 2, 2, "idle", slots=2), env={**ENV, **h.env()})
    assert status == 0, out
    assert idle_percent(out) < 1


@over_hosts
def test_hosts_that_differ(litter):
    with Hosts(2) as h:
        status, out = h.run(0, over(h, 2, litter, 2, 1, "differ"), env={**ENV, **h.env()})
    assert status == 0, out
    assert 'engine directory differs: "digest 1" on rank 0 (host0), "digest 2" on rank 1 (host1)' in out
    assert "check: rank 1 on host1: no file 1" in out


@contextlib.contextmanager
def held(h, litter, tp, pp):
    argv = over(h, tp * pp, litter, tp, pp, "hold")
    p = h.popen(0, argv, env={**ENV, **h.env()}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert p.stdout.readline() == "holding\n"
        yield p
    finally:
        h.kill()
        p.wait()
        p.stdout.close()


def ends(h, within_s):
    until = time.monotonic() + within_s
    while h.processes() and time.monotonic() < until:
        time.sleep(0.02)
    return h.processes() == []


@over_hosts
@pytest.mark.parametrize("tp,pp", [(1, 2), (2, 1)])
def test_cut_link(litter, tp, pp):
    """Both ends stop by themselves, although neither hears anything of the other."""
    with Hosts(2) as h, held(h, litter, tp, pp) as p:
        h.cut(1)
        assert ends(h, LINK_LOSS_S)
        assert p.wait() != 0


@over_hosts
def test_rank_killed_elsewhere(litter):
    with Hosts(2) as h, held(h, litter, 1, 2) as p:
        (far,) = h.processes(1, "mpi_world")
        os.kill(far, signal.SIGKILL)
        assert ends(h, LINK_LOSS_S)
        assert p.wait() != 0


# ---- the hosts themselves ----

SERVER = "import socket; s = socket.create_server(('', 7000)); print('up', flush=True)\nwhile True: s.accept()[0].sendall(b'hello')"
CLIENT = "import socket, sys; s = socket.create_connection((sys.argv[1], 7000), timeout=0.3); assert s.recv(5) == b'hello'"


@over_hosts
def test_links_of_hosts():
    interfaces = socket.if_nameindex()
    with Hosts(2) as h:
        server = h.popen(1, ["python3", "-c", SERVER], stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"up\n"
        assert h.processes(1) == [server.pid] and h.processes(0) == []

        def reached():
            return h.run(0, ["python3", "-c", CLIENT, h.address(1)])[0] == 0

        assert reached()
        h.cut(1)
        assert not reached()
        h.mend(1)
        assert reached()
        with h.connect(1, 7000) as s:
            assert s.recv(5) == b"hello"
        with pytest.raises(ConnectionError):
            h.connect(0, 7000)
        folder = pathlib.Path(h.folder)
    assert not folder.exists()
    assert server.wait(10) == -signal.SIGKILL
    server.stdout.close()
    assert socket.if_nameindex() == interfaces
