"""API keys: who gets in and to what, whose cached blocks are whose, and who needs none."""

import hashlib
import http.client
import os
import re
import signal
import socket
import time

import pytest

from conftest import Answer

PROMPT = list(range(20, 120))  # some whole blocks


def digest(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


KEYS = f"""\
# a comment\r

  bare-key \r
alice\t{digest("alice-1").upper().replace("SHA256", "sha256")}\r
alice {digest("alice-2")}
bob   {digest("bob-1")} scope=inference
left  {digest("left-1")} cache=team
right {digest("right-1")} cache=team weight=2
slow  {digest("slow-1")} rpm=1
watch {digest("watch-1")} scope=metrics
chief {digest("chief-1")} scope=admin
all   {digest("all-1")} scope=inference,metrics,admin
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def locked(start, folder):
    (folder / "keys").write_text(KEYS, newline="")
    return start(
        "--threads", "1", "--api-key-file", str(folder / "keys"), "--trust-users", str(os.getuid()),
        "--listen", f"127.0.0.1:0,unix:{folder}/socket", "--admin-listen", f"127.0.0.1:0,unix:{folder}/admin",
    )  # fmt: skip


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def ask(connection, method, path, body=None, headers={}):
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = Answer(response, response.read())
    connection.close()
    return answer


@pytest.fixture(scope="module")
def admin_port(locked):
    return int(re.search(r"listening on http://127\.0\.0\.1:(\d+) \(admin\)", locked.drain_log()).group(1))


@pytest.mark.parametrize("key", ["Bearer bare-key", "bearer alice-1", "Bearer alice-2", "Bearer   bare-key  "])
def test_known_keys(locked, key):
    assert locked.get("/v1/models", headers={"Authorization": key}).status == 200


def test_key_in_the_header_of_anthropics_clients(locked):
    assert locked.get("/v1/models", headers={"x-api-key": "bob-1"}).status == 200
    assert locked.get("/v1/models", headers={"x-api-key": "Bearer bob-1"}).status == 401
    assert locked.get("/v1/models", headers={"x-api-key": "bob-1", **bearer("x")}).status == 401


@pytest.mark.parametrize(
    "headers",
    [{}]
    + [
        {"Authorization": value}
        for value in ("", "Bearer", "Bearer ", "Bearer x", "bare-key", "Basic bare-key", "Bearer alice", "Bearer #", "Bearer bare-key x", f"Bearer {digest('bob-1')}")
    ],
)
def test_unknown_keys(locked, headers):
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/nowhere"), ("DELETE", "/version"), ("GET", "/admin/state")):
        answer = locked.request(method, path, headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.error["type"] == "authentication_error" and answer.error["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/health", "/ready", "/readyz", "/livez"])
def test_probes_need_no_key(locked, path):
    assert locked.get(path).status == 200
    assert locked.request("HEAD", path).status == 200


def test_methods_are_told_without_a_key(locked):
    """A browser's preflight has none."""
    answer = locked.request("OPTIONS", "/v1/completions")
    assert answer.status == 204 and answer.headers["allow"] == "POST, OPTIONS"
    assert locked.request("OPTIONS", "/nowhere").status == 401
    answer = locked.request("PUT", "/v1/models", headers=bearer("bob-1"))
    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD, OPTIONS"


ROUTES = [  # method, path, the scope that it needs, what it answers to those who have it
    ("GET", "/v1/models", "inference", 200),
    ("POST", "/v1/completions", "inference", 400),
    ("POST", "/v1/chat/completions", "inference", 400),
    ("POST", "/tokenize", "inference", 400),
    ("POST", "/detokenize", "inference", 400),
    ("POST", "/explain", "inference", 400),
    ("GET", "/version", None, 200),
    ("GET", "/nowhere", None, 404),
    ("DELETE", "/metrics", None, 405),
    ("GET", "/metrics", "metrics", 200),
    ("GET", "/admin/state", "admin", 200),
    ("GET", "/admin/nowhere", None, 404),
]
SCOPES = {"bob-1": {"inference"}, "watch-1": {"metrics"}, "chief-1": {"admin"}, "all-1": {"inference", "metrics", "admin"}}


@pytest.mark.parametrize("method, path, scope, status", ROUTES)
@pytest.mark.parametrize("key", SCOPES)
def test_scopes(locked, admin_port, key, method, path, scope, status):
    may = scope is None or scope in SCOPES[key]
    answer = ask(http.client.HTTPConnection("127.0.0.1", admin_port, timeout=60), method, path, headers=bearer(key))
    assert answer.status == (status if may else 403)
    if not may:
        assert answer.error["type"] == "permission_denied_error" and f"`{scope}`" in answer.error["message"]
    answer = locked.request(method, path, headers=bearer(key))
    if scope == "admin":
        assert answer.status == 403 and "--admin-listen" in answer.error["message"]
    else:
        assert answer.status == (status if may else 403)


def n_cached(locked, key, **more):
    answer = locked.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 1, **more}, headers=bearer(key))
    assert answer.status == 200, answer.body
    return answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_cached_blocks_are_a_keys_own(locked):
    assert n_cached(locked, "alice-1") == 0
    assert n_cached(locked, "bob-1") == 0
    assert n_cached(locked, "alice-2") > 0  # another key of the same name
    assert n_cached(locked, "left-1") == 0
    assert n_cached(locked, "right-1") > 0  # of the same group
    assert n_cached(locked, "bare-key") == 0
    assert n_cached(locked, "alice-1", cache_salt="team") == 0
    assert n_cached(locked, "alice-1", cache_salt="team") > 0
    assert n_cached(locked, "bob-1", cache_salt="team") == 0


