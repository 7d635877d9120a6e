"""Optimizers take what schedulers set, from the host or as a table in the graph."""

import numpy as np
import pytest
import torch
from helpers import assert_compiled
from helpers.schedules import (
    CASES,
    LRS,
    STEPS,
    TORCH,
    build,
    cycles_momentum,
    each_case,
    host_driven,
    our_optimizer,
    stand_in,
    step,
)
from mindspore import Parameter, Tensor, nn, ops

from ms_optim import EMA, SGD, Adam, lr_scheduler
from ms_optim.lr_scheduler import StepLR, table
from parity.sides.mindspore import set_mode

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.usefixtures("own_graph")
def test_the_next_step_takes_the_learning_rate(mode):
    """The learning rate of each group, without compiling again; also one set by hand, and through an EMA."""
    for wrap, dtype in ((lambda optimizer: optimizer, np.float64), (EMA, np.float32)):
        optimizer = wrap(our_optimizer(dtype=dtype))
        scheduler, expected = StepLR(optimizer, 2, 0.3), [np.zeros(2, dtype), np.zeros(2, dtype)]
        for count in range(9):
            if count == 5:
                optimizer.param_groups[1]["lr"] = 0.77
            for value, group in zip(expected, optimizer.param_groups):
                value -= dtype(group["lr"])
            optimizer((Tensor(np.ones(2, dtype)),) * 2)
            scheduler.step()
        assert_compiled(optimizer)
        assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.3 * 0.3 * 0.3 * 0.3, 0.77 * 0.3 * 0.3]
        for value, param in zip(expected, optimizer.parameters):
            np.testing.assert_array_equal(param.asnumpy(), value, strict=True)


FOLLOWED = {
    "SGD": ("SGD", ("CyclicLR", dict(base_lr=0.01, max_lr=[0.1, 0.2], step_size_up=4, base_momentum=0.3)), 1e-14),
    "Adam": ("Adam", ("OneCycleLR", dict(max_lr=[0.1, 0.2], total_steps=30, base_momentum=0.3)), 1e-13),
    "chain": ("SGD", CASES["chain"], 1e-14),
}


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize(
    ("name", "mode"),
    [("SGD", "graph"), ("SGD", "composed"), ("Adam", "graph"), ("Adam", "pynative"), ("chain", "pynative")],
    indirect=["mode"],
)
def test_training_follows_torch(name, mode):
    """Learning rates, momentum and beta1 of each step; with one compilation."""
    cls, case, tolerance = FOLLOWED[name]
    rng = np.random.default_rng(0)
    kwargs = dict(momentum=0.9) if cls == "SGD" else {}
    ours = our_optimizer({"SGD": SGD, "Adam": Adam}[cls], **kwargs)
    params = [torch.zeros(2, dtype=torch.float64) for _ in LRS]
    theirs = getattr(torch.optim, cls)([{"params": [param], "lr": lr} for param, lr in zip(params, LRS)], **kwargs)
    schedulers = build(lr_scheduler, ours, case), build(TORCH, theirs, case)
    for _ in range(30):
        grads = rng.standard_normal((2, 2))
        ours(tuple(Tensor(grad) for grad in grads))
        for param, grad in zip(params, grads):
            param.grad = torch.tensor(grad)
        theirs.step()
        for scheduler in schedulers:
            scheduler.step()
    assert_compiled(ours)
    for mine, param in zip(ours.parameters, params):
        np.testing.assert_allclose(mine.asnumpy(), param.numpy(), rtol=tolerance)


TABLED = {
    name: case
    for name, case in CASES.items()
    if not (name.endswith("each") or cycles_momentum(case) or case[0] == "ReduceLROnPlateau")
}


@pytest.mark.parametrize("name", TABLED)
def test_a_table_holds_what_the_host_gives(name):
    """At each of its steps; the scheduler is not stepped beyond."""
    lrs = table(lambda optimizer: build(lr_scheduler, optimizer, TABLED[name]), LRS[0], STEPS)
    np.testing.assert_array_equal(lrs, host_driven(TABLED[name], STEPS), strict=True)


