"""SparseAdam: torch's numbers where a sparse gradient has an index, and nothing anywhere else."""

import re
import zlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import assert_same, everything, outcome
from helpers.published import (
    ABSENT,
    ACCEPTED,
    MESSAGES,
    OWN,
    PUBLISHED,
    arguments,
    translated_arguments,
    translated_parameters,
)
from helpers.values import EXPONENTIAL, bad
from mindspore import COOTensor, CSRTensor, Parameter, Tensor, nn, ops
from mindspore.common.sparse_tensor import RowTensorInner

from ms_optim import EMA, OPTIMIZERS, Adam, SparseAdam, restore
from parity.hunt.mutants import Mutant, breed
from parity.judge.compare import FREE_RATIO, compare, compare_exactly
from parity.sides.mindspore import MODES, compiled_before, set_mode
from parity.sides.torch import DTYPES
from parity.sides.torch_settings import one_thread
from parity.sides.trace import PARAMETER, Recorder

STEPS = 20
FLOATS = {"float32": ms.float32, "float64": ms.float64}


class Rows(NamedTuple):
    """A sparse gradient: places in the first axes of a parameter, (n, axes), and a value for each."""

    indices: np.ndarray
    values: np.ndarray


# Each parameter: its shape, how many axes the indices have, how many there are, and the scale of the values, where None
# is of all magnitudes.
TABLES = {
    "table": ((50, 6), 1, 32, 1.0),
    "twin.weight": ((50, 6), 1, 32, None),
    "tiny.gamma": ((30, 4), 1, 8, 1e-12),
    "huge.beta": ((40,), 1, 16, 1e9),
    "deep": ((9, 3, 2), 1, 4, 1.0),
    "elements": ((12, 5), 2, 32, None),
    "alone": ((1, 1), 1, 1, 1.0),
    "late": ((20, 3), 1, 4, 1.0),
    "seldom": ((20, 3), 1, 4, 1.0),
}
INITIAL = {
    name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name, (shape, *_) in TABLES.items()
}
# The loudest of those whose gradients all have the same number of indices at every step.
FEW = ("twin.weight", "huge.beta", "elements")
# One whose gradients have rows and one whose have elements, and what does not depend on that.
TWO, ONE = ("table", "elements"), ("table",)


@cache
def problem(names=tuple(TABLES)):
    """For each step a gradient for each parameter, with duplicates; "late" has none at times, "seldom" an empty one."""
    rng, drawn = np.random.default_rng(1), []
    for step in range(STEPS):
        now = {}
        for name in names:
            shape, axes, count, scale = TABLES[name]
            count = 0 if name == "seldom" and step in (0, 7) else count
            values = rng.standard_normal((count, *shape[axes:]))
            values *= 10.0 ** rng.uniform(-8, 2, values.shape) if scale is None else scale
            rows = Rows(rng.integers(0, shape[:axes], (count, axes)), np.float32(values))
            now[name] = None if name == "late" and step in (0, 7) else rows
        drawn.append(now)
    return drawn


