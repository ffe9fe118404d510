"""SIGHUP: a new configuration, all of it or nothing."""

import hashlib
import os
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest

from conftest import BUILD, MODEL, SRC, Daemon, joined_text, parse_events
from crowd import standstill, unfinished, wait_until
from test_drain import LONG, SLOW, begin

TLS = SRC / "tests/golden/tls"


@pytest.fixture
def conf(tmp_path):
    """Writes the configuration file."""

    def write(**options):
        path = tmp_path / "skein.conf"
        path.write_text("".join(f"{name.replace('_', '-')} = {value}\n" for name, value in options.items()))
        return path

    return write


@pytest.fixture
def start_with(cache, conf):
    running = []

    def run(*args, env=None, bin=BUILD, **options):
        running.append(Daemon(cache, "--threads", "1", "--config", str(conf(**options)), *args, env=env, bin=bin))
        return running[-1]

    yield run
    for daemon in running:
        assert daemon.close() == 0


def reload(daemon, words):
    """Sends SIGHUP and waits for `words` in the log; returns what was logged."""
    n = len(daemon.drain_log())
    daemon.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 30
    while words not in daemon.drain_log()[n:]:
        assert daemon.process.poll() is None and time.monotonic() < until, daemon.drain_log()
        time.sleep(0.01)
    time.sleep(0.02)  # for the rest of the same turn
    return daemon.drain_log()[n:]


def write_keys(path, *keys):
    path.write_text("".join(f"key{i} sha256:{hashlib.sha256(k.encode()).hexdigest()}\n" for i, k in enumerate(keys)))


def status(daemon, key):
    return daemon.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status


OK = "the configuration was read anew"
BAD = "the configuration stays as it was"
BODY = {"prompt": "x" * 1500, "max_tokens": 1}


def test_limits_keys_origins_and_log_change_at_once(start_with, conf, tmp_path):
    keys = tmp_path / "keys"
    write_keys(keys, "old")
    daemon = start_with(api_key_file=keys, max_body=65536)
    old, new = {"Authorization": "Bearer old"}, {"Authorization": "Bearer new"}
    page = {"Origin": "https://a.example"}
    assert daemon.post("/v1/completions", BODY, headers=old).status in (200, 400)  # its length is the model's affair
    assert "access-control-allow-origin" not in daemon.get("/health", headers=page).headers

    write_keys(keys, "new")
    conf(api_key_file=keys, max_body=1024, cors_origins="https://a.example", log_format="json")
    told = reload(daemon, '"level":"info"')
    assert OK in told and "restart" not in told
    assert status(daemon, "old") == 401 and status(daemon, "new") == 200
    assert daemon.post("/v1/completions", BODY, headers=new).status == 413
    assert daemon.get("/health", headers=page).headers["access-control-allow-origin"] == "https://a.example"


def test_what_needs_a_restart_is_named(start_with, conf):
    daemon = start_with(max_seqs=8)
    conf(max_seqs=9, chat_template=SRC / "README.md", max_queue=5)
    told = reload(daemon, "only after a restart")
    assert "only after a restart: max-seqs, chat-template\n" in told and OK in told


MISTAKES = {
    "an unknown name": ("bogus", "1", ":3: "),
    "a value out of range": ("max_queue", "0", ":3: "),
    "no such key file": ("api_key_file", "/nowhere", "/nowhere"),
    "no such certificate": ("tls_cert", "/nowhere", "tls-key"),
    "no such template": ("chat_template", "/nowhere", "/nowhere"),
    "no origin": ("cors_origins", "a.example", "a.example"),
    "no such user": ("trust_users", "nobody-has-this-name", "nobody-has-this-name"),
    "no address": ("admin_listen", "8080", "admin-listen: 8080: HOST:PORT"),
}


def test_nothing_changes_where_there_is_a_mistake(start_with, conf):
    daemon = start_with(max_body=65536)
    for name, value, words in MISTAKES.values():
        path = conf(max_body=1024, log_format="json", **{name: value})
        told = reload(daemon, BAD)
        assert words.replace(":3: ", f"{path}:3: ") in told, (name, told)
        assert OK not in told and '{"time"' not in told
        assert daemon.post("/v1/completions", BODY).status != 413, name
    metrics = daemon.get("/metrics").body.decode()
    assert f'skein_reloads_total{{result="refused"}} {len(MISTAKES)}' in metrics, metrics
    conf(max_body=1024)
    reload(daemon, OK)
    assert daemon.post("/v1/completions", BODY).status == 413
    assert 'skein_reloads_total{result="ok"} 1' in daemon.get("/metrics").body.decode()


