"""What the state costs, in multiples of the parameters: what is stated, what is declared and what is allocated."""

import gc
import inspect
import math
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from helpers import DENSE, SPAN, loud, make_grads, make_params
from mindspore import Parameter, Tensor, ops

import ms_optim
from ms_optim import EMA, LBFGS, Adafactor, AdamW, _pieces
from parity.cases import ENTRIES
from parity.report import tables
from parity.sides.mindspore import factory, set_mode

DECLARED = [name for name in ENTRIES if getattr(getattr(ms_optim, name), "slots", ())]
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


def built(name, kwargs, params):
    """The optimizer of an entry, with a plain one inside if it wraps one."""
    case = ENTRIES[name].cases[0]
    inner = case.inner and replace(case.inner, kwargs={})
    return factory(replace(case, kwargs=kwargs, groups=(), inner=inner))(params)


def multiple(optimizer):
    """Of the parameters, what the state costs; a count or number for each parameter is next to nothing."""
    return pytest.approx(
        optimizer.state_bytes / sum(param.nbytes for param in optimizer.parameters), rel=1e-4, abs=1e-4
    )


def minimize(optimizer):
    """One step on a loss that no history of gradients ever explains: there is state only then, and more and more."""
    (param,) = optimizer.parameters
    curvature = np.logspace(0, 4, param.size, dtype=np.float32).reshape(param.shape)
    ms.ops.assign(param, Tensor(np.ones(param.shape, np.float32)))

    def closure():
        grad = curvature * param.asnumpy()
        return Tensor(np.float32((grad * param.asnumpy()).sum() / 2)), (Tensor(grad),)

    optimizer.step(closure)


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_stated_is_allocated(name):
    """Of each way to pay."""
    set_mode("graph")
    entry = ENTRIES[name]
    for kwargs, expected in entry.memory:
        optimizer = built(name, kwargs, [parameter((100, 100) if entry.closure else (1000, 1000))])
        if entry.closure:
            minimize(optimizer)
        assert multiple(optimizer) == expected, kwargs


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_stated_is_declared(name):
    """By the slots, each of which is stated once without it and once with it if an argument decides on it."""
    cls, memory = getattr(ms_optim, name), ENTRIES[name].memory
    defaults = {key: value.default for key, value in inspect.signature(cls).parameters.items()}
    slots = [slot for slot in cls.slots if not slot.scalar]
    for kwargs, expected in memory:
        options = defaults | kwargs
        kept = [slot for slot in slots if slot.when is None or options[slot.when]]
        assert sum(math.prod(slot.shape((1000, 1000)) or (0,)) for slot in kept) == 1_000_000 * expected
    for slot in slots:
        seen = {bool((defaults | kwargs)[slot.when]) for kwargs, _ in memory} if slot.when else {True, False}
        assert seen == {True, False}, slot.name


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("dtype", [ms.float16, ms.float64])
def test_state_has_the_dtype_of_its_parameter(name, dtype):
    """And so costs as many times its parameter as in float32."""
    kwargs, expected = ENTRIES[name].memory[-1]
    assert multiple(built(name, kwargs, [parameter(dtype=dtype)])) == expected


@pytest.mark.parametrize("name", DECLARED)
def test_state_of_halves_in_float32(name):
    """Twice as much, and a copy of the parameters beside it, as README has it."""
    kwargs, expected = ENTRIES[name].memory[-1]
    for more, times in (({}, 2 * expected), ({"master_weights": True}, 2 * expected + 2)):
        options = kwargs | {"state_dtype": ms.float32} | more
        assert multiple(built(name, options, [parameter(dtype=ms.float16)])) == times


@pytest.mark.parametrize(("shape", "expected"), ADAFACTOR.items(), ids=str)
def test_adafactor_keeps_rows_and_columns(shape, expected):
    """Far less than a matrix has elements; small last axes have nothing to factor."""
    assert multiple(Adafactor([parameter(shape)])) == expected


# The optimizers of README's table of scale, and what weights and gradients are.
SCALED = {
    "AdamW, float32": (AdamW, ms.float32),
    "MomentumAGC with EMA, float32": (lambda params: EMA(ms_optim.MomentumAGC(params)), ms.float32),
    "AdamW, 16 bits with float32 state and copies": (
        partial(AdamW, state_dtype=ms.float32, master_weights=True),
        ms.float16,
    ),
}
COUNTS = (1, 8, 64, 512)
README = Path(ms_optim.__file__).with_name("README.md")


@pytest.mark.parametrize("name", SCALED)
def test_a_device_has_its_part_of_the_state(name):
    """README's table of scale, of 1, 7 and 70 billion: what the rows of one device cost, and weights and gradients."""
    make, dtype = SCALED[name]
    costs = []
    for count in COUNTS:
        rows = parameter((1024 // count, 1000), dtype=dtype)
        costs.append(make([rows]).state_bytes / (1024 * 1000) + 2 * rows.itemsize)
        assert tables.per_parameter(make, dtype == ms.float16, count) == pytest.approx(costs[-1], rel=1e-3)
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if f"| {name} |" in line]
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert printed == [[f"{size} B", name, *(f"{size * cost:,.1f} GB" for cost in costs)] for size in (1, 7, 70)]


def test_the_table_of_scale_has_no_other_rows():
    """Nor columns."""
    heading, _, *rows = tables.scale().splitlines()
    counts = "".join(f" {count} device{'s' if count > 1 else ''} |" for count in COUNTS)
    assert heading == f"| parameters | optimizer |{counts}" and len(rows) == 3 * len(SCALED)


def test_only_the_group_that_asks_pays():
    """State is allocated for each parameter by the arguments of its group."""
    groups = [{"params": [parameter(name="a")]}, {"params": [parameter(name="b")], "amsgrad": True}]
    assert multiple(AdamW(groups)) == 2.5


def is_gone(take_a_step):
    """Whether an optimizer that a function gives is gone when nothing names it, before garbage is collected."""
    gc.disable()
    try:
        return weakref.ref(take_a_step())() is None
    finally:
        gc.enable()


@pytest.mark.generic
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("name", SPAN)
def test_what_is_dropped_is_gone_at_once(name, averaged, path):
    """With all of its state: nothing in an optimizer holds the optimizer."""

    def take_a_step(some=slice(2, 5)):
        optimizer = DENSE[name](make_params(name)[some], **loud(DENSE[name]))
        optimizer = EMA(optimizer) if averaged else optimizer
        optimizer(make_grads(name, 1)[0][some])
        return optimizer

    assert is_gone(take_a_step)


@pytest.mark.parametrize("make", [AdamW, lambda params: EMA(AdamW(params)), LBFGS])
def test_so_is_one_of_many_parameters(make, monkeypatch, graph):
    """Which would compile in several graphs, but runs the kernel; and LBFGS, whose history is large."""
    monkeypatch.setattr(_pieces, "PIECE", 1)

    def take_a_step():
        params = [parameter((3, 2), name=name) for name in "ab"]
        gradients = tuple(ops.ones_like(param) for param in params)
        optimizer = make(params)
        optimizer.step((lambda: (Tensor(1.0), gradients)) if make is LBFGS else gradients)
        return optimizer

    assert is_gone(take_a_step)
