"""API keys: who gets in, and what the others are told."""

import hashlib

import pytest


@pytest.fixture(scope="module")
def locked(start, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    digest = hashlib.sha256(b"hashed-key").hexdigest().upper()
    path.write_bytes(f"# a comment\r\n\r\n  bare-key \r\nalice\tsha256:{digest}\r\n".encode())
    return start("--threads", "1", "--api-key-file", str(path))


@pytest.mark.parametrize("key", ["Bearer bare-key", "bearer hashed-key", "Bearer   bare-key  "])
def test_known_keys(locked, key):
    assert locked.get("/v1/models", headers={"Authorization": key}).status == 200


@pytest.mark.parametrize(
    "headers",
    [{}]
    + [
        {"Authorization": value}
        for value in ("", "Bearer", "Bearer ", "Bearer x", "bare-key", "Basic bare-key", "Bearer alice", "Bearer #", "Bearer bare-key x")
    ],
)
def test_unknown_keys(locked, headers):
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/nowhere"), ("GET", "/version")):
        answer = locked.request(method, path, headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.error["type"] == "authentication_error" and answer.error["code"] == "invalid_api_key"


def test_probes_need_no_key(locked):
    assert locked.get("/health").status == 200
    assert locked.get("/ready").status == 200