def rates(lr, step):
    """The learning rate at a step: a third of it after a third of the steps, and again."""
    return lr * 0.3 ** (3 * step // STEPS)


def grouped(params, groups):
    """One group for each entry: the names it has, and its arguments; or one with all."""
    cut = groups or [(params, {})]
    return [{"params": [params[name] for name in names if name in params], **options} for names, options in cut]


def follow(optimizer, step):
    """Set the learning rates of a step."""
    if step and rates(1, step) != rates(1, step - 1):
        for group in optimizer.param_groups:
            group["lr"] *= 0.3


def run_torch(kwargs, groups=(), dtype="float32", names=tuple(TABLES)):
    """The trace of torch's SparseAdam."""
    params = {name: torch.nn.Parameter(torch.tensor(INITIAL[name], dtype=DTYPES[dtype])) for name in names}
    optimizer = torch.optim.SparseAdam(grouped(params, groups), **kwargs)
    recorder = Recorder()
    with one_thread():
        for step, gradients in enumerate(problem(names)):
            follow(optimizer, step)
            for name, rows in gradients.items():
                params[name].grad = rows and torch.sparse_coo_tensor(
                    rows.indices.T,
                    torch.tensor(rows.values, dtype=DTYPES[dtype]),
                    params[name].shape,
                    check_invariants=True,
                )
            optimizer.step()
            recorder.add(
                {name: param.detach().numpy() for name, param in params.items()},
                {
                    name: {
                        slot: np.asarray(value, np.float64 if slot == "step" else None)
                        for slot, value in optimizer.state[param].items()
                    }
                    for name, param in params.items()
                },
            )
    return recorder.trace()


@cache
def references(which, names=tuple(TABLES)):
    """The traces of torch in both dtypes, on one entry of the grid."""
    return {dtype: run_torch(*GRID[which], dtype, names) for dtype in DTYPES}


def pair(rows, dtype=ms.float32, kind=ms.int32):
    """A gradient as two Tensors; indices of one axis are a vector."""
    indices = rows.indices if rows.indices.shape[1] > 1 else rows.indices[:, 0]
    return Tensor(indices, kind), Tensor(rows.values).to(dtype)


def parameters(dtype=ms.float32, names=tuple(TABLES)):
    """The Parameters by name."""
    return {name: Parameter(Tensor(INITIAL[name], dtype), name=name) for name in names}


def run_ours(kwargs, groups=(), mode="graph", dtype="float32", names=tuple(TABLES), cls=SparseAdam):
    """The trace of ours."""
    set_mode(mode)
    optimizer = compiled_before(cls(grouped(parameters(FLOATS[dtype], names), groups), **kwargs))
    recorder = Recorder()
    for step, gradients in enumerate(problem(names)):
        follow(optimizer, step)
        drawn = [gradients[param.name] for param in optimizer.parameters]
        optimizer([rows and pair(rows, FLOATS[dtype]) for rows in drawn])
        recorder.add(
            {param.name: param.asnumpy() for param in optimizer.parameters},
            {name: {slot: value.asnumpy() for slot, value in slots.items()} for name, slots in optimizer.state.items()},
        )
    return recorder.trace()


GRID = (
    ({}, ()),
    ({"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3}, ()),
    ({"lr": 0.01, "betas": (0.0, 0.5), "eps": 1e-6}, ()),
    ({"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-12, "maximize": True}, ()),
    (
        {"lr": 0.05},
        (
            (("table", "huge.beta", "alone"), {}),
            (("tiny.gamma", "late"), {"lr": 0.3, "betas": (0.7, 0.95), "eps": 1e-3}),
            (("twin.weight", "deep", "elements", "seldom"), {"eps": 0.1, "maximize": True}),
        ),
    ),
)
LOUD = {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-3}
both = pytest.mark.parametrize("mode", MODES)
once = pytest.mark.parametrize("mode", ["graph"])


# What is absent or empty at times compiles for that too.
AT_TIMES = ("late", "seldom")


@pytest.mark.parametrize(
    ("which", "names"),
    [(3, ("twin.weight", *AT_TIMES)), (4, tuple(name for name in TABLES if name not in AT_TIMES))],
)
def test_it_is_torchs(which, names):
    """Parameters and moments at every step are no further from the truth than three times torch in float32."""
    ours = run_ours(*GRID[which], names=names)
    assert {kind for kind, _ in ours} == {PARAMETER, "step", "exp_avg", "exp_avg_sq"}
    verdict = compare(ours, *references(which, names).values(), initial=INITIAL)
    assert verdict.passed, verdict


def test_it_is_torchs_in_float64():
    """To 1e-12 of the largest magnitude; one parameter of each group."""
    names = ("huge.beta", "tiny.gamma", "elements")
    ours = run_ours(*GRID[4], dtype="float64", names=names)
    verdict = compare_exactly(ours, references(4, names)["float64"], initial=INITIAL)
    assert verdict.passed, verdict


def test_elements_are_told_apart_by_all_axes(tmp_path):
    """Where the right one passes; the suite hunts the mutants that rows alone show."""
    wrong = breed(
        tmp_path,
        Mutant("SparseAdam", "the first axis alone tells places apart", "range(1, indices.shape[1])", "range(1, 1)"),
    )
    right, found = (
        compare(run_ours(GRID[1][0], names=TWO, cls=cls), *references(1, TWO).values(), initial=INITIAL)
        for cls in (SparseAdam, wrong)
    )
    assert right.passed and not found.passed


@both
def test_what_a_gradient_has_not_stays_as_it_is(mode):
    """Bit for bit, in the parameter and in both moments; what it has moves."""
    set_mode(mode)
    optimizer = make()
    for gradients in problem(FEW)[1:7]:
        before = outcome(optimizer)
        optimizer([pair(rows) for rows in gradients.values()])
        for key, value in outcome(optimizer).items():
            slot, _, name = key.rpartition(" of ")
            if slot == "step":
                continue
            touched = np.zeros(INITIAL[name].shape, bool)
            touched[tuple(gradients[name].indices.T)] = True
            np.testing.assert_array_equal(value[~touched], before[key][~touched], err_msg=key)
            assert name in ("elements", "twin.weight") or (value != before[key])[touched].all(), key


def stepped(optimizer, gradients):
    """The outcome of an optimizer after a step for each of the gradients."""
    for step in gradients:
        optimizer(step)
    return outcome(optimizer)


def gradients_of(names=FEW, dtype=ms.float32, kind=ms.int32, factor=1.0):
    """The gradients of some parameters, at six steps."""
    drawn = [[pair(rows, dtype, kind) for rows in step.values()] for step in problem(names)[1:7]]
    return [[(indices, values * factor) for indices, values in step] for step in drawn]


def make(names=FEW, dtype=ms.float32, **kwargs):
    """An optimizer of some parameters, whose numbers show."""
    return SparseAdam(parameters(dtype, names).values(), **{**LOUD, **kwargs})


@cache
def baseline(mode):
    """The outcome of six steps. `mode` is the one that is set."""
    return stepped(make(), gradients_of())


def test_modes_agree():
    """PYNATIVE_MODE gives what GRAPH_MODE gives."""
    runs = []
    for mode in MODES:
        set_mode(mode)
        runs.append(baseline(mode))
    assert_same(*runs)


@once
def test_every_form_of_a_gradient(mode):
    """RowTensor, COOTensor, indices of both kinds and both shapes are the same gradient; a tuple may be a list."""
    set_mode(mode)
    optimizers = [make(TWO) for _ in range(3)]
    for table, elements in gradients_of(TWO):
        forms = (RowTensorInner(*table, (50, 6)), COOTensor(*elements, (12, 5)))
        wide = [[table[0].long().reshape(-1, 1), table[1]], [elements[0].long(), elements[1]]]
        for optimizer, given in zip(optimizers, ((table, elements), forms, wide)):
            optimizer(given)
    expected = outcome(optimizers[0])
    for optimizer in optimizers[1:]:
        assert_same(outcome(optimizer), expected)


@once
def test_duplicates_are_summed(mode):
    """Integers, so that each order of summation gives the same."""
    set_mode(mode)
    rng = np.random.default_rng(0)
    several, once = (make(TWO) for _ in range(2))
    once.widest = [32, 32]  # one graph takes both
    for _ in range(3):
        drawn, summed = [], []
        for shape, axes in ((50, 6), 1), ((12, 5), 2):
            indices = rng.integers(0, 5, (32, axes))
            values = rng.integers(-9, 9, (32, *shape[axes:])).astype(np.float32)
            unique, group = np.unique(indices, axis=0, return_inverse=True)
            total = np.zeros((len(unique), *values.shape[1:]), np.float32)
            np.add.at(total, group.ravel(), values)
            drawn.append(pair(Rows(indices, values)))
            summed.append(pair(Rows(unique, total)))
        several(drawn)
        once(summed)
    assert_same(outcome(several), outcome(once))


@once
def test_an_empty_gradient_is_a_step_and_none_is_not(mode):
    """Of its own count; nothing else moves."""
    set_mode(mode)
    optimizer, still = (make(("table", "late")) for _ in range(2))
    (table, late), *_ = gradients_of(("table", "late"))
    empty = (Tensor(np.zeros(0, np.int32)), Tensor(np.zeros((0, 3), np.float32)))
    optimizer((table, empty))
    still((table, None))
    expected = outcome(still)
    assert expected["step of late"] == 0
    assert_same(outcome(optimizer), {**expected, "step of late": np.float64(1)})
    optimizer((None, late))
    assert optimizer.step_counts.asnumpy().tolist() == [1, 2]


@pytest.mark.usefixtures("own_graph")
@both
def test_sizes_compile_seldom_and_change_nothing(mode):
    """Each size that is larger than a power of two before it compiles once; what is filled up is not seen."""
    set_mode(mode)
    sizes = (1, 5, 7, 8, 6, 3, 1)
    rng = np.random.default_rng(0)
    drawn = [
        [pair(Rows(rng.permutation(50)[:size, None], np.float32(rng.standard_normal((size, 6)))))] for size in sizes
    ]
    optimizer = make(ONE)
    found = stepped(optimizer, drawn)
    assert len(optimizer.compile_cache) == 2
    wide = make(ONE)
    wide.widest[0] = 16
    assert_same(stepped(wide, drawn), found)
    assert len(wide.compile_cache) == 1


@once
def test_the_other_arguments(mode):
    """`maximize` negates the gradients, `loss_scale` divides them, `order_params` permutes nothing."""
    set_mode(mode)
    expected = stepped(make(ONE), gradients_of(ONE))
    assert_same(stepped(make(ONE, maximize=True), gradients_of(ONE, factor=-1.0)), expected)
    assert_same(stepped(make(ONE, loss_scale=1024.0), gradients_of(ONE, factor=1024.0)), expected)
    params = list(parameters(names=FEW).values())
    groups = [{"params": params[1:][::-1]}, {"params": params[:1]}, {"order_params": params}]
    assert_same(stepped(SparseAdam(groups, **LOUD), gradients_of()), baseline(mode))


@once
@pytest.mark.parametrize("dtype", [ms.float16, ms.float64])
def test_dtypes_are_kept(dtype, mode):
    """float16 is computed in float32 and rounded once, on store."""
    set_mode(mode)
    optimizer = make(ONE, dtype)
    (grad,), *_ = gradients_of(ONE, ms.float32)
    optimizer((grad,))
    assert {param.dtype for param in (*optimizer.parameters, *optimizer.exp_avg, *optimizer.exp_avg_sq)} == {dtype}
    other = make(ONE)
    ops.assign(other.parameters[0], parameters(dtype, ONE)["table"].float())
    other((grad,))
    if dtype == ms.float16:
        expected = {
            key: value.astype(value.dtype if "step" in key else np.float16) for key, value in outcome(other).items()
        }
        assert_same(outcome(optimizer), expected)


def test_state_in_float32_is_not_rounded():
    """The moments of float16 parameters are those of float32 ones, to the bit, and float64 parameters keep theirs."""
    set_mode("graph")
    halves, wide = make(TWO, ms.float16, state_dtype=ms.float32), make(TWO)
    for gradients in gradients_of(TWO):
        halves(gradients)
        wide(gradients)
    for slot in ("exp_avg", "exp_avg_sq"):
        for one, other in zip(getattr(halves, slot), getattr(wide, slot), strict=True):
            assert one.dtype == ms.float32
            np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
    assert {param.dtype for param in halves.parameters} == {ms.float16}
    assert make(ONE, ms.float64, state_dtype=ms.float32).exp_avg[0].dtype == ms.float64


def test_master_weights_take_the_steps_of_float32():
    """Of float16 rows and elements; the parameter is its copy, rounded, and a float64 one beside them has none."""
    set_mode("graph")
    names = (*TWO, "huge.beta")
    values = [np.float32(np.float16(INITIAL[name])) for name in names]
    dtypes = ms.float16, ms.float16, ms.float64
    given = [Parameter(Tensor(value, dtype), name=name) for value, dtype, name in zip(values, dtypes, names)]
    halves = SparseAdam(given, **LOUD, state_dtype=ms.float32, master_weights=True)
    wide = SparseAdam([Parameter(Tensor(value), name=name) for value, name in zip(values, TWO)], **LOUD)
    for gradients in gradients_of(names):
        halves(gradients)
        wide(gradients[:2])
    for param, copied, expected in zip(given, halves.master_param, wide.parameters):
        param, copied, expected = param.asnumpy(), copied.asnumpy(), expected.asnumpy()
        moved = copied != 0
        assert moved.any() and not moved.all()
        np.testing.assert_array_equal(copied[moved], expected[moved])
        np.testing.assert_array_equal(param, np.float16(expected))
    state = halves.state_dict()["state"]
    assert ["master_param" in state[i] for i in range(len(names))] == [True, True, False]


def test_a_copy_that_no_longer_rounds_to_its_parameter_is_left():
    """Rows that were written since are where a step starts."""
    set_mode("graph")
    optimizer, fresh = (make(ONE, ms.float16, master_weights=True) for _ in range(2))
    (gradients,) = gradients_of(ONE)[:1]
    optimizer(gradients)
    for each in (optimizer, fresh):
        ops.assign(each.parameters[0], Tensor(np.full(INITIAL["table"].shape, 0.5), ms.float16))
    moments = [(ops.zeros_like(kept), kept) for kept in (*optimizer.exp_avg, *optimizer.exp_avg_sq)]
    for zeros, kept in moments:
        ops.assign(kept, zeros)
    ops.assign(optimizer.step_counts, ops.zeros_like(optimizer.step_counts))
    for each in (optimizer, fresh):
        each(gradients)
    assert_same(outcome(optimizer), outcome(fresh))


def test_what_is_frozen_stands_still():
    """The parameter and both moments, bit for bit, until it is let go."""
    set_mode("graph")
    optimizer, first = make(TWO), TWO[0]
    steps = gradients_of(TWO)
    optimizer(steps[0])
    before = outcome(optimizer)
    optimizer.freeze(first)
    optimizer(steps[1])
    moved = {key for key, value in outcome(optimizer).items() if (value != before[key]).any()}
    assert moved == {key for key in before if not key.endswith(first)}
    optimizer.unfreeze(first)
    optimizer(steps[2])
    assert all((value != before[key]).any() for key, value in outcome(optimizer).items())


@pytest.mark.usefixtures("own_graph")
@both
def test_numbers_change_without_compiling_again(mode):
    """From then on it is one that was made with the new numbers."""
    set_mode(mode)
    numbers = {"lr": 0.3, "betas": (0.5, 0.9), "eps": 1e-1}
    optimizer, other = make(ONE), make(ONE, **numbers)
    stepped(optimizer, gradients_of(ONE)[:3])
    for name, value in numbers.items():
        optimizer.param_groups[0][name] = value
        assert optimizer.param_groups[0][name] == value
    changed = {param.name: Tensor(param.asnumpy()) for param in optimizer.get_parameters()}
    restore(other, changed)
    assert_same(stepped(optimizer, gradients_of(ONE)[3:]), stepped(other, gradients_of(ONE)[3:]))
    assert len(optimizer.compile_cache) == 1


@pytest.mark.parametrize(("lr", "mode"), [([0.3, 0.1, 1e-3], "pynative"), (EXPONENTIAL, "graph")], ids=str)
def test_schedules(lr, mode):
    """A list and a schedule are learning rates that are set between steps."""
    set_mode(mode)
    scheduled, live = make(ONE, lr=lr), make(ONE)
    for step, gradients in enumerate(gradients_of(ONE)):
        rate = lr[min(step, 2)] if isinstance(lr, list) else lr(Tensor(step, ms.int32)).asnumpy().item()
        live.param_groups[0]["lr"] = rate
        assert_same(stepped(scheduled, [gradients]), stepped(live, [gradients]))


@both
def test_resumed_is_uninterrupted(mode, tmp_path):
    """In both formats; a new optimizer and one that has compiled and gone on."""
    set_mode(mode)
    optimizer = make()
    stepped(optimizer, gradients_of()[:3])
    paths = {suffix: str(tmp_path / f"state.{suffix}") for suffix in ("ckpt", "safetensors")}
    for suffix, path in paths.items():
        ms.save_checkpoint(optimizer, path, format=suffix)
    assert_same(stepped(optimizer, gradients_of()[3:]), baseline(mode))
    expected, new = everything(optimizer), make()
    for suffix, path in paths.items():
        for resumed in (optimizer, new):
            assert restore(resumed, ms.load_checkpoint(path, format=suffix)) == []
            stepped(resumed, gradients_of()[3:])
            assert_same(everything(resumed), expected)


def test_the_state_is_torchs():
    """Keys and shapes, what they cost and how they are told."""
    optimizer = make()
    assert list(optimizer.state) == list(FEW)
    for name, slots in optimizer.state.items():
        assert {slot: value.shape for slot, value in slots.items()} == {
            "step": (),
            "exp_avg": INITIAL[name].shape,
            "exp_avg_sq": INITIAL[name].shape,
        }
    assert {f"{slot}.{name}" for slot in ("exp_avg", "exp_avg_sq") for name in FEW} <= everything(optimizer).keys()
    assert optimizer.state_bytes == sum(2 * INITIAL[name].nbytes + 8 for name in FEW)
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == {
        **LOUD,
        "maximize": False,
    }
    assert "exp_avg exp_avg_sq" in optimizer.describe()


class Net(nn.Cell):
    """Two tables and a matrix that is not trained."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(2)
        self.table = Parameter(Tensor(INITIAL["table"]), name="table")
        self.lookup = nn.EmbeddingLookup(20, 3, Tensor(INITIAL["late"]))
        self.lookup.embedding_table.name = "late"
        self.matrix = Tensor(np.float32(rng.standard_normal((6, 3))))
        self.gather = ops.EmbeddingLookup()

    def construct(self, tokens):
        """A number."""
        return ((self.gather(self.table, tokens, 0) @ self.matrix + self.lookup(tokens % 20)) ** 2).sum()


TOKENS = np.random.default_rng(3).integers(0, 50, (5, 4, 6)).astype(np.int32)


@cache
def lookups():
    """The outcome of five direct calls, with the gradients by hand."""
    set_mode("graph")
    net = Net()
    optimizer = SparseAdam(net.trainable_params(), **LOUD)
    for tokens in TOKENS:
        table, late = (param.asnumpy() for param in optimizer.parameters)
        places = tokens.ravel()
        inner = 2 * (Tensor(table[places]) @ net.matrix + Tensor(late[places % 20]))
        optimizer(((Tensor(places), inner @ net.matrix.T), (Tensor(places % 20), inner)))
    return outcome(optimizer)


def assert_close(found, expected):
    """The same up to the order of two sums."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@both
def test_inside_jit(mode):
    """The gradient of a lookup is a RowTensor there, in both modes; a learning rate that is set reaches it."""
    set_mode(mode)
    net = Net()
    optimizer = SparseAdam(net.trainable_params(), **{**LOUD, "lr": 7.0})
    gradient = ms.grad(net, None, optimizer.parameters)

    @ms.jit
    def step(tokens):
        return optimizer(gradient(tokens))

    optimizer.param_groups[0]["lr"] = LOUD["lr"]
    for tokens in TOKENS:
        step(Tensor(tokens))
    assert_close(outcome(optimizer), lookups())


@pytest.mark.parametrize("average", [False, True])
def test_in_a_training_cell(average):
    """Scaled up by `sens` and down by `loss_scale`; inside an average too, which sees each step."""
    set_mode("graph")
    net = Net()
    optimizer = SparseAdam(net.trainable_params(), **LOUD, loss_scale=1024.0)
    whole = EMA(optimizer, decay=0.5) if average else optimizer
    cell = nn.TrainOneStepCell(net, whole, sens=1024.0).set_train()
    expected = [param.asnumpy().copy() for param in optimizer.parameters]
    for tokens in TOKENS:
        cell(Tensor(tokens))
        expected = [(mean + param.asnumpy()) / 2 for mean, param in zip(expected, optimizer.parameters)]
        for ema, mean in zip(whole.averages if average else (), expected):
            np.testing.assert_allclose(ema.asnumpy(), mean, rtol=1e-6, atol=1e-7)
    assert_close(outcome(optimizer), lookups())


def test_a_direct_call_of_an_average(mode):
    """It takes what the optimizer takes."""
    alone, averaged = make(ONE), EMA(make(ONE), decay=0.5)
    for gradients in gradients_of(ONE):
        alone(gradients)
        averaged(gradients)
    assert_same(outcome(averaged.optimizer), outcome(alone))
    with pytest.raises(TypeError, match=r"^For 'EMA', "):
        averaged((DENSE,))


def test_a_gradient_that_comes_out_of_a_graph():
    """`mindspore.grad` returns indices, values and the shape in GRAPH_MODE."""
    set_mode("graph")
    net = Net()
    optimizer = SparseAdam(net.trainable_params(), **LOUD)
    gradient = ms.grad(net, None, optimizer.parameters)
    for tokens in TOKENS:
        optimizer(gradient(Tensor(tokens)))
    assert_close(outcome(optimizer), lookups())


@both
def test_other_forms_inside_jit(mode):
    """COOTensor and pairs."""
    set_mode(mode)
    direct, inside = (make(TWO) for _ in range(2))

    @ms.jit
    def step(rows, values, places, elements):
        return inside(((rows, values), COOTensor(places, elements, (12, 5))))

    for table, elements in gradients_of(TWO):
        direct((table, elements))
        step(*table, *elements)
    assert_same(outcome(inside), outcome(direct))


ROWS, VALUES = Tensor(np.array([1, 3], np.int32)), Tensor(np.ones((2, 6), np.float32))
DENSE = Tensor(np.ones((50, 6), np.float32))


def as_row_tensor(rows, values):
    """Of the shape of "table", as all of these."""
    return RowTensorInner(rows, values, (50, 6))


def as_coo_tensor(rows, values):
    """Elements of the rows."""
    return COOTensor(ops.stack((rows, rows), 1), values[:, 0], (50, 6))


def as_csr_tensor(rows, values):
    """No row has an element, whatever the indices of columns."""
    return CSRTensor(ops.zeros(51, ms.int32), rows, values[:, 0], (50, 6))


def as_pair(rows, values):
    """Indices and values."""
    return rows, values


SPARSE = {"RowTensor": as_row_tensor, "COOTensor": as_coo_tensor, "CSRTensor": as_csr_tensor, "tuple": as_pair}


@both
@pytest.mark.parametrize("name", ["Adam"])
def test_the_dense_optimizers_name_this_one(name, mode):
    """In a direct call and in a graph."""
    set_mode(mode)
    optimizer = OPTIMIZERS[name](parameters(names=ONE).values())
    before = everything(optimizer)
    for form, form_of in SPARSE.items():
        with pytest.raises(TypeError, match=rf"^For '{name}', 'gradients' .*, but got {form}.* SparseAdam takes"):
            optimizer((form_of(ROWS, VALUES),))
        if mode != "graph" and form != "tuple":  # jit compiles the same in both modes
            continue

        @ms.jit
        def step(rows, values, form_of=form_of):
            return optimizer((form_of(rows, values),))

        with pytest.raises(
            TypeError,
            match=rf"For '{name}', 'gradients' must .* for 'table' .*, but got a sparse gradient\. SparseAdam takes",
        ):
            step(ROWS, VALUES)
    assert_same(everything(optimizer), before)


@both
def test_a_dense_gradient_raises_and_names_adam(mode):
    """In a direct call and in a graph."""
    set_mode(mode)
    optimizer = make(ONE)
    before = everything(optimizer)
    with pytest.raises(TypeError, match=r"^For 'SparseAdam', .* a dense Tensor of shape .* for 'table'.*\. Adam"):
        optimizer((DENSE,))

    @ms.jit
    def step(grad):
        return optimizer((grad,))

    with pytest.raises(TypeError, match=r"for 'table' .*, and sparse, but got a dense Tensor\. Adam takes"):
        step(DENSE)
    assert_same(everything(optimizer), before)


def rows(*values, kind=np.int32):
    """Some indices."""
    return Tensor(np.array(values, kind))


WRONG = [
    ([], ValueError, "must hold 1 entries.*, but got 0"),
    ((ROWS, VALUES), ValueError, "must hold 1 entries.*, but got 2"),
    (ROWS, TypeError, "must be a tuple of RowTensors, .*, but got Tensor"),
    ([(ROWS,)], TypeError, "must be a tuple of RowTensors, .*, but got tuple for 'table'"),
    ([(ROWS, VALUES, (50, 6), 1)], TypeError, "but got tuple for 'table'"),
    ([(ROWS, VALUES, VALUES)], TypeError, "but got tuple for 'table'"),
    ([(ROWS, VALUES.asnumpy())], TypeError, "but got tuple for 'table'"),
    ([SPARSE["CSRTensor"](ROWS, VALUES)], TypeError, "but got CSRTensor for 'table'"),
    (["ab"], TypeError, "but got str for 'table'"),
    ([(ROWS.float(), VALUES)], TypeError, "int32 or int64 indices and float values, but got Float32 and Float32"),
    ([(ROWS, VALUES.int())], TypeError, "but got Int32 and Int32 for 'table'"),
    ([(ROWS.reshape(2, 1, 1), VALUES)], ValueError, r"indices of shape .* but got \(2, 1, 1\) for 'table'"),
    ([(Tensor(1, ms.int32), VALUES)], ValueError, r"indices of shape .* but got \(\) for 'table'"),
    ([(Tensor(np.ones((2, 3), np.int32)), VALUES)], ValueError, r"but got \(2, 3\) for 'table' of shape \(50, 6\)"),
    ([(ROWS, VALUES[:, :5])], ValueError, r"values of shape \(2, 6\), but got \(2, 5\) for 'table'"),
    ([(ROWS, VALUES[:1])], ValueError, r"values of shape \(2, 6\), but got \(1, 6\)"),
    ([(rows(1, 50), VALUES)], ValueError, r"indices within the parameters, but got \[50\] for 'table' of shape"),
    ([(rows(-1, 3), VALUES)], ValueError, r"but got \[-1\] for 'table'"),
    ([(rows([1, 5], [3, 6]), VALUES[:, 0])], ValueError, r"but got \[3, 6\] for 'table'"),
    ([RowTensorInner(ROWS, VALUES, (40, 6))], ValueError, r"shapes of the parameters, but got \(40, 6\) for 'table'"),
    ([(ROWS, VALUES, (40, 6))], ValueError, r"shapes of the parameters, but got \(40, 6\) for 'table'"),
    ([COOTensor(rows([1, 5]), VALUES[:1, 0], (6, 50))], ValueError, r"but got \(6, 50\) for 'table'"),
]


@pytest.mark.parametrize(("gradients", "kind", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_gradients_must_fit(gradients, kind, message):
    """Whatever is not a sparse gradient of the parameter raises, and nothing has moved."""
    optimizer = make(ONE)
    before = everything(optimizer)
    with pytest.raises(kind, match=f"^For 'SparseAdam', 'gradients' .*{message}"):
        optimizer(gradients)
    assert_same(everything(optimizer), before)


@both
def test_gradients_must_fit_in_a_graph(mode):
    """By their shapes and dtypes; the parameter is named."""
    set_mode(mode)
    optimizer = make(ONE)

    @ms.jit
    def step(rows, values):
        return optimizer(((rows, values),))

    for rows, values, got in (
        (ROWS, VALUES[:, :5], "Int32 and shape .*, and values of Float32"),
        (ROWS.float(), VALUES, "Float32 and shape"),
        (ROWS.reshape(-1, 1, 1), VALUES, "Int32 and shape .*1, 1"),
        (ROWS, VALUES.int(), "Int32 and shape .*, and values of Int32"),
    ):
        with pytest.raises(
            ValueError, match=f"'gradients' must be .* for 'table' .*, and have .* indices, but got indices of {got}"
        ):
            step(rows, values)


PRECISION = "state_dtype", "master_weights"


@pytest.mark.parametrize("argument", ["lr", "betas", "eps", "maximize", "fused", "loss_scale", *PRECISION])
def test_bad_values_raise_and_name_themselves(argument):
    """As an argument and as a key of a group; zero is no eps."""
    params = list(parameters(names=ONE).values())
    for value in (*bad(SparseAdam, argument), *([True] if argument == "fused" else ())):
        with pytest.raises((TypeError, ValueError), match=rf"^For 'SparseAdam', '{argument}(\[\d\])?' must"):
            SparseAdam(params, **{argument: value})
        if argument not in OWN:
            with pytest.raises((TypeError, ValueError), match=rf"^For 'SparseAdam', '{argument}(\[\d\])?' must"):
                SparseAdam([{"params": params, argument: value}])


def test_a_parameter_without_rows_raises():
    """There is nothing to index."""
    with pytest.raises(ValueError, match=r"^For 'SparseAdam', 'params' must have an axis, but got 'scale' of shape"):
        SparseAdam([Parameter(Tensor(np.float32(1)), name="scale")])


def test_the_signature_is_that_of_torch():
    """Its order and defaults; what ours adds goes by name, last."""
    expected, got = arguments(torch.optim.SparseAdam), arguments(SparseAdam)
    assert list(got) == [*expected, *OWN]
    assert got == expected | {name: got[name] for name in OWN}
    assert not any(got[name][0] for name in OWN)
    for name in ABSENT:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            SparseAdam([], **{name: None})


def test_published_configurations():
    """Those of torch's own tests."""
    found = PUBLISHED["SparseAdam"].optim_inputs_func(device="cpu")
    assert len(found) > 2
    for published in found:
        single, double = (run_torch(published.kwargs, (), dtype, FEW) for dtype in DTYPES)
        ours = run_ours(translated_arguments(published.kwargs), names=FEW)
        verdict = compare(ours, single, double, initial=INITIAL)
        assert verdict.passed, (published, verdict)


@pytest.mark.parametrize(
    "wrong",
    [
        error.optimizer_error_input
        for error in PUBLISHED["SparseAdam"].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    ],
    ids=lambda wrong: wrong.desc,
)
def test_published_errors(wrong):
    """What torch refuses raises when it is constructed; MindSpore has no sparse Parameters."""
    if wrong.desc.startswith("dense params required"):
        sparse = COOTensor(rows([1, 5]), VALUES[:1, 0], (50, 6))
        params = [{"params": [sparse]}] if "param_groups" in wrong.desc else [sparse]
        message = "'params' .*must be a list of Parameters.*, but got an element of COOTensor"
    else:
        params = parameters(names=ONE).values() if wrong.params is None else translated_parameters(wrong.params)
        message = {
            "beta1 should be between 0 and 1": r"'betas\[0\]' must .*, but got 1.0",
            "complex not supported": "the dtype of 'p0' must be in .*, but got Complex64",
        }.get(wrong.desc, MESSAGES.get(wrong.desc))
    kwargs = translated_arguments(wrong.kwargs)
    if wrong.desc in ACCEPTED:
        assert SparseAdam(params, **kwargs)
        return
    with pytest.raises((TypeError, ValueError)) as error:
        SparseAdam(params, **kwargs)
    assert re.match(f"For 'SparseAdam', {message}", str(error.value)), error.value


# Which of scikit-learn's data sets a piece of text describes, by the hashes of its trigrams.
BUCKETS, WIDTH, WINDOW, BATCH, TRAINING = 2048, 16, 64, 32, 150


@cache
def texts():
    """The trigrams of pieces of text and the number of the text, of the first four fifths of each and of the rest."""
    folder = files("sklearn.datasets.descr")
    found = [(folder / name).read_bytes() for name in sorted(path.name for path in folder.iterdir()) if ".rst" in name]
    rng, parts = np.random.default_rng(0), []
    found = [text for text in found if len(text) > 1500]
    for size, lower, upper in ((TRAINING * BATCH, 0.0, 0.8), (500, 0.8, 1.0)):
        labels = rng.integers(0, len(found), size)
        starts = [rng.integers(int(lower * len(found[i])), int(upper * len(found[i])) - WINDOW) for i in labels]
        hashes = [
            [zlib.crc32(found[i][at : at + 3]) % BUCKETS for at in range(start, start + WINDOW - 2)]
            for i, start in zip(labels, starts)
        ]
        parts.append((np.array(hashes, np.int32), labels.astype(np.int32)))
    return parts, len(found)


def first_weights():
    """What all runs begin with."""
    rng, classes = np.random.default_rng(1), texts()[1]
    return {
        "table": rng.normal(0, 0.1, (BUCKETS, WIDTH)).astype(np.float32),
        "weight": rng.normal(0, 0.25, (classes, WIDTH)).astype(np.float32),
        "bias": np.zeros(classes, np.float32),
    }


def text_batches():
    """The batches of a training, and the held-out pieces."""
    ((tokens, labels), held_out), _ = texts()
    return zip(tokens.reshape(TRAINING, BATCH, -1), labels.reshape(TRAINING, BATCH)), held_out


def accuracy(weights):
    """The share of held-out pieces that are told right."""
    tokens, labels = text_batches()[1]
    logits = weights["table"][tokens].mean(1) @ weights["weight"].T + weights["bias"]
    return (logits.argmax(1) == labels).mean()


def learn_in_torch(dtype):
    """The trace of weights and losses, and the last weights."""
    weights = {
        name: torch.nn.Parameter(torch.tensor(value, dtype=DTYPES[dtype])) for name, value in first_weights().items()
    }
    table, weight, bias = weights.values()
    optimizers = torch.optim.SparseAdam([table], lr=2e-2), torch.optim.Adam([weight, bias], lr=2e-2)
    recorder = Recorder()
    with one_thread():
        for tokens, labels in text_batches()[0]:
            bag = torch.nn.functional.embedding(torch.tensor(tokens), table, sparse=True).mean(1)
            loss = torch.nn.functional.cross_entropy(bag @ weight.T + bias, torch.tensor(labels).long())
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            recorder.add(
                {name: value.detach().numpy() for name, value in weights.items()},
                {"model": {"loss": loss.detach().numpy()}},
            )
    return recorder.trace()


class TextStep(nn.Cell):
    """A step of two optimizers; a Cell gives what they hold different names."""

    def __init__(self):
        super().__init__()
        table, weight, bias = (Parameter(Tensor(value), name=name) for name, value in first_weights().items())
        self.weights = ms.ParameterTuple((table, weight, bias))
        self.sparse, self.dense = SparseAdam([table], lr=2e-2), Adam([weight, bias], lr=2e-2)
        self.lookup = ops.EmbeddingLookup()
        self.gradient = ms.value_and_grad(self.loss, None, self.weights)

    def loss(self, tokens, labels):
        """The cross entropy of what the mean of a text's embeddings tells."""
        table, weight, bias = self.weights
        return ops.cross_entropy(self.lookup(table, tokens, 0).mean(1) @ weight.T + bias, labels)

    @ms.jit
    def construct(self, tokens, labels):
        """The loss before the step."""
        loss, gradients = self.gradient(tokens, labels)
        self.sparse(gradients[:1])
        self.dense(gradients[1:])
        return loss


def learn():
    """The same in MindSpore, in one compiled step."""
    step, recorder = TextStep(), Recorder()
    for tokens, labels in text_batches()[0]:
        loss = step(Tensor(tokens), Tensor(labels))
        weights = dict(zip(first_weights(), step.weights))
        recorder.add({name: value.asnumpy() for name, value in weights.items()}, {"model": {"loss": loss.asnumpy()}})
    return recorder.trace()


@cache
def learned_in_torch():
    """Both traces."""
    return {dtype: learn_in_torch(dtype) for dtype in DTYPES}


def test_an_embedding_learns_as_in_torch():
    """Losses and weights part from torch in float64 by no more than ten times what torch in float32 does."""
    set_mode("graph")
    ours = learn()
    verdict = compare(ours, *learned_in_torch().values(), FREE_RATIO, initial=first_weights())
    assert verdict.passed, verdict
    losses = ours["loss", "model"]
    assert losses[0] > 2.0 and np.mean(losses[-10:]) < 0.3
    told = [
        accuracy({name: trace[PARAMETER, name][-1] for name in first_weights()})
        for trace in (ours, learned_in_torch()["float32"])
    ]
    assert told[0] == pytest.approx(told[1], abs=0.01) and told[0] > 0.25
