"""Log lines: JSON objects or key=value, one a request, and prompts only when asked for."""

import json
import re

import pytest

from conftest import Daemon

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"x-request-id": "my-id-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
SECRET = "swordfish"
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warn|info|debug) (skeind|skein-engine): ")


def ask(daemon, **more):
    return daemon.post("/v1/completions", {"prompt": f"The word is {SECRET} {more}", "max_tokens": 4, **more}, headers=HEADERS)


@pytest.fixture
def log_of(cache):
    """What a daemon of one's own writes, over its whole life, for one good and one bad request."""

    def run(*options):
        daemon = Daemon(cache, "--threads", "1", *options)
        try:
            assert ask(daemon).status == 200
            assert ask(daemon, temperature=99).status == 400
        finally:
            assert daemon.close() == 0
        return [line for line in "".join(daemon.log).splitlines() if not line.startswith("skeind: listening on ")]

    return run


def test_json_lines(log_of):
    lines = [json.loads(line) for line in log_of("--log-format", "json", "--log-level", "debug")]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("error", "warn", "info", "debug")
        assert line["program"] in ("skeind", "skein-engine", "skein-build")
        assert ("message" in line) != ("event" in line), line
    good, bad = [line for line in lines if line.get("event") == "request"]
    assert good["id"] == bad["id"] == "my-id-1"
    assert good["trace"] == TRACE
    assert (good["end"], good["status"], good["answer_tok"]) == ("done", 200, 4)
    assert good["prompt_tok"] > 4
    assert (bad["end"], bad["status"]) == ("refused", 400)
    assert SECRET not in json.dumps(lines)


def test_text_lines(log_of):
    lines = log_of()
    for line in lines:
        assert TEXT_LINE.match(line), line
    good, bad = [line for line in lines if " info skeind: request " in line]
    fields = dict(f.split("=", 1) for f in good.split(" request ")[1].split(" "))
    assert fields["id"] == "my-id-1" and fields["trace"] == TRACE
    assert fields["end"] == "done" and fields["status"] == "200" and fields["answer_tok"] == "4"
    assert " end=refused " in bad
    assert SECRET not in "\n".join(lines)


def test_prompts_when_asked_for(log_of):
    lines = [json.loads(line) for line in log_of("--log-format", "json", "--log-prompts", "--no-access-log")]
    assert not [line for line in lines if line.get("event") == "request"]
    texts = [line for line in lines if SECRET in line.get("text", "")]
    assert texts and all(line["id"] == "my-id-1" for line in texts)


def test_level_hides_lines(log_of):
    lines = log_of("--log-level", "error")
    assert lines == []
