"""State dicts: torch's layout, torch's runs that go on here and the other way round, and what does not fit."""

import copy
import functools
import pickle
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import DENSE, assert_same, everything
from mindspore import Parameter, Tensor

from ms_optim import EMA, SGD, Adagrad, Adam, AdamW, Optimizer, Slot
from parity import suite
from parity.cases import CASES
from parity.cases.problems import synthetic
from parity.sides import mindspore as mindspore_side
from parity.sides import torch as torch_side
from parity.sides.mindspore import MODES

PROBLEM = synthetic()
# Two parameters, and one that has its first gradient late.
SMALL = PROBLEM.part(["fc.weight", "temperature", "late.bias"])
SMALL = replace(
    SMALL,
    gradients=[
        {**gradients, "late.bias": None if step < 8 else gradients["late.bias"]}
        for step, gradients in enumerate(SMALL.gradients[:18])
    ],
)
MATRICES = PROBLEM.part(["fc.weight", "zero.weight"])
modes = pytest.mark.parametrize("mode", MODES)
TORCH = [name for name in DENSE if name != "MomentumAGC"]
# State of every kind: none at first, one that starts as something, numbers, rows and columns, and averages. AdamW and
# averages that have compiled go on in test_goes_on_bit_for_bit.
TAKEN_UP = {
    "SGD": "graph",
    "AdamW": "pynative",
    "ASGD": "graph",
    "NAdam": "pynative",
    "Adafactor": "graph",
    "EMA": "pynative",
}


def grids(names=TORCH):
    """The first and the last case of each optimizer of torch, the quietest and the loudest; and those with dampening.

    What it does depends on whether there was a step before.
    """
    return [
        case
        for name in names
        for case in CASES[name]
        if case in (CASES[name][0], CASES[name][-1]) or case.kwargs.get("dampening")
    ]


def problem_of(case):
    """What the case is run on."""
    return (SMALL if case.rank is None else MATRICES).fitting(case)


def in_torch(case, values):
    """A run of torch."""
    return torch_side.Session(torch_side.factory(case), values, "float32")


def here(case, values, mode):
    """A run of ours, whose optimizer is its own: compiled in GRAPH, by direct calls in PYNATIVE."""
    return mindspore_side.Session(mindspore_side.factory(case), values, mode, anew=True)


@pytest.mark.parametrize("case", grids(), ids=str)
def test_layout_is_that_of_torch(case):
    """The same keys, shapes and values of every group and state, also before the first step."""
    problem = problem_of(case)
    ours, reference = here(case, problem.initial, "pynative"), in_torch(case, problem.initial)
    for gradients in ([], problem.gradients[:1], problem.gradients[1:4]):
        ours.steps(gradients)
        reference.steps(gradients)
        mine, theirs = ours.optimizer.state_dict(), reference.optimizer.state_dict()
        assert [group["params"] for group in mine["param_groups"]] == [
            group["params"] for group in theirs["param_groups"]
        ]
        for one, other in zip(mine["param_groups"], theirs["param_groups"], strict=True):
            other = {
                key: value
                for key, value in other.items()
                if key not in ("param_names", "foreach", "capturable", "differentiable", "fused")
            }
            assert one.keys() == other.keys()
            if case.optimizer != "Adafactor":  # whose eps may be None
                assert one == other
        shapes = [
            {
                place: {slot: tuple(value.shape) for slot, value in slots.items() if value is not None}
                for place, slots in state["state"].items()
            }
            for state in (mine, theirs)
        ]
        assert shapes[0] == {place: slots for place, slots in shapes[1].items() if slots}


@pytest.mark.parametrize(("case", "mode"), [(CASES[name][-1], mode) for name, mode in TAKEN_UP.items()], ids=str)
def test_a_run_is_taken_up(case, mode):
    """Ours by torch, torch's by ours and ours from files; one parameter has not been stepped by then.

    In one mode; `python -m parity --full` does it in both, of every optimizer.
    """
    outcome = suite.resumed(case, problem_of(case), (mode,))
    assert outcome.passed, {leg: str(verdict) for leg, verdict in outcome.verdicts.items()}


