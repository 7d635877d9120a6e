"""Groups that are added in mid-training: what was there goes on as it was, what is new starts anew."""

import copy
import functools
import pickle

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import DENSE, assert_same, everything
from mindspore import Parameter, Tensor, log, nn

from ms_optim import EMA, SGD, AdamW, MomentumAGC, Muon, SparseAdam, _pieces
from parity.cases import CASES
from parity.cases.problems import synthetic
from parity.judge.compare import compare
from parity.sides import torch as torch_side
from parity.sides.mindspore import MODES, factory
from parity.sides.trace import Recorder

PROBLEM = synthetic()
FIRST, ADDED = ("fc.weight", "temperature"), ("conv.weight", "twin.weight")


# The arguments of an optimizer, and those of the group that is added.
GROUPS = {
    "AdamW": ({"lr": 0.03, "weight_decay": 0.3}, {"lr": 0.1, "amsgrad": True}),
    "SGD": ({"lr": 0.1, "momentum": 0.9, "dampening": 0.2}, {"momentum": 0.5}),
    "NAdam": ({"lr": 0.02}, {"betas": (0.8, 0.99)}),
    "Adagrad": ({"lr": 0.1, "initial_accumulator_value": 0.5}, {"eps": 1e-3}),
}


@functools.cache
def run_torch(name, dtype):
    """Five steps with the first, and seven with the added too."""
    build, (kwargs, group) = getattr(torch.optim, name), GROUPS[name]
    session = torch_side.Session(
        lambda named: build(dict(named[:2]).values(), **kwargs),
        {key: PROBLEM.initial[key] for key in (*FIRST, *ADDED)},
        dtype,
    )
    session.steps(PROBLEM.gradients[:5])
    with torch_side.default_dtype(session.dtype):
        session.optimizer.add_param_group({"params": list(dict(session.named[2:]).values()), **group})
    return session.steps(PROBLEM.gradients[5:12])


@pytest.mark.generic
@pytest.mark.parametrize("name", GROUPS)
def test_it_goes_on_as_in_torch(name, mode):
    """No further from torch in float64 than three times torch in float32."""
    kwargs, group = GROUPS[name]
    params = {key: Parameter(Tensor(PROBLEM.initial[key]), name=key) for key in (*FIRST, *ADDED)}
    optimizer = DENSE[name]([params[key] for key in FIRST], **kwargs)
    for gradients in PROBLEM.gradients[:5]:
        optimizer(tuple(Tensor(gradients[key]) for key in FIRST))
    optimizer.add_param_group({"params": [params[key] for key in ADDED], **group})
    assert [param.name for param in optimizer.parameters] == [*FIRST, *ADDED]
    recorder = Recorder()
    for gradients in PROBLEM.gradients[5:12]:
        optimizer(tuple(Tensor(gradients[key]) for key in (*FIRST, *ADDED)))
        recorder.add(
            {key: param.asnumpy() for key, param in params.items()},
            {key: {slot: value.asnumpy() for slot, value in slots.items()} for key, slots in optimizer.state.items()},
        )
    verdict = compare(
        recorder.trace(),
        *(run_torch(name, dtype) for dtype in ("float32", "float64")),
        initial={key: PROBLEM.initial[key] for key in params},
    )
    assert verdict.passed, str(verdict)


def weights(*names):
    """Parameters of three ones."""
    return [Parameter(Tensor(np.ones(3, np.float32)), name=name) for name in names]


