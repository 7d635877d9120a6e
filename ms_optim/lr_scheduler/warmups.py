"""The schedules of transformers: a warm-up, then a constant, a line or a cosine."""

import functools
import math

from ms_optim.lr_scheduler.base import HasGroups
from ms_optim.lr_scheduler.kinds import COMMON
from ms_optim.lr_scheduler.simple import LambdaLR


def _constant(done, steps):
    return 1.0


def _line(done, steps):
    return max(0.0, (steps - done) / max(1, steps))


def _cosine(done, steps, num_cycles):
    progress = done / max(1, steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress)))


def _restarted_cosine(done, steps, num_cycles):
    progress = done / max(1, steps)
    return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * (num_cycles * progress % 1.0))))


def _warmup_factor(step, after, num_warmup_steps, num_training_steps=0, **numbers):
    """Rise linearly from zero to one, then follow a function of the steps done since and of all that remained."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return after(step - num_warmup_steps, num_training_steps - num_warmup_steps, **numbers)


def _with_warmup(owner, optimizer, after, last_epoch, **numbers):
    """Check the numbers of a schedule and make it a LambdaLR."""
    numbers = {name: COMMON[name].check(owner, name, value) for name, value in numbers.items()}
    return LambdaLR(optimizer, functools.partial(_warmup_factor, after=after, **numbers), last_epoch)


def get_constant_schedule(optimizer: HasGroups, last_epoch: int = -1) -> LambdaLR:
    """Keep the learning rate, as `transformers.get_constant_schedule` does.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import get_constant_schedule, table
        >>> table(get_constant_schedule, lr=0.5, steps=3)
        [0.5, 0.5, 0.5]
    """
    return LambdaLR(optimizer, lambda step: 1, last_epoch)


def get_constant_schedule_with_warmup(optimizer: HasGroups, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """Rise linearly from zero, then stay, as `transformers.get_constant_schedule_with_warmup` does.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        num_warmup_steps (int): At least 0.
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import get_constant_schedule_with_warmup, table
        >>> table(lambda optimizer: get_constant_schedule_with_warmup(optimizer, 2), lr=0.5, steps=4)
        [0.0, 0.25, 0.5, 0.5]
    """
    return _with_warmup(
        "get_constant_schedule_with_warmup", optimizer, _constant, last_epoch, num_warmup_steps=num_warmup_steps
    )


def get_linear_schedule_with_warmup(
    optimizer: HasGroups, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Rise linearly from zero, then fall linearly to it, as `transformers.get_linear_schedule_with_warmup` does.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        num_warmup_steps (int): At least 0.
        num_training_steps (int): All steps, at least 1.
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import get_linear_schedule_with_warmup, table
        >>> table(lambda optimizer: get_linear_schedule_with_warmup(optimizer, 2, 4), lr=0.5, steps=5)
        [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    return _with_warmup(
        "get_linear_schedule_with_warmup",
        optimizer,
        _line,
        last_epoch,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
    )


def get_cosine_schedule_with_warmup(
    optimizer: HasGroups, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaLR:
    """Rise linearly from zero, then follow a cosine, as `transformers.get_cosine_schedule_with_warmup` does.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        num_warmup_steps (int): At least 0.
        num_training_steps (int): All steps, at least 1.
        num_cycles (float): The waves of the cosine; half of one ends at zero. In [0, inf). Default: ``0.5`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import get_cosine_schedule_with_warmup, table
        >>> table(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 2, 4), lr=0.5, steps=5)
        [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    return _with_warmup(
        "get_cosine_schedule_with_warmup",
        optimizer,
        _cosine,
        last_epoch,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: HasGroups, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """Rise linearly from zero, then fall to it along half a cosine num_cycles times, as transformers' does.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        num_warmup_steps (int): At least 0.
        num_training_steps (int): All steps, at least 1.
        num_cycles (int): How often it falls, in [0, inf). Default: ``1`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import get_cosine_with_hard_restarts_schedule_with_warmup as schedule, table
        >>> table(lambda optimizer: schedule(optimizer, 2, 6, num_cycles=2), lr=0.5, steps=7)
        [0.0, 0.25, 0.5, 0.25, 0.5, 0.25, 0.0]
    """
    return _with_warmup(
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        optimizer,
        _restarted_cosine,
        last_epoch,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )
