"""SIGTERM: what runs ends, what is new is refused, and the end comes when it must."""

import http.client
import json
import os
import signal
import socket
import time

import pytest

from conftest import Daemon, joined_text, parse_events

SLOW = {"SKEIN_FAULT": "slow:20"}  # each token takes 20 ms, so a stream of 100 is there to be looked at
LONG = {"prompt": "The capital", "max_tokens": 100, "ignore_eos": True, "temperature": 0}


def ask(connection, method, path, body=None):
    connection.request(method, path, json.dumps(body) if body else None)
    response = connection.getresponse()
    return response, response.read()


@pytest.fixture
def slow(cache, programs):
    running = []

    def run(*args, env=SLOW):
        running.append(Daemon(cache, "--threads", "1", *args, bin=programs("faulty_engine"), env=env))
        return running[-1]

    yield run
    for daemon in running:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


def begin(daemon):
    """A stream that has begun."""
    connection = daemon.connect()
    connection.request("POST", "/v1/completions", json.dumps({**LONG, "stream": True}))
    response = connection.getresponse()
    assert response.status == 200
    return response, response.readline()


def wait_refused(port):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    raise AssertionError("new connections are still taken")


def test_what_runs_ends_and_what_is_new_is_refused(slow, server):
    daemon = slow()
    whole = server.ok("/v1/completions", LONG)["choices"][0]["text"]
    kept = [daemon.connect() for _ in range(3)]
    for connection in kept:
        assert ask(connection, "GET", "/ready")[0].status == 200
    stream, first = begin(daemon)
    daemon.process.send_signal(signal.SIGTERM)
    wait_refused(daemon.port)

    response, body = ask(kept[0], "POST", "/v1/completions", LONG)
    assert response.status == 503 and int(response.headers["Retry-After"]) >= 1
    assert json.loads(body)["error"]["code"] == "unavailable"
    assert ask(kept[1], "GET", "/ready")[0].status == 503
    assert ask(kept[2], "GET", "/health")[0].status == 200

    assert joined_text(parse_events(first + stream.read())) == whole
    assert daemon.process.wait(30) == 0


def test_nothing_runs_so_it_ends_at_once(slow):
    daemon = slow("--drain-timeout", "3600000")
    kept = daemon.connect()
    assert ask(kept, "GET", "/health")[0].status == 200  # an idle connection delays nothing
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0


@pytest.mark.parametrize("how", ["time is over", "a second signal"])
def test_the_rest_is_told_that_it_was_stopped(slow, how):
    options = ["--drain-timeout", "300" if how == "time is over" else "3600000"]
    daemon = slow(*options, env={"SKEIN_FAULT": "stop-after:8"})  # a stream that will not end by itself
    stream, first = begin(daemon)
    whole = daemon.connect()
    whole.request("POST", "/v1/completions", json.dumps(LONG))
    daemon.process.send_signal(signal.SIGTERM)
    wait_refused(daemon.port)
    if how == "a second signal":
        daemon.process.send_signal(signal.SIGTERM)
    events = parse_events(first + stream.read())
    assert "stopping" in events[-1]["error"]["message"] and events[-1]["error"]["code"] == "unavailable"
    os.kill(daemon.engine_pid(), signal.SIGKILL)  # rather than wait for its grace
    response = whole.getresponse()
    assert response.status == 503 and "stopping" in json.loads(response.read())["error"]["message"]
    assert daemon.process.wait(30) == 0


def test_one_can_watch_it_on_the_admin_listener(slow, tmp_path):
    daemon = slow("--admin-listen", f"unix:{tmp_path}/admin")
    stream, first = begin(daemon)
    daemon.process.send_signal(signal.SIGTERM)
    wait_refused(daemon.port)
    admin = http.client.HTTPConnection("admin")
    admin.sock = socket.socket(socket.AF_UNIX)
    admin.sock.connect(f"{tmp_path}/admin")
    response, body = ask(admin, "GET", "/admin/state")
    assert response.status == 200 and json.loads(body)["server"]["draining"] is True
    assert parse_events(first + stream.read())
    assert daemon.process.wait(30) == 0
    assert not os.path.exists(f"{tmp_path}/admin")
