"""`python -m parity` from the command line."""

import json

import pytest

from parity import report, suite
from parity.__main__ import main
from parity.cases import CASES
from parity.judge.compare import Verdict


def test_lists_cases(capsys):
    """Each case is a line, and names select."""
    assert main(["SGD", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(case) for case in CASES["SGD"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["AdmW"], "unknown optimizer 'AdmW'; did you mean 'AdamW'?"),
        (["sgd"], "did you mean 'SGD'?"),
        (["--workers", "0"], "--workers must be at least 1, but got 0"),
        (["--steps", "1"], "--steps must be at least 2, but got 1"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--mode", "eager"], "invalid choice: 'eager'"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    """They exit with 2 and say what is allowed."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_report_must_be_a_folder(tmp_path, capsys):
    """A file in its place is told before the run."""
    (tmp_path / "report").write_text("")
    with pytest.raises(SystemExit):
        main(["SGD", "--report", str(tmp_path / "report")])
    assert "is a file" in capsys.readouterr().err


def test_runs_and_reports(tmp_path, monkeypatch, capsys):
    """The table names the case, the JSON holds the scores, and each mode has a plot."""
    monkeypatch.setattr("parity.__main__.FREE_STEPS", 40)
    monkeypatch.setitem(CASES, "SGD", CASES["SGD"][-2:])
    folder = tmp_path / "new" / "report"
    assert main(["SGD", "--mode", "graph", "--steps", "3", "--workers", "2", "--report", str(folder)]) == 0
    count = len(CASES["SGD"]) + 3
    assert f"{count} of {count} comparisons equal PyTorch, mode graph, 3 steps" in capsys.readouterr().out
    outcomes = json.loads((folder / "parity.json").read_text())
    assert [outcome["case"] for outcome in outcomes[:-3]] == [str(case) for case in CASES["SGD"]]
    assert outcomes[-3]["case"].startswith(f"EMA({CASES['SGD'][-1]}, ")
    assert [outcome["problem"] for outcome in outcomes[-3:]] == ["synthetic, resumed", "nfnet", "nfnet"]
    accuracy = outcomes[-1]["accuracy"]
    assert accuracy["graph"] == pytest.approx(accuracy["torch"], abs=0.01) and accuracy["torch"] > 0.1
    assert all(
        leg["scores"]["parameter"]["ratio"] <= (suite.FREE_RATIO if "accuracy" in outcome else 3)
        for outcome in outcomes
        for name, leg in outcome["legs"].items()
        if "graph" in name
    )
    assert set(outcomes[0]["legs"]) == {"maths", "graph composed", "graph native", "graph direct"}
    assert set(outcomes[-3]["legs"]) == {
        "maths",
        "graph from torch",
        "torch from graph",
        "graph from .ckpt",
        "graph from .safetensors",
    }
    assert len(list(folder.glob("*.png"))) == 2 * count - 1


def test_a_failure_is_red(monkeypatch, capsys):
    """Exit code 1, and the leg and its reason."""
    case = CASES["SGD"][0]
    monkeypatch.setattr("parity.jobs.RECIPES", ())
    failed = suite.Outcome(case, "synthetic", Verdict(), {"graph": Verdict(problems=("exp_avg of 'x' is missing",))})
    for name in ("verify", "resumed"):
        monkeypatch.setattr(suite, name, lambda *_: failed)
    assert main(["SGD", "--mode", "graph", "--workers", "1"]) == 1
    output = capsys.readouterr().out
    assert "SGD() on synthetic, graph: failed: exp_avg of 'x' is missing" in output
    assert "0 of" in output
    assert report.failures([failed])
