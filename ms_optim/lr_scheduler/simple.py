"""Schedules of one formula: by a function, by steps, to a constant, along a line, an exponential or a polynomial."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from numbers import Rational

import numpy as np

from ms_optim._values import as_number
from ms_optim.arguments import Function, Whole
from ms_optim.lr_scheduler.base import HasGroups, LRScheduler, check_optimizer
from ms_optim.lr_scheduler.kinds import NONNEGATIVE, PerGroup, Real, common

# What a factor may be besides a float, an array or a tensor: a bool as of a comparison, and a fraction.
PLAIN = (Rational, np.bool_)


class _Lambdas(LRScheduler):
    """Take a function, or one for each group."""

    arguments = {"lr_lambda": PerGroup(Function())}

    def __init__(
        self,
        optimizer: HasGroups,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        self.optimizer = check_optimizer(type(self).__name__, optimizer)
        self.lr_lambdas = self._for_each_group("lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)

    def _factors(self):
        """What the functions return at `last_epoch`."""
        what = f"For '{type(self).__name__}', what 'lr_lambda' returns at epoch {self.last_epoch}"
        found = (function(self.last_epoch) for function in self.lr_lambdas)
        return [as_number(float(value) if isinstance(value, PLAIN) else value, what) for value in found]


class LambdaLR(_Lambdas):
    """The learning rate at the start times a function of the epoch.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        lr_lambda (Union[Callable, list[Callable]]): A function from `last_epoch` to a factor, or one for each group.
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says, or if there is not one function for each group.

    Examples:
        >>> from ms_optim.lr_scheduler import LambdaLR, table
        >>> table(lambda optimizer: LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)), lr=0.5, steps=4)
        [0.5, 0.25, 0.16666666666666666, 0.125]
    """

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`."""
        return [base_lr * factor for factor, base_lr in zip(self._factors(), self.base_lrs)]


