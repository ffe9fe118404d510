"""An impatient operator: signals at bad moments, and options that cannot work. Whatever is wrong is one line, and a status of 1."""

import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import BUILD, MODEL, SRC, Daemon

QUICK_S = 5  # far below the 30 s that running requests are given


def run(cache, *args, model=MODEL, binary=BUILD / "skeind", **kw):
    command = [str(binary), "--model", str(model), "--listen", "127.0.0.1:0", "--cache-dir", str(cache), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kw)


def complaint(done):
    """What it says on its way out, less the log."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("skein") or "ERROR" in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


OPTIONS = [
    (["--modle", "x"], "did you mean 'model'"),
    (["--max-seqs", "0"], "from 1 to 4096"),
    (["--max-seqs", "many"], "integer"),
    (["--max-seqs"], "needs a value"),
    (["--device", "gpu"], "cpu|ref"),
    (["--listen", "8080"], "HOST:PORT"),
    (["--listen", "127.0.0.1:99999"], "65535"),
    (["--listen", "unix:" + "x" * 200], "107"),
    (["--admin-listen", "nonsense"], "admin-listen"),
    (["--socket-mode", "rw"], "octal"),
    (["--socket-mode", "7777"], "0777"),
    (["--tls-cert", "/nowhere"], "tls-key"),
    (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere"),
    (["--cors-origins", "a.example"], "a.example"),
    (["--trust-users", "nobody-has-this-name"], "nobody-has-this-name"),
    (["--listen", ",".join(["127.0.0.1:0"] * 17)], "16"),
    (["--kv-memory", "100T"], "MiB"),
    (["--chat-template", "/nowhere"], "/nowhere"),
    (["--api-key-file", "/nowhere"], "/nowhere"),
    (["--engine-record", "/nowhere/x"], "/nowhere/x"),
    (["--cache-dir", "/proc/x"], "/proc/x"),
    (["--config", "/nowhere"], "/nowhere"),
    (["stray"], "'stray'"),
]


@pytest.mark.parametrize("args, word", OPTIONS, ids=[" ".join(a)[:60] for a, _ in OPTIONS])
def test_options_that_cannot_work(cache, args, word):
    assert word in complaint(run(cache, *args))


def check(*args):
    return subprocess.run([str(BUILD / "skeind"), "--check-config", *args], capture_output=True, text=True, timeout=60)


def test_check_config_starts_nothing(cache, server, tmp_path):
    """It can be asked while the daemon runs: the addresses may be in use."""
    good = ["--model", MODEL, "--listen", f"127.0.0.1:{server.port},unix:{tmp_path}/s", "--cache-dir", str(tmp_path / "cache")]
    done = check(*good)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    assert list(tmp_path.iterdir()) == []


def test_check_config_tells_every_mistake(tmp_path):
    (tmp_path / "keys").write_text("\na sha256:0\n")
    (tmp_path / "conf").write_text("listen = 8080\nmodel = /nowhere\nchat-template = /nothing\n")
    done = check("--config", str(tmp_path / "conf"), "--api-key-file", str(tmp_path / "keys"), "--tls-key", "/k")
    assert done.returncode == 1 and done.stdout == ""
    words = ["listen: 8080", "tls-cert", f"{tmp_path}/keys:2: ", "/nothing", "/nowhere"]
    lines = done.stderr.splitlines()
    assert len(lines) == len(words) and all(w in line and line.startswith("skeind: ") for w, line in zip(words, lines)), lines
    (tmp_path / "conf").write_text("\nmodle = x\n")
    assert f"{tmp_path}/conf:2: " in check("--config", str(tmp_path / "conf")).stderr


def test_listeners_are_printed_and_open_doors_are_warned_of(cache, tmp_path):
    path = f"{tmp_path}/s"
    daemon = Daemon(cache, "--threads", "1", "--listen", f"127.0.0.1:0, unix:{path},[::1]:0", "--admin-listen", "0.0.0.0:0", "--socket-mode", "0606")
    log = daemon.drain_log()
    assert f"skeind: listening on unix:{path}\n" in log and "skeind: listening on http://[::1]:" in log
    admin = re.search(r"skeind: listening on http://(0\.0\.0\.0:\d+) \(admin\)\n", log).group(1)
    assert [line for line in log.splitlines() if " warn " in line] == [line for line in log.splitlines() if f"{admin}: whoever reaches" in line]
    assert os.stat(path).st_mode & 0o777 == 0o606
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert read_all(client).startswith(b"HTTP/1.1 200")
    assert daemon.close() == 0
    assert not os.path.exists(path)


def test_keys_without_tls_are_warned_of(cache, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    daemon = Daemon(cache, "--threads", "1", "--admin-listen", "0.0.0.0:0", "--api-key-file", str(tmp_path / "keys"))
    assert "API keys cross the network unencrypted" in daemon.drain_log()
    assert daemon.close() == 0


@pytest.mark.parametrize(
    "text, word", [("max-seqs = 5\n\nbogus = 1\n", ":3: "), ("# x\r\nmax-queue = many\r\n", ":2: "), ("max-seqs\n", ":1: ")]
)
def test_config_file_names_the_line(cache, tmp_path, text, word):
    path = tmp_path / "conf"
    path.write_bytes(text.encode())
    assert f"{path}{word}" in complaint(run(cache, "--config", str(path)))


def test_models_that_are_none(cache, tmp_path):
    assert "/nowhere" in complaint(run(cache, model="/nowhere"))
    assert "config.json" in complaint(run(cache, model=tmp_path))
    whole = (SRC / "tests/golden/gguf/llama-q8_0.gguf").read_bytes()
    for n in (0, 3, 20, 1000, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:n])
        assert str(cut) in complaint(run(cache, model=cut))


def test_missing_programs(cache, tmp_path):
    binary = tmp_path / "skeind"
    binary.write_bytes((BUILD / "skeind").read_bytes())
    binary.chmod(0o755)
    assert "skein-build" in complaint(run(cache, binary=binary, env={**os.environ, "PATH": "/bin"}))


def test_busy_port(cache, server):
    assert "in use" in complaint(run(cache, "--listen", f"127.0.0.1:{server.port}"))


def timed_close(daemon):
    begin = time.monotonic()
    assert daemon.close() == 0, daemon.log
    return time.monotonic() - begin


def test_idle_and_half_sent_requests_do_not_delay_the_end(cache):
    daemon = Daemon(cache, "--threads", "1")
    halves = [
        b"",
        b"POST /v1/compl",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    clients = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(4 * len(halves))]
    for i, client in enumerate(clients):
        client.sendall(halves[i % len(halves)])
        if i >= 2 * len(halves):
            client.shutdown(socket.SHUT_WR)
    assert daemon.get("/health").status == 200
    assert timed_close(daemon) < QUICK_S
    for client in clients:
        client.close()


def open_stream(daemon):
    body = json.dumps({"prompt": "x", "max_tokens": 240, "ignore_eos": True, "stream": True, "n": 4}).encode()
    client = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
    client.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


def read_all(client):
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_signal_to_the_whole_group_lets_streams_end(cache):
    """Ctrl-C and service managers signal skein-engine too."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        daemon = Daemon(cache, "--threads", "1")
        pids = [daemon.process.pid, daemon.engine_pid()]
        client = open_stream(daemon)
        got = client.recv(300)
        for pid in pids:
            os.kill(pid, signum)
        got += read_all(client)
        assert got.count(b'"finish_reason":"length"') == 4 and b"data: [DONE]" in got, got[-500:]
        assert timed_close(daemon) < QUICK_S
        assert "starting again" not in "".join(daemon.log)


