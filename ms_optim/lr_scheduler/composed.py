"""Schedules made of others: one after another, or all at once."""

from bisect import bisect_right
from collections.abc import Sequence

from ms_optim.arguments import Whole
from ms_optim.lr_scheduler.base import HasGroups, LRScheduler, check_optimizer
from ms_optim.lr_scheduler.kinds import Sorted, common
from ms_optim.lr_scheduler.plateau import ReduceLROnPlateau


def _check_schedulers(owner, schedulers, optimizer):
    """Check the schedulers of a composed one; give them as a list, and their one optimizer."""
    if optimizer is not None:
        check_optimizer(owner, optimizer)
    if not isinstance(schedulers, (list, tuple)) or not schedulers:
        kind = ValueError if isinstance(schedulers, (list, tuple)) else TypeError
        raise kind(f"For '{owner}', 'schedulers' must be a list of at least one scheduler, but got {schedulers!r}.")
    for i, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"For '{owner}', 'schedulers[{i}]' must be a scheduler, but got {type(scheduler).__name__}."
            )
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                f"For '{owner}', 'schedulers[{i}]' must not be a ReduceLROnPlateau, for its step needs a metric."
            )
        optimizer = scheduler.optimizer if optimizer is None else optimizer
        if scheduler.optimizer is not optimizer:
            raise ValueError(
                f"For '{owner}', 'schedulers[{i}]' must be of the same {type(optimizer).__name__} as the "
                f"others, but got one of another {type(scheduler.optimizer).__name__}."
            )
    return list(schedulers), optimizer


def _undo(scheduler):
    """Take back the step that a scheduler, or each part of one, made when it was constructed."""
    if hasattr(scheduler, "_schedulers"):
        for part in scheduler._schedulers:
            _undo(part)
    else:
        scheduler.last_epoch -= 1


class SequentialLR(LRScheduler):
    """One scheduler after another: each takes over at a milestone.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        schedulers (list[LRScheduler]): Of this optimizer. What takes over at a milestone above 0 must not be itself a
            SequentialLR or a ChainedScheduler.
        milestones (list[int]): The epoch at which each but the first takes over, at least 0, in order.
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of range, a scheduler cannot stand in its place or is of another optimizer, or
            there is not one milestone less than schedulers.

    Examples:
        >>> from ms_optim.lr_scheduler import ConstantLR, ExponentialLR, SequentialLR, table
        >>> def schedule(optimizer):
        ...     parts = [ConstantLR(optimizer, factor=0.5), ExponentialLR(optimizer, gamma=0.5)]
        ...     return SequentialLR(optimizer, parts, milestones=[2])
        >>> table(schedule, lr=0.5, steps=5)
        [0.25, 0.25, 0.5, 0.25, 0.125]
    """

    arguments = common("milestones")
    attributes = {"_milestones": Sorted(Whole(0))}

    def __init__(
        self, optimizer: HasGroups, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        owner = type(self).__name__
        self._schedulers, self.optimizer = _check_schedulers(owner, schedulers, check_optimizer(owner, optimizer))
        self._milestones = self._check("milestones", milestones)
        if len(self._milestones) != len(schedulers) - 1 or self._milestones != sorted(self._milestones):
            raise ValueError(
                f"For '{owner}', 'milestones' must be {len(schedulers) - 1} epochs in order, one less "
                f"than the schedulers, but got {milestones}."
            )
        for i, (milestone, scheduler) in enumerate(zip(self._milestones, self._schedulers[1:])):
            if milestone and hasattr(scheduler, "_schedulers"):
                raise ValueError(
                    f"For '{owner}', 'schedulers[{i + 1}]' must not be a {type(scheduler).__name__}, "
                    "which cannot start at a milestone."
                )
        self.last_epoch = self._check("last_epoch", last_epoch) + 1
        with self._as_a_whole():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"]
            _undo(self)
            first = self._schedulers[bisect_right(self._milestones, 0)]
            first._initial_step()
            self._last_lr = first.get_last_lr()

    def step(self):
        """Go on to the next epoch."""
        with self._as_a_whole():
            self.last_epoch += 1
            index = bisect_right(self._milestones, self.last_epoch)
            scheduler = self._schedulers[index]
            if index and self._milestones[index - 1] == self.last_epoch:
                scheduler._update_lr(0)
            else:
                scheduler.step()
            self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(LRScheduler):
    """Several schedulers at once, each of which goes on from what the one before has set.

    Args:
        schedulers (Sequence[LRScheduler]): Of one optimizer.
        optimizer (Optimizer): None is that of the schedulers. Default: ``None`` .

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no scheduler, one is a ReduceLROnPlateau, or they are not of one optimizer.

    Examples:
        >>> from ms_optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR, table
        >>> def schedule(optimizer):
        ...     return ChainedScheduler([ConstantLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, 0.5)])
        >>> table(schedule, lr=0.5, steps=4)
        [0.25, 0.125, 0.125, 0.0625]
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: HasGroups | None = None):
        self._schedulers, self.optimizer = _check_schedulers(type(self).__name__, schedulers, optimizer)
        self._last_lr = self._lrs()

    def step(self):
        """Go on to the next epoch."""
        with self._as_a_whole():
            for scheduler in self._schedulers:
                scheduler.step()
        self._last_lr = self._lrs()