@pytest.mark.generic(compiles=True)
@modes
@pytest.mark.parametrize("name", [*DENSE, "EMA"])
@pytest.mark.parametrize("compiled", [False, True])
def test_goes_on_bit_for_bit(name, compiled, mode):
    """In a freshly built optimizer, and in one that has compiled and gone elsewhere; nothing recompiles."""
    case = CASES[name][-1]
    problem = problem_of(case)
    first = here(case, problem.initial, mode)
    first.steps(problem.gradients[:3])
    state, values = first.optimizer.state_dict(), first.values
    expected = first.steps(problem.gradients[3:9])
    second = here(case, {key: np.add(value, 1, dtype=value.dtype) for key, value in values.items()}, mode)
    if compiled:
        second.steps(problem.gradients[8:10])
    for param in second.optimizer.parameters:
        ms.ops.assign(param, Tensor(values[param.name]))
    second.optimizer.load_state_dict(state)
    got = second.steps(problem.gradients[3:9])
    assert got.keys() == expected.keys()
    for key, steps in expected.items():
        np.testing.assert_array_equal(got[key], steps, err_msg=str(key))


def test_a_schedule_goes_on_at_its_place(mode):
    """The rate of a table is that of the step that comes; "lr" is this step's."""

    def make():
        weight = Parameter(Tensor(np.zeros(1)), name="weight")
        return SGD([weight], lr=[0.1, 0.2, 0.4, 0.8])

    first, second = make(), make()
    grads = (Tensor(np.ones(1)),)
    for _ in range(2):
        first(grads)
    state = first.state_dict()
    assert (state["param_groups"][0]["lr"], state["global_step"]) == (0.4, 2)
    second.load_state_dict(state)
    second(grads)
    assert second.parameters[0].asnumpy().item() == -0.4
    del state["global_step"], state["steps"]
    with pytest.raises(ValueError, match="For 'SGD', 'state_dict' must say by 'global_step' how many steps were taken"):
        second.load_state_dict(state)


def test_a_table_of_another_number_has_a_place_too():
    """Which the state of torch's SGD does not say."""
    weight = torch.nn.Parameter(torch.ones(1))
    theirs = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(1)
    theirs.step()
    ours = SGD([Parameter(Tensor(np.ones(1)), name="weight")], lr=0.1, momentum=0.9, weight_decay=[0.1, 0.2])
    with pytest.raises(ValueError, match="how many steps were taken, because an argument has one for each step, but"):
        ours.load_state_dict(theirs.state_dict())
    ours.load_state_dict({**theirs.state_dict(), "global_step": 1})
    assert ours.state_dict()["param_groups"][0]["weight_decay"] == 0.2


class Falling(Optimizer):
    """One of one's own, whose steps fall; "step" is none of its slots, though its rule takes it."""

    slots = (Slot("velocity"),)

    @staticmethod
    def scalars(step, lr, momentum):
        """The rate by the count of steps."""
        return lr / step.sqrt(), momentum

    @staticmethod
    def update(param, grad, slots, lr, momentum):
        """Momentum."""
        velocity = momentum * slots[0] + grad
        return param - lr * velocity, (velocity,)

    def __init__(self, params, lr=1.0, momentum=0.5):
        super().__init__(params, dict(lr=lr, momentum=momentum))


def grown(optimizer):
    """The same with one parameter more."""
    optimizer.add_param_group({"params": [Parameter(Tensor(np.ones(2)), name="new")]})
    return optimizer


def loaded(optimizer):
    """Another with its state."""
    other = Falling([param.copy() for param in optimizer.parameters])
    other.load_state_dict(optimizer.state_dict())
    return other


@pytest.mark.parametrize("go_on", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made)), loaded, grown])
def test_steps_are_counted_where_they_are_no_state(go_on):
    """And go on wherever the state does; a parameter that had no gradient has not taken them all."""
    optimizer = Falling([Parameter(Tensor(np.ones(2)), name=name) for name in ("a", "b")])
    ones = Tensor(np.ones(2))
    for second in (ones, None, ones):
        optimizer((ones, second))
    assert optimizer.state_dict()["steps"] == {0: 3, 1: 2}
    assert go_on(optimizer).step_counts.asnumpy().tolist()[:2] == [3, 2]


@pytest.mark.parametrize(
    ("value", "error"),
    [([3], TypeError), ({5: 1}, ValueError), ({0: 1.5}, ValueError), ({0: -1}, ValueError), ({"c": 1}, ValueError)],
)
def test_counts_of_steps_that_are_none(value, error):
    """Of other parameters, or no whole numbers."""
    optimizer = SGD([Parameter(Tensor(np.ones(2)), name="a")], lr=0.1)
    with pytest.raises(error, match="For 'SGD', 'steps' "):
        optimizer.load_state_dict({**optimizer.state_dict(), "steps": value})
    optimizer.load_state_dict({**optimizer.state_dict(), "steps": {"0": 4}})
    assert optimizer.step_counts.asnumpy().tolist() == [4]


def make(cls=AdamW, **kwargs):
    """An optimizer of two parameters in two groups."""
    params = [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in (("a", (2, 3)), ("b", (4,)))]
    return cls([{"params": [params[0]]}, {"params": [params[1]], "lr": 0.5}], **kwargs)


def stepped(cls=AdamW, **kwargs):
    """One that has taken a step."""
    optimizer = make(cls, **kwargs)
    optimizer(tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters))
    return optimizer


@functools.cache
def taken():
    """The state dict of one that has taken a step."""
    return stepped().state_dict()


def copied(tree):
    """Dicts and lists anew, whose tensors and numbers are the same."""
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def setting(*path, to):
    """What sets an entry of a state dict."""

    def spoil(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = to

    return spoil


COUNT = r"must be an integer in \[0, 2\*\*31\), but got "
REAL = "must be real numbers in a dense tensor or array, but got "
UNREADABLE = [
    (np.full(4, 1 + 5j), f"{REAL}ndarray of complex128"),
    (torch.ones(4, dtype=torch.complex64).conj(), f"{REAL}Tensor of torch.complex64: "),
    (Tensor(np.ones(4), ms.complex64), f"{REAL}Tensor of Complex64"),
    (torch.ones(4).to_sparse(), f"{REAL}Tensor of torch.float32: "),
    (torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), f"{REAL}Tensor of torch.qint8: "),
    (torch.ones(4).to(torch.float8_e4m3fn), f"{REAL}Tensor of torch.float8_e4m3fn: "),
    (torch.ones(4, device="meta"), f"{REAL}Tensor of torch.float32: "),
    (np.array(["1"] * 4), f"{REAL}ndarray of <U1"),
    (np.ones(4, object), f"{REAL}ndarray of object"),
    ([[1.0], [1.0, 2.0]], f"{REAL}.*: "),
    ("x", f"{REAL}'x'"),
    ({}, f"{REAL}{{}}"),
]
COUNTS = [
    (float("nan"), f"{COUNT}nan"),
    (float("inf"), f"{COUNT}inf"),
    (-1, f"{COUNT}-1"),
    (2.5, f"{COUNT}2.5"),
    (2**31, f"{COUNT}2147483648"),
    (torch.tensor(1e12), f"{COUNT}999999995904.0"),
    ("3", f"{REAL}'3'"),
    (3j, f"{REAL}3j"),
    (True, "must be a number, but got True"),
    (np.ones(2), r"must be a number, but got shape \(2,\)"),
]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *[(setting("state", 1, "step", to=value), f"'step' of 'b' {message}") for value, message in COUNTS],
        *[(setting("global_step", to=value), f"'global_step' {message}") for value, message in COUNTS],
        *[(setting("state", 1, "exp_avg", to=value), f"'exp_avg' of 'b' {message}") for value, message in UNREADABLE],
        *[
            (setting("state", to=value), "'state' must be a dict of dicts, but got")
            for value in (None, [], 3, {0: None}, {0: [1]}, {0: Tensor([1.0])})
        ],
        *[
            (setting("param_groups", to=value), "'param_groups' must be a list of dicts with a list as 'params'")
            for value in (None, 3, [3, 3], {}, [{}, {}])
        ],
        *[
            (
                setting("param_groups", 1, "params", to=value),
                "'param_groups' must be a list of dicts with a list as 'params'",
            )
            for value in (None, "b", 1)
        ],
        *[
            (
                setting("param_groups", 1, "params", to=value),
                r"'params' of the groups must be different integers, or different names, but got \[0, ",
            )
            for value in ([0], ["1"], [None])
        ],
        (setting("param_groups", 1, "param_names", to=None), "and one as 'param_names' if that is there"),
        (
            setting("state", 1, 5, to=1.0),
            r"the state of 'b' must be \['exp_avg', 'exp_avg_sq', 'step'\], but got \[5, ",
        ),
        (setting(5, to=1.0), r"must have the keys 'state' and 'param_groups', .* but got \[5, "),
        (setting("param_groups", 1, "initial_lr", to="x"), f"'initial_lr' {REAL}'x'"),
        (setting("param_groups", 1, "max_lr", to=float("nan")), "'max_lr' must be finite, but got nan"),
        (
            setting("param_groups", 1, "lr", to=torch.ones(2).to_sparse()),
            f"'lr' of group 1 {REAL}Tensor of torch.float32: ",
        ),
        (setting("param_groups", 1, "amsgrad", to=np.ones(2)), r"'amsgrad' of group 1 must be False .* \[1.0, 1.0\]"),
        (
            setting("param_groups", 0, "momentum", to=1),
            r"the keys of group 0 must be in \['params', 'lr', .* but got 'momentum'",
        ),
        (lambda state: state.pop("state"), r"'state_dict' must have the keys 'state' and 'param_groups'"),
        (lambda state: state.update(epoch=3), r"but got \['epoch', 'frozen', 'global_step', 'param_groups', 'state'\]"),
        (lambda state: state["param_groups"].pop(), r"'param_groups' must have \[1, 1\] parameters, but got \[1\]"),
        (
            lambda state: state["param_groups"][0]["params"].append(2),
            r"must have \[1, 1\] parameters, but got \[2, 1\]",
        ),
        (
            lambda state: state["param_groups"][0].update(lr=-1.0),
            r"For 'AdamW', 'lr' must be in \[0, inf\), but got -1.0",
        ),
        (lambda state: state["param_groups"][1].update(betas=(0.9, 1.0)), r"'betas\[1\]' must be in \[0, 1\)"),
        (
            lambda state: state["param_groups"][1].update(amsgrad=True),
            r"'amsgrad' of group 1 must be False as in the optimizer, .* but got True: make .* with amsgrad=True",
        ),
        (
            lambda state: state["param_groups"][0].update(bias_correction=False),
            "'bias_correction' of group 0 must be True, because no optimizer here leaves the bias correction out",
        ),
        (
            lambda state: [group.update(params=[name]) for group, name in zip(state["param_groups"], ("a", "c"))],
            r"must be places or the names \[\['a'\], \['b'\]\], but got \[\['a'\], \['c'\]\]; 'ms_optim.convert.to",
        ),
        (lambda state: state["param_groups"][0].update(beta=0.9), r"the keys of group 0 must be in .* but got 'beta'"),
        (lambda state: state["state"].update({7: {}}), r"'state' must be of the parameters \[0, 1\], but got \[7\]"),
        (
            lambda state: state["state"][1].pop("exp_avg_sq"),
            r"the state of 'b' must be \['exp_avg', 'exp_avg_sq', 'step'\], but got \['exp_avg', 'step'\]",
        ),
        (lambda state: state["state"][1].update(max_exp_avg=np.ones(4)), r"but got .*'max_exp_avg'"),
        (
            lambda state: state["state"][1].update(exp_avg=np.ones((2, 2))),
            r"'exp_avg' of 'b' must be of shape \(4,\), but got \(2, 2\)",
        ),
        (
            lambda state: state["state"][0].update(step=np.ones(2)),
            r"'step' of 'a' must be a number, but got shape \(2,\)",
        ),
    ],
)
def test_what_does_not_fit_changes_nothing(spoil, message):
    """It is told, and the optimizer is as it was, what came before the fault in the dict too."""
    ms.set_context(mode=ms.GRAPH_MODE)
    state = copied(taken())
    state["param_groups"][0] |= {"weight_decay": 0.7, "initial_lr": 0.3}
    spoil(state)
    optimizer = make()
    before, groups = everything(optimizer), [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert_same(everything(optimizer), before)
    assert [dict(group) for group in optimizer.param_groups] == groups


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3, 4],
        np.arange(1, 5, dtype=">f4"),
        np.arange(1, 5, dtype=np.uint16),
        Tensor([1, 2, 3, 4], ms.bfloat16),
        Tensor([1, 2, 3, 4], ms.bfloat16).asnumpy(),
        torch.tensor([1.0, 2, 3, 4], dtype=torch.bfloat16, requires_grad=True),
        torch._neg_view(-torch.arange(1, 5)),
        torch.tensor([[1, 0], [2, 0], [3, 0], [4, 0]]).t()[0],
    ],
    ids=repr,
)
def test_tensors_of_all_kinds(value):
    """Views, bfloat16, another byte order and integers are the numbers that they hold."""
    ms.set_context(mode=ms.GRAPH_MODE)
    optimizer = stepped()
    state = optimizer.state_dict()
    state["state"][1] |= {"exp_avg": value, "step": torch.tensor([3.0])}
    optimizer.load_state_dict(state)
    assert optimizer.state["b"]["exp_avg"].asnumpy().tolist() == [1.0, 2.0, 3.0, 4.0]
    assert optimizer.state["b"]["step"].asnumpy().item() == 3


