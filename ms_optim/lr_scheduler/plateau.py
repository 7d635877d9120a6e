"""A schedule by a metric."""

import math

from ms_optim.arguments import Choice, Whole
from ms_optim.lr_scheduler.base import HasGroups, LRScheduler, check_optimizer, follow_requires_grad
from ms_optim.lr_scheduler.kinds import NONNEGATIVE, Each, OrNone, PerGroup, Real


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

    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    eps: float
    arguments = {
        "cooldown": Whole(0),
        "eps": NONNEGATIVE,
        "factor": Real("[0, 1)"),
        "min_lr": PerGroup(NONNEGATIVE),
        "mode": Choice("min", "max"),
        "patience": Whole(0),
        "threshold": NONNEGATIVE,
        "threshold_mode": Choice("rel", "abs"),
    }
    attributes = {
        **dict.fromkeys(("best", "mode_worse"), Real("[-inf, inf]")),
        **dict.fromkeys(("cooldown_counter", "num_bad_epochs"), Whole(0)),
        "default_min_lr": OrNone(NONNEGATIVE),
        "min_lrs": Each(NONNEGATIVE, same_length=False),
    }
    later = frozenset({"default_min_lr"})

    def __init__(
        self,
        optimizer: HasGroups,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ):
        self.optimizer = check_optimizer(type(self).__name__, optimizer)
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

    def step(self, metrics: float, epoch: int | None = None) -> None:  # type: ignore[override]  # torch's order
        """Count this epoch by its metric, a number or a Tensor of one, and reduce where it is one too many."""
        try:
            metric = float(metrics)
        except (TypeError, ValueError) as error:
            raise TypeError(f"For 'ReduceLROnPlateau', 'metrics' must be a number, but got {metrics!r}.") from error
        with self._as_a_whole(groups=False):
            self.last_epoch = self.last_epoch + 1 if epoch is None else self._check_epoch(epoch)
            if self._is_better(metric):
                self.best, self.num_bad_epochs = metric, 0
            else:
                self.num_bad_epochs += 1
            if self.in_cooldown:
                self.cooldown_counter -= 1
                self.num_bad_epochs = 0
            if self.num_bad_epochs > self.patience:
                with self._as_a_whole():
                    self._reduce()
                self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._lrs()
        follow_requires_grad(self.optimizer)

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