@pytest.mark.usefixtures("own_graph")
def test_the_graph_takes_the_table(mode):
    """At each of its steps to the last bit of a double, or rounded once to float32; then the last one holds."""
    names, steps = ("one cycle without momentum", "warm-up, cosine"), 60
    lrs = [
        table(lambda optimizer, name=name: build(lr_scheduler, optimizer, CASES[name]), LRS[0], steps) for name in names
    ]
    assert all(len(set(each)) == steps for each in lrs)
    dtypes = (np.float64, np.float32)
    params = [Parameter(Tensor(np.zeros(2, dtype)), name=f"{i}.{dtype.__name__}") for i in range(2) for dtype in dtypes]
    optimizer = SGD([{"params": params[:2], "lr": lrs[0]}, {"params": params[2:], "lr": lrs[1]}])
    ones = tuple(Tensor(np.ones(2, dtype)) for _ in range(2) for dtype in dtypes)
    zeros = tuple(Tensor(np.zeros(2, dtype)) for dtype in dtypes * 2)
    for count in range(steps + 10):
        optimizer(ones)
        for i, param in enumerate(params):
            expected = dtypes[i % 2](lrs[i // 2][min(count, steps - 1)])
            assert param.asnumpy().tolist() == [-expected] * 2, (count, param.name)
            ops.assign(param, zeros[i])
    assert_compiled(optimizer)


def test_groups_that_share_a_learning_rate():
    """They still share one Parameter, to which MindSpore's callbacks write, whatever a scheduler sets in them."""
    params = [Parameter(Tensor(np.zeros(2)), name=name) for name in "ab"]
    optimizer = SGD([{"params": [param]} for param in params], lr=0.1)
    shared = optimizer.learning_rate
    build(lr_scheduler, optimizer, ("CyclicLR", dict(base_lr=0.01, max_lr=[0.1, 0.3], cycle_momentum=False))).step()
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert 0.01 < first < second
    assert (optimizer.learning_rate is shared, optimizer.is_group_lr, float(shared.asnumpy())) == (True, False, first)
    StepLR(optimizer, 3)
    build(lr_scheduler, optimizer, ("LambdaLR", dict(lr_lambda=lambda epoch: 0.5)))
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.005]
    ops.assign(shared, Tensor(0.7, shared.dtype))
    assert [group["lr"] for group in optimizer.param_groups] == [0.7, 0.7]


@each_case
def test_step_lets_the_optimizer_follow_requires_grad(name):
    """That of every scheduler; an optimizer that knows no such thing is left alone, as in all tests of numbers."""
    asked, optimizer = [], stand_in()
    optimizer.follow_requires_grad = lambda: asked.append(True)
    scheduler = build(lr_scheduler, optimizer, CASES[name])
    for count in range(12):
        asked.clear()
        step(scheduler, count)
        assert asked, count


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, EMA], ids=["alone", "EMA"])
def test_a_compiled_cell_freezes_what_was_frozen_by_hand(wrap, compilations):
    """From the next `step` of the scheduler on, and moves it again, without compiling again."""
    set_mode("graph")
    net = nn.Dense(3, 2)
    optimizer = wrap(SGD(net.trainable_params(), lr=0.1, momentum=0.9))
    scheduler = StepLR(optimizer, 3)
    train = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
    x, y = Tensor(np.ones((4, 3), np.float32)), Tensor(np.full((4, 2), 3.0, np.float32))

    def moved():
        before = net.weight.asnumpy().copy(), net.bias.asnumpy().copy()
        train(x, y)
        return [bool((old != new.asnumpy()).all()) for old, new in zip(before, (net.weight, net.bias))]

    assert moved() == [True, True]
    compiled = len(compilations)
    net.bias.requires_grad = False
    scheduler.step()
    assert moved() == [True, False]
    net.bias.requires_grad = True
    scheduler.step()
    assert moved() == [True, True]
    assert len(compilations) == compiled > 0


def test_a_learning_rate_in_the_graph_is_not_driven_from_the_host():
    """Neither a table nor a schedule, in one group or in all, also through an EMA."""
    for lrs in ([[0.1, 0.2]], [0.1, [0.1, 0.2]], [nn.CosineDecayLR(0.01, 0.1, 10)]):
        for optimizer in (our_optimizer(lrs=lrs), EMA(our_optimizer(lrs=lrs))):
            with pytest.raises(TypeError, match=r"^For 'StepLR', 'optimizer' must have a number for the 'lr' of each"):
                StepLR(optimizer, 3)
