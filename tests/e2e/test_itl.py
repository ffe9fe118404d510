"""--itl-target-ms: prompts are computed in chunks that let the running streams go on, as the recorded plans show."""

import re
import subprocess

import pytest
from crowd import Client, read_all

from conftest import BUILD

ROW_US, TARGET_MS, PROMPT_TOK, LEAST_CHUNK = 2000, 100, 200, 32
STREAM = {"prompt": [20, 30, 40], "max_tokens": 60, "temperature": 0, "ignore_eos": True, "stream": True}


def ask(i, **more):
    return {**STREAM, "prompt": [10 + (i + 3 * k) % 290 for k in range(PROMPT_TOK)], "max_tokens": 4, **more}


@pytest.fixture
def run(start, programs, tmp_path):
    """run(target_ms): the rows of prompts of each step, apart for those in which a stream had its next token and the others."""

    def go(target_ms):
        path = tmp_path / f"plans-{target_ms}"
        options = ["--threads", "1", "--engine-record", str(path), "--itl-target-ms", str(target_ms), "--prefix-cache", "off"]
        env = {"SKEIN_FAULT": f"slow-row:{ROW_US}"}
        server = start(*options, bin=programs("faulty_engine"), env=env)
        alone = Client(server, ask(0))
        read_all([alone])
        stream = Client(server, STREAM)
        read_all([stream], until=lambda: stream.data.count(b"data:") >= 4)
        prompts = [Client(server, ask(i)) for i in range(1, 4)]
        read_all([stream, *prompts])
        assert {c.outcome()[:2] for c in (alone, stream, *prompts)} == {(200, None)}
        return read_plans(path)

    return go


def read_plans(path):
    text = subprocess.run([BUILD / "skein-engine", "--dump", path], capture_output=True, text=True, check=True).stdout
    n_prompt, beside, apart = {}, [], []
    for plan in text.split("\nplan ")[1:]:
        n_prompt |= {s: int(n) for s, n in re.findall(r"^open slot=(\d+) .*?n_prompt=(\d+)", plan, re.M)}
        runs = [(s, int(pos), int(n)) for s, pos, n in re.findall(r"^run slot=(\d+) pos=(\d+) n=(\d+)", plan, re.M)]
        rows = sum(n for s, pos, n in runs if pos < n_prompt[s])
        decodes = any(pos >= n_prompt[s] for s, pos, _ in runs)
        if rows:
            (beside if decodes else apart).append(rows)
    return beside, apart


def test_chunks_follow_the_target(run):
    """A row takes 2 ms: so no more than 50 of them take 100 ms; but a step that nobody waits for is whole."""
    beside, apart = run(TARGET_MS)
    assert apart[0] == PROMPT_TOK
    assert len(beside) >= 3 and max(beside) <= TARGET_MS * 1000 // ROW_US
    assert min(beside[:3]) >= LEAST_CHUNK


def test_a_target_out_of_reach(run):
    """Prompts go on all the same."""
    beside, _ = run(1)
    assert beside[:3] == [LEAST_CHUNK] * 3


def test_a_target_out_of_sight(run):
    beside, apart = run(60000)
    assert apart[0] == PROMPT_TOK and max(beside) >= PROMPT_TOK
