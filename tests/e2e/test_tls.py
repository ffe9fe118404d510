"""HTTPS: answers, streams, certificates that change under way, and clients that leave."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest

from conftest import BUILD, MODEL, SRC, Daemon, joined_text
from crowd import standstill, unfinished, wait_until

CERTS = SRC / "tests/golden/tls"
ASK = {"prompt": "The capital", "temperature": 0, "ignore_eos": True}


class TlsDaemon(Daemon):
    """Its certificate is a copy that a test may replace."""

    def __init__(self, cache, folder):
        self.folder = folder
        self.install("first")
        files = ["--tls-cert", str(folder / "crt"), "--tls-key", str(folder / "key")]
        super().__init__(cache, "--threads", "1", "--max-seqs", "4", *files)

    def install(self, name, key=None):
        shutil.copy(CERTS / f"{name}.crt", self.folder / "crt")
        shutil.copy(CERTS / f"{key or name}.key", self.folder / "key")

    def _find_port(self):
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"listening on https://127\.0\.0\.1:(\d+)", line):
                return int(found.group(1))
        raise RuntimeError("skeind ended:\n" + "".join(self.log))

    def trust(self, *names):
        context = ssl.create_default_context()
        for name in names or ("first", "second"):
            context.load_verify_locations(CERTS / f"{name}.crt")
        return context

    def connect(self):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.trust())

    def dial(self, context=None):
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return (context or self.trust()).wrap_socket(plain, server_hostname="127.0.0.1")

    def certificate(self):
        with self.dial() as s:
            return dict(x[0] for x in s.getpeercert()["subject"])["commonName"]

    def wait_for_log(self, text, n=1):
        until = time.monotonic() + 20
        while self.drain_log().count(text) < n:
            assert time.monotonic() < until, self.log[-20:]
            time.sleep(0.01)


@pytest.fixture(scope="module")
def https(cache, tmp_path_factory):
    daemon = TlsDaemon(cache, tmp_path_factory.mktemp("tls"))
    yield daemon
    assert daemon.close() == 0, "".join(daemon.log)


def send(s, path, body):
    data = json.dumps(body).encode()
    s.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


def test_answers_and_streams(https):
    text = https.ok("/v1/completions", {**ASK, "max_tokens": 20})["choices"][0]["text"]
    assert joined_text(https.stream("/v1/completions", {**ASK, "max_tokens": 20})) == text
    refused = https.post("/v1/completions", b"{" * 10)
    assert refused.status == 400 and refused.error["code"] == "invalid_json"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(https, version):
    context = https.trust()
    context.minimum_version = context.maximum_version = version
    with https.dial(context) as s:
        assert s.version() == ("TLSv1.2" if version == ssl.TLSVersion.TLSv1_2 else "TLSv1.3")


def test_plain_http_is_not_answered(https):
    with socket.create_connection(("127.0.0.1", https.port), timeout=30) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1" not in s.recv(4096)


def test_new_certificate(https):
    """Connections that come after the reload get it; a stream that is under way goes on; a pair that does not belong
    together changes nothing."""
    assert https.certificate() == "first.example"
    with https.dial() as s:
        send(s, "/v1/completions", {**ASK, "max_tokens": 200, "stream": True})
        got = b""
        while b"data:" not in got:
            got += s.recv(4096)
        https.install("first", key="second")
        https.process.send_signal(signal.SIGHUP)
        https.wait_for_log("is not that of the certificate")
        assert https.certificate() == "first.example"

        https.install("second")
        https.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while https.certificate() != "second.example":
            assert time.monotonic() < until, https.drain_log()
        while b"[DONE]" not in got:
            part = s.recv(65536)
            assert part
            got += part
    assert https.get("/health").status == 200


@pytest.mark.parametrize("how", ["close", "reset", "notify", "half"])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving(https, how, stream):
    """After the first token of a stream, and before any of a whole answer."""
    before = https.drain_log().count("end=gone")
    ask = {**ASK, "temperature": 1, "max_tokens": 200, "stream": stream, "n": 4}
    with https.dial() as s, contextlib.nullcontext() if stream else standstill(https):
        send(s, "/v1/completions", ask)
        if stream:
            got = b""
            while b"data:" not in got:
                got += s.recv(4096)
        else:
            wait_until(lambda: unfinished(https) > 0, "the request is there")
        leave(s, how)
        https.wait_for_log("end=gone", before + 1)


def leave(s, how):
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    if how == "notify":
        s.setblocking(False)
        with contextlib.suppress(OSError):
            s.unwrap()
    if how == "half":
        socket.socket.shutdown(s, socket.SHUT_WR)
    else:
        s.close()


def test_bad_files_are_named(tmp_path):
    (tmp_path / "no.key").write_text("nonsense")
    for cert, key, words in [
        (CERTS / "first.crt", CERTS / "second.key", ["first.crt", "second.key"]),
        (CERTS / "first.crt", tmp_path / "no.key", ["no.key"]),
        (tmp_path / "missing.crt", CERTS / "first.key", ["missing.crt"]),
    ]:
        command = [str(BUILD / "skeind"), "--model", MODEL, "--listen", "127.0.0.1:0", "--tls-cert", str(cert)]
        done = subprocess.run([*command, "--tls-key", str(key)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert all(w in done.stderr for w in words), done.stderr
