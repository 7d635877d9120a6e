"""Groups that are added in mid-training: what was there goes on as it was, what is new starts anew."""

import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor

from ms_optim import EMA, OPTIMIZERS, SGD, AdamW
from parity import torch_side
from parity.cases import CASES
from parity.compare import compare
from parity.mindspore_side import factory
from parity.problems import synthetic
from parity.trace import Recorder

PROBLEM = synthetic()
FIRST, ADDED = ("fc.weight", "temperature"), ("conv.weight", "twin.weight")


def run_torch(name, kwargs, group, dtype):
    """Five steps with the first, and seven with the added too."""
    build = getattr(torch.optim, name)
    session = torch_side.Session(lambda named: build(dict(named[:2]).values(), **kwargs),
                                 {key: PROBLEM.initial[key] for key in (*FIRST, *ADDED)}, dtype)
    session.steps(PROBLEM.gradients[:5])
    with torch_side.default_dtype(session.dtype):
        session.optimizer.add_param_group({"params": list(dict(session.named[2:]).values()), **group})
    return session.steps(PROBLEM.gradients[5:12])


@pytest.mark.parametrize(("name", "kwargs", "group"), [
    ("AdamW", {"lr": 0.03, "weight_decay": 0.3}, {"lr": 0.1, "amsgrad": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}, {"momentum": 0.5}),
    ("NAdam", {"lr": 0.02}, {"betas": (0.8, 0.99)}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5}, {"eps": 1e-3}),
])
def test_it_goes_on_as_in_torch(name, kwargs, group, mode):
    """No further from torch in float64 than three times torch in float32."""
    params = {key: Parameter(Tensor(PROBLEM.initial[key]), name=key) for key in (*FIRST, *ADDED)}
    optimizer = OPTIMIZERS[name]([params[key] for key in FIRST], **kwargs)
    for gradients in PROBLEM.gradients[:5]:
        optimizer(tuple(Tensor(gradients[key]) for key in FIRST))
    optimizer.add_param_group({"params": [params[key] for key in ADDED], **group})
    assert [param.name for param in optimizer.parameters] == [*FIRST, *ADDED]
    recorder = Recorder()
    for gradients in PROBLEM.gradients[5:12]:
        optimizer(tuple(Tensor(gradients[key]) for key in (*FIRST, *ADDED)))
        recorder.add({key: param.asnumpy() for key, param in params.items()},
                     {key: {slot: value.asnumpy() for slot, value in slots.items()}
                      for key, slots in optimizer.state.items()})
    verdict = compare(recorder.trace(), *(run_torch(name, kwargs, group, dtype) for dtype in ("float32", "float64")),
                      initial={key: PROBLEM.initial[key] for key in params})
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


@pytest.mark.parametrize(("group", "message"), [
    (lambda: {"params": weights("a")}, r"'params' must hold each parameter, and each name, once, but got \['a'\]"),
    (lambda: {"params": weights("c"), "rho": 0.9}, "the keys of a group must be in .* but got .*'rho'"),
    (lambda: {"params": weights("c"), "lr": -1.0}, r"'lr' must be in \[0, inf\)"),
    (lambda: {"lr": 0.1}, "each group must have the key 'params'"),
])
def test_what_does_not_fit_changes_nothing(group, message):
    """The optimizer goes on without it."""
    optimizer = SGD(weights("a"), lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group())
    assert len(optimizer.param_groups) == 1
    optimizer((Tensor(np.ones(3, np.float32)),))
    np.testing.assert_allclose(optimizer.parameters[0].asnumpy(), 0.9)


def test_an_average_says_what_to_do():
    """It would not follow what is added."""
    with pytest.raises(TypeError, match="For 'EMA', 'add_param_group' must be called on its optimizer"):
        EMA(SGD(weights("a"), lr=0.1)).add_param_group({"params": weights("b")})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_group(name):
    """Each is made anew with the arguments that it was made with."""
    case = CASES[name][-1]
    names = [key for key, value in PROBLEM.initial.items() if case.rank in (None, value.ndim)]
    params = [Parameter(Tensor(PROBLEM.initial[key]), name=key) for key in names]
    optimizer = factory(case)(params[:-1])
    before = optimizer.state_dict()["param_groups"]
    optimizer.add_param_group({"params": params[-1:]})
    assert optimizer.state_dict()["param_groups"][:len(before)] == before
    assert [param.name for param in optimizer.parameters] == names
