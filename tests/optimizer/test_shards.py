"""Tensors that MindSpore slices over devices: state is sliced with its parameter, and what looks at more is refused."""

import copy
import json
import weakref
from functools import partial

import mindspore as ms
import numpy as np
import pytest
from helpers import DENSE, eight_devices, loud, make_grads, make_params, ways_of_training
from helpers.processes import resident
from mindspore import Parameter, ParameterTuple, Tensor, context, nn, ops
from mindspore.common.initializer import initializer
from mindspore.communication import management
from mindspore.nn.utils import no_init_parameters

from ms_optim import (
    EMA,
    LBFGS,
    OPTIMIZERS,
    SGD,
    Adafactor,
    AdamW,
    MomentumAGC,
    Muon,
    Slot,
    SparseAdam,
    _composed,
    _math,
    restore,
    save,
)
from ms_optim.checkpoint import read_checkpoint
from parity.sides.rules import rule_of

PLACED = [partial(Adafactor, matrix_group="a"), partial(MomentumAGC, unit_group="a"), partial(Muon, matrix_group="a")]


@pytest.fixture
def sliced():
    """A parallel mode in which tensors are sliced."""
    context.set_auto_parallel_context(parallel_mode="semi_auto_parallel")
    yield
    context.reset_auto_parallel_context()


