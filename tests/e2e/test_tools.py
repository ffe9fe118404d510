"""The test tools themselves: what mock_engine replays is what faulty_engine recorded, and it serves more streams than an
engine would."""

from crowd import ask_all

ASK = {"prompt": [20, 30, 40], "max_tokens": 30, "seed": 5, "ignore_eos": True, "logprobs": 2, "return_token_ids": True}


def test_mock_replays_what_was_recorded(start, programs, tmp_path):
    recording = str(tmp_path / "stream")
    engine = start("--threads", "1", bin=programs("faulty_engine"), env={"SKEIN_CAPTURE": recording})
    recorded = [ask_all(engine, [{**ASK, "seed": i}])[0] for i in range(3)]
    assert len({str(r) for r in recorded}) == 3
    mock = start(bin=programs("mock_engine"), env={"SKEIN_MOCK_STREAM": recording, "SKEIN_MOCK_STEP_MS": "1"})
    for number in (0, 1, 2, 0):
        assert ask_all(mock, [{**ASK, "stream": number % 2 == 0}])[0] == recorded[number]


def test_mock_takes_many_at_once(start, programs):
    mock = start("--max-queue", "4", bin=programs("mock_engine"), env={"SKEIN_MOCK_STEP_MS": "20"})
    found = ask_all(mock, [{"prompt": [20], "max_tokens": 10, "seed": i, "stream": True, "return_token_ids": True} for i in range(300)])
    assert all(o[:2] == (200, None) and len(o[2][0][1]) == 10 for o in found)
