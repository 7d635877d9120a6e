"""Every scheduler against torch's, to the last bit at every step."""

import inspect

import numpy as np
import pytest
import torch
from helpers.schedules import (
    CASES,
    LRS,
    MADE_OF_OTHERS,
    NAMES,
    STEPS,
    TORCH,
    build,
    cycles_momentum,
    each_case,
    numbers,
    our_optimizer,
    positive,
    stand_in,
    step,
    torch_optimizer,
)
from mindspore import Parameter, Tensor

from ms_optim import SGD, Adam, lr_scheduler
from ms_optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_none_is_missing():
    """Every scheduler of torch has a case, and torch's arguments with torch's defaults."""
    assert {cls for cls, _ in CASES.values()} == set(NAMES)
    for name in [*NAMES, "LRScheduler"]:
        ours, torchs = (inspect.signature(getattr(lib, name)).parameters for lib in (lr_scheduler, TORCH))
        assert [(key, value.default, value.kind) for key, value in ours.items()] == [
            (key, value.default, value.kind) for key, value in torchs.items()
        ], name


@pytest.mark.parametrize(
    ("name", "cls"),
    [(name, cls) for name, case in CASES.items() for cls in (("SGD", "Adam") if cycles_momentum(case) else ("SGD",))],
)
def test_every_step_has_torchs_bits(name, cls):
    """A thousand steps of two groups: learning rates, momenta and what is noted in the groups; then the state."""
    theirs, ours = torch_optimizer(cls), stand_in(cls)
    schedulers = build(TORCH, theirs, CASES[name]), build(lr_scheduler, ours, CASES[name])
    for count in range(STEPS):
        assert numbers(ours) == positive(numbers(theirs)), count
        assert schedulers[1].get_last_lr() == [group["lr"] for group in ours.param_groups]
        for scheduler in schedulers:
            step(scheduler, count)
    state, expected = (scheduler.state_dict() for scheduler in reversed(schedulers))
    expected["_last_lr"] = [max(lr, 0.0) for lr in expected["_last_lr"]]  # one past the end of a cycle
    assert state == expected
    if CASES[name][0] not in MADE_OF_OTHERS:
        assert vars(schedulers[1])["last_epoch"] == STEPS


def test_rounding_below_zero():
    """The case above is one of these: torch's learning rate is negative by rounding."""
    optimizer = torch_optimizer()
    scheduler = build(TORCH, optimizer, CASES["linear to zero"])
    for _ in range(700):
        scheduler.step()
    assert -1e-15 < optimizer.param_groups[0]["lr"] < 0


def test_one_past_the_end_of_a_cycle():
    """Where every training loop steps the scheduler once more, and a line overshoots what an optimizer takes."""
    kwargs = dict(max_lr=0.1, total_steps=8, anneal_strategy="linear", base_momentum=0.5, max_momentum=0.99)
    for cls, made in ((SGD, dict(momentum=0.9)), (Adam, {})):
        ours, theirs = our_optimizer(cls, **made), torch_optimizer(cls.__name__)
        schedulers = OneCycleLR(ours, **kwargs), torch.optim.lr_scheduler.OneCycleLR(theirs, **kwargs)
        for _ in range(8):
            assert numbers(ours) == numbers(theirs)
            for scheduler in schedulers:
                scheduler.step()
        for mine, group in zip(ours.param_groups, theirs.param_groups):
            assert group["lr"] < mine["lr"] == 0.0
            if cls is Adam:
                assert group["betas"][0] > 1 and mine["betas"] == (0.99, 0.999)
            else:
                assert mine["momentum"] == group["momentum"] > 1


@each_case
def test_groups_of_an_optimizer(name):
    """They get what plain dicts get."""
    for cls in (SGD, Adam) if cycles_momentum(CASES[name]) else (SGD,):
        ours, expected = our_optimizer(cls, **(dict(momentum=0.9) if cls is SGD else {})), stand_in(cls.__name__)
        schedulers = [build(lr_scheduler, optimizer, CASES[name]) for optimizer in (ours, expected)]
        for count in range(3):
            assert numbers(ours) == numbers(expected), count
            for scheduler in schedulers:
                step(scheduler, count)
        assert schedulers[0].state_dict() == schedulers[1].state_dict()


def test_a_learning_rate_that_no_optimizer_takes():
    """Where torch's is below zero; the scheduler is named, and what it came from."""
    optimizer, theirs = our_optimizer(lrs=LRS[:1]), torch_optimizer(lrs=LRS[:1])
    case = (
        "ChainedScheduler",
        dict(schedulers=[("CosineAnnealingLR", dict(T_max=10, eta_min=0.01)), ("ExponentialLR", dict(gamma=0.5))]),
    )
    schedulers = build(TORCH, theirs, case), build(lr_scheduler, optimizer, case)
    with pytest.raises(ValueError, match=r"^For 'CosineAnnealingLR', what 'step' computes for group 0 .*but got -"):
        for _ in range(12):
            for scheduler in schedulers:
                scheduler.step()
    assert theirs.param_groups[0]["lr"] < 0


@pytest.mark.parametrize(
    "name", [name for name, (cls, _) in CASES.items() if cls not in (*MADE_OF_OTHERS, "ReduceLROnPlateau")]
)
def test_resumed_by_last_epoch(name):
    """In groups that have kept what the first scheduler left there."""
    for at in (0, 4, 57):
        made = []
        for lib, optimizer in ((TORCH, torch_optimizer()), (lr_scheduler, stand_in())):
            first = build(lib, optimizer, CASES[name])
            for count in range(at):
                step(first, count)
            made.append((optimizer, build(lib, optimizer, CASES[name], last_epoch=at)))
        for count in range(100):
            assert numbers(made[1][0]) == positive(numbers(made[0][0])), (at, count)
            for _, scheduler in made:
                scheduler.step()
        assert made[1][1].last_epoch == made[0][1].last_epoch == at + 101


def test_resumed_by_last_epoch_in_an_optimizer():
    """Of which the groups are made with what the first scheduler left in them."""
    params = Parameter(Tensor(np.zeros(2)), name="one")
    optimizer = SGD([{"params": [params], "lr": 0.05, "initial_lr": 0.1}])
    scheduler = StepLR(optimizer, 3, 0.5, last_epoch=4)
    assert (scheduler.base_lrs, scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == ([0.1], 5, 0.05)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_groups_that_are_added():
    """What is a function of the one before goes on, as torch's does; what needs the first says so."""
    optimizer = stand_in()
    step_lr, lambda_lr = StepLR(optimizer, 1, 0.5), build(lr_scheduler, optimizer, CASES["lambda"])
    plateaus = [ReduceLROnPlateau(optimizer, factor=0.5, patience=0, min_lr=min_lr) for min_lr in (0.01, [0.01, 0.02])]
    optimizer.param_groups.append({"lr": 0.8})
    step_lr.step()
    assert optimizer.param_groups[2] == {"lr": 0.4}
    for metric in (1.0, 2.0):
        plateaus[0].step(metric)
    assert optimizer.param_groups[2] == {"lr": 0.2}
    with pytest.raises(ValueError, match=r"^For 'LambdaLR', 'optimizer' must keep .*, but got 3 instead of 2"):
        lambda_lr.step()
    plateaus[1].step(1.0)
    with pytest.raises(ValueError, match=r"^For 'ReduceLROnPlateau', 'min_lrs' must have .* 3 groups .*, but got 2"):
        plateaus[1].step(2.0)
