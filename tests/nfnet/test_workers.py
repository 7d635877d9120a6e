"""Trainings of scripts/nfnet by two workers, one of which is asked to stop."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import nfnet_workers
from helpers.processes import launched
from safetensors.numpy import load_file
from src.callback import LAST

STEPS = 44
# One process has the fixture that starts others.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


def ended(folder, part, number):
    """Where the trainings of a part ended, one of which is stopped by a signal to the worker that waits for it.

    And what was refused before.
    """
    logs = folder / part
    logs.mkdir()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(launched, logs, nfnet_workers.__file__, str(folder), part)
        asked = folder / nfnet_workers.ASKED
        while not asked.exists() and not done.done():
            time.sleep(0.05)
        if asked.exists():
            os.kill(int(asked.read_text()), number)
            asked.unlink()
        said = done.result()
    return [json.loads(line) for line in after("ENDED ", said)], after("REFUSED ", said)


def after(word, said):
    """What follows a word in the lines that begin with it."""
    return [line.removeprefix(word) for text in said for line in text.splitlines() if line.startswith(word)]


def test_two_workers_stop_together_and_go_on_to_the_bit(tmp_path):
    """By a SIGTERM for the second, then by a SIGINT for the first, each within an epoch; as if nobody had asked."""
    first, refused = ended(tmp_path, "first", signal.SIGTERM)
    second, _ = ended(tmp_path, "second", signal.SIGINT)
    assert refused == [
        f"For 'recipe', 'lr' must be the same for all workers, but got {rate} here and another elsewhere."
        for rate in (0.0, 0.1)
    ]
    assert not (tmp_path / "other").exists()
    steps = [[(each["name"], each["rank"], each["step"]) for each in part] for part in (first, second)]
    assert steps == [
        [(name, rank, step) for rank in (0, 1) for name, step in ends]
        for ends in ([("whole", STEPS), ("parts", 5)], [("parts", 30), ("parts", STEPS)])
    ]
    bits = [{each["bits"] for each in part if each["step"] == step} for part, step in ((first, 5), (second, 30))]
    assert [len(found) for found in bits] == [1, 1]  # of both workers
    assert len({each["bits"] for each in first + second if each["step"] == STEPS}) == 1
    whole, parts = (load_file(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and whole["global_step"].item() == STEPS
    assert [name for name in whole if whole[name].tobytes() != parts[name].tobytes()] == []
    evaluated = [
        [line for line in (tmp_path / name / "history.jsonl").read_text().splitlines() if "average" in line]
        for name in ("whole", "parts")
    ]
    assert evaluated[0] == evaluated[1] and len(evaluated[0]) == 2
