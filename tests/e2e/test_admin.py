"""The routes of operators: GET /admin/state, POST /admin/flight and /admin/log."""

import http.client
import os
import re
import signal

import pytest
from conftest import Answer
from crowd import Client, read_all, standstill, unfinished, wait_until

LONG = {"prompt": list(range(20, 90)), "max_tokens": 150, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def daemon(start, tmp_path_factory):
    return start("--threads", "1", "--max-seqs", "3", "--admin-listen", "127.0.0.1:0", "--flight-dir", str(tmp_path_factory.mktemp("flight")))


@pytest.fixture(scope="module")
def admin(daemon):
    port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+) \(admin\)", daemon.drain_log()).group(1))

    def ask(method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = Answer(response, response.read())
        connection.close()
        return answer

    return ask


def state_of(admin):
    answer = admin("GET", "/admin/state")
    assert answer.status == 200
    return answer.json


def test_idle(admin):
    state = state_of(admin)
    engine = state["engines"][0]
    assert state["server"]["version"] and state["server"]["uptime_s"] >= 0 and not state["server"]["draining"]
    assert [x["admin"] for x in state["server"]["listeners"]] == [False, True]
    assert {"max-seqs", "threads", "admin-listen"} <= set(state["server"]["options_given"])
    assert state["models"] == [{"name": "llama", "loaded": True, "max_model_len": 256}]
    assert engine["state"] == "ready" and engine["answers"] and engine["making_progress"]
    assert os.path.exists(f"/proc/{engine['pid']}")
    assert engine["jobs"] == [] and engine["n_jobs"] == 0 and engine["sequences"] == 0
    blocks = engine["blocks"]
    assert blocks["held"] == 0 and blocks["cached"] + blocks["free"] == blocks["total"] > 0


def test_jobs_and_their_sequences(daemon, admin):
    with standstill(daemon):
        clients = [Client(daemon, {**LONG, "n": 2, "priority": k}, headers={"x-request-id": f"job-{k}"}) for k in range(4)]
        wait_until(lambda: unfinished(daemon) >= 8, "all requests are queued")
    engine = state_of(admin)["engines"][0]
    assert engine["n_jobs"] == len(engine["jobs"]) > 0
    for job in engine["jobs"]:
        assert job["id"] in {f"job-{k}" for k in range(4)} and job["priority"] == int(job["id"][-1])
        assert job["choice"] in (0, 1) and job["prompt_tokens"] == 70 and job["max_tokens"] == 150
        assert job["answer_tokens"] <= 150 and job["age_s"] >= 0 and job["key"] == "" and not job["suspect"]
    running = [job for job in engine["jobs"] if job["engine"]]
    assert 0 < len(running) <= 3  # --max-seqs
    for job in running:
        assert job["state"] == "sent" and job["engine"]["tokens"] >= 70
    read_all(clients)
    assert all(c.outcome()[0] == 200 for c in clients)
    wait_until(lambda: state_of(admin)["engines"][0]["blocks"]["held"] == 0, "all blocks are given back")
    assert state_of(admin)["engines"][0]["n_jobs"] == 0


def test_engine_lost_while_it_is_asked(daemon, admin):
    """The daemon answers for what it knows."""
    pid = daemon.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    asked = daemon.connect()
    asked.request("POST", "/explain", '{"prompt": [20, 21]}')
    wait_until(lambda: daemon_took(daemon, asked), "the request is in")
    os.kill(pid, signal.SIGKILL)
    told = Answer(response := asked.getresponse(), response.read())
    assert told.status == 200 and told.json["n_prompt"] == 2 and told.json["cached_tokens"] is None
    wait_until(lambda: daemon.get("/ready").status == 200, "the engine is back")
    engine = state_of(admin)["engines"][0]
    assert engine["restarts"] == 1 and engine["pid"] not in (0, pid) and engine["answers"]


def daemon_took(daemon, connection):
    """Nothing of what was sent waits in the daemon's socket (/proc/net/tcp: rx_queue of its end)."""
    mine = f":{connection.sock.getsockname()[1]:04X}"
    for line in open("/proc/net/tcp"):
        fields = line.split()
        if fields[2].endswith(mine):
            return fields[4].endswith(":00000000")
    return False


def test_clients_that_do_not_wait(daemon, admin):
    with standstill(daemon):
        for _ in range(80):  # more than may be asked at once
            connection = daemon.connect()
            connection.request("POST", "/explain", '{"prompt": [20, 21]}')
            connection.close()
    wait_until(lambda: state_of(admin)["engines"][0]["answers"], "all others have left")


def test_flight(daemon, admin):
    daemon.ok("/v1/completions", {"prompt": [20, 30], "max_tokens": 4})
    answer = admin("POST", "/admin/flight")
    assert answer.status == 200
    path = answer.json["path"]
    assert os.path.getsize(path) > 0


def test_log_level(daemon, admin):
    assert admin("POST", "/admin/log", '{"level":"debug"}').json == {"level": "debug"}
    assert admin("POST", "/admin/log", '{"level":"chatty"}').error["param"] == "level"
    assert admin("POST", "/admin/log", '{"level":"info"}').status == 200
    assert "log level debug from now on" in daemon.drain_log()


def test_not_on_other_listeners(daemon):
    for method, path in (("GET", "/admin/state"), ("POST", "/admin/flight"), ("POST", "/admin/log")):
        answer = daemon.request(method, path)
        assert answer.status == 403 and "--admin-listen" in answer.error["message"]