@pytest.mark.parametrize(
    "kind", [torch.tensor, np.float32, Tensor, lambda number: torch.tensor([number]), lambda number: np.array([number])]
)
def test_tensors_of_one_element_are_numbers(kind):
    """Learning rates, betas and notes, loaded and set; what is kept is Python's."""
    ms.set_context(mode=ms.GRAPH_MODE)
    optimizer = make()
    state = optimizer.state_dict()
    state["param_groups"][0] |= {"lr": kind(0.25), "betas": (kind(0.5), kind(0.75)), "initial_lr": kind(0.125)}
    optimizer.load_state_dict(state)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["initial_lr"]) == (0.25, (0.5, 0.75), 0.125)
    group["lr"] = group["max_lr"] = kind(0.5)
    assert (group["lr"], group["max_lr"]) == (0.5, 0.5)
    assert {type(group[name]) for name in ("initial_lr", "max_lr")} == {float}


def test_it_is_a_copy():
    """Steps that come do not change it."""
    ms.set_context(mode=ms.GRAPH_MODE)
    optimizer = stepped()
    state = optimizer.state_dict()
    before = state["state"][0]["exp_avg"].asnumpy().copy()
    optimizer(tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters))
    np.testing.assert_array_equal(state["state"][0]["exp_avg"].asnumpy(), before)