def test_rate_is_a_keys_own(locked):
    body = {"prompt": [20], "max_tokens": 1}
    assert locked.post("/v1/completions", body, headers=bearer("slow-1")).status == 200
    answer = locked.post("/v1/completions", body, headers=bearer("slow-1"))
    assert answer.status == 429 and answer.error["code"] == "rate_limit_exceeded"
    assert int(answer.headers["retry-after"]) > 1
    assert locked.post("/v1/completions", body, headers=bearer("bob-1")).status == 200


def test_figures_by_key(locked):
    def counted(key, end):
        text = locked.get("/metrics", headers=bearer("watch-1")).body.decode()
        found = re.search(rf'^skein_key_requests_total{{key="{key}",end="{end}"}} (\d+)$', text, re.M)
        return int(found.group(1)) if found else 0

    before = counted("left", "done"), counted("right", "done"), counted("left", "refused")
    n_cached(locked, "left-1")
    assert locked.post("/v1/completions", {"prompt": []}, headers=bearer("left-1")).status == 400
    assert (counted("left", "done"), counted("right", "done"), counted("left", "refused")) == (before[0] + 1, before[1], before[2] + 1)


def test_trusted_user_of_a_unix_socket(locked, folder):
    assert ask(Unix(f"{folder}/socket"), "GET", "/metrics").status == 200
    assert ask(Unix(f"{folder}/socket"), "GET", "/admin/state").status == 403
    answer = ask(Unix(f"{folder}/admin"), "GET", "/admin/state")
    assert answer.status == 200
    assert f"user:{os.getuid()}" in [k["name"] for k in answer.json["tenants"]]
    assert locked.get("/metrics").status == 401  # the same user over TCP is nobody


def wait_for_log(daemon, pattern):
    until = time.monotonic() + 60
    while not re.search(pattern, daemon.drain_log()):
        assert time.monotonic() < until, f"no `{pattern}` in:\n" + daemon.drain_log()
        time.sleep(0.02)


def test_reload(start, tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"old {digest('old-1')}\n")
    daemon = start("--threads", "1", "--api-key-file", str(path))

    def status(key):
        return daemon.get("/v1/models", headers=bearer(key)).status

    path.write_text(f"old {digest('old-1')}\nnew {digest('new-1')} rqm=3\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for_log(daemon, re.escape(f"{path}:2:"))
    assert (status("old-1"), status("new-1")) == (200, 401)
    path.write_text(f"new {digest('new-1')} scope=inference,metrics\n")
    daemon.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 60
    while status("new-1") != 200:
        assert time.monotonic() < until
    assert status("old-1") == 401
    text = daemon.get("/metrics", headers=bearer("new-1")).body.decode()
    assert 'skein_reloads_total{result="refused"} 1' in text and 'skein_reloads_total{result="ok"} 1' in text
