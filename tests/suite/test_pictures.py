"""The pictures of the READMEs: what is drawn is what the library does."""

import json

import numpy as np
import pytest

from ms_optim import lr_scheduler
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
    """All that the library exports, but for what is no schedule, from its first step to its last."""
    drawn = pictures.rates()
    assert {*drawn} == {*lr_scheduler.__all__} - {"LRScheduler", "SchedulerCallback", "table"}
    assert all(len(rates) == pictures.STEPS and 0 < max(rates) <= 1 for rates in drawn.values())
    # no two are one line; that of a loss begins when it has not fallen for longer than the patience
    assert len({*map(tuple, drawn.values())}) == len(drawn)
    plateau = drawn["ReduceLROnPlateau"]
    assert plateau[: pictures.FALLS + 17] == [1.0] * (pictures.FALLS + 17) and plateau[pictures.FALLS + 17] == 0.5


def test_the_ways_that_are_drawn_are_seen():
    """In the valley most of each is in the frame: RMSprop's lowest end is that of a way which leaves it at once."""
    start = (-1.2, 1.0)
    assert not pictures.seen(pictures.best_way("RMSprop", pictures.rosenbrock, start)[1])
    rate, points = pictures.best_way("RMSprop", pictures.rosenbrock, start, among=pictures.seen)
    assert rate == pytest.approx(0.1) and pictures.seen(points)


def test_slopes_are_those_of_the_loss():
    """By differences of it."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((5, 4), (3, 5))]
    images, labels = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)
    _, found = pictures.slopes(weights, images, labels)
    for i, weight in enumerate(weights):
        for place in np.ndindex(weight.shape):
            losses = []
            for step in (1e-6, -1e-6):
                moved = [other.copy() for other in weights]
                moved[i][place] += step
                losses.append(pictures.slopes(moved, images, labels)[0])
            assert found[i][place] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)


def test_clipping_on_and_off():
    """Where plain momentum comes to no number, or learns nothing, clipping learns; where it learns, both do."""
    found = pictures.clipped((0.01, 0.0), (0.02, 0.2))
    ends = {run: np.mean(losses[-10:]) for run, losses in found.items()}
    assert len({losses[0] for losses in found.values()}) == 1
    assert ends[0.01, 0.02] < 1 and ends[0.0, 0.02] < 1 and ends[0.01, 0.2] < 0.5
    assert not ends[0.0, 0.2] < 2