def test_a_mistake_in_the_key_file_is_named_and_the_old_keys_stay(start_with, tmp_path):
    keys = tmp_path / "keys"
    write_keys(keys, "old")
    daemon = start_with(api_key_file=keys)
    keys.write_text("a sha256:00\n")
    assert f"{keys}:1: " in reload(daemon, BAD)
    keys.write_text("# everybody?\n")
    reload(daemon, BAD)
    assert status(daemon, "old") == 200 and status(daemon, "") == 401


def test_streams_go_on(start_with, conf, programs, server):
    daemon = start_with(bin=programs("faulty_engine"), env=SLOW, log_level="info")
    whole = server.ok("/v1/completions", LONG)["choices"][0]["text"]
    stream, text = begin(daemon)
    for i in range(4):
        conf(max_queue=100 + i, **{"bogus": 1} if i == 2 else {})
        reload(daemon, BAD if i == 2 else OK)
        text += stream.readline()
    assert joined_text(parse_events(text + stream.read())) == whole


@pytest.fixture
def spawn():
    running = []

    def run(*args, **kw):
        running.append(subprocess.Popen(*args, **kw))
        return running[-1]

    yield run
    for process in running:
        process.kill()  # if its test failed
        process.wait()


def test_certificates_change_for_new_connections(cache, conf, spawn, tmp_path):
    for part in ("crt", "key"):
        shutil.copy(TLS / f"first.{part}", tmp_path / f"tls.{part}")
    path = conf(tls_cert=tmp_path / "tls.crt", tls_key=tmp_path / "tls.key")
    command = [BUILD / "skeind", "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", cache, "--config", path]
    with open(tmp_path / "log", "w") as log:
        process = spawn(command, stdout=subprocess.PIPE, stderr=log, text=True)
    line = process.stdout.readline()
    assert line.startswith("skeind: listening on https://127.0.0.1:"), (line, (tmp_path / "log").read_text())
    port = int(line.rsplit(":", 1)[1])

    def shown(connection):
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(True)).split()

    def connect():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port)))

    def wait_log(words):
        until = time.monotonic() + 30
        while words not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)

    first, second = [(TLS / f"{name}.crt").read_text().split() for name in ("first", "second")]
    with connect() as old:
        assert shown(old) == first
        shutil.copy(TLS / "second.crt", tmp_path / "tls.crt")
        process.send_signal(signal.SIGHUP)  # a certificate whose key is another's
        wait_log(BAD)
        with connect() as c:
            assert shown(c) == first
        shutil.copy(TLS / "second.key", tmp_path / "tls.key")
        process.send_signal(signal.SIGHUP)
        wait_log(OK)
        with connect() as c:
            assert shown(c) == second
        old.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert old.recv(100).startswith(b"HTTP/1.1 ")  # 503 while the model loads
    conf()
    process.send_signal(signal.SIGHUP)
    wait_log("only after a restart: tls-cert")
    with connect() as c:
        assert shown(c) == second
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_terminal_that_is_closed_ends_it(cache):
    """There SIGHUP does not come from an operator."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(BUILD / "skeind", ["skeind", "--model", MODEL, "--listen", "127.0.0.1:0", "--cache-dir", str(cache)])
    text = b""
    while b": ready" not in text:
        text += os.read(terminal, 4096)
    os.close(terminal)
    until = time.monotonic() + 30
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    assert ended == (pid, 0)


def test_queue_timeout_reaches_those_who_wait(start_with, conf):
    daemon = start_with(max_seqs=1)
    with standstill(daemon):
        clients = [daemon.connect() for _ in range(2)]
        for i, client in enumerate(clients):
            client.request("POST", "/v1/completions", '{"prompt": "x", "max_tokens": 1}')
            wait_until(lambda: unfinished(daemon) == i + 1, "it is there")
        conf(max_seqs=1, queue_timeout=1)
        reload(daemon, OK)
        assert clients[1].getresponse().status == 504
    assert clients[0].getresponse().status == 200
