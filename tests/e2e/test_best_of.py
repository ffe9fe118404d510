"""best_of: more answers than are shown, and the best of them."""

C = "/v1/completions"
ASK = {"prompt": [20, 30, 40], "max_tokens": 12, "temperature": 1.3, "seed": 5, "ignore_eos": True}


def mean(choice):
    values = choice["logprobs"]["token_logprobs"]
    return sum(values) / len(values)


def without_index(choice):
    return {k: v for k, v in choice.items() if k != "index"}


def test_shows_the_best(server):
    """Choice k of n is what it is whatever n is, so all candidates can be seen."""
    all_of_them = server.ok(C, {**ASK, "n": 6, "logprobs": 0})["choices"]
    best = server.ok(C, {**ASK, "n": 2, "best_of": 6, "logprobs": 0})
    wanted = sorted(all_of_them, key=mean, reverse=True)[:2]
    assert [without_index(c) for c in best["choices"]] == [without_index(c) for c in wanted]
    assert [c["index"] for c in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 6 * 12
    bare = server.ok(C, {**ASK, "n": 2, "best_of": 6})["choices"]
    assert [c["text"] for c in bare] == [c["text"] for c in wanted]
    assert all(c["logprobs"] is None for c in bare)


def test_of_each_prompt(server):
    prompts = [[20, 30, 40], [50, 60], "The"]
    each = [server.ok(C, {**ASK, "prompt": p, "best_of": 4, "n": 2})["choices"] for p in prompts[:2]]
    found = server.ok(C, {**ASK, "prompt": prompts[:2], "best_of": 4, "n": 2})
    assert [c["text"] for c in found["choices"]] == [c["text"] for choices in each for c in choices]
    assert [c["index"] for c in found["choices"]] == [0, 1, 2, 3]
    assert found["usage"]["completion_tokens"] == 2 * 4 * 12


def test_by_the_mean_and_not_the_sum(server):
    """Answers of different lengths: what counts is the log-prob per token."""
    n_other = 0
    for seed in range(1, 9):
        ask = {**ASK, "max_tokens": 40, "stop_token_ids": list(range(20, 100)), "seed": seed, "logprobs": 0}
        candidates = [c for c in server.ok(C, {**ask, "n": 16})["choices"] if c["logprobs"]["tokens"]]
        best = without_index(server.ok(C, {**ask, "best_of": 16})["choices"][0])
        assert best == without_index(max(candidates, key=mean))
        n_other += best != without_index(max(candidates, key=lambda c: sum(c["logprobs"]["token_logprobs"])))
    assert n_other > 0, "the sum would have chosen the same"


def test_all_of_them_keep_their_order(server):
    several = server.ok(C, {**ASK, "n": 4})["choices"]
    assert server.ok(C, {**ASK, "n": 4, "best_of": 4})["choices"] == several
