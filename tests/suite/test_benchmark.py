"""`python -m parity.benchmark` on a tiny model."""

import json
import math

import pytest

from parity.benchmark import COLUMNS, contenders, fit, gpt2, main, mlp, resnet50, state_size


def test_sizes():
    """The networks have the shapes that they are known for."""
    shapes = {"resnet50": resnet50(), "gpt2": gpt2(), "mlp": mlp(500, 200e6)}
    counts = {name: (len(those), sum(map(math.prod, those))) for name, those in shapes.items()}
    assert counts["resnet50"] == (161, 25_557_032)
    assert counts["gpt2"] == (148, 124_439_808)
    assert counts["mlp"] == (500, pytest.approx(200e6, rel=0.01))


def test_state_and_matrices():
    """State is what the slots declare for the arguments; Muon gets matrices."""
    shapes = mlp(4, 200)
    count = sum(map(math.prod, shapes))
    sizes = {name: state_size(name, shapes) / count for name in ("AdamW", "SGD", "MomentumAGC", "RMSprop", "EMA")}
    assert sizes == {"AdamW": 2, "SGD": 1, "MomentumAGC": 1, "RMSprop": 1, "EMA": 1}
    assert fit([(4, 3, 2, 2), (4,)], "Muon") == [(4, 12)]


def test_contenders():
    """Each form that the other side has, and no other."""
    assert {"torch", "torch foreach", "torch fused", "mindspore.nn graph", "memory floor"} < {*contenders("AdamW")}
    assert "torch fused" not in contenders("RMSprop")
    assert "torch foreach" not in contenders("Muon")
    assert contenders("EMA")[-2:] == ["torch _foreach_lerp_", "memory floor"]


def test_table_json_and_plot_agree(tmp_path, capsys):
    """Every figure of the table is in the JSON."""
    written, figure = tmp_path / "rows.json", tmp_path / "bars.png"
    assert (
        main(
            [
                "--model",
                "mlp",
                "--tensors",
                "4",
                "--parameters",
                "200",
                "--optimizer",
                "SGD",
                "--contender",
                "native graph",
                "torch fused",
                "--repeats",
                "2",
                "--seconds",
                "0.01",
                "--json",
                str(written),
                "--plot",
                str(figure),
            ]
        )
        == 0
    )
    rows = json.loads(written.read_text())["rows"]
    assert [row["contender"] for row in rows] == ["native graph", "torch fused"]
    output = capsys.readouterr().out
    lines = [next(line for line in output.splitlines() if row["contender"] in line) for row in rows]
    for row, line in zip(rows, lines):
        assert len(row["rounds_ms"]) == 2 and min(row["rounds_ms"]) > 0
        for key, (_, form) in COLUMNS.items():
            assert key not in row or form.format(row[key]) in line
    assert rows[1]["of_torch"] == 1 and rows[0]["of_torch"] == rows[0]["ms"] / rows[1]["ms"]
    assert figure.stat().st_size > 1000


def test_a_contender_that_there_is_not_is_named(tmp_path, capsys):
    """Where nothing is left to be drawn."""
    figure = tmp_path / "bars.png"
    argv = ["--model", "mlp", "--optimizer", "SGD", "--contender", "nonsense", "--plot", str(figure)]
    assert main(argv) == 2
    assert "there is no contender 'nonsense'" in capsys.readouterr().out and not figure.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, but got 0"),
        (["--tensors", "1"], "--tensors must be at least 2, but got 1"),
        (["--optimizer", "AdmW"], "invalid choice: 'AdmW'"),
        (["--parameters", "nan"], "--parameters must be positive numbers, but got nan"),
        (["--seconds", "0"], "--seconds must be positive numbers, but got 0.0"),
        (["--json", "."], "--json must be such as can be written, but got '.': it is a folder"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    """They exit with 2 and say what is allowed."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
