"""Trainings of scripts/nfnet by two workers, one of which is asked to stop."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import nfnet_workers
from safetensors.numpy import load_file
from src.callback import LAST

STEPS = 44
pytestmark = pytest.mark.slow


def said(forks, folder, part, number):
    """What the workers say of the trainings of a part, one of which is stopped by a signal to the one that waits."""
    logs = folder / part
    logs.mkdir()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(forks.launched, logs, nfnet_workers.__file__, str(folder), part)
        asked = folder / nfnet_workers.ASKED
        while not asked.exists() and not done.done():
            time.sleep(0.05)
        if asked.exists():
            os.kill(int(asked.read_text()), number)
            asked.unlink()
        return done.result()


def after(word, said):
    """What follows a word in the lines that begin with it."""
    return [line.removeprefix(word) for text in said for line in text.splitlines() if line.startswith(word)]


def test_two_workers_stop_together_and_go_on_to_the_bit(forks, tmp_path):
    """By a SIGTERM for the second, then by a SIGINT for the first, each within an epoch; as if nobody had asked."""
    first, second = (said(forks, tmp_path, *part) for part in (("first", signal.SIGTERM), ("second", signal.SIGINT)))
    assert after("REFUSED ", first) == [
        f"For 'recipe', 'lr' must be the same for all workers, but got {rate} here and another elsewhere."
        for rate in (0.0, 0.1)
    ]
    assert not (tmp_path / "other").exists()
    ends = [[json.loads(line) for line in after("ENDED ", told)] for told in (first, second)]
    assert ends == [
        [end for rank in (0, 1) for end in (["whole", rank, STEPS], ["parts", rank, 5])],
        [["parts", rank, 30] for rank in (0, 1)],
    ]
    there = [json.loads(line) for line in after("IS ", first + second)]
    for step in nfnet_workers.STOPPED:
        of_step = [each for each in there if each["step"] == step]
        assert sorted((each["name"], each["rank"]) for each in of_step) == [
            (name, rank) for name in ("parts", "whole") for rank in (0, 1)
        ]
        assert len({each["bits"] for each in of_step}) == 1
    whole, parts = (load_file(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert parts.keys() - whole.keys() == {"ms_optim.also"}  # as it was stopped within an epoch
    assert (whole["global_step"].item(), parts["global_step"].item()) == (STEPS, 30)
    evaluated = [
        [line for line in (tmp_path / name / "history.jsonl").read_text().splitlines() if "average" in line]
        for name in ("whole", "parts")
    ]
    assert evaluated[0][:1] == evaluated[1] and len(evaluated[0]) == 2
