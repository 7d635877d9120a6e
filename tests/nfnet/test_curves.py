"""The picture of scripts/nfnet beside timm: what is said of two trainings is what they did."""

import importlib.util
import math
import sys
from dataclasses import replace

import mindspore as ms
import pytest
from helpers.processes import ROOT
from src import training
from src.config import Recipe
from src.nfnet import Architecture

DIGITS = ROOT / "scripts" / "nfnet" / "configs" / "digits.yaml"


@pytest.fixture
def curves(monkeypatch):
    """The script as a module; what it sets for its process is what it was before."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("curves", ROOT / "scripts" / "_curves.py")
    module = importlib.util.module_from_spec(spec)
    mode = ms.get_context("mode")
    spec.loader.exec_module(module)
    with module.plt.rc_context():
        yield module
    ms.set_context(mode=mode)


def made_up(curves, parted):
    """Trainings whose numbers are known: ours is off by `parted`, those of timm in float32 by 1, 2 and 3 times 1e-6."""
    far = {curves.HERE: parted, curves.TRUTH: [0.0] * len(parted)}
    far |= {name: [i * 1e-6] * len(parted) for i, name in enumerate((curves.TIMM, *curves.AGAIN), 1)}
    some = {kind: {name: [0.5] * len(parted) for name in far} for kind in ("loss",)}
    ends = {kind: {name: [(len(parted), 0.75)] for name in far} for kind in ("accuracy", "average")}
    return {"parted": far, "average parted": far, **some, **ends}


def test_what_is_beyond_the_budget_is_told(curves):
    """Three times the farthest of float32, at each step; from where rounding alone parts them; and the losses."""
    told = made_up(curves, [1e-6, 9e-6, 9.1e-6, 2e-6])
    without = {curves.HERE: [2.0, math.nan], curves.TIMM: [2.0, 1.5]}
    lines = curves.findings(told, without)
    assert lines[0] == (
        "weights: within 3 times float32's own error at 3 of 4 steps; at most 3.03 times, at step 3; outside first at "
        "step 3"
    )
    assert "  MindSpore: 1.0e-06 at 1, 9.0e-06 at 2, 2.0e-06 at 4" in lines
    assert not [line for line in lines if "rounding alone" in line]
    assert "accuracy: MindSpore 75.00%" in "\n".join(lines)
    assert lines[-2:] == [
        "without clipping, MindSpore: the loss is nan at step 2",
        "without clipping, timm, float32: the loss is 1.5000 at step 2",
    ]
    told["parted"][curves.TIMM][2:] = [2e-4, 2e-4]
    assert "  rounding alone parts timm's by 0.0001 from step 3 on" in curves.findings(told, without)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["dropout=0.1"], "'dropout' must be 0.0, because each framework draws by itself, but got 0.1"),
        (["approximate=true"], "'approximate' must be False, because timm computes the exact form, but got True"),
        ([], "timm must be installed, as `scripts/pictures --timm FOLDER` sees to it"),
    ],
)
def test_what_cannot_be_compared_is_named(curves, monkeypatch, capsys, tmp_path, changes, words):
    """What timm's training has not, and timm itself where it is not installed."""
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(SystemExit):
        curves.main([str(tmp_path), str(DIGITS), "--set", *changes])
    assert words in " ".join(capsys.readouterr().err.split())


def test_trains_beside_timm(timm, curves, monkeypatch, tmp_path, capsys):
    """An epoch of one block and its picture; and one whose clipping is another, which does not stay within."""
    monkeypatch.setitem(training.ARCHITECTURES, "nfnet_small", Architecture((1,), (32,), 16, 16))
    changes = ["epochs=1", "warmup_epochs=0"]
    curves.main([str(tmp_path), str(DIGITS), "--set", *changes])
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "within 3 times float32's own error at 22 of 22 steps" in line] == said[1:7:5]
    picture = (tmp_path / "curves.svg").read_text()
    assert "<svg" in picture and "digits, learning rate 0.4" in picture and str(tmp_path / "curves.svg") == said[-1]
    recipe = Recipe.read(DIGITS, ["ema_schedule=timm", *changes])
    build = training.build
    monkeypatch.setattr(training, "build", lambda recipe, steps: build(replace(recipe, clipping=0.011), steps))
    line = curves.findings(curves.compared(timm, recipe, tell=str), {})[0]
    assert "outside first at step 1" in line or "outside first at step 2" in line
