"""A schedule as a list of learning rates, which an optimizer takes into the graph."""

from collections.abc import Callable
from types import SimpleNamespace

from ms_optim.arguments import Function, Number, Whole
from ms_optim.lr_scheduler.base import LRScheduler
from ms_optim.lr_scheduler.plateau import ReduceLROnPlateau


def table(schedule: Callable[[SimpleNamespace], LRScheduler], lr: float, steps: int) -> list[float]:
    """List the learning rates of a schedule by step: an `lr` of an optimizer, or of a group, that the graph reads.

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
    Function().check("table", "schedule", schedule)
    optimizer = SimpleNamespace(param_groups=[{"lr": Number("[0, inf)").check("table", "lr", lr)}])
    steps = Whole(1).check("table", "steps", steps)
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