def test_what_was_set_stays(mode):
    """Numbers that were changed, notes of schedulers, and the place in a table."""
    grads = tuple(Tensor(np.ones(3, np.float32)) for _ in range(2))
    optimizer = AdamW([{"params": weights("a")}, {"params": weights("b"), "lr": [0.1, 0.2, 0.3, 0.4]}], lr=0.5)
    for _ in range(2):
        optimizer(grads)
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.param_groups[0]["initial_lr"] = 0.5
    optimizer.param_groups[1]["betas"] = (0.5, 0.6)
    optimizer.add_param_group({"params": weights("c")})
    assert [group["lr"] for group in optimizer.state_dict()["param_groups"]] == [0.25, 0.3, 0.5]
    assert optimizer.param_groups[0]["initial_lr"] == 0.5
    assert optimizer.param_groups[1]["betas"] == (0.5, 0.6)
    before = optimizer.parameters[1].asnumpy().copy()
    optimizer((*grads, grads[0]))
    assert [int(kept["step"].asnumpy()) for kept in optimizer.state.values()] == [3, 3, 1]
    assert (optimizer.parameters[1].asnumpy() != before).all()


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (lambda: {"params": weights("a")}, r"'params' must hold each parameter, and each name, once, but got \['a'\]"),
        (lambda: {"params": weights("c"), "momentums": 0.9}, "the keys of a group must be in .* but got .*'momentums'"),
        (lambda: {"params": weights("c"), "lr": -1.0}, r"'lr' must be in \[0, inf\)"),
        (lambda: {"lr": 0.1}, "each group must have the key 'params'"),
    ],
)
def test_what_does_not_fit_changes_nothing(group, message):
    """The optimizer goes on without it."""
    optimizer = SGD(weights("a"), lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group())
    assert len(optimizer.param_groups) == 1
    optimizer((Tensor(np.ones(3, np.float32)),))
    np.testing.assert_allclose(optimizer.parameters[0].asnumpy(), 0.9)


def matrix(name, shape=(3, 4)):
    """A Parameter of ones."""
    return Parameter(Tensor(np.ones(shape, np.float32)), name=name)


SPARSE = (Tensor([0], ms.int32), Tensor(np.ones((1, 4), np.float32)))
REFUSED = {
    "rank": (Muon, {"ns_steps": 1}, lambda: {"params": [matrix("b", (3,))]}, "For 'Muon', 'params' must be matrices"),
    "no axis": (SparseAdam, {}, lambda: {"params": [matrix("b", ())]}, "For 'SparseAdam', 'params' must have an axis"),
    "idle pattern": (
        MomentumAGC,
        {},
        lambda: {"params": weights("b"), "exempt": "zzz"},
        "each pattern of 'exempt' must match one of .* but got 'zzz'",
    ),
    "no bool": (
        MomentumAGC,
        {},
        lambda: {"params": weights("b"), "exempt": lambda param: 3},
        "'exempt' must return a bool, but got 3 for 'b'",
    ),
    "name of state": (
        AdamW,
        {"amsgrad": True},
        lambda: {"params": weights("exp_avg.a")},
        r"must have other names than what the optimizer keeps, but got \['exp_avg.a'\]",
    ),
    "name of the rate": (
        AdamW,
        {},
        lambda: {"params": weights("learning_rate")},
        r"must have other names than what the optimizer keeps, but got \['learning_rate'\]",
    ),
    "schedule": (AdamW, {}, lambda: {"params": weights("b"), "lr": [0.1, -1.0]}, r"'lr\[1\]' must be in \[0, inf\)"),
}


# Without kernels PYNATIVE compiles what GRAPH does.
@pytest.mark.parametrize(
    ("case", "either"),
    [(case, mode) for case in REFUSED for mode in MODES if mode == "graph" or case not in ("rank", "no axis")],
    indirect=["either"],
)
def test_what_is_refused_late_changes_nothing(case, either, compilations):
    """The state stays, and the steps that come are those of an optimizer that was not asked, without compiling."""
    cls, kwargs, group, message = REFUSED[case]
    grads = (SPARSE if cls is SparseAdam else Tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)),)
    asked, other = (cls([{"params": [matrix("a")], "initial_lr": 0.5}], **kwargs) for _ in range(2))
    for _ in range(2):
        asked(grads)
        other(grads)
    handle, count = asked.param_groups[0], len(compilations)
    with pytest.raises((TypeError, ValueError), match=message):
        asked.add_param_group(group())
    assert_same(everything(asked), everything(other))
    handle["weight_decay" if "weight_decay" in handle else "eps"] = 0.3
    other.param_groups[0]["weight_decay" if "weight_decay" in handle else "eps"] = 0.3
    for _ in range(2):
        asked(grads)
        other(grads)
    assert_same(everything(asked), everything(other))
    assert len(compilations) == count and len(asked.param_groups) == 1
    asked.add_param_group({"params": [matrix("b")]})
    asked((*grads, *grads))