def test_what_was_reset_starts_anew():
    """State that the dict does not have is what it was at construction: Adagrad's sum too."""
    ms.set_context(mode=ms.GRAPH_MODE)
    for cls, kwargs, slot, first in (
        (Adagrad, {"initial_accumulator_value": 0.5}, "sum", 0.5),
        (SGD, {"lr": 0.1, "momentum": 0.9}, "momentum_buffer", 0.0),
    ):
        optimizer = stepped(cls, **kwargs)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {}})
        assert set(optimizer.state["a"][slot].asnumpy().flat) == {first}
        assert not optimizer.step_counts.asnumpy().any()


def test_the_average_is_saved_with_its_optimizer():
    """And what does not fit it is told."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ema = EMA(stepped(Adam), decay=0.5)
    state = ema.state_dict()
    assert state["ema"].keys() == {"averages", "decay", "step"} and state["param_groups"][1]["lr"] == 0.5
    del state["ema"]["averages"]["a"]
    with pytest.raises(ValueError, match=r"must hold as 'ema' 'averages' of \['a', 'b'\], 'decay' and 'step'"):
        ema.load_state_dict(state)
    with pytest.raises(ValueError, match="'state_dict' must hold as 'ema'"):
        ema.load_state_dict(stepped(Adam).state_dict())
    with pytest.raises(TypeError, match="must be one of ms_optim for 'state_dict', but got SGD"):
        EMA(ms.nn.SGD([Parameter(Tensor([1.0]), name="a")])).state_dict()


def test_a_cell_around_it_has_its_own():
    """`Cell.state_dict` of a training cell goes through the optimizer."""
    optimizer = stepped()
    keys = ms.nn.CellList([optimizer]).state_dict()
    assert any("exp_avg" in key for key in keys)


@modes
def test_bfloat16_goes_on(mode):
    """MindSpore's CPU has no `assign` for it; in an optimizer that has compiled, with an average."""
    given, taken = (EMA(AdamW([Parameter(Tensor(np.ones(8), ms.bfloat16), name="w")], lr=0.1)) for _ in range(2))
    grads = (Tensor(np.linspace(-1, 1, 8), ms.bfloat16),)
    for optimizer in (given, given, taken):
        optimizer(grads)
    taken.load_state_dict(given.state_dict())
    taken.parameters[0].copy_(given.parameters[0])
    for optimizer in (given, taken):
        optimizer(grads)
    for kept, expected in zip(taken.get_parameters(), given.get_parameters()):
        np.testing.assert_array_equal(kept.float().asnumpy(), expected.float().asnumpy(), err_msg=kept.name)
