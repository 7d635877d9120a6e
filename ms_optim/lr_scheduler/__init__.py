"""The schedulers of torch.optim.lr_scheduler, torch's SWALR, and the schedules of transformers.

On the host a scheduler sets the numbers of an optimizer's groups between its steps, and nothing compiles again:

>>> from mindspore import nn
>>> from ms_optim import SGD
>>> from ms_optim.lr_scheduler import StepLR, table
>>> params = nn.Dense(2, 3).trainable_params()
>>> optimizer = SGD(params, lr=0.5)
>>> scheduler = StepLR(optimizer, step_size=30)
>>> scheduler.step()  # after an epoch, or a step; in Model.train `SchedulerCallback` does it

In the graph, as for data sink, the optimizer reads a table that a scheduler has filled:

>>> optimizer = SGD(params, lr=table(lambda optimizer: StepLR(optimizer, step_size=30), lr=0.5, steps=90))
"""

import functools
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from numbers import Integral, Real
from types import FunctionType, SimpleNamespace

from mindspore.train import Callback, RunContext

from ms_optim.arguments import Number


def number_in(owner, name, value, allowed):
    interval, _, optional = allowed.partition(" or ")
    return None if optional and value is None else Number(interval).check(owner, name, value)


# What each argument may be: a predicate, choices, ints from a lowest one, or an interval of numbers.
RANGES = {
    "ReduceLROnPlateau.factor": "[0, 1)",
    "ReduceLROnPlateau.mode": ("min", "max"),
    "T_0": 1,
    "T_max": 1,
    "T_mult": 1,
    "anneal_epochs": 0,
    "anneal_strategy": ("cos", "linear"),
    "base_lr": "[0, inf)",
    "base_momentum": "[0, inf)",
    "by": ("step", "epoch"),
    "cooldown": 0,
    "cycle_momentum": (False, True),
    "div_factor": "(0, inf)",
    "end_factor": "[0, 1]",
    "epoch": "[0, inf)",
    "epochs": 1,
    "eps": "[0, inf)",
    "eta_min": "[0, inf)",
    "factor": "[0, 1]",
    "final_div_factor": "(0, inf)",
    "gamma": "[0, inf)",
    "last_epoch": -1,
    "lr": "[0, inf)",
    "lr_lambda": callable,
    "max_lr": "[0, inf)",
    "max_momentum": "[0, inf)",
    "milestones": 0,
    "min_lr": "[0, inf)",
    "mode": ("triangular", "triangular2", "exp_range"),
    "num_cycles": "[0, inf)",
    "num_training_steps": 1,
    "num_warmup_steps": 0,
    "patience": 0,
    "pct_start": "[0, 1]",
    "power": "[0, inf)",
    "scale_fn": callable,
    "scale_mode": ("cycle", "iterations"),
    "schedule": callable,
    "start_factor": "(0, 1]",
    "step_size": 1,
    "step_size_down": "[0, inf) or None",
    "step_size_up": "(0, inf)",
    "steps": 1,
    "steps_per_epoch": 1,
    "swa_lr": "[0, inf)",
    "three_phase": (False, True),
    "threshold": "[0, inf)",
    "threshold_mode": ("rel", "abs"),
    "total_iters": 1,
    "total_steps": 1,
}
# What a state holds beside arguments; of a list, of each entry.
RANGES |= {
    **dict.fromkeys(("T_cur", "base_lrs", "base_momentums", "max_lrs", "max_momentums", "min_lrs"), "[0, inf)"),
    **dict.fromkeys(("_milestones", "_step_count", "cooldown_counter", "num_bad_epochs"), 0),
    **dict.fromkeys(("_anneal_func_type", "_anneal_strategy"), RANGES["anneal_strategy"]),
    **dict.fromkeys(("_last_lr", "best", "mode_worse"), "[-inf, inf]"),
    "T_i": 1,
    "default_min_lr": "[0, inf) or None",
    "step_ratio": "[0, 1]",
    "total_size": "(0, inf)",
    "use_beta1": (False, True),
}
# What each scheduler has: of a class that is not defined here nothing else is known.
OF_ALL = ("_last_lr", "_step_count", "base_lrs", "last_epoch")
# What torch's state has and no step reads: two flags that are False between steps, and one of older versions.
FLAGS = {"_get_lr_called_within_step", "_is_initial", "verbose"}


def _check(owner, name, value, at=""):
    """Check the value of an argument, or its entry `at` a place, and keep it as torch does."""
    allowed = RANGES[f"{owner}.{name}" if f"{owner}.{name}" in RANGES else name]
    name = f"{name}{at}"
    if allowed is callable:
        if not callable(value):
            raise TypeError(f"For '{owner}', '{name}' must be a function, but got {value!r}.")
        return value
    if isinstance(allowed, tuple):
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in allowed):
            kind = ValueError if isinstance(value, type(allowed[0])) else TypeError
            raise kind(f"For '{owner}', '{name}' must be one of {allowed}, but got {value!r}.")
        return value
    if isinstance(allowed, int):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"For '{owner}', '{name}' must be an int in [{allowed}, inf), but got {value!r}.")
        if value < allowed:
            raise ValueError(f"For '{owner}', '{name}' must be in [{allowed}, inf), but got {value!r}.")
        return int(value)
    number = number_in(owner, name, value, allowed)
    return value if type(value) is int else number