def test_a_group_that_was_taken_before_is_the_group(mode):
    """Its numbers and its notes."""
    optimizer = SGD(weights("a"), lr=0.1)
    group = optimizer.param_groups[0]
    optimizer.add_param_group({"params": weights("b")})
    group["lr"], group["initial_lr"] = 0.5, 0.25
    assert dict(optimizer.param_groups[0]) == dict(group)
    assert (group["lr"], group["initial_lr"]) == (0.5, 0.25)


@pytest.mark.parametrize("before", [True, False])
def test_what_comes_frozen_stays_so(before):
    """Whether or not something was frozen before."""
    optimizer, added = SGD(weights("a", "b"), lr=0.1), weights("c", "d")
    if before:
        optimizer.freeze("a")
    added[1].requires_grad = False
    optimizer.add_param_group({"params": added})
    assert [param.requires_grad for param in optimizer.parameters] == [not before, True, True, False]
    assert optimizer.trainable.asnumpy().tolist() == [not before, True, True, False]


def test_an_average_says_what_to_do():
    """It would not follow what is added."""
    with pytest.raises(TypeError, match="For 'EMA', 'add_param_group' must be called on its optimizer"):
        EMA(SGD(weights("a"), lr=0.1)).add_param_group({"params": weights("b")})


@pytest.mark.parametrize("name", DENSE)
def test_every_optimizer_takes_a_group(name):
    """Each is made anew with the arguments that it was made with."""
    case = CASES[name][-1]
    names = [key for key, value in PROBLEM.initial.items() if case.rank in (None, value.ndim)]
    params = [Parameter(Tensor(PROBLEM.initial[key]), name=key) for key in names]
    optimizer = factory(case)(params[:-1])
    before = optimizer.state_dict()["param_groups"]
    optimizer.add_param_group({"params": params[-1:]})
    assert optimizer.state_dict()["param_groups"][: len(before)] == before
    assert [param.name for param in optimizer.parameters] == names


@pytest.mark.parametrize("most", [1, 256])
def test_what_was_compiled_before_is_warned_of(most, graph, monkeypatch):
    """A training cell goes on with the parameters that it has, and nothing of a step could say so; no graph of its own.

    Nor do several of these.
    """
    told = []
    monkeypatch.setattr(_pieces, "PIECE", most)
    monkeypatch.setattr(log, "warning", told.append)
    net, new = nn.Dense(2, 3), [Parameter(Tensor([1.0], ms.float32), name=name) for name in ("one", "two", "three")]
    optimizer = SGD(net.trainable_params(), lr=0.1, fused=False)
    optimizer((Tensor(np.ones((3, 2)), ms.float32), Tensor(np.ones(3), ms.float32)))  # a graph of its own
    optimizer.add_param_group({"params": new[:1]})
    assert told == []
    nn.TrainOneStepCell(net, optimizer).compile(Tensor(np.ones((1, 2)), ms.float32))
    optimizer.add_param_group({"params": new[1:2]})
    assert ["make the cell anew" in one for one in told] == [True]
    optimizer.add_param_group({"params": new[2:]})
    assert len(told) == 1


def made(name):
    """A Parameter of this name."""
    return Parameter(Tensor(np.ones((2, 3), np.float32)), name=name)


@pytest.mark.parametrize(
    "act", [copy.deepcopy, pickle.dumps, lambda optimizer: optimizer.add_param_group({"params": [made("other")]})]
)
def test_parameters_in_the_place_of_those_of_the_groups(act):
    """As trainers put them that shard by hand: what would be made is of others."""
    optimizer = AdamW([made("weight")])
    optimizer.parameters = optimizer.parameters.clone(prefix="rows", init="same")
    with pytest.raises(RuntimeError, match=r"others, \['rows.weight'\], were put in their place: no copy can be made"):
        act(optimizer)
    assert optimizer((Tensor(np.ones((2, 3), np.float32)),)) == (True,)
