"""A schedule that goes up once and far down, and moves momentum the other way."""

import math
from bisect import bisect_left
from typing import Any

from ms_optim.arguments import Flag, Kind, Whole
from ms_optim.lr_scheduler.base import HasGroups, check_optimizer
from ms_optim.lr_scheduler.cycles import MomentumCycle
from ms_optim.lr_scheduler.kinds import COMMON, Real, common


class Phases(Kind):
    """The phases of a OneCycleLR, as `_phases` makes them, with whatever last steps."""

    def check(self, owner: str, name: str, value: Any) -> list[dict]:
        """A copy of the phases."""
        rows = [dict(row) for row in value if isinstance(row, dict)] if isinstance(value, list) else []
        known = [[row | {"end_step": None} for row in _phases(1, 0.0, three_phase)] for three_phase in (False, True)]
        if rows != value or [row | {"end_step": None} for row in rows] not in known:
            raise ValueError(f"For '{owner}', '{name}' must be two or three phases, but got {value!r}.")
        for row in rows:
            row["end_step"] = Real("(-inf, inf)").check(owner, "end_step", row.get("end_step"))
        return rows


class OneCycleLR(MomentumCycle):
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

    total_steps: int
    arguments = {
        "div_factor": Real("(0, inf)"),
        "epochs": Whole(1),
        "final_div_factor": Real("(0, inf)"),
        "pct_start": Real("[0, 1]"),
        "steps_per_epoch": Whole(1),
        "three_phase": Flag(),
        "total_steps": Whole(1),
        **common("anneal_strategy"),
    }
    attributes = {"_anneal_func_type": COMMON["anneal_strategy"], "_schedule_phases": Phases()}
    later = frozenset({"_anneal_func_type", "_schedule_phases"})
    earlier = frozenset({"anneal_func", "step_size_down", "step_size_up"})

    def __init__(
        self,
        optimizer: HasGroups,
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
        self.optimizer = check_optimizer(type(self).__name__, optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    f"For '{type(self).__name__}', 'total_steps' must be an int where 'epochs' or "
                    "'steps_per_epoch' is None, but got None."
                )
            total_steps = self._check("epochs", epochs) * self._check("steps_per_epoch", steps_per_epoch)
        self._keep(total_steps=total_steps)
        self._schedule_phases = _phases(
            self.total_steps, self._check("pct_start", pct_start), self._check("three_phase", three_phase)
        )
        self._anneal_func_type = self._check("anneal_strategy", anneal_strategy)
        div_factor = self._check("div_factor", div_factor)
        final_div_factor = self._check("final_div_factor", final_div_factor)
        highest = self._for_each_group("max_lr", max_lr)
        with self._as_a_whole():
            self._start_momentum(cycle_momentum, base_momentum, max_momentum, last_epoch)
            if last_epoch == -1:
                for group, lr in zip(optimizer.param_groups, highest):
                    group["initial_lr"] = lr / div_factor
                    group["max_lr"] = lr
                    group["min_lr"] = group["initial_lr"] / final_div_factor
            super().__init__(optimizer, last_epoch)

    @property
    def _notes(self):
        """The keys that it writes into each group."""
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