def _check_each(owner, name, values):
    if not isinstance(values, Iterable) or isinstance(values, (str, Mapping)):
        raise TypeError(f"For '{owner}', '{name}' must be a list, but got {values!r}.")
    return [_check(owner, name, value, f"[{i}]") for i, value in enumerate(values)]


def _driven(owner, optimizer):
    """The optimizer, if it has groups whose learning rates are numbers."""
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, Sequence) or not groups:
        raise TypeError(
            f"For '{owner}', 'optimizer' must have 'param_groups', as the optimizers of ms_optim do, but "
            f"got {type(optimizer).__name__}."
        )
    for i, group in enumerate(groups):
        if not isinstance(group["lr"], Real):
            raise TypeError(
                f"For '{owner}', 'optimizer' must have a number for the 'lr' of each group, for a table or "
                f"schedule is already in the graph, but got {type(group['lr']).__name__} in group {i}."
            )
    return optimizer


def _plain(value):
    """What a state holds of an attribute: of a function nothing, of a callable object its attributes."""
    if isinstance(value, LRScheduler):
        return value.state_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if callable(value):
        return None if isinstance(value, FunctionType) else deepcopy(getattr(value, "__dict__", {}))
    return deepcopy(value)


def _has_parts(value):
    return isinstance(value, list) and any(isinstance(item, LRScheduler) or callable(item) for item in value)


def _restored(own, fitting):
    """An attribute with what a state holds of it; functions and schedulers stay the same objects."""
    if isinstance(own, LRScheduler):
        own._take(fitting)
        return own
    if callable(own):
        if fitting:
            vars(own).update(fitting)
        return own
    return list(map(_restored, own, fitting)) if _has_parts(own) else fitting


