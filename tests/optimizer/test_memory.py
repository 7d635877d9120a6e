"""What the state costs, in multiples of the parameters."""

import mindspore as ms
import numpy as np
import pytest
from helpers import DENSE
from mindspore import Parameter, Tensor

from ms_optim import Adafactor, AdamW
from parity.report import tables

MULTIPLES = (
    ("ASGD", {}, 1),
    ("Adadelta", {}, 2),
    ("Adagrad", {"initial_accumulator_value": 0.1}, 1),
    ("Adam", {}, 2),
    ("Adam", {"amsgrad": True}, 3),
    ("AdamW", {}, 2),
    ("AdamW", {"amsgrad": True}, 3),
    ("Adamax", {}, 2),
    ("MomentumAGC", {"momentum": 0.0}, 0),
    ("MomentumAGC", {"momentum": 0.9}, 1),
    ("Muon", {}, 1),
    ("NAdam", {}, 2),
    ("RAdam", {}, 2),
    ("RMSprop", {}, 1),
    ("RMSprop", {"momentum": 0.9}, 2),
    ("RMSprop", {"centered": True}, 2),
    ("RMSprop", {"momentum": 0.9, "centered": True}, 3),
    ("Rprop", {}, 2),
    ("SGD", {}, 0),
    ("SGD", {"momentum": 0.9}, 1),
)
# Adafactor keeps the rows and columns of the last two axes, or a vector itself.
ADAFACTOR = {
    (1000, 1000): 0.002,
    (4096, 1024): 0.001220703125,
    (1_000_000,): 1,
    (256, 64, 3, 3): 2 / 3,
    (512, 256, 1, 1): 2,
}


def parameter(shape=(1000, 1000), dtype=ms.float32, name="weight"):
    """A Parameter of a realistic size."""
    return Parameter(Tensor(np.zeros(shape, np.float16), dtype), name=name)


def multiple(optimizer):
    """Of the parameters, what the state costs; a count or number for each parameter is next to nothing."""
    return pytest.approx(optimizer.state_bytes / sum(param.nbytes for param in optimizer.parameters), abs=1e-4)


@pytest.mark.parametrize(("name", "kwargs", "expected"), MULTIPLES, ids=str)
@pytest.mark.parametrize("dtype", [ms.float16, ms.float32, ms.float64])
def test_multiples_of_the_parameters(name, kwargs, expected, dtype):
    """State has the dtype of its parameter."""
    assert multiple(DENSE[name]([parameter(dtype=dtype)], **kwargs)) == expected


@pytest.mark.parametrize(("shape", "expected"), ADAFACTOR.items(), ids=str)
def test_adafactor_keeps_rows_and_columns(shape, expected):
    """Far less than a matrix has elements; small last axes have nothing to factor."""
    assert multiple(Adafactor([parameter(shape)])) == expected


def test_only_the_group_that_asks_pays():
    """State is allocated for each parameter by the arguments of its group."""
    groups = [{"params": [parameter(name="a")]}, {"params": [parameter(name="b")], "amsgrad": True}]
    assert multiple(AdamW(groups)) == 2.5


def test_the_table_has_every_way_to_pay():
    """Each argument that decides on a slot is once off and once on."""
    for name in {name for name, _, _ in MULTIPLES}:
        cls = DENSE[name]
        given = [cls([parameter((2, 2))], **kwargs).groups[0] for other, kwargs, _ in MULTIPLES if other == name]
        for slot in cls.slots:
            assert slot.when is None or {bool(options[slot.when]) for options in given} == {False, True}


def test_the_readme_says_so():
    """The least and the most for a matrix of 1000 x 1000."""
    costs = {"Adafactor": [ADAFACTOR[1000, 1000]]}
    for name, _, expected in MULTIPLES:
        costs.setdefault(name, []).append(expected)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.optimizers().splitlines()]
    told = {row[0].strip("`"): row[rows[0].index("memory")] for row in rows}
    for name, cost in costs.items():
        assert told[name] == "-".join(f"{number:g}" for number in sorted({min(cost), max(cost)})), name
