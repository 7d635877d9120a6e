"""What is said of MindSpore's own optimizers is what a run of them shows."""

import json

import pytest

from parity.__main__ import main
from parity.cases.stock import STOCK
from parity.hunt import audit
from parity.hunt.audit import Audited, told
from parity.report.tables import AUDITED

ROWS = {row["optimizer"]: row for row in json.loads(AUDITED.read_text(encoding="utf-8"))}


def test_all_of_them_are_in_the_table():
    """In the order in which they are audited."""
    assert [*ROWS] == [stock.place for stock in STOCK]


def test_the_table_is_what_a_run_finds(tmp_path, capsys, monkeypatch):
    """Of three: one is right, one has mistakes, one does nothing in one mode; a matrix and two vectors show it."""
    monkeypatch.setattr(audit, "TENSORS", ("twin.weight", "flip.beta", "offset"))
    monkeypatch.setattr(audit, "STEPS", 10)
    for code, names in ((0, ["nn.Rprop"]), (1, ["nn.Momentum", "mint.optim.SGD"])):
        assert main(["audit", *names, "--workers", "1", "--json", str(tmp_path / "found.json")]) == code
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        assert found == [ROWS[name] for name in names]
    said = capsys.readouterr().out
    assert "mindspore.nn.Rprop: right\n" in said and "nesterov ignored" in said and "nothing moves" in said


def test_what_is_right_by_its_defaults_alone_is_not_right(capsys, monkeypatch):
    """Though that is what is told first."""
    found = [({}, "right"), ({"nesterov": True}, "nesterov ignored")]
    findings = [Audited(STOCK[0], {"lr": 0.1, **numbers}, {"graph": says}, True) for numbers, says in found]
    monkeypatch.setattr(audit.Audit, "run", lambda self, keep=False: findings)
    assert main(["audit", STOCK[0].place, "--workers", "1"]) == 1
    assert "right (defaults); nesterov ignored (nesterov=True)" in capsys.readouterr().out


def test_names_are_those_that_are_known(capsys):
    """And what is not is named."""
    with pytest.raises(SystemExit) as ended:
        main(["audit", "nn.FTRL"])
    assert ended.value.code == 2
    assert "NAME must be one of nn.SGD, nn.Momentum" in capsys.readouterr().err


def test_what_differs_by_numbers_or_mode_is_told_so():
    """And what is the same is told once."""
    stock = STOCK[0]

    def found(numbers, graph, pynative, survives):
        return Audited(stock, {"lr": 0.1, **numbers}, {"graph": graph, "pynative": pynative}, survives)

    row = told([found({}, "right", "right", True), found({"momentum": 0.9}, "right", "nothing moves", False)])
    assert row["says"] == "right (defaults); graph: right, pynative: nothing moves (momentum=0.9)"
    assert row["resumes"] == "no"
    assert told([found({}, "right", "right", None)]) == {
        "optimizer": "nn.SGD",
        "torch.optim": "SGD",
        "says": "right",
        "resumes": "-",
    }