class MultiplicativeLR(_Lambdas):
    """The learning rate before times a function of the epoch.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        lr_lambda (Union[Callable, list[Callable]]): A function from `last_epoch` to a factor, or one for each group.
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says, or if there is not one function for each group.

    Examples:
        >>> from ms_optim.lr_scheduler import MultiplicativeLR, table
        >>> table(lambda optimizer: MultiplicativeLR(optimizer, lambda epoch: 0.5), lr=0.5, steps=4)
        [0.5, 0.25, 0.125, 0.0625]
    """

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch` from the one before."""
        if self._is_initial:
            return self._lrs()
        return [lr * factor for factor, lr in zip(self._factors(), self._lrs())]


class StepLR(LRScheduler):
    """Decay by gamma every step_size epochs.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        step_size (int): The epochs between two decays, at least 1.
        gamma (float): The factor, in [0, inf). Default: ``0.1`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import StepLR, table
        >>> table(lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.5), lr=0.5, steps=5)
        [0.5, 0.5, 0.25, 0.25, 0.125]
    """

    step_size: int
    gamma: float
    arguments = {"step_size": Whole(1), **common("gamma")}

    def __init__(self, optimizer: HasGroups, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self._keep(step_size=step_size, gamma=gamma)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        decays = self.last_epoch != 0 and self.last_epoch % self.step_size == 0
        return group["lr"] * self.gamma if decays else group["lr"]

    def _closed(self, base_lr):
        return base_lr * self.gamma ** (self.last_epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """Decay by gamma at each milestone, once for each time that it is listed.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        milestones (Iterable[int]): Epochs, at least 0, in any order.
        gamma (float): The factor, in [0, inf). Default: ``0.1`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import MultiStepLR, table
        >>> table(lambda optimizer: MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5), lr=0.5, steps=5)
        [0.5, 0.25, 0.25, 0.125, 0.125]
    """

    gamma: float
    arguments = common("gamma", "milestones")

    def __init__(self, optimizer: HasGroups, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones = Counter(self._check("milestones", milestones))
        self._keep(gamma=gamma)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        if self.last_epoch not in self.milestones:
            return group["lr"]
        return group["lr"] * self.gamma ** self.milestones[self.last_epoch]

    def _closed(self, base_lr):
        return base_lr * self.gamma ** bisect_right(sorted(self.milestones.elements()), self.last_epoch)


class ConstantLR(LRScheduler):
    """Multiply by a factor, and undo that at epoch total_iters.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        factor (float): In [0, 1]; 0 cannot be undone. Default: ``1 / 3`` .
        total_iters (int): The epoch at which it is undone, at least 1. Default: ``5`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import ConstantLR, table
        >>> table(lambda optimizer: ConstantLR(optimizer, factor=0.5, total_iters=2), lr=0.5, steps=4)
        [0.25, 0.25, 0.5, 0.5]
    """

    factor: float
    total_iters: int
    arguments = {"factor": Real("[0, 1]"), **common("total_iters")}

    def __init__(self, optimizer: HasGroups, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        self._keep(factor=factor, total_iters=total_iters)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        if self.last_epoch == 0:
            return group["lr"] * self.factor
        if self.last_epoch != self.total_iters:
            return group["lr"]
        if self.factor == 0:
            raise ValueError(
                f"For 'ConstantLR', 'factor' must not be 0 where it is undone, at 'total_iters', but got {self.factor}."
            )
        return group["lr"] * (1.0 / self.factor)

    def _closed(self, base_lr):
        return base_lr * (self.factor + (self.last_epoch >= self.total_iters) * (1 - self.factor))


class LinearLR(LRScheduler):
    """Multiply by a factor that goes linearly from start_factor to end_factor in total_iters epochs.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        start_factor (float): In (0, 1]. Default: ``1 / 3`` .
        end_factor (float): In [0, 1]. Default: ``1.0`` .
        total_iters (int): At least 1. Default: ``5`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Note:
        Where torch rounds to a learning rate below zero, such as -1e-18 at an `end_factor` of 0, it is zero here.

    Examples:
        >>> from ms_optim.lr_scheduler import LinearLR, table
        >>> table(lambda optimizer: LinearLR(optimizer, start_factor=0.5, total_iters=2), lr=0.5, steps=4)
        [0.25, 0.375, 0.5, 0.5]
    """

    start_factor: float
    end_factor: float
    total_iters: int
    arguments = {"start_factor": Real("(0, 1]"), "end_factor": Real("[0, 1]"), **common("total_iters")}

    def __init__(
        self,
        optimizer: HasGroups,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        self._keep(start_factor=start_factor, end_factor=end_factor, total_iters=total_iters)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        lr, rise = group["lr"], self.end_factor - self.start_factor
        if self.last_epoch == 0:
            return lr * self.start_factor
        if self._is_initial or self.last_epoch > self.total_iters:
            return lr
        lr = lr * (1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise))
        return 0.0 if lr < 0 else lr

    def _closed(self, base_lr):
        rise = self.end_factor - self.start_factor
        lr = base_lr * (self.start_factor + rise * min(self.total_iters, self.last_epoch) / self.total_iters)
        return 0.0 if lr < 0 else lr


class ExponentialLR(LRScheduler):
    """Decay by gamma every epoch.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        gamma (float): The factor, in [0, inf).
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import ExponentialLR, table
        >>> table(lambda optimizer: ExponentialLR(optimizer, gamma=0.5), lr=0.5, steps=4)
        [0.5, 0.25, 0.125, 0.0625]
    """

    gamma: float
    arguments = common("gamma")

    def __init__(self, optimizer: HasGroups, gamma: float, last_epoch: int = -1):
        self._keep(gamma=gamma)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        return group["lr"] if self._is_initial else group["lr"] * self.gamma

    def _closed(self, base_lr):
        return base_lr * self.gamma**self.last_epoch


class PolynomialLR(LRScheduler):
    """Decay as (1 - epoch/total_iters)^power, to zero at total_iters.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        total_iters (int): At least 1. Default: ``5`` .
        power (float): In [0, inf). Default: ``1.0`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import PolynomialLR, table
        >>> table(lambda optimizer: PolynomialLR(optimizer, total_iters=2, power=2.0), lr=0.5, steps=4)
        [0.5, 0.125, 0.0, 0.0]
    """

    total_iters: int
    power: float
    arguments = {"power": NONNEGATIVE, **common("total_iters")}

    def __init__(self, optimizer: HasGroups, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self._keep(total_iters=total_iters, power=power)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        if self._is_initial or self.last_epoch > self.total_iters:
            return group["lr"]
        left, left_before = (1.0 - epoch / self.total_iters for epoch in (self.last_epoch, self.last_epoch - 1))
        return group["lr"] * (left / left_before) ** self.power

    def _closed(self, base_lr):
        return base_lr * (1.0 - min(self.total_iters, self.last_epoch) / self.total_iters) ** self.power
