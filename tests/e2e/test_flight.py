"""The flight recorder: after a crash, or when asked, the engine's last steps are files that replay bit for bit."""

import concurrent.futures
import os
import pathlib
import signal
import stat
import subprocess
import time

import pytest

from conftest import BUILD

WAIT_S = 30
PLANS = 64
STEM = list(range(10, 110))  # prompts that begin alike: cached blocks


def ask(i):
    body = {"prompt": STEM + [20 + i, 40 + i], "max_tokens": 60, "seed": i, "temperature": i % 2, "ignore_eos": True}
    if i % 3 == 1:
        body |= {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 1.2}
    if i % 4 == 3:
        body |= {"n": 3, "logprobs": 3}
    return body


@pytest.fixture
def flown(start, tmp_path):
    """A daemon that records, and its folder for it."""
    folder = tmp_path / "flight"
    options = ["--threads", "1", "--flight-dir", str(folder), "--flight-plans", str(PLANS), "--max-step-tokens", "64"]
    server = start(*options)
    answers(server)
    return server, folder


def answers(server):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda i: server.ok("/v1/completions", ask(i)), range(8)))
    return [[c["text"] for c in reply["choices"]] for reply in replies]


def engine_dir(server):
    words = pathlib.Path(f"/proc/{server.engine_pid()}/cmdline").read_bytes().split(b"\0")
    return next(w for w in words if w.startswith(b"--dir=")).decode().removeprefix("--dir=")


def wait_for_files(folder, n=1):
    until = time.monotonic() + WAIT_S
    while not folder.is_dir() or len(list(folder.iterdir())) < n:
        assert time.monotonic() < until, "nothing was written"
        time.sleep(0.02)
    return sorted(folder.iterdir())


def cpu_ticks(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def replay(directory, path):
    command = [BUILD / "skein-engine", "--dir", directory, "--threads", "1", "--replay", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_crash_is_written_down_and_replays(flown):
    server, folder = flown
    directory, pid = engine_dir(server), server.engine_pid()
    expected = answers(server)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before, going = cpu_ticks(pid), pool.submit(answers, server)
        while cpu_ticks(pid) <= before and not going.done():  # until it works
            time.sleep(0.005)
        os.kill(pid, signal.SIGSEGV)
        assert going.result() == expected
    files = wait_for_files(folder, 2)
    assert len(files) == 2
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert f"-{pid}-crash-" in path.name
        said = replay(directory, path)
        assert "all equal" in said, said
    assert int(said.split()[1]) >= 2  # steps, of the newer one
    assert str(files[-1]) in server.drain_log()


def test_a_kill_from_outside_is_not(flown):
    server, folder = flown
    pid = server.engine_pid()
    os.kill(pid, signal.SIGKILL)
    answers(server)
    assert server.engine_pid() != pid
    assert not folder.exists()


def test_on_demand(flown):
    server, folder = flown
    directory = engine_dir(server)
    server.process.send_signal(signal.SIGUSR1)
    for path in wait_for_files(folder):
        assert replay(directory, path).rstrip().endswith("all equal")
        text = subprocess.run([BUILD / "skein-engine", "--dump", path], capture_output=True, text=True, check=True).stdout
        assert "plan step=" in text and "run slot=" in text
    answers(server)  # and it goes on
