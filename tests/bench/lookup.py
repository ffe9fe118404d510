#!/usr/bin/env python3
"""What drafts by prompt lookup bring: lookup.py MODEL [--streams N,N] [--rounds N] [skeind's options]. SK_BUILD as for tests/e2e.

Two daemons, one of which drafts, answer the same requests in turn; printed are answer tokens a second of both, the ratio of each round and
its median, and how many tokens were drafted and accepted. Loads, for a chat model:

  copy    code is to be repeated       edit    code is to be repeated with another name       story   nothing in the answer stands in the prompt
"""
import argparse
import concurrent.futures
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from conftest import Daemon  # noqa: E402
from crowd import metrics, total  # noqa: E402

CODE = """def binary_search(items, target):
    low = 0
    high = len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        value = items[middle]
        if value == target:
            return middle
        if value < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1
"""
STORIES = ("Write a story about a lighthouse keeper who finds a bottle.", "Explain how photosynthesis works, and why leaves are green.",
           "Describe the history of Lisbon in detail.", "What should one consider when buying a used bicycle?",
           "Explain the difference between TCP and UDP to a beginner.", "Write a letter about a journey through the desert.",
           "How do vaccines work and how are they tested?", "Tell me about the life of whales in the ocean.")
LOADS = {
    "copy": lambda i: {"text": "Repeat this code exactly:\n```python\n" + CODE.replace("target", f"goal{i}") + "```", "temperature": 0},
    "edit": lambda i: {"text": f"Rewrite this code with `items` renamed to `list{i}`:\n```python\n{CODE}```", "temperature": 0},
    "story": lambda i: {"text": STORIES[i % len(STORIES)], "temperature": 1, "seed": i},
}
MAX_TOKENS = 160


def ask(server, load, i):
    body = LOADS[load](i)
    body["messages"] = [{"role": "user", "content": body.pop("text")}]
    answer = server.ok("/v1/chat/completions", {**body, "max_tokens": MAX_TOKENS})
    return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


def one_round(server, load, n_stream):
    """Answer tokens a second, and the answers."""
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(n_stream) as pool:
        answers = list(pool.map(lambda i: ask(server, load, i), range(n_stream)))
    return sum(n for _, n in answers) / (time.monotonic() - begin), [text for text, _ in answers]


def compare(off, on, load, n_stream, n_round):
    rates, before = [], metrics(on)
    for _ in range(n_round):
        (slow, want), (fast, got) = one_round(off, load, n_stream), one_round(on, load, n_stream)
        rates.append((slow, fast))
        assert got == want, "drafts changed an answer"
    after = metrics(on)
    drafted, accepted = (total(after, f"vllm:spec_decode_num_{k}_tokens_total") - total(before, f"vllm:spec_decode_num_{k}_tokens_total")
                         for k in ("draft", "accepted"))
    ratios = [fast / slow for slow, fast in rates]
    print(f"{load:6} {n_stream:3} at once: {statistics.median(s for s, _ in rates):6.0f} -> {statistics.median(f for _, f in rates):6.0f} tokens/s, "
          f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f}), {drafted:.0f} drafted, {accepted:.0f} accepted", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", default=",".join(LOADS))
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as cache:
        off, on = (Daemon(cache, "--prefix-cache", "off", "--prompt-lookup", x, *options, model=args.model) for x in ("off", "on"))
        for load in args.loads.split(","):
            for n in args.streams.split(","):
                one_round(off, load, int(n)), one_round(on, load, int(n))  # warm up
                compare(off, on, load, int(n), args.rounds)
        off.close(), on.close()


if __name__ == "__main__":
    main()
