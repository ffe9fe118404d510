"""skein-bench against skeind, and against tests/tools/mock_openai, which can misbehave."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request

import pytest

from conftest import BUILD, SRC
from crowd import wait_until

BENCH = str(BUILD / "skein-bench")
TIMEOUT_S = 60


def bench(url, *args, code=0, env=None):
    result = subprocess.run([BENCH, url, *args], capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **(env or {})})
    assert result.returncode == code, result.stdout + result.stderr
    return result


@contextlib.contextmanager
def mock(gap_us=0):
    process = subprocess.Popen([str(BUILD / "tests/tools/mock_openai"), "0", str(gap_us)], stdout=subprocess.PIPE, text=True)
    yield re.search(r"http://\S+", process.stdout.readline()).group(0)
    assert process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def fast():
    with mock() as url:
        yield url


@pytest.fixture(scope="module")
def slow():
    with mock(2000) as url:
        yield url


def report(tmp_path, url, *args, code=0):
    path = tmp_path / "report.json"
    bench(url, *args, "--json", str(path), code=code)
    return json.loads(path.read_text())


def only_round(tmp_path, url, *args, code=0):
    (one,) = report(tmp_path, url, *args, code=code)["rounds"]
    return one


def test_skeind_by_all_its_reports(server, tmp_path):
    names = [str(tmp_path / n) for n in ("r.json", "r.csv", "r.html")]
    out = bench(f"http://127.0.0.1:{server.port}", "--concurrency", "4", "--requests", "12", "--input", "uniform:4:20", "--output", "8",
                "--slo", "ttft:60000", "--pid", str(server.process.pid), "--json", names[0], "--csv", names[1], "--html", names[2]).stdout
    assert "12 sent, 12 ok, 0 failed" in out and "goodput" in out and f"process {server.process.pid}" in out
    one = json.loads(open(names[0]).read())["rounds"][0]
    assert one["ends"]["ok"] == 12 and one["tokens_out"] == 96 and one["without_usage"] == 0 and one["good"] == 12
    assert one["ttft_ms"]["n"] == 12 and one["itl_ms"]["n"] == one["pieces"] - 12
    assert one["ttft_ms"]["p50"] <= one["ttft_ms"]["p99"] <= one["ttft_ms"]["max"] <= one["e2e_ms"]["max"]
    answers = [v for k, v in one["metrics"].items() if k.startswith("vllm:generation_tokens_total")]
    assert answers == [96]
    rows = list(csv.DictReader(open(names[1])))
    assert len(rows) == 12 and all(r["end"] == "ok" and r["tokens_out"] == "8" for r in rows)
    page = open(names[2]).read()
    assert page.count("<svg") == page.count("</svg>") >= 3 and "<script" not in page and "http-equiv" not in page
    assert not re.search(r"(src|href)=", page)


def test_chat_with_turns(server, tmp_path):
    one = only_round(tmp_path, f"http://127.0.0.1:{server.port}", "--api", "chat", "--concurrency", "2", "--requests", "9", "--turns", "3",
                     "--input", "6", "--output", "4", "--prefix-words", "10", "--prefixes", "2", "--csv", str(tmp_path / "r.csv"))
    assert one["ends"]["ok"] == 9
    talks = {}
    for row in csv.DictReader(open(tmp_path / "r.csv")):
        talks.setdefault(row["conversation"], []).append((int(row["turn"]), int(row["tokens_in"])))
    for turns in talks.values():
        assert [t for t, _ in turns] == list(range(1, len(turns) + 1))
        assert all(a < b for (_, a), (_, b) in zip(turns, turns[1:])), "a turn carries the ones before"
    assert max(len(t) for t in talks.values()) == 3


def test_same_seed_same_load(fast, tmp_path):
    def load(seed):
        path = tmp_path / "r.csv"
        bench(fast, "--rate", "500", "--requests", "50", "--input", "lognormal:30:0.5", "--output", "uniform:1:9", "--seed", seed, "--csv", str(path))
        return sorted((int(r["conversation"]), r["due_ms"], r["tokens_in"], r["tokens_out"]) for r in csv.DictReader(open(path)))

    first = load("1")
    assert len(first) == 50 and load("1") == first != load("2")


@pytest.mark.parametrize("arrival", ["poisson", "gamma", "fixed"])
def test_open_loop_comes_on_time_whatever_the_answers(slow, tmp_path, arrival):
    path = tmp_path / "r.csv"
    bench(slow, "--rate", "200", "--arrival", arrival, "--burstiness", "0.5", "--requests", "100", "--output", "50", "--csv", str(path))
    due = sorted(float(r["due_ms"]) for r in csv.DictReader(open(path)))
    assert len(due) == 100 and 250 < due[-1] < 1100  # the seed's: 500 ms expected
    gaps = [b - a for a, b in zip(due, due[1:])]
    assert (max(gaps) - min(gaps) < 0.01) == (arrival == "fixed")


def test_trace_is_replayed_at_its_times(fast, tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(json.dumps({"timestamp": 1000 + 100 * i, "input_length": 5 + i, "output_length": 1 + i}) + "\n" for i in range(5)))
    bench(fast, "--arrival", "trace", "--speed", "2", "--file", str(trace), "--csv", str(tmp_path / "r.csv"))
    rows = sorted(csv.DictReader(open(tmp_path / "r.csv")), key=lambda r: int(r["conversation"]))
    assert [float(r["due_ms"]) for r in rows] == [0, 50, 100, 150, 200]
    assert [int(r["tokens_in"]) for r in rows] == [5, 6, 7, 8, 9] and [int(r["tokens_out"]) for r in rows] == [1, 2, 3, 4, 5]


def test_half_valid_file(fast, tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_bytes(b'{"prompt":"a b"}\n{"prompt":\n{"prompt":"\xff"}\n{"prompt":"c d"}\n')
    result = bench(fast, "--file", str(trace))
    assert "2 sent, 2 ok" in result.stdout
    assert f"{trace}:2: " in result.stderr and f"{trace}:3: " in result.stderr and "2 malformed" in result.stderr


def test_cancellations_and_deadlines(slow, tmp_path):
    one = only_round(tmp_path, slow, "--concurrency", "8", "--requests", "60", "--output", "30", "--cancel", "0.5", "--cancel-after", "3",
                     "--deadlines", "0.5")
    assert 15 < one["ends"]["left"] < 45 and one["ends"]["left"] + one["ends"]["ok"] == 60
    assert one["failed"] == 0


def test_deadlines_that_pass_are_told_apart(fast, tmp_path):
    one = only_round(tmp_path, fast, "--model", "mock-late", "--requests", "40", "--deadlines", "0.5", "--deadline", "1", code=2)
    assert 8 < one["ends"]["deadline"] < 32 and one["ends"]["status"] == one["failed"] == 40 - one["ends"]["deadline"]
    assert one["errors"]["deadline"] == one["errors"]["status"] == "status 504: too late"


BROKEN = {
    "mock-sse": ("sse", "line 5 of the stream"),
    "mock-utf8": ("utf8", "not UTF-8"),
    "mock-json": ("json", "malformed JSON at byte"),
    "mock-huge": ("sse", ""),
    "mock-event": ("event", "the engine fell over"),
    "mock-short": ("short", "[DONE]"),
    "mock-reset": ("broken", "closed the connection"),
    "mock-busy": ("refused", "status 429: queue full"),
    "mock-fail": ("status", "status 500: it broke"),
    "mock-not-http": ("http", "SSH-2.0-mock"),
    "mock-silent": ("timeout", "--timeout"),
}


@pytest.mark.parametrize("model", BROKEN)
def test_misbehaving_server(fast, tmp_path, model):
    kind, words = BROKEN[model]
    one = only_round(tmp_path, fast, "--model", model, "--concurrency", "2", "--requests", "4", "--timeout", "1000", code=2)
    assert one["ends"][kind] == 4 == one["failed"], one["ends"]
    assert words in one["errors"][kind]
    if kind not in ("refused", "status", "http"):
        assert one["pieces"] >= 8, "what came before the break is kept"


def test_connection_that_is_not_kept(fast, tmp_path):
    assert only_round(tmp_path, fast, "--model", "mock-close", "--requests", "20", "--concurrency", "3")["ends"]["ok"] == 20


def test_whole_answers(fast, tmp_path):
    one = only_round(tmp_path, fast, "--no-stream", "--requests", "5", "--output", "7")
    assert one["ends"]["ok"] == 5 and one["tokens_out"] == 35 and one["ttft_ms"]["n"] == 0 and one["e2e_ms"]["n"] == 5


def test_two_servers_in_turn(fast, slow, tmp_path):
    r = report(tmp_path, fast, "--vs", slow, "--rounds", "4", "--requests", "5", "--output", "20", "--warmup", "2")
    assert [x["server"] for x in r["rounds"]] == [0, 1, 1, 0, 0, 1, 1, 0]
    ratio = r["b_to_a"]["e2e p50"]
    assert ratio["pairs"] == 4 and ratio["least"] <= ratio["ratio"] <= ratio["most"] and ratio["ratio"] > 1
    assert [x["tokens_in"] for x in r["rounds"][0:2]] == [r["rounds"][0]["tokens_in"]] * 2, "a pair has the same load"


def test_search_for_a_rate(fast, slow, tmp_path):
    args = ["--find-rate", "--requests", "10", "--rate", "2000", "--output", "20"]
    assert report(tmp_path, slow, *args, "--slo", "e2e:1")["found_rate"] == 0
    r = report(tmp_path, fast, *args, "--slo", "e2e:100000")
    assert r["found_rate"] == max(x["rate"] for x in r["rounds"]) and all(x["good_share"] == 1 for x in r["rounds"])


def tokens_made(url):
    with urllib.request.urlopen(url + "/metrics") as r:
        return int(re.search(rb"mock_tokens_total\S* (\d+)", r.read()).group(1))


def test_interrupt_ends_with_a_report(slow, tmp_path):
    path = tmp_path / "r.json"
    before = tokens_made(slow)
    process = subprocess.Popen([BENCH, slow, "--concurrency", "3", "--duration", "600000", "--output", "50000", "--json", str(path)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: tokens_made(slow) > before + 50, "the answers come")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    one = json.loads(path.read_text())["rounds"][0]
    assert "ended early" in out and one["interrupted"] and one["ends"]["interrupted"] == 3 and one["pieces"] > 0


@pytest.mark.parametrize("args, words", [
    (["--input", "gauss:3"], "input"),
    (["--rate", "1,x"], "rate"),
    (["--slo", "p99:3"], "slo"),
    (["--extra", "[1]"], "extra"),
    (["--find-rate"], "--slo"),
    (["--rate", "3", "--concurrency", "2"], "closed loop"),
    (["--arrival", "trace"], "--file"),
    (["--api", "chat", "--token-ids", "5"], "token-ids"),
    (["--pid", "4194999"], "no process"),
    (["--file", "/nowhere"], "/nowhere"),
])
def test_bad_options_say_so(fast, args, words):
    result = bench(fast, *args, code=1)
    assert words in result.stderr and result.stderr.startswith("skein-bench: ")


def test_unreachable_server():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for args in ([], ["--model", "m"]):
        result = bench(f"http://127.0.0.1:{port}", *args, code=1)
        assert f"{port}" in result.stderr and "connect" in result.stderr, result.stderr
    assert "no-such-host.invalid" in bench("http://no-such-host.invalid", "--model", "m", code=1).stderr


def serve_tls(context, listener):
    """Answers each request with one event stream and closes; a client that does not trust it is let go."""
    body = 'data: {"choices":[{"text":" a","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as s:
            raw = b""
            while not raw.endswith(b"}") and (more := s.recv(65536)):
                raw += more
            if raw:
                s.sendall((head + body).encode())


def test_tls(tmp_path):
    tls = SRC / "tests/golden/tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "first.crt", tls / "first.key")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_tls, args=(context, listener), daemon=True).start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    args = ["--model", "m", "--requests", "3", "--no-metrics"]
    trusted = only_round(tmp_path, url, *args, "--insecure")
    assert trusted["ends"]["ok"] == 3 and trusted["pieces"] == 3 and trusted["without_usage"] == 3
    refused = only_round(tmp_path, url, *args, code=2)
    assert refused["ends"]["tls"] == 3 and "certificate" in refused["errors"]["tls"]
    listener.close()
