"""A schedule that goes up and down again and again, and what moves momentum the other way."""

import math
from collections.abc import Callable

from ms_optim.arguments import Choice, Flag, Function
from ms_optim.lr_scheduler.base import HasGroups, LRScheduler, check_optimizer
from ms_optim.lr_scheduler.kinds import NONNEGATIVE, Each, OrNone, PerGroup, Real, common


class MomentumCycle(LRScheduler):
    """Move momentum, or beta1, against the learning rate."""

    cycle_momentum: bool
    arguments = common("base_momentum", "cycle_momentum", "max_lr", "max_momentum")
    attributes = {"use_beta1": Flag()}
    later = frozenset({"use_beta1"})
    _sets_more = True

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


class CyclicLR(MomentumCycle):
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

    mode: str
    gamma: float
    scale_mode: str
    arguments = {
        "base_lr": PerGroup(NONNEGATIVE),
        "mode": Choice("triangular", "triangular2", "exp_range"),
        "scale_fn": OrNone(Function()),
        "scale_mode": Choice("cycle", "iterations"),
        "step_size_down": OrNone(NONNEGATIVE),
        "step_size_up": Real("(0, inf)"),
        **common("gamma"),
    }
    attributes = {
        **dict.fromkeys(("base_momentums", "max_lrs", "max_momentums"), Each(NONNEGATIVE)),
        "step_ratio": Real("[0, 1]"),
        "total_size": Real("(0, inf)"),
    }
    later = frozenset({"_scale_fn_custom"})
    earlier = frozenset({"_scale_fn_ref", "scale_fn"})

    def __init__(
        self,
        optimizer: HasGroups,
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
        self.optimizer = check_optimizer(owner, optimizer)
        base_lrs, self.max_lrs = self._for_each_group("base_lr", base_lr), self._for_each_group("max_lr", max_lr)
        up, down = self._check("step_size_up", step_size_up), self._check("step_size_down", step_size_down)
        self.total_size = float(up) + float(up if down is None else down)
        self.step_ratio = up / self.total_size
        self._keep(gamma=gamma, scale_mode=scale_mode)
        if scale_fn is None:
            self._keep(mode=mode)
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        else:
            self.mode = mode
        self._scale_fn_custom = self._check("scale_fn", scale_fn)
        with self._as_a_whole():
            lows, highs = self._start_momentum(cycle_momentum, base_momentum, max_momentum, last_epoch)
            if cycle_momentum:
                self.base_momentums, self.max_momentums = lows, highs
            if last_epoch == -1:
                for group, lr in zip(optimizer.param_groups, base_lrs):
                    group["lr"] = lr
            super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def _kinds(self):
        kinds = super()._kinds()
        if self._scale_fn_custom is not None:
            del kinds["mode"]
        return kinds

    def _check_state(self, state_dict, kinds=None):
        checked = super()._check_state(state_dict, kinds)
        if checked.get("_scale_fn_custom") is not None and self._scale_fn_custom is None:
            raise ValueError(
                f"For '{type(self).__name__}', 'scale_fn' must be given where the one of 'state_dict' was an object."
            )
        return checked

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