def test_the_engine_ignores_what_is_meant_for_the_daemon(cache):
    daemon = Daemon(cache, "--threads", "1")
    pid = daemon.engine_pid()
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, signum)
    daemon.ok("/v1/completions", {"prompt": "x", "max_tokens": 4})
    assert daemon.engine_pid() == pid and daemon.close() == 0


def test_the_second_signal_is_at_once(cache):
    daemon = Daemon(cache, "--threads", "1")
    daemon.ok("/v1/completions", {"prompt": "x", "max_tokens": 1})
    os.kill(daemon.engine_pid(), signal.SIGSTOP)  # the streams cannot end by themselves
    client = open_stream(daemon)
    assert client.recv(12) == b"HTTP/1.1 200"
    os.kill(daemon.process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert daemon.process.poll() is None
    os.kill(daemon.process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert timed_close(daemon) < QUICK_S + 3  # the engine is given its grace; a third signal changes nothing
    assert b"data: [DONE]" in read_all(client)


def test_printed_options_read_back(cache, tmp_path):
    printed = run(cache, "--max-seqs", "7", "--api-key-file", "/a b", "--print-config")
    assert printed.returncode == 0 and "\nmax-seqs = 7\n" in printed.stdout and "\n#max-queue = " in printed.stdout
    (tmp_path / "skein.conf").write_text(printed.stdout)
    again = subprocess.run([str(BUILD / "skeind"), "--config", str(tmp_path / "skein.conf"), "--print-config"], capture_output=True, text=True)
    assert again.stdout == printed.stdout


def test_a_cpu_without_simd_levels_is_served_by_the_reference(start):
    ask = {"prompt": "The capital", "max_tokens": 8, "temperature": 0, "logprobs": 2}
    fallen, chosen = start(env={"SKEIN_ISA": "none"}), start("--device", "ref")
    answers = [s.ok("/v1/completions", ask)["choices"] for s in (fallen, chosen)]
    assert answers[0] == answers[1]
    assert "falling back to the plain C backend" in fallen.drain_log() and "falling back" not in chosen.drain_log()


def test_a_recording_replays_bit_for_bit(cache, tmp_path):
    record = tmp_path / "plans"
    server = Daemon(cache, "--threads", "1", "--engine-record", str(record))
    long = {"prompt": list(range(4, 104)), "max_tokens": 12, "logprobs": 3, "seed": 5}
    cold = server.ok("/v1/completions", long)
    cached = server.ok("/v1/completions", {**long, "n": 2})
    assert cached["choices"][0]["logprobs"] == cold["choices"][0]["logprobs"]
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert cached["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64
    assert server.close() == 0
    engine_dirs = [d for d in cache.iterdir() if (d / "config.json").exists()]
    replays = [subprocess.run([BUILD / "skein-engine", "--dir", d, "--replay", record], capture_output=True, text=True) for d in engine_dirs]
    assert sum("all equal\n" in r.stdout for r in replays) == 1, replays
    assert all("engine directory" in r.stderr for r in replays if r.returncode)
    dump = subprocess.run([BUILD / "skein-engine", "--dump", record], capture_output=True, text=True)
    assert "open slot=0" in dump.stdout and "append slot=0" in dump.stdout
