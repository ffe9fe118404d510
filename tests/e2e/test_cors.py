"""Requests that a browser makes for a page of another origin."""

import pytest

PAGE = "https://page.example"
ASK = {"prompt": "The capital", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def open_to_page(start):
    return start("--threads", "1", "--cors-origins", f"{PAGE}, http://localhost:3000")


def names(answer, header):
    return {name.strip().lower() for name in answer.headers[header].split(",")}


def test_preflight(open_to_page):
    asks = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    answer = open_to_page.request("OPTIONS", "/v1/chat/completions", headers=asks)
    assert answer.status == 204 and answer.body == b""
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "post" in names(answer, "access-control-allow-methods")
    assert {"*", "authorization"} <= names(answer, "access-control-allow-headers")
    assert int(answer.headers["access-control-max-age"]) > 0


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("GET", "/v1/models", None, 200),
        ("POST", "/v1/completions", ASK, 200),
        ("POST", "/v1/completions", {**ASK, "stream": True}, 200),
        ("POST", "/v1/completions", b"{", 400),
        ("GET", "/nothing", None, 404),
        ("DELETE", "/v1/models", None, 405),
    ],
)
def test_every_answer_says_so(open_to_page, method, path, body, status):
    for origin, allowed in [(PAGE, PAGE), ("https://other.example", None), (None, None)]:
        answer = open_to_page.request(method, path, body, headers={"Origin": origin} if origin else {})
        assert answer.status == status
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert "origin" in names(answer, "vary")
        if allowed:
            assert {"x-request-id", "retry-after"} <= names(answer, "access-control-expose-headers")


def test_any_origin(start):
    server = start("--threads", "1", "--cors-origins", "*")
    answer = server.get("/health", headers={"Origin": "https://anyone.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "vary" not in answer.headers


def test_none_by_default(server):
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    for answer in (server.request("OPTIONS", "/v1/models", headers=asks), server.get("/health", headers=asks)):
        assert "access-control-allow-origin" not in answer.headers