@pytest.mark.parametrize("name", DENSE)
def test_a_rule_is_elementwise_where_it_says_so(name):
    """Then the slices of a step are a step on slices, to the bit; and no rule that is so says otherwise."""
    arguments = loud(DENSE[name]) | {"fused": False}
    whole = [param.asnumpy().astype(np.float64) for param in make_params(name)]
    chosen = [i for i, value in enumerate(whole) if value.ndim == 2]
    params = [whole[i] for i in chosen]
    steps = [[step[i].asnumpy().astype(np.float64) for i in chosen] for step in make_grads(name, 3)]

    def trained(cut):
        names = [f"p{i}" for i in range(len(params))]
        made = [Parameter(Tensor(cut(value)), name=key) for key, value in zip(names, params)]
        arguments_here = {key: value for key, value in arguments.items() if key != "exempt"}
        rule = rule_of(DENSE[name](made, **arguments_here), "float64")
        for step in steps:
            rule.step({key: cut(grad) for key, grad in zip(names, step)})
        return [rule.params[key] for key in names]

    def left(value):
        return np.ascontiguousarray(value[:, : (value.shape[1] + 1) // 2])

    same = [
        np.array_equal(left(np.asarray(one)), np.asarray(other), equal_nan=True)
        for one, other in zip(trained(np.asarray), trained(left))
    ]
    assert all(same) if DENSE[name].elementwise else not all(same)


def test_what_is_not_elementwise_is_refused(sliced):
    """By name, when it is made: there is no number of a slice that stands for the whole."""
    params = [Parameter(Tensor(np.ones((4, 6), np.float32)), name="weight")]
    for name in set(OPTIMIZERS) - {name for name, cls in OPTIMIZERS.items() if getattr(cls, "elementwise", False)}:
        with pytest.raises(ValueError, match=f"For '{name}', .*'weight'.*, but the parallel mode is 'semi_auto_par"):
            OPTIMIZERS[name](params)
    with pytest.raises(ValueError, match=r"'unit_group' must be 'whole' or the name of .* for \['weight'\]"):
        MomentumAGC(params)
    MomentumAGC(params, unit_group="whole")
    MomentumAGC(params, exempt="*")


@pytest.mark.parametrize("cls", [Adafactor, Muon])
def test_where_rows_are_must_be_said(cls, sliced):
    """And that they are on several devices, if the optimizer is sliced, but for those that are not."""
    params = [Parameter(Tensor(np.ones((4, 6), np.float32)), name="weight")]
    with pytest.raises(ValueError, match=r"'matrix_group' must be 'whole' or the name of .* for \['weight'\] where"):
        cls(params)
    cls(params, matrix_group="whole")
    context.set_auto_parallel_context(**ZERO, device_num=8)
    with pytest.raises(
        ValueError, match=r"'matrix_group' must be the name of a communication group for \['weight'\], wh"
    ):
        cls(params, matrix_group="whole")
    cls(params, matrix_group="devices")
    context.set_auto_parallel_context(parallel_optimizer_config={"parallel_optimizer_threshold": 1})
    cls(params, matrix_group="whole")  # which is smaller
    context.set_auto_parallel_context(**ZERO)
    cls([Parameter(Tensor(np.ones((5, 6), np.float32)), name="odd")], matrix_group="whole")  # for eight devices
    params[0].parallel_optimizer = False
    cls(params, matrix_group="whole")


ZERO = {"enable_parallel_optimizer": True, "parallel_optimizer_config": {"parallel_optimizer_threshold": 0}}


def test_a_unit_of_several_rows_is_cut_with_the_optimizer(sliced):
    """As a vector is; rows that are units are not."""
    shapes = {"weight": (4, 6), "bias": (4,), "gain": (4, 1), "scale": ()}
    params = [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in shapes.items()]
    MomentumAGC(params, unit_group="whole")
    context.set_auto_parallel_context(**ZERO, device_num=8)
    for unit, names in (("output", r"\['bias'\]"), ("squeezed", r"\['bias', 'gain'\]")):
        with pytest.raises(ValueError, match=f"'unit_group' must be the name of a communication group for {names}, wh"):
            MomentumAGC(params, unit_group="whole", unit=unit)
    MomentumAGC(params, unit_group="devices")
    MomentumAGC(params, unit_group="whole", exempt="bias")


def by_hand(optimizer, cut):
    """Put clones in the place of the parameters, and cut these and the state as trainers do: along an axis of some."""
    whole = optimizer.parameters
    optimizer.parameters = optimizer.parameters.clone(prefix="rows", init="same")
    state = [kept for kept in vars(optimizer).values() if isinstance(kept, ParameterTuple)]
    for column in {id(kept): kept for kept in [optimizer.parameters, *state] if kept is not whole}.values():
        for kept in column:
            name = kept.name.rsplit(".", 1)[-1]
            if name in cut and kept.ndim:
                kept.assign_value(Tensor(np.split(kept.asnumpy(), 2, cut[name])[1].copy()))
    return tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters)


def compiled(optimizer, gradients):
    """A step as trainers take it."""

    def step(*grads):
        return optimizer(grads)

    return ms.jit(step)(*gradients)


def looked_at(param, grad, slots, *rest):
    """A rule of one's own that looks at a whole."""
    return param - grad / (grad * grad).sum(), slots


OWN = type("Own", (SGD,), {"update": looked_at, "__module__": __name__})
ROWS, COLUMNS = {"weight": 0, "bias": 0}, {"weight": 1}


@pytest.mark.parametrize(
    ("make", "cut", "message"),
    [
        (MomentumAGC, ROWS, r"'unit_group' must be the name of a communication group for \['[a-z.]*bias'\], of which"),
        (MomentumAGC, COLUMNS, r"'unit_group' must be the name of a communication group for \['[a-z.]*weight'\], of"),
        (
            partial(MomentumAGC, unit_group="a"),
            ROWS,
            r"'unit_group' must be 'whole' for \['[a-z.]*weight'\], whose units",
        ),
        (partial(MomentumAGC, unit_group="whole"), ROWS, r"'unit_group' must be .* for \['[a-z.]*bias'\], of which"),
        (Adafactor, ROWS, "'matrix_group' must be the name of a communication group for .*, of which there are parts"),
        (partial(Adafactor, matrix_group="a"), COLUMNS, "parameters must be cut along their first axis alone, but not"),
        (partial(Adafactor, matrix_group="a"), ROWS, r"row_var.weight' must be of shape \(2, 1\), as its parameter is"),
        (OWN, ROWS, "must be whole, because its step looks at all of one"),
        (partial(AdamW, fused=False), {"weight": 0}, None),
        (partial(MomentumAGC, fused=False), {"weight": 0}, None),
        (partial(SGD, momentum=0.9), COLUMNS, None),
    ],
)
def test_what_trainers_cut_by_hand(make, cut, message, either, own_graph):
    """Is refused by name where a step needs it whole; rows of units, and what goes by elements, are not."""
    shapes = {"weight": (4, 6), "bias": (4,)}
    optimizer = make([Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in shapes.items()])
    gradients = by_hand(optimizer, cut)
    if message is None:
        compiled(optimizer, gradients)
        return
    with pytest.raises(ValueError, match=f"^For '{type(optimizer).__name__}', .*{message}"):
        compiled(optimizer, gradients)


def test_muons_rows_are_cut_by_hand(either, own_graph):
    """And must be said to be."""
    optimizer = Muon([Parameter(Tensor(np.ones((4, 6), np.float32)), name="weight")])
    gradients = by_hand(optimizer, ROWS)
    with pytest.raises(ValueError, match=r"^For 'Muon', 'matrix_group' must be the name of a communication group for"):
        compiled(optimizer, gradients)


def test_muons_rows_are_cut_for_as_many_devices(either, own_graph, monkeypatch):
    """More of them would gather the same rows twice."""
    monkeypatch.setattr(management, "get_group_size", lambda group=None: 4)
    optimizer = Muon([Parameter(Tensor(np.ones((4, 6), np.float32)), name="weight")], matrix_group="devices")
    gradients = by_hand(optimizer, ROWS)
    with pytest.raises(ValueError, match=r"^For 'Muon', 'matrix_group' must be .* of 2 devices for .*, where 'dev"):
        compiled(optimizer, gradients)


def test_state_that_some_have_is_not_cut_with_them(either, own_graph):
    """It is in no ParameterTuple: that it was left is said by its name."""
    weight, bias = (Parameter(Tensor(np.ones((4, 6), np.float32)), name=name) for name in ("weight", "bias"))
    for fused, said in (
        (False, r"'[a-z._]*momentum_buffer.weight' must be of shape \(2, 6\), as its parameter is"),
        (
            True,
            r"the state 'momentum_buffer' of '[a-z.]*weight' must be of Float32 and shape \(2, 6\) as the parameter",
        ),
    ):
        optimizer = SGD([{"params": [weight], "momentum": 0.9}, {"params": [bias]}], fused=fused)
        gradients = by_hand(optimizer, ROWS)
        with pytest.raises(ValueError, match=said):
            compiled(optimizer, gradients)


def test_what_was_cut_by_hand_is_saved_by_each(tmp_path, monkeypatch):
    """In a file of its own."""
    optimizer = SGD([Parameter(Tensor(np.ones((4, 6), np.float32)), name="weight")], momentum=0.9)
    by_hand(optimizer, ROWS)
    for rank in range(2):
        monkeypatch.setattr(management, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(management, "get_group_size", lambda: 2)
        save(optimizer, tmp_path / "a.safetensors")
        assert restore(optimizer, tmp_path / "a.safetensors") == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.rank_0.safetensors", "a.rank_1.safetensors"]
    before = [param.asnumpy().copy() for param in optimizer.get_parameters()]
    refused = "^For 'restore', 'parameters' must be of rank 1 of 2, or whole, but got those of rank 0 of 2"
    with pytest.raises(
        ValueError, match=f"{refused}; and parts of .*weight.*, which were cut by hand, cannot be merged"
    ):
        restore(optimizer, tmp_path / "a.rank_0.safetensors")
    with pytest.raises(ValueError, match=refused):
        restore(optimizer, read_checkpoint("restore", tmp_path / "a.rank_0.safetensors"))
    (tmp_path / "a.rank_0.safetensors").rename(tmp_path / "a.rank_1.safetensors")
    with pytest.raises(ValueError, match=refused):
        restore(optimizer, tmp_path / "a.safetensors")
    monkeypatch.setattr(management, "get_group_size", lambda: 3)
    with pytest.raises(ValueError, match=r"^For 'restore', .* of rank 1 of 3, or whole, but got those of rank 0 of 2"):
        restore(optimizer, tmp_path / "a.safetensors")
    for param, value in zip(optimizer.get_parameters(), before, strict=True):
        assert np.array_equal(param.asnumpy(), value)


def test_narrow_parts_do_not_tell_what_a_unit_is():
    """Of a matrix a column is a vector without its axis of size 1."""
    params = [Parameter(Tensor(np.ones((4, 1), np.float32)), name="weight")]
    with pytest.raises(ValueError, match=r"'unit' must be 'output' for \['weight'\], whose parts do not tell"):
        MomentumAGC(params, unit="squeezed", unit_group="devices")
    MomentumAGC(params, unit="squeezed")
    MomentumAGC(params, unit_group="devices")


def test_what_is_sliced_already(monkeypatch):
    """As an `AutoParallel` leaves it: no whole is taken for one, and no group is added.

    On one device MindSpore says so of any Parameter that was given data of another shape.
    """
    params = [Parameter(Tensor(np.ones((2, 6), np.float32)), name="weight")]
    params[0].set_data(Tensor(np.ones((4, 6), np.float32)), slice_shape=True)
    assert params[0].sliced
    for cls in (MomentumAGC, Adafactor, Muon, SparseAdam, LBFGS):
        cls(params)
    made = AdamW(params)
    made.add_param_group({"params": [Parameter(Tensor(np.ones(2, np.float32)), name="head")]})
    monkeypatch.setattr(management, "get_group_size", lambda *_: 8)
    with pytest.raises(
        ValueError, match=r"^For 'MomentumAGC', 'unit_group' must be .*, but MindSpore has sliced param"
    ):
        MomentumAGC(params)
    MomentumAGC(params, unit_group="whole")
    with pytest.raises(RuntimeError, match=r"^For 'AdamW', no group can be added once MindSpore has sliced the param"):
        made.add_param_group({"params": [Parameter(Tensor(np.ones(2, np.float32)), name="more")]})


def test_a_scalar_has_no_slices(sliced):
    """Of it there is nothing to say."""
    context.set_auto_parallel_context(enable_parallel_optimizer=True)
    scalar = Parameter(Tensor(1.0, ms.float32), name="scale")
    Adafactor([scalar])
    with pytest.raises(ValueError, match=r"for \['bias'\] where"):
        Adafactor([scalar, Parameter(Tensor(np.ones(4, np.float32)), name="bias")])


def test_a_rule_of_ones_own_does_not_inherit_that_it_is_elementwise(sliced):
    """Nor does state of another shape pass for a slice."""

    def normed(param, grad, slots, *rest):
        return param - grad / (grad * grad).sum().sqrt(), slots

    own = type("Own", (SGD,), {"update": normed, "__module__": __name__})
    with pytest.raises(ValueError, match=r"For 'Own', .* because its step looks at whole tensors"):
        own(make_params("SGD"))
    rows = type("Rows", (SGD,), {"slots": (Slot("rows", shape=lambda shape: shape[:1]),)})
    with pytest.raises(ValueError, match=r"\['rows'\] of the state have shapes of their own"):
        rows(make_params("SGD"), fused=False)


@pytest.mark.parametrize(("value", "error"), [(5, TypeError), ("", ValueError), ("Whole", ValueError)])
def test_a_group_that_is_none(value, error):
    """Devices are named by a text."""
    with pytest.raises(error, match="'unit_group' must be None, 'whole' or the name of a communication group, but got"):
        MomentumAGC(make_params("MomentumAGC"), unit_group=value)


def test_a_group_needs_the_rule_itself():
    """No kernel communicates."""
    optimizer = MomentumAGC(make_params("MomentumAGC"), unit_group="devices")
    assert not optimizer.fused and "no kernel sums over the devices of 'unit_group'" in optimizer.describe()
    with pytest.raises(ValueError, match="'fused' must be None or False here, because no kernel sums over"):
        MomentumAGC(make_params("MomentumAGC"), unit_group="devices", fused=True)


@pytest.mark.parametrize("make", PLACED)
def test_state_goes_on_on_other_devices(make):
    """Where parts are is no state: it is in copies, not in state dicts."""
    (param,) = params = [Parameter(Tensor(np.ones((4, 6), np.float32)), name="weight")]
    (name,), optimizer = make.keywords, make(params)
    other = make([Parameter(param.copy(), name="weight")], **{name: "b"})
    other.load_state_dict(optimizer.state_dict())
    assert [each.param_groups[0][name] for each in (other, copy.deepcopy(optimizer))] == ["b", "a"]


# What does not fit the slices, for eight devices, and what is said without ZeRO and with it.
REFUSED = {
    "late: Adafactor(params)": ("For 'Adafactor', 'matrix_group' must be 'whole' or the name",) * 2,
    "late: MomentumAGC(params, fused=False)": ("For 'MomentumAGC', 'unit_group' must be 'whole' or the name",) * 2,
    "Adafactor([params[2]], matrix_group='8-units')": (
        "For 'Adafactor', ['second'] must be cut along its first axis alone, but MindSpore cuts it from (16, 64) to "
        "(16, 32).",
        "For 'Adafactor', ['second'] must be cut along its first axis alone, but MindSpore cuts it from (16, 64) to "
        "(4, 32).",
    ),
    "Adafactor(params[:1], matrix_group='4-units')": (
        "For 'Adafactor', 'matrix_group' must be the name of a group of 2 devices for ['first'], where '4-units' is of "
        "4, but MindSpore cuts it from (64, 32) to (32, 32).",
        "For 'Adafactor', 'matrix_group' must be the name of a group of 8 devices for ['first'], where '4-units' is of "
        "4, but MindSpore cuts it from (64, 32) to (8, 32).",
    ),
    "Adafactor(params[1:2], matrix_group='3-units')": (
        "For 'Adafactor', 'matrix_group' must be the name of a group of 2 devices for ['bias'], where",
        "For 'Adafactor', 'matrix_group' must be the name of a group of 8 devices for ['bias'], where",
    ),
    "late: Adafactor(params[:2], matrix_group='whole')": (
        "For 'Adafactor', 'matrix_group' must be the name of a communication group for ['first'], of which there are "
        "parts here, but MindSpore cuts it from (64, 32) to (32, 32).",
        "For 'Adafactor', 'matrix_group' must be the name of a communication group for ['first', 'bias'], which",
    ),
    "Muon([params[2]], ns_steps=1, matrix_group='8-units')": (
        "For 'Muon', ['second'] must be cut along its first axis alone, but MindSpore cuts it from (16, 64) to",
    )
    * 2,
    "late: Muon(params[:1], ns_steps=1, matrix_group='whole')": (
        "For 'Muon', 'matrix_group' must be the name of a communication group for ['first'], of which there are parts",
        "For 'Muon', 'matrix_group' must be the name of a communication group for ['first'], which the optimizer may",
    ),
    "Muon(params[:1], ns_steps=1, matrix_group='4-units')": (
        "For 'Muon', 'matrix_group' must be the name of a group of 2 devices for ['first'], where '4-units' is of 4",
        "For 'Muon', 'matrix_group' must be the name of a group of 8 devices for ['first'], where '4-units' is of 4",
    ),
    "late: MomentumAGC(params, unit_group='whole')": (
        "For 'MomentumAGC', 'unit_group' must be the name of a communication group for ['bias'], of which there are "
        "parts here, but MindSpore cuts it from (64,) to (32,).",
        "For 'MomentumAGC', 'unit_group' must be the name of a communication group for ['bias'], which the optimizer",
    ),
    "MomentumAGC(params, unit_group='8-units', exempt=('bias', 'second'))": (
        "For 'MomentumAGC', 'unit_group' must be 'whole' for ['first'], whose units are not cut, but MindSpore cuts it",
    )
    * 2,
    "MomentumAGC([params[2]], unit_group='8-units', fused=False)": (
        "For 'MomentumAGC', 'unit_group' must be the name of a group of 2 devices for ['second'], where '8-units' is",
    )
    * 2,
}


def test_state_is_sliced_with_its_parameter(forks, tmp_path):
    """For eight devices: a weight by rows or columns, ZeRO or both; summed and gathered as that is said.

    What has another shape stays whole, and is of all slices.
    """
    units = (
        "dict(params=params[:1], unit_group='whole'), dict(params=params[1:2], unit_group='8-units' if zero else "
        "'2-units'), dict(params=params[2:], unit_group='2-units')"
    )
    expressions = {
        "EMA(AdamW(params, amsgrad=True, fused=False), 0.9)": ([], []),
        f"MomentumAGC([{units}])": ([2] * 8, [8] * 4 + [2] * 4),
        "Muon(params[:1], ns_steps=2, matrix_group='8-units' if zero else '2-units')": ([2] * 2, [8] * 2),
        # Of each tensor the length, and two norms of two sums; of a matrix its columns, their mean and a gather too.
        "Adafactor(params[:2], matrix_group='8-units' if zero else '2-units')": ([2] * (5 + 8), [8] * (5 + 8)),
        # Slices of a vector may be on several devices each.
        "Adafactor(params[1:2], matrix_group='8-units')": ([8] * 5, [8] * 5),
        **REFUSED,
        "whole: Adafactor(params[:2], matrix_group='whole')": ([], "For 'Adafactor', 'matrix_group' must be the name"),
        "whole: Muon(params[:1], ns_steps=2, matrix_group='whole')": (
            [],
            "For 'Muon', 'matrix_group' must be the name",
        ),
        "whole: MomentumAGC(params, unit_group='whole', fused=False)": ([], "For 'MomentumAGC', 'unit_group' must be"),
        # Where nothing is cut, shapes do not tell that a group is named for nothing.
        "whole: setattr(params[1], 'parallel_optimizer', False) or "
        "MomentumAGC(params[:2], unit_group='8-units', exempt='first')": (
            [8] * 4,
            "For 'MomentumAGC', 'unit_group' must be 'whole' for ['bias'], whose units are not cut, but MindSpore "
            "leaves it whole, of (64,).",
        ),
    }
    said = forks.run(tmp_path, eight_devices.__file__, *expressions, **{_composed.SUMS: "float32"})
    for (expression, ways), line in zip(expressions.items(), said.splitlines(), strict=True):
        for zero, found, expected in zip((False, True), json.loads(line), ways, strict=True):
            if isinstance(expected, str):
                assert found["refused"].startswith(expected), expression
                continue
            own = {"first": [8, 32], "bias": [8], "second": [4, 32]}
            if not zero:
                own = {"first": [32, 32], "bias": [32], "second": [16, 32]}
            if expression.startswith("whole: "):
                own = {"first": [64, 32], "bias": [64], "second": [16, 64]}
            assert found["sums"] == expected, expression
            whole = {"row_var.first": [64, 1], "col_var.first": [1, 32]} if "Adafactor(params[:2]" in expression else {}
            assert {name: found["shapes"].pop(name) for name in whole} == whole
            kept = {name: shape for name, shape in found["shapes"].items() if name.split(".")[-1] in own}
            assert {name: own[name.split(".")[-1]] for name in kept} == kept, expression
            assert len(kept) > len(own), expression


@pytest.mark.parametrize("shape", [(), (5000,), (3, 5000), (4, 64, 3, 41), (2, 1, 4097)])
def test_sums_without_sizes(shape, monkeypatch):
    """Axis by axis, as where a slice is compiled as a whole: norms are those that parts give, in float32."""
    monkeypatch.setattr(_math, "sums_in_float64", False)
    array = (np.random.default_rng(0).standard_normal(shape) * 1e15).astype(np.float32)
    for axes in (None, tuple(range(1, len(shape)))) if len(shape) > 1 else (None,):
        found = _math.norm(Tensor(array), axes, _math.sum_by_axes).asnumpy()
        double = np.float64(array)
        exact = np.sqrt((double * double).sum(axes, keepdims=axes is not None))
        assert found.shape == exact.shape and (abs(found - exact) <= 1e-6 * exact).all()


@pytest.mark.slow
def test_ways_of_training_compile_as_with_mindspores_own(forks, tmp_path):
    """Pipeline stages, recomputation, accumulation, parts of ZeRO: the same is sent; state is cut as its parameter is.

    But for the norms of units that are cut, over the devices that are said to have them. Before that, slices: wholes
    are cut where `restore` says, and slices that are there before a compilation stay.
    """
    units = "dict(params=params[:1], unit_group='whole'), dict(params=params[1:], unit_group='2-units')"
    own = ["AdamW(params, fused=False)", f"EMA(MomentumAGC([{units}], fused=False), 0.9)"]
    said = forks.run(tmp_path, ways_of_training.__file__, "nn.Momentum(params, 0.1, 0.9)", *own)
    restored, *ways = map(json.loads, said.splitlines())
    # The device is the third of four that have the second rows of one, and the second columns of the other.
    first, second = [48, 0, 8, 4160], [8, 32, 4, 32]
    assert restored.pop("refused").startswith("For 'restore', the slice of 'first.weight' must be the one that is comp")
    assert restored == {
        "unknown": [],
        "differ": [],
        "places": {
            "first.weight": first,
            "second.weight": second,
            "momentum_buffer.first.weight": first,
            "momentum_buffer.second.weight": second,
        },
    }
    assert len(ways) == len(ways_of_training.WAYS)
    slots = ("exp_avg", "exp_avg_sq"), ("momentum_buffer", "ema")
    for (stock, *found), sizes in zip(ways, ({"second": [8, 32]}, {"first": [8, 4160], "second": [4, 32]})):
        shared = {name: shape for name, shape in stock["shapes"].items() if not name.startswith("moment")}
        for name, size in sizes.items():
            assert stock["shapes"][f"moments.{name}.weight"] == shared[f"{name}.weight"] == size
        for each, names in zip(found, slots, strict=True):
            state = {f"{slot}.{name}.weight": size for slot in names for name, size in sizes.items()}
            expected = shared | state
            norms = 4 if "ema" in names else 0
            assert each["sent"] == stock["sent"] | {"AllReduce": stock["sent"]["AllReduce"] + norms}
            assert {name: shape for name, shape in each["shapes"].items() if "optimizer." not in name} == expected


class Net(nn.Cell):
    """Weights that are drawn at random."""

    def __init__(self, shape=(3, 4)):
        super().__init__()
        self.weight = Parameter(initializer("normal", shape, ms.float32), name="weight")
        self.half = Parameter(initializer("normal", shape, ms.float16), name="half")

    def construct(self, x):
        """A loss whose gradients are x."""
        return (x * self.weight).sum() + (x * self.half).sum()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("cell", [False, True])
def test_what_is_made_before_its_parameters(cell, inside, either):
    """No state takes memory before they do; then it trains as if it had been made after them."""

    def make():
        return AdamW(net.trainable_params(), lr=0.5, state_dtype=ms.float32)

    with no_init_parameters():
        net = Net()
        optimizer = make() if inside else None
    optimizer = optimizer or make()
    assert all(kept.has_init for kept in optimizer.state.tensors) and net.weight.has_init
    assert {kept.dtype for kept in optimizer.state.tensors} == {ms.float32}
    net.init_parameters_data()
    before = [param.asnumpy().copy() for param in net.get_parameters()]
    grads = Tensor(np.full((3, 4), 0.25, np.float32)), Tensor(np.full((3, 4), 0.25, np.float16))
    values = zip(("weight", "half"), before, strict=True)
    twin = AdamW([Parameter(Tensor(value), name=name) for name, value in values], lr=0.5, state_dtype=ms.float32)
    twin(grads)
    if cell:
        nn.TrainOneStepCell(net, optimizer).set_train()(grads[0])
    else:
        optimizer(grads)
    for param, other in zip(optimizer.get_parameters(), twin.get_parameters(), strict=True):
        np.testing.assert_allclose(param.asnumpy(), other.asnumpy(), rtol=1e-6, err_msg=param.name)
    assert all(before[0].ravel() != 0)


def test_parameters_that_have_no_memory_have_no_state_that_has():
    """512 MiB of them; AdamW would take twice that."""
    with no_init_parameters():
        net = Net((64, 1024, 1024 * 2))
    before = resident()
    made = EMA(AdamW([net.weight]))
    assert resident() - before < 50 * 2**20 and made.state_bytes > 1536 * 2**20


def test_state_goes_with_its_optimizer():
    """MindSpore finds the state by its parameter, which would keep it for good."""
    (param,) = params = [Parameter(Tensor(np.ones(3, np.float32)), name="weight")]
    optimizer = EMA(AdamW(params))
    assert [made.name for made in param.param_info.cloned_obj] == ["exp_avg.weight", "exp_avg_sq.weight", "ema.weight"]
    kept = [weakref.ref(made) for made in param.param_info.cloned_obj]
    del optimizer
    assert param.param_info.cloned_obj == [] and all(made() is None for made in kept)


def test_state_of_an_optimizer_that_is_made_anew():
    """As a group that is added does."""
    params = make_params("SGD")
    optimizer = SGD(params, momentum=0.9)
    optimizer.add_param_group({"params": [Parameter(Tensor(np.ones(3, np.float32)), name="added")]})
    for param in optimizer.parameters:
        (made,) = param.param_info.cloned_obj
        assert any(made is kept for kept in optimizer.momentum_buffer)
    ops.assign(params[0], params[0] * 2)
