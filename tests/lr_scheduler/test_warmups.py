"""The schedules of transformers against their formulas."""

import functools
import inspect
import math

import pytest
import torch
from helpers.schedules import STEPS, numbers, stand_in, torch_optimizer

from ms_optim import lr_scheduler

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def warm(step, warmup):
    """The factor that rises linearly from zero."""
    return float(step) / float(max(1, warmup))


def progressed(step, warmup, steps):
    """How much of what comes after the rise is over."""
    return float(step - warmup) / float(max(1, steps - warmup))


def waves(step, warmup, steps, cycles):
    """A cosine that is never below zero."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * float(cycles) * 2.0 * progressed(step, warmup, steps))))


def falls(step, warmup, steps, cycles):
    """Half a cosine, several times."""
    progress = progressed(step, warmup, steps)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(cycles) * progress) % 1.0))))


# transformers' signatures after "optimizer", and the factor after the warm-up.
TRANSFORMERS = {
    "get_constant_schedule": (dict(last_epoch=-1), {}, lambda step: 1),
    "get_constant_schedule_with_warmup": (dict(num_warmup_steps=0, last_epoch=-1), {}, lambda step, warmup: 1.0),
    "get_linear_schedule_with_warmup": (
        dict(num_warmup_steps=0, num_training_steps=0, last_epoch=-1),
        {},
        lambda step, warmup, steps: max(0.0, float(steps - step) / float(max(1, steps - warmup))),
    ),
    "get_cosine_schedule_with_warmup": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=0.5, last_epoch=-1),
        {},
        functools.partial(waves, cycles=0.5),
    ),
    "get_cosine_schedule_with_warmup of more": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=0.5, last_epoch=-1),
        dict(num_cycles=3.3),
        functools.partial(waves, cycles=3.3),
    ),
    "get_cosine_with_hard_restarts_schedule_with_warmup": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=1, last_epoch=-1),
        {},
        functools.partial(falls, cycles=1),
    ),
    "get_cosine_with_hard_restarts_schedule_with_warmup of more": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=1, last_epoch=-1),
        dict(num_cycles=3),
        functools.partial(falls, cycles=3),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 100), (1, 2), (7, 100), (100, 100), (333, 900)])
def test_transformers_schedules(name, warmup, steps):
    """Against torch's LambdaLR with the formulas, before, at and after the end; the state loads both ways."""
    signature, kwargs, factor = TRANSFORMERS[name]
    schedule = getattr(lr_scheduler, name.split()[0])
    parameters = list(inspect.signature(schedule).parameters.values())[1:]
    assert [parameter.name for parameter in parameters] == list(signature)
    assert [parameter.default for parameter in parameters if parameter.default is not parameter.empty] == [
        value for key, value in signature.items() if key in ("last_epoch", "num_cycles")
    ]
    given = {
        key: value for key, value in dict(num_warmup_steps=warmup, num_training_steps=steps).items() if key in signature
    }

    def expected(step):
        if given and step < warmup:
            return warm(step, warmup)
        return factor(step, *given.values())

    ours, theirs = stand_in(), torch_optimizer()
    schedulers = schedule(ours, **given, **kwargs), torch.optim.lr_scheduler.LambdaLR(theirs, expected)
    for count in range(STEPS):
        assert numbers(ours) == numbers(theirs), count
        for scheduler in schedulers:
            scheduler.step()
    resumed = schedule(stand_in(), **given, **kwargs)
    resumed.load_state_dict(schedulers[1].state_dict())
    schedulers[1].load_state_dict(schedulers[0].state_dict())
    assert resumed.state_dict() == schedulers[0].state_dict()
    assert resumed.optimizer.param_groups[0]["lr"] == schedule(stand_in(), **given, **kwargs).get_last_lr()[0]
