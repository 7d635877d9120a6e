"""The pictures of the READMEs: what is drawn is what the library does."""

import json

import numpy as np
import pytest

from ms_optim.ema.schedules import SCHEDULES
from parity.report import pictures


def test_shares_of_an_average():
    """Those of a constant decay are a geometric series, and of zero_start with decay 1 those of a plain mean."""
    found = pictures.shares(0.9, "constant", 20)
    assert np.allclose(found, [0.9**20, *(0.1 * 0.9**age for age in reversed(range(20)))], rtol=1e-12)
    assert np.allclose(pictures.shares(1.0, "zero_start", 20), [0.0, *[1 / 20] * 20], rtol=1e-12)
    for schedule in SCHEDULES:
        assert pictures.shares(0.9, schedule, 20).sum() == pytest.approx(1, rel=1e-12)


def test_the_ways_of_an_optimizer():
    """Each begins at the start with no memory of the one before, and the best ends lowest."""
    start = (-1.2, 1.0)
    found = pictures.ways("Adam", pictures.rosenbrock, start, 30)
    assert {*found} == {*pictures.RATES}
    for rate, points in found.items():
        assert points.shape == (31, 2) and (points[0] == start).all()
        # Adam's first step is the learning rate in each coordinate, whatever was before
        assert np.allclose(np.abs(points[1] - points[0]), rate, rtol=1e-6)
    best, points = pictures.best_way("Adam", pictures.rosenbrock, start, 30)
    ends = {rate: pictures.rosenbrock(points[-1])[0] for rate, points in found.items()}
    assert ends[best] == min(ends.values()) and np.array_equal(points, found[best])


def test_a_way_that_leads_nowhere_is_not_the_best():
    """What overflows is left, and has as many points as the others."""
    found = pictures.ways("SGD", pictures.rosenbrock, (-1.2, 1.0), 30)
    assert not np.isfinite(found[1.0][-1]).all() and found[1.0].shape == (31, 2)
    best, points = pictures.best_way("SGD", pictures.rosenbrock, (-1.2, 1.0), 30)
    assert best < 0.01 and np.isfinite(points).all()


def test_pictures_of_runs(tmp_path, monkeypatch, capsys):
    """Those of trainings, and a message for a folder that is none."""
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"step": 1, "loss": 2.0, "lr": 0.1}, {"step": 2, "loss": 1.0, "lr": 0.1}]
    lines.append({"step": 2, "accuracy": 0.5, "average": 0.4})
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pictures.history(run) == {
        "loss": [(1, 2.0), (2, 1.0)],
        "lr": [(1, 0.1), (2, 0.1)],
        "accuracy": [(2, 0.5)],
        "average": [(2, 0.4)],
    }
    broken_off = tmp_path / "broken_off"
    broken_off.mkdir()
    (broken_off / "history.jsonl").write_text(json.dumps(lines[0]) + "\n")
    monkeypatch.setattr(pictures, "PICTURES", {"rates": pictures.draw_rates})
    pictures.main([str(tmp_path / "out"), "--runs", str(run), str(broken_off)])
    for name in ("rates", "runs"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        pictures.main([str(tmp_path / "out"), "--runs", str(tmp_path / "none")])
    assert "--runs must be folders that train.py has written, with history.jsonl, but got" in capsys.readouterr().err


def test_every_schedule_is_drawn():
    """From its first step to its last."""
    drawn = pictures.rates()
    assert all(len(rates) == pictures.STEPS and 0 < max(rates) <= 1 for rates in drawn.values())