class LRScheduler:
    """What the schedulers share, as `torch.optim.lr_scheduler.LRScheduler` (2.13) does it.

    `base_lrs` are the learning rates at the start, `last_epoch` counts the calls of `step`. The numbers are set in
    Python, in torch's order of operations: they are torch's to the last bit. A subclass defines `get_lr`.

    Args:
        optimizer (Optimizer): An optimizer of ms_optim, or an EMA around one, whose `lr` are numbers; or any object
            whose `param_groups` is a sequence of mutable mappings with the key "lr".
        last_epoch (int): -1 starts anew; more resumes after that many calls of `step`, where each group has the key
            "initial_lr". Default: ``-1`` .

    Raises:
        TypeError: If an argument is of the wrong kind, or a learning rate of `optimizer` is a table or a schedule.
        ValueError: If an argument is out of range.
        KeyError: If `last_epoch` is not -1 and a group lacks what the scheduler wrote into it at the start.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import SGD
        >>> from ms_optim.lr_scheduler import ExponentialLR
        >>> dense = nn.Dense(2, 3)
        >>> optimizer = SGD([{"params": [dense.weight]}, {"params": [dense.bias], "lr": 1.0}], lr=0.5)
        >>> scheduler = ExponentialLR(optimizer, gamma=0.5)
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25, 0.5]
    """

    noted: tuple[str, ...] = ("initial_lr",)
    _closed: Callable | None = None

    def __init__(self, optimizer, last_epoch: int = -1):
        owner = type(self).__name__
        self.optimizer = _driven(owner, optimizer)
        self.last_epoch = _check(owner, "last_epoch", last_epoch)
        self._get_lr_called_within_step = False
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1 and "initial_lr" not in group:
                group["initial_lr"] = group["lr"]
            missing = [name for name in self.noted if name not in group]
            if missing:
                raise KeyError(
                    f"For '{owner}', 'last_epoch' must be -1 unless each group has {self.noted}, but got "
                    f"{last_epoch} and no {missing} in group {i}."
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._initial_step()

    def _initial_step(self):
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _checked(self, name, value):
        return _check(type(self).__name__, name, value)

    def _keep(self, **arguments):
        for name, value in arguments.items():
            setattr(self, name, self._checked(name, value))

    def _for_each_group(self, name, value):
        """An argument that is one for all groups, or a list with one for each."""
        owner, count = type(self).__name__, len(self.optimizer.param_groups)
        if not isinstance(value, (list, tuple)):
            return [self._checked(name, value)] * count
        if len(value) != count:
            raise ValueError(
                f"For '{owner}', '{name}' must have one entry for each of the {count} groups, but got {len(value)}."
            )
        return _check_each(owner, name, value)

    def step(self, epoch: int | None = None):
        """Go on to the next epoch, or to a given one by the closed form, where there is one.

        Call it after the optimizer's step.
        """
        epoch = epoch if epoch is None else self._checked("epoch", epoch)
        self._step_count += 1
        self._update_lr(epoch)

    def _update_lr(self, epoch=None):
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if epoch is None or self._closed is None:
            self._set_lr(self.get_lr())
        else:
            self._set_lr([self._closed(base_lr) for base_lr in self.base_lrs])

    def _set_lr(self, lrs):
        groups = self.optimizer.param_groups
        if len(lrs) != len(groups):
            raise ValueError(
                f"For '{type(self).__name__}', 'optimizer' must keep the groups that it had, but got "
                f"{len(groups)} instead of {len(lrs)}."
            )
        for i, (group, lr) in enumerate(zip(groups, lrs)):
            try:
                group["lr"] = lr
            except (TypeError, ValueError) as error:
                raise type(error)(
                    f"For '{type(self).__name__}', what 'step' computes for group {i} must be a learning "
                    f"rate that the optimizer takes, but got {lr} at epoch {self.last_epoch}, from "
                    f"{group['lr']} before: what is set by hand, or by another scheduler, must be what "
                    "it can go on from; to a cosine, nothing below 'eta_min'."
                ) from error
        self._last_lr = self._lrs()

    def _lrs(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch` from the one before."""
        return [self._next(group) for group in self.optimizer.param_groups]

    def _next(self, group):
        raise NotImplementedError(f"For '{type(self).__name__}', 'get_lr' must be defined.")

    def get_last_lr(self) -> list[float]:
        """Tell the learning rate of each group after the last `step`."""
        return self._last_lr

    def state_dict(self) -> dict:
        """Give torch's keys and numbers, which a scheduler of torch loads; of functions nothing is kept."""
        return {key: _plain(value) for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict: Mapping):
        """Take what `state_dict` gave, here or in torch, from a scheduler of this class. The groups are left alone.

        Raises:
            TypeError: If `state_dict` is not a mapping, or a value in it is of the wrong kind.
            ValueError: If it has not the keys of this scheduler, or not its number of groups or schedulers, or a value
                is out of the range that the constructor allows. Nothing is changed then, in parts of this one either.
        """
        self._take(self._fitting(state_dict, "[-1, inf)"))

    def _take(self, fitting):
        vars(self).update({key: _restored(vars(self)[key], value) for key, value in fitting.items()})

    def _fitting(self, state_dict, epochs):
        """What each attribute becomes, once all is checked; `epochs` is where `last_epoch` may be."""
        owner, own = type(self).__name__, {key: value for key, value in vars(self).items() if key != "optimizer"}
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"For '{owner}', 'state_dict' must be a mapping, but got {type(state_dict).__name__}.")
        different = (own.keys() ^ state_dict.keys()) - FLAGS
        if different:
            raise ValueError(
                f"For '{owner}', 'state_dict' must have the keys {sorted(own.keys() - FLAGS)}, but got "
                f"{sorted(map(str, state_dict.keys() - FLAGS))}: they differ in "
                f"{sorted(map(str, different))}."
            )
        if state_dict.get("_scale_fn_custom") is not None and own["_scale_fn_custom"] is None:
            raise ValueError(f"For '{owner}', 'scale_fn' must be given where the one of 'state_dict' was an object.")
        return {
            key: self._fitting_value(key, own[key], value, epochs)
            for key, value in state_dict.items()
            if key not in FLAGS
        }

    def _fitting_value(self, name, own, given, epochs):
        owner, what = type(self).__name__, f"'{name}' of 'state_dict' must"
        known = name in (RANGES if type(self).__module__ == __name__ else OF_ALL)
        if isinstance(own, LRScheduler):
            return own._fitting(given, "(-inf, inf)")  # one that waits for its milestone is before the first epoch
        if callable(own):
            if not isinstance(given, (Mapping, type(None))) or (given and not hasattr(own, "__dict__")):
                raise TypeError(f"For '{owner}', {what} be the attributes of {own!r} or None, but got {given!r}.")
        elif name == "_schedule_phases":
            _check_phases(owner, given)
        elif isinstance(own, Counter) and known:
            if not isinstance(given, Mapping):
                raise TypeError(f"For '{owner}', {what} map epochs to counts, but got {given!r}.")
            epochs = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in given]  # JSON has text
            return Counter(dict(zip(_check_each(owner, name, epochs), _check_each(owner, name, given.values()))))
        elif isinstance(own, list) and (known or _has_parts(own)):
            if not isinstance(given, (list, tuple)):
                raise TypeError(f"For '{owner}', {what} be a list, but got {given!r}.")
            grows = name in ("base_lrs", "min_lrs")  # not when a group is added, as "_last_lr" does
            if len(given) != len(own) and not (given and grows):
                raise ValueError(f"For '{owner}', {what} have {len(own)} entries, but got {len(given)}.")
            if _has_parts(own):
                return [self._fitting_value(name, *each, epochs) for each in zip(own, given)]
            values = _check_each(owner, name, given)
            if name == "_milestones" and values != sorted(values):
                raise ValueError(f"For '{owner}', {what} be in order, but got {given!r}.")
            return values
        elif isinstance(own, bool) and known and given is not own:
            raise ValueError(f"For '{owner}', {what} be {own} as in the scheduler, but got {given!r}.")
        elif name == "last_epoch":  # a float after `step` with one
            number = number_in(owner, name, given, epochs)
            return given if type(given) is int else number
        elif known and (name != "mode" or getattr(self, "_scale_fn_custom", None) is None):
            return self._checked(name, given)
        return deepcopy(given)


class _Lambdas(LRScheduler):
    """What takes a function, or one for each group."""

    def __init__(
        self, optimizer, lr_lambda: Callable[[int], float] | list[Callable[[int], float]], last_epoch: int = -1
    ):
        self.optimizer = _driven(type(self).__name__, optimizer)
        self.lr_lambdas = self._for_each_group("lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)


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
        return [base_lr * factor(self.last_epoch) for factor, base_lr in zip(self.lr_lambdas, self.base_lrs)]


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
        return [lr * factor(self.last_epoch) for factor, lr in zip(self.lr_lambdas, self._lrs())]


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

    def __init__(self, optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
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

    def __init__(self, optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones = Counter(_check_each(type(self).__name__, "milestones", milestones))
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

    def __init__(self, optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
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

    def __init__(
        self,
        optimizer,
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

    def __init__(self, optimizer, gamma: float, last_epoch: int = -1):
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

    def __init__(self, optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self._keep(total_iters=total_iters, power=power)
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        if self._is_initial or self.last_epoch > self.total_iters:
            return group["lr"]
        left, left_before = (1.0 - epoch / self.total_iters for epoch in (self.last_epoch, self.last_epoch - 1))
        return group["lr"] * (left / left_before) ** self.power

    def _closed(self, base_lr):
        return base_lr * (1.0 - min(self.total_iters, self.last_epoch) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """Follow half a cosine to eta_min in T_max epochs, and back in as many (Loshchilov and Hutter 2017, "SGDR").

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        T_max (int): At least 1.
        eta_min (float): In [0, inf). Default: ``0.0`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import CosineAnnealingLR, table
        >>> table(lambda optimizer: CosineAnnealingLR(optimizer, T_max=2), lr=0.5, steps=3)
        [0.5, 0.25, 0.0]
    """

    def __init__(self, optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self._keep(T_max=T_max, eta_min=eta_min)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch` from the one before."""
        if self._is_initial:
            return self._lrs()
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # the one before is eta_min
            rise = 1 - math.cos(math.pi / self.T_max)
            return [lr + (base_lr - self.eta_min) * rise / 2 for lr, base_lr in zip(self._lrs(), self.base_lrs)]
        height, height_before = (
            1 + math.cos(math.pi * epoch / self.T_max) for epoch in (self.last_epoch, self.last_epoch - 1)
        )
        return [height / height_before * (lr - self.eta_min) + self.eta_min for lr in self._lrs()]

    def _closed(self, base_lr):
        height = 1 + math.cos(math.pi * self.last_epoch / self.T_max)
        return self.eta_min + (base_lr - self.eta_min) * height / 2


class CosineAnnealingWarmRestarts(LRScheduler):
    """Follow half a cosine to eta_min, again and again, each T_mult times as long (Loshchilov and Hutter 2017, "SGDR").

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        T_0 (int): The epochs of the first, at least 1.
        T_mult (int): At least 1. Default: ``1`` .
        eta_min (float): In [0, inf). Default: ``0.0`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import CosineAnnealingWarmRestarts, table
        >>> table(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, T_0=2), lr=0.5, steps=5)
        [0.5, 0.25, 0.5, 0.25, 0.5]
    """

    def __init__(self, optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        self._keep(T_0=T_0, T_mult=T_mult, eta_min=eta_min)
        self.T_i = self.T_0
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: float | None = None):
        """Go on to the next epoch, or to a given one, which may be a fraction: epoch + batch / batches."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        else:
            epoch = self._checked("epoch", epoch)
            self._restart(epoch)
        self.last_epoch = math.floor(epoch)
        self._set_lr(self.get_lr())

    def _restart(self, epoch):
        """Find the cosine that an epoch is in."""
        if epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            count = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**count - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**count

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group, `T_cur` epochs after a restart."""
        height = 1 + math.cos(math.pi * self.T_cur / self.T_i)
        return [self.eta_min + (base_lr - self.eta_min) * height / 2 for base_lr in self.base_lrs]


class _MomentumCycle(LRScheduler):
    """What moves momentum, or beta1, against the learning rate."""

    def _start_momentum(self, cycle_momentum, base_momentum, max_momentum, last_epoch):
        """Set momentum to its maximum; give the minima and the maxima, one for each group."""
        self._keep(cycle_momentum=cycle_momentum)
        if not cycle_momentum:
            return [], []
        groups, owner = self.optimizer.param_groups, type(self).__name__
        self.use_beta1 = "betas" in groups[0]
        if not self.use_beta1 and "momentum" not in groups[0]:
            raise ValueError(
                f"For '{owner}', 'cycle_momentum' must be False where the groups have neither 'momentum' "
                "nor 'betas', as in a table of learning rates, but got True. Only a scheduler that is "
                "stepped on the host, on the optimizer itself, cycles momentum."
            )
        lows, highs = (
            self._for_each_group(name, value)
            for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum))
        )
        if last_epoch == -1:
            for group, low, high in zip(groups, lows, highs):
                self._set_momentum(group, high)
                group["base_momentum"], group["max_momentum"] = low, high
        return lows, highs

    def _set_momentum(self, group, momentum):
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


