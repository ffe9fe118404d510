"""GET /metrics: the text format of Prometheus to the letter, and figures that agree with what was asked."""

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def read(daemon):
    """{(name, labels): value}; everything that the format asks for is asserted."""
    answer = daemon.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    samples, families, kind = {}, set(), None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in families
            families.add(family)
            kind = None
        elif line.startswith("# TYPE "):
            assert kind is None and line.split(" ")[2] == family
            kind = line.split(" ")[3]
            assert kind in ("counter", "gauge", "histogram")
        else:
            name, labels, value = SAMPLE.fullmatch(line).groups()
            suffix = name.removeprefix(family)
            assert suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",)), line
            assert kind != "counter" or name.endswith("_total")
            assert (name, labels) not in samples, line
            samples[name, labels] = float(value)
    check_histograms(samples)
    return samples


def check_histograms(samples):
    for (name, labels), count in samples.items():
        if not name.endswith("_count"):
            continue
        base = name.removesuffix("_count")
        assert (f"{base}_sum", labels) in samples
        last = (-math.inf, 0)
        for (other, le_labels), n in samples.items():
            if other == f"{base}_bucket" and le_labels.startswith(labels + ",le="):
                bound = float(le_labels.rsplit('="', 1)[1].rstrip('"'))
                assert bound > last[0] and n >= last[1]
                last = (bound, n)
        assert last == (math.inf, count)


def total(samples, name, label=""):
    return sum(v for (n, labels), v in samples.items() if n == name and label in (labels or ""))


def test_labels_and_levels(start):
    samples = read(start("--model-name", 'a"b\\c'))
    labels = r'model_name="a\"b\\c",engine="0"'
    assert samples["vllm:num_requests_running", labels] == 0
    assert samples["vllm:num_requests_waiting", labels] == 0
    assert samples["vllm:kv_cache_usage_perc", labels] == 0
    assert samples["vllm:prompt_tokens_total", labels] == 0
    assert samples["vllm:time_to_first_token_seconds_count", labels] == 0
    assert samples["skein_engine_up", labels] == 1
    assert total(samples, "skein_kv_blocks") == total(samples, "skein_kv_blocks", 'state="free"') > 0
    assert samples["process_open_fds", None] > 5
    assert samples["process_resident_memory_bytes", None] > 1 << 20
    assert total(samples, "skein_build_info") == 1


def test_each_request_counts_once(start):
    daemon = start("--threads", "1")
    before = read(daemon)
    for k in range(5):
        daemon.ok("/v1/completions", {"prompt": f"{k} one", "max_tokens": 3, "ignore_eos": True, "n": 2})
    daemon.stream("/v1/completions", {"prompt": "streamed", "max_tokens": 7, "ignore_eos": True})
    assert daemon.post("/v1/completions", {"prompt": "x", "temperature": 99}).status == 400
    assert daemon.get("/nowhere").status == 404
    after = read(daemon)

    def rose(name, label=""):
        return total(after, name, label) - total(before, name, label)

    assert rose("skein_requests_total") == 7
    assert rose("skein_requests_total", 'end="done"') == 6
    assert rose("skein_requests_total", 'end="refused"') == 1
    assert rose("skein_key_requests_total") == 7
    assert rose("vllm:request_success_total", 'finished_reason="length"') == 11
    assert rose("vllm:generation_tokens_total") == 5 * 2 * 3 + 7
    assert rose("skein_key_tokens_total", 'kind="answer"') == 5 * 2 * 3 + 7
    assert rose("vllm:time_to_first_token_seconds_count") == 6
    assert rose("vllm:inter_token_latency_seconds_count") == 5 * 2 * 2 + 6
    assert rose("vllm:e2e_request_latency_seconds_count") == 6
    assert rose("skein_http_requests_total", 'route="/v1/completions",status="200"') == 6
    assert rose("skein_http_requests_total", 'route="/v1/completions",status="400"') == 1
    assert rose("skein_http_requests_total", 'route="other",status="404"') == 1
    assert rose("vllm:prompt_tokens_total") + rose("vllm:prefix_cache_hits_total") == rose("vllm:prefix_cache_queries_total")
    assert total(after, "vllm:num_requests_running") == 0
    assert total(after, "skein_journal_tokens") == 0
