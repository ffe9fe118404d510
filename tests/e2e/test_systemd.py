"""Under a service manager: what it hears, the sockets that it passes and keeps, the units that it reads."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import BUILD, SRC
from manager import Managed, Manager
from test_operator import open_stream, read_all

FREE = ["--listen", "127.0.0.1:0"]


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path / "notify")
    yield m
    m.close()


def listen():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    return s


def value(lines, key):
    return next(line[len(key) + 1 :] for line in lines if line.startswith(key + "="))


def index(heard, line):
    return next(i for i, lines in enumerate(heard) if line in lines)


def test_start_and_end_are_told(manager, tmp_path):
    daemon = Managed(manager, tmp_path / "cache", *FREE)
    assert re.fullmatch(r"serving \S+", value(manager.wait("READY=1"), "STATUS"))
    before = manager.heard[: index(manager.heard, "READY=1")]
    assert any(value(lines, "STATUS").startswith("building ") for lines in before if lines[0].startswith("STATUS="))
    assert all(int(value(lines, "EXTEND_TIMEOUT_USEC")) >= 10_000_000 for lines in before if lines[0].startswith("STATUS="))
    for name in (b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"LISTEN_FDS"):
        assert name not in pathlib.Path(f"/proc/{daemon.engine_pid()}/environ").read_bytes()
    assert daemon.close() == 0
    heard = manager.drain()
    stopping = heard[index(heard, "STOPPING=1")]
    assert int(value(stopping, "EXTEND_TIMEOUT_USEC")) > 30_000_000  # the default of --drain-timeout
    assert sum("READY=1" in lines for lines in heard) == 1


def test_status_follows_the_work_and_then_is_silent(manager, cache, programs):
    daemon = Managed(manager, cache, *FREE, bin=programs("faulty_engine"), env={"SKEIN_FAULT": "slow:20"})
    manager.wait("READY=1")
    manager.drain()
    n = len(manager.heard)
    with open_stream(daemon) as stream:  # some seconds
        assert stream.recv(12) == b"HTTP/1.1 200"
        manager.wait(r"STATUS=serving \S+: 4 running, 0 waiting", 30)
    manager.wait(r"STATUS=serving \S+", 30)
    assert len(manager.heard) == n + 2  # what has not changed is not said again
    assert daemon.close() == 0


def test_a_reload_is_told_good_or_bad(manager, cache, tmp_path):
    conf = tmp_path / "conf"
    conf.write_text("max-queue = 7\n")
    daemon = Managed(manager, cache, *FREE, "--config", str(conf))
    manager.wait("READY=1")
    for text in ("max-queue = 8\n", "bogus = 1\n"):
        conf.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        now = time.monotonic_ns() // 1000
        told = int(value(manager.wait("RELOADING=1", 30), "MONOTONIC_USEC"))
        assert now - 10_000_000 < told < now + 30_000_000
        assert re.fullmatch(r"serving \S+", value(manager.wait("READY=1", 30), "STATUS"))
    assert daemon.close() == 0


def test_watchdog_is_fed_while_the_engine_moves(manager, cache):
    daemon = Managed(manager, cache, *FREE, "--engine-timeout", "2000", env={"WATCHDOG_USEC": "200000"})
    manager.wait("READY=1")
    for _ in range(3):  # it is idle
        manager.wait("WATCHDOG=1", 30)
    assert "may end skeind before --engine-timeout" in daemon.drain_log()
    os.kill(daemon.engine_pid(), signal.SIGSTOP)
    manager.wait(r"STATUS=.*starting again.*", 30)  # meanwhile it was not fed:
    assert "makes no progress: the service manager's watchdog is not fed" in daemon.drain_log()
    manager.wait("WATCHDOG=1", 30)
    assert daemon.close() == 0


def test_a_tiny_watchdog_does_not_keep_the_daemon_busy(manager, cache):
    daemon = Managed(manager, cache, *FREE, env={"WATCHDOG_USEC": "1000"})
    manager.wait("WATCHDOG=1")
    began = time.monotonic()
    for _ in range(5):
        manager.wait("WATCHDOG=1")
    assert time.monotonic() - began > 0.3
    assert daemon.close() == 0


def test_watchdog_of_another_process_is_not_fed(manager, cache):
    daemon = Managed(manager, cache, *FREE, env={"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"})
    daemon.ok("/v1/completions", {"prompt": "x", "max_tokens": 8})
    assert daemon.close() == 0
    assert not any("WATCHDOG=1" in lines for lines in manager.drain())


def test_passed_sockets_stand_in_for_listen(manager, cache):
    main, admin = listen(), listen()
    daemon = Managed(manager, cache, sockets=[(main, "skeind.socket"), (admin, "admin")])
    urls = [f"http://127.0.0.1:{s.getsockname()[1]}" for s in (main, admin)]
    assert daemon.listening() == [urls[0], urls[1] + " (admin)"]
    daemon.ok("/v1/completions", {"prompt": "x", "max_tokens": 1})
    assert manager.drain() and not manager.store  # the manager has them already
    assert daemon.close() == 0
    for s in (main, admin):  # still open: what comes now waits for the next one
        socket.create_connection(s.getsockname()).close()
        s.close()


def test_an_address_that_is_named_is_opened_beside_passed_ones(manager, cache):
    main = listen()
    here = f"127.0.0.1:{main.getsockname()[1]}"
    daemon = Managed(manager, cache, "--listen", f"{here},127.0.0.1:0", sockets=[(main, "")])
    assert len(daemon.listening()) == 2 and daemon.listening()[0] == f"http://{here}"
    assert list(manager.drain()) and list(manager.store) == ["addr=127.0.0.1;0"]
    assert daemon.close() == 0
    main.close()


def test_something_else_than_a_socket_is_refused(manager, cache, tmp_path):
    with open(tmp_path / "file", "w") as f, pytest.raises(RuntimeError, match="not a listening"):
        Managed(manager, cache, sockets=[(f, "")])


def test_a_killed_daemon_leaves_its_socket_and_the_next_one_takes_it(manager, cache):
    first = Managed(manager, cache, *FREE)
    first.ok("/v1/completions", {"prompt": "x", "max_tokens": 1})
    manager.drain()
    assert list(manager.store) == ["addr=127.0.0.1;0"]
    built = {path: path.stat().st_ino for path in cache.rglob("config.json")}
    assert built
    first.process.kill()
    first.process.wait()

    body = json.dumps({"prompt": "x", "max_tokens": 3}).encode()
    client = socket.create_connection(("127.0.0.1", first.port), timeout=30)
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    n = len(manager.heard)
    second = Managed(manager, cache, *FREE, sockets=manager.kept(), wait=False)
    assert second.port == first.port
    answer = read_all(client)  # it came before the engine was there
    assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer or b'"completion_tokens":3' in answer
    second.wait_ready()
    second.ok("/v1/completions", {"prompt": "x", "max_tokens": 3})
    assert not any("FDSTORE=1" in lines for lines in manager.drain()[n:])
    assert built == {path: path.stat().st_ino for path in cache.rglob("config.json")}
    assert second.close() == 0


def test_an_address_that_is_no_longer_named_is_given_back(manager, cache, tmp_path):
    path = f"unix:{tmp_path}/s"
    first = Managed(manager, cache, "--listen", f"127.0.0.1:0,{path}")
    assert first.listening()[1] == path
    assert first.close() == 0
    manager.drain()
    assert set(manager.store) == {"addr=127.0.0.1;0", "addr=" + path.replace(":", ";")}
    second = Managed(manager, cache, *FREE, sockets=manager.kept())
    assert second.port == first.port and len(second.listening()) == 1
    assert second.close() == 0
    manager.drain()
    assert set(manager.store) == {"addr=127.0.0.1;0"}


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["sh", SRC / "systemd/install.sh", "install", root, "/usr", BUILD, "/etc", BUILD / "skeind"], check=True)
    return root / "usr/lib"


def analyze(*args):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze (Debian: systemd)")
    return subprocess.run(["systemd-analyze", *map(str, args)], capture_output=True, text=True, timeout=60)


def test_units_are_right(units):
    done = analyze("verify", "--man=no", units / "systemd/system/skeind.service", units / "systemd/system/skeind.socket")
    assert done.returncode == 0 and not done.stdout + done.stderr, done


def test_exposure_is_at_most_2(units):
    done = analyze("security", "--offline=true", "--threshold=20", units / "systemd/system/skeind.service")
    assert done.returncode == 0, done.stdout[-500:]
    assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout).group(1)) <= 2.0


def test_installed_files_have_their_paths(units):
    unit = (units / "systemd/system/skeind.service").read_text()
    assert f"\nExecStart={BUILD}/skeind --config /etc/skein/skein.conf\n" in unit
    for path in units.rglob("*.*"):
        assert path.is_dir() or not re.search(r"@\w+@", path.read_text()), path
    sample = subprocess.run([BUILD / "skeind", "--print-config"], capture_output=True, text=True).stdout
    assert (units.parent.parent / "etc/skein/skein.conf").read_text() == sample
    again = units.parent.parent
    (again / "etc/skein/skein.conf").write_text("# mine\n")
    for verb in ("install", "uninstall"):
        subprocess.run(["sh", SRC / "systemd/install.sh", verb, again, "/usr", BUILD, "/etc", BUILD / "skeind"], check=True)
        assert (again / "etc/skein/skein.conf").read_text() == "# mine\n"
    assert [p for p in units.rglob("*") if p.is_file()] == []