class CyclicLR(_MomentumCycle):
    """Go up from base_lr to max_lr and down again (Smith 2017, "Cyclical Learning Rates for Training Neural Networks").

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        base_lr (Union[float, list[float]]): The lowest, for all groups or for each, in [0, inf).
        max_lr (Union[float, list[float]]): The highest, where nothing scales it down, in [0, inf).
        step_size_up (int): The steps up, in (0, inf). Default: ``2000`` .
        step_size_down (Union[None, int]): The steps down, in [0, inf); None is `step_size_up`. Default: ``None`` .
        mode (str): How the height of a cycle is scaled: ``"triangular"`` not, ``"triangular2"`` by half each cycle,
            ``"exp_range"`` by gamma each step. Default: ``"triangular"`` .
        gamma (float): Of ``"exp_range"`` , in [0, inf). Default: ``1.0`` .
        scale_fn (Union[None, Callable]): Instead of `mode`, a function from the cycle, counted from 1, or the step,
            counted from 0, to a factor. Default: ``None`` .
        scale_mode (str): What `scale_fn` is a function of: ``"cycle"`` or ``"iterations"`` . Default: ``"cycle"`` .
        cycle_momentum (bool): Move momentum, or the first of betas, the other way, from max_momentum down to
            base_momentum and up again. Default: ``True`` .
        base_momentum (Union[float, list[float]]): The lowest, for all groups or for each. Default: ``0.8`` .
        max_momentum (Union[float, list[float]]): The highest. Default: ``0.9`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says, or if there is no momentum to cycle.

    Note:
        An optimizer that was made with a momentum of zero has no buffer for it, and refuses another: make it with
        `max_momentum`, or set `cycle_momentum` to False.

    Examples:
        >>> from ms_optim.lr_scheduler import CyclicLR, table
        >>> table(lambda optimizer: CyclicLR(optimizer, 0.125, 0.5, step_size_up=2, cycle_momentum=False), 0.125, 6)
        [0.125, 0.3125, 0.5, 0.3125, 0.125, 0.3125]
    """

    def __init__(
        self,
        optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ):
        owner = type(self).__name__
        self.optimizer = _driven(owner, optimizer)
        base_lrs, self.max_lrs = self._for_each_group("base_lr", base_lr), self._for_each_group("max_lr", max_lr)
        up, down = self._checked("step_size_up", step_size_up), self._checked("step_size_down", step_size_down)
        self.total_size = float(up) + float(up if down is None else down)
        self.step_ratio = up / self.total_size
        self._keep(gamma=gamma, scale_mode=scale_mode)
        if scale_fn is None:
            self._keep(mode=mode)
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        else:
            self.mode = mode
            self._checked("scale_fn", scale_fn)
        self._scale_fn_custom = scale_fn
        lows, highs = self._start_momentum(cycle_momentum, base_momentum, max_momentum, last_epoch)
        if cycle_momentum:
            self.base_momentums, self.max_momentums = lows, highs
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs):
                group["lr"] = lr
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """Scale the height of a cycle, by its number or by the number of the step."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular":
            return 1.0
        return 1 / (2.0 ** (x - 1)) if self.mode == "triangular2" else self.gamma**x

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch`, and set its momentum."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        x = cycle if self.scale_mode == "cycle" else self.last_epoch
        lrs = [low + (high - low) * height * self.scale_fn(x) for low, high in zip(self.base_lrs, self.max_lrs)]
        if self.cycle_momentum:
            for group, low, high in zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums):
                self._set_momentum(group, high - (high - low) * height * self.scale_fn(x))
        return lrs


class OneCycleLR(_MomentumCycle):
    """Go up to max_lr once, and then far down (Smith and Topin 2019, "Super-Convergence").

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        max_lr (Union[float, list[float]]): The highest, for all groups or for each, in [0, inf).
        total_steps (Union[None, int]): The steps of the cycle, at least 1; None is epochs * steps_per_epoch, which
            count for nothing otherwise. Default: ``None`` .
        epochs (Union[None, int]): At least 1. Default: ``None`` .
        steps_per_epoch (Union[None, int]): At least 1. Default: ``None`` .
        pct_start (float): The part of the cycle that goes up, in [0, 1]. Default: ``0.3`` .
        anneal_strategy (str): ``"cos"`` or ``"linear"`` . Default: ``"cos"`` .
        cycle_momentum (bool): Move momentum, or the first of betas, the other way, from max_momentum down to
            base_momentum and up again. Default: ``True`` .
        base_momentum (Union[float, list[float]]): The lowest, for all groups or for each. Default: ``0.85`` .
        max_momentum (Union[float, list[float]]): The highest. Default: ``0.95`` .
        div_factor (float): It starts at max_lr / div_factor. In (0, inf). Default: ``25.0`` .
        final_div_factor (float): It ends at this part of its start. In (0, inf). Default: ``1e4`` .
        three_phase (bool): Go down to the start first, in as many steps as up. Default: ``False`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says, or if there is no momentum to cycle, or a phase takes no
            steps, or `step` goes beyond `total_steps`.

    Note:
        An optimizer that was made with a momentum of zero has no buffer for it, and refuses another: make it with
        `max_momentum`, or set `cycle_momentum` to False.

        Stepped after every step, the last time too, a linear schedule overshoots its end, as in torch; where torch's
        learning rate falls below zero by that it is zero here, and where beta1 reaches one it is `max_momentum`.

    Examples:
        >>> from ms_optim.lr_scheduler import OneCycleLR, table
        >>> def schedule(optimizer):
        ...     return OneCycleLR(optimizer, 0.5, 5, pct_start=0.6, anneal_strategy="linear", cycle_momentum=False,
        ...                       div_factor=4, final_div_factor=2)
        >>> table(schedule, lr=0.5, steps=5)
        [0.125, 0.3125, 0.5, 0.28125, 0.0625]
    """

    def __init__(
        self,
        optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        self.optimizer = _driven(type(self).__name__, optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    f"For '{type(self).__name__}', 'total_steps' must be an int where 'epochs' or "
                    "'steps_per_epoch' is None, but got None."
                )
            total_steps = self._checked("epochs", epochs) * self._checked("steps_per_epoch", steps_per_epoch)
        self._keep(total_steps=total_steps)
        self._schedule_phases = _phases(
            self.total_steps, self._checked("pct_start", pct_start), self._checked("three_phase", three_phase)
        )
        self._anneal_func_type = self._checked("anneal_strategy", anneal_strategy)
        div_factor = self._checked("div_factor", div_factor)
        final_div_factor = self._checked("final_div_factor", final_div_factor)
        highest = self._for_each_group("max_lr", max_lr)
        self._start_momentum(cycle_momentum, base_momentum, max_momentum, last_epoch)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, highest):
                group["initial_lr"] = lr / div_factor
                group["max_lr"] = lr
                group["min_lr"] = group["initial_lr"] / final_div_factor
        super().__init__(optimizer, last_epoch)

    @property
    def noted(self):
        """What it leaves in each group."""
        return ("initial_lr", "max_lr", "min_lr", *(("base_momentum", "max_momentum") if self.cycle_momentum else ()))

    def _next(self, group):
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"For '{type(self).__name__}', 'step' must be called at most {self.total_steps} times, "
                f"'total_steps', but got {self.last_epoch}."
            )
        ends = [phase["end_step"] for phase in self._schedule_phases]
        index = bisect_left(ends[:-1], self.last_epoch)
        phase, start, end = self._schedule_phases[index], (0.0, *ends)[index], ends[index]
        if start == end:
            raise ValueError(
                f"For '{type(self).__name__}', 'pct_start' must leave no phase without steps, but they end at {ends}."
            )
        progress = (self.last_epoch - start) / (end - start)
        if self.cycle_momentum:
            momentum = self._between(group, phase["start_momentum"], phase["end_momentum"], progress)
            self._set_momentum(group, group["max_momentum"] if self.use_beta1 and momentum >= 1 else momentum)
        lr = self._between(group, phase["start_lr"], phase["end_lr"], progress)
        return 0.0 if lr < 0 else lr

    def _between(self, group, start, end, progress):
        start, end = group[start], group[end]
        if self._anneal_func_type == "linear":
            return (end - start) * progress + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1)


def _check_phases(owner, given):
    """Raise if these are not phases as `_phases` makes them, whatever their last steps."""
    rows = [row for row in given if isinstance(row, dict)] if isinstance(given, list) else []
    known = [[row | {"end_step": None} for row in _phases(1, 0.0, three_phase)] for three_phase in (False, True)]
    if rows != given or [row | {"end_step": None} for row in rows] not in known:
        raise ValueError(
            f"For '{owner}', '_schedule_phases' of 'state_dict' must be two or three phases, but got {given!r}."
        )
    for row in rows:
        number_in(owner, "end_step", row.get("end_step"), "(-inf, inf)")


def _phases(total_steps, pct_start, three_phase):
    """The last step of each phase, and which numbers of a group it goes from and to, as torch's state has it."""
    rows = [(float(pct_start * total_steps) - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")]
    if three_phase:
        rows += [
            (float(2 * pct_start * total_steps) - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
            (total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
        ]
    else:
        rows += [(total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    return [dict(zip(("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum"), row)) for row in rows]


class SWALR(LRScheduler):
    """Go to a fixed learning rate, for averaging (Izmailov et al. 2018), as `torch.optim.swa_utils.SWALR` (2.13) does.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        swa_lr (Union[float, list[float]]): The last, for all groups or for each, in [0, inf).
        anneal_epochs (int): The epochs on the way, at least 0. Default: ``10`` .
        anneal_strategy (str): ``"cos"`` or ``"linear"`` . Default: ``"cos"`` .
        last_epoch (int): As `LRScheduler` takes it. Default: ``-1`` .

    Raises:
        TypeError, ValueError, KeyError: As `LRScheduler` says.

    Examples:
        >>> from ms_optim.lr_scheduler import SWALR, table
        >>> table(lambda optimizer: SWALR(optimizer, 0.125, anneal_epochs=2, anneal_strategy="linear"), 0.5, steps=4)
        [0.5, 0.3125, 0.125, 0.125]
    """

    def __init__(
        self,
        optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):
        self.optimizer = _driven(type(self).__name__, optimizer)
        self._keep(anneal_epochs=anneal_epochs)
        self._anneal_strategy = self._checked("anneal_strategy", anneal_strategy)
        for group, lr in zip(optimizer.param_groups, self._for_each_group("swa_lr", swa_lr)):
            group["swa_lr"] = lr
        super().__init__(optimizer, last_epoch)

    def _next(self, group):
        lr, swa_lr = group["lr"], group["swa_lr"]
        count = self._step_count - 1 if self.anneal_epochs else max(1, self._step_count - 1)
        before, now = self._weight(count - 1), self._weight(count)
        start = swa_lr if before == 1 else (lr - before * swa_lr) / (1 - before)
        return swa_lr * now + start * (1 - now)

    def _weight(self, count):
        """How much of `swa_lr` there is after a number of steps."""
        progress = max(0, min(1, count / max(1, self.anneal_epochs)))
        return progress if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * progress)) / 2


def _parts(owner, schedulers, optimizer):
    """Several schedulers as a list, and their one optimizer."""
    if optimizer is not None:
        _driven(owner, optimizer)
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

    def __init__(self, optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1):
        owner = type(self).__name__
        self._schedulers, self.optimizer = _parts(owner, schedulers, _driven(owner, optimizer))
        self._milestones = _check_each(owner, "milestones", milestones)
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
        self.last_epoch = _check(owner, "last_epoch", last_epoch) + 1
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _undo(self)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self):
        """Go on to the next epoch."""
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

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer=None):
        self._schedulers, self.optimizer = _parts(type(self).__name__, schedulers, optimizer)
        self._last_lr = self._lrs()

    def step(self):
        """Go on to the next epoch."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._lrs()


class ReduceLROnPlateau(LRScheduler):
    """Reduce the learning rate when a metric has not improved for more than patience epochs.

    Args:
        optimizer (Optimizer): As `LRScheduler` takes it.
        mode (str): Whether ``"min"`` or ``"max"`` of the metric is best. Default: ``"min"`` .
        factor (float): In [0, 1). Default: ``0.1`` .
        patience (int): At least 0. Default: ``10`` .
        threshold (float): By how much a better metric must be better, in [0, inf). Default: ``1e-4`` .
        threshold_mode (str): ``"rel"`` is as a part of the best so far, ``"abs"`` as it is. Default: ``"rel"`` .
        cooldown (int): For how many epochs after a reduction none counts as bad, at least 0. Default: ``0`` .
        min_lr (Union[float, list[float]]): The lowest, for all groups or for each, in [0, inf). Default: ``0`` .
        eps (float): A reduction by no more than this is left out. In [0, inf). Default: ``1e-8`` .

    Raises:
        TypeError, ValueError: As `LRScheduler` says.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import SGD
        >>> from ms_optim.lr_scheduler import ReduceLROnPlateau
        >>> optimizer = SGD(nn.Dense(2, 3).trainable_params(), lr=0.5)
        >>> scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        >>> for loss in (1.0, 1.5, 1.5):
        ...     scheduler.step(loss)
        >>> optimizer.param_groups[0]["lr"]
        0.25
    """

    def __init__(
        self,
        optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ):
        self.optimizer = _driven(type(self).__name__, optimizer)
        self._keep(
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,
            cooldown=cooldown,
            eps=eps,
        )
        self.min_lrs = self._for_each_group("min_lr", min_lr)
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else self.min_lrs[0]
        self.last_epoch = 0
        self.best = self.mode_worse = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = 0
        self._last_lr = self._lrs()

    @property
    def in_cooldown(self) -> bool:
        """Whether the last reduction is so recent that no epoch counts as bad."""
        return self.cooldown_counter > 0

    def step(self, metrics: float, epoch: int | None = None):
        """Count this epoch by its metric, a number or a Tensor of one, and reduce where it is one too many."""
        try:
            metric = float(metrics)
        except (TypeError, ValueError) as error:
            raise TypeError(f"For 'ReduceLROnPlateau', 'metrics' must be a number, but got {metrics!r}.") from error
        self.last_epoch = self.last_epoch + 1 if epoch is None else self._checked("epoch", epoch)
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._lrs()

    def _is_better(self, metric):
        lower = self.mode == "min"
        if self.threshold_mode == "rel":
            bar = self.best * (1.0 - self.threshold if lower else self.threshold + 1.0)
        else:
            bar = self.best - self.threshold if lower else self.best + self.threshold
        return metric < bar if lower else metric > bar

    def _reduce(self):
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise ValueError(
                    f"For 'ReduceLROnPlateau', 'min_lrs' must have one entry for each of the "
                    f"{len(groups)} groups that the optimizer has by now, but got {len(self.min_lrs)}."
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, lowest in zip(groups, self.min_lrs):
            lr = group["lr"]
            new = max(lr * self.factor, lowest)
            if lr - new > self.eps:
                group["lr"] = new


def _stay(done, steps):
    return 1.0


def _fall(done, steps):
    return max(0.0, (steps - done) / max(1, steps))


def _wave(done, steps, num_cycles):
    progress = done / max(1, steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress)))


def _waves(done, steps, num_cycles):
    progress = done / max(1, steps)
    return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * (num_cycles * progress % 1.0))))


def _factor(step, after, num_warmup_steps, num_training_steps=0, **numbers):
    """Rise linearly, then do what comes after."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return after(step - num_warmup_steps, num_training_steps - num_warmup_steps, **numbers)


def _warmed(owner, optimizer, after, last_epoch, **numbers):
    """A LambdaLR with this factor, once its numbers are checked."""
    numbers = {name: _check(owner, name, value) for name, value in numbers.items()}
    return LambdaLR(optimizer, functools.partial(_factor, after=after, **numbers), last_epoch)


def get_constant_schedule(optimizer, last_epoch: int = -1) -> LambdaLR:
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


def get_constant_schedule_with_warmup(optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
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
    return _warmed("get_constant_schedule_with_warmup", optimizer, _stay, last_epoch, num_warmup_steps=num_warmup_steps)


def get_linear_schedule_with_warmup(
    optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
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
    return _warmed(
        "get_linear_schedule_with_warmup",
        optimizer,
        _fall,
        last_epoch,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
    )


def get_cosine_schedule_with_warmup(
    optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
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
    return _warmed(
        "get_cosine_schedule_with_warmup",
        optimizer,
        _wave,
        last_epoch,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
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
    return _warmed(
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        optimizer,
        _waves,
        last_epoch,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )


def table(schedule: Callable[[SimpleNamespace], LRScheduler], lr: float, steps: int) -> list[float]:
    """The learning rates of a schedule at each step, which the `lr` of an optimizer or of a group takes into the graph.

    The optimizer takes step t, counted from 0, with entry t, as if the scheduler were stepped after each of its steps;
    past the end the last entry holds.

    Args:
        schedule (Callable): A function from an optimizer to any of these schedulers but ReduceLROnPlateau, without
            cycling momentum.
        lr (float): The learning rate that the scheduler finds, in [0, inf).
        steps (int): How many, at least 1.

    Returns:
        list[float], one learning rate for each step.

    Raises:
        TypeError: If an argument is of the wrong kind, or `schedule` gives no such scheduler.
        ValueError: If a number is out of range, or the scheduler needs momentum.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import Adam
        >>> from ms_optim.lr_scheduler import OneCycleLR, StepLR, table
        >>> params = nn.Dense(2, 3).trainable_params()
        >>> def one_cycle(optimizer):
        ...     return OneCycleLR(optimizer, max_lr=0.1, total_steps=100, cycle_momentum=False)
        >>> optimizer = Adam(params, lr=table(one_cycle, lr=0.1, steps=100))
        >>> epochs = table(lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.5), lr=0.5, steps=3)
        >>> optimizer = Adam(params, lr=[lr for lr in epochs for _ in range(2)])  # two steps in each epoch
    """
    _check("table", "schedule", schedule)
    optimizer = SimpleNamespace(param_groups=[{"lr": float(_check("table", "lr", lr))}])
    steps = _check("table", "steps", steps)
    scheduler = schedule(optimizer)
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            "For 'table', 'schedule' must return a scheduler of ms_optim.lr_scheduler, but got "
            f"{type(scheduler).__name__}."
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "For 'table', 'schedule' must not return a ReduceLROnPlateau, whose learning rates depend on a "
            "metric: step it on the host, as SchedulerCallback does."
        )
    lrs = []
    for step in range(steps):
        if step:
            scheduler.step()
        lrs.append(float(optimizer.param_groups[0]["lr"]))
    return lrs


class SchedulerCallback(Callback):
    """Step a scheduler in `Model.train`, after every step or every epoch.

    ReduceLROnPlateau gets the mean of the losses since its last step; with data sink the last one of the epoch.

    Args:
        scheduler (LRScheduler): Of the optimizer that is trained with.
        by (str): ``"step"`` or ``"epoch"`` .

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `by` is neither, or is ``"step"`` where data sink hides the steps from the host.

    Note:
        In data parallel training each process sees the loss of its own data, so that ReduceLROnPlateau may reduce in
        one and not in another: step it yourself there, with what all of them see.

    Examples:
        >>> import numpy as np
        >>> from mindspore import dataset, nn
        >>> from mindspore.train import Model
        >>> from ms_optim import SGD
        >>> from ms_optim.lr_scheduler import ExponentialLR, SchedulerCallback
        >>> data = dataset.NumpySlicesDataset((np.ones((4, 2), np.float32), np.ones((4, 3), np.float32))).batch(2)
        >>> net = nn.Dense(2, 3)
        >>> optimizer = SGD(net.trainable_params(), lr=0.5)
        >>> callback = SchedulerCallback(ExponentialLR(optimizer, gamma=0.5), by="epoch")
        >>> Model(net, nn.MSELoss(), optimizer).train(2, data, callbacks=[callback], dataset_sink_mode=False)
        >>> optimizer.param_groups[0]["lr"]
        0.125
    """

    def __init__(self, scheduler: LRScheduler, by: str):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"For 'SchedulerCallback', 'scheduler' must be a scheduler of ms_optim.lr_scheduler, but "
                f"got {type(scheduler).__name__}."
            )
        self.scheduler = scheduler
        self.by = _check("SchedulerCallback", "by", by)
        self._losses = []

    def on_train_begin(self, run_context: RunContext):
        """Refuse steps that the host does not see."""
        arguments = run_context.original_args()
        if self.by == "step" and arguments.dataset_sink_mode and arguments.sink_size != 1:
            raise ValueError(
                "For 'SchedulerCallback', 'by' must be 'epoch' with data sink of more than one step, but "
                "got 'step': set dataset_sink_mode to False, or give the optimizer lr=table(...)."
            )
        self._losses = []

    def on_train_step_end(self, run_context: RunContext):
        """Keep the loss where it is the metric; step by step."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            outputs = run_context.original_args().net_outputs
            loss = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
            self._losses.append(float(loss.asnumpy().mean()))
        if self.by == "step":
            self._step()

    def on_train_epoch_end(self, run_context: RunContext):
        """Step by epoch."""
        if self.by == "epoch":
            self._step()

    def _step(self):
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(math.fsum(self._losses) / len(self._losses))
            self._losses = []
        else:
            self.scheduler.step()
