"""Schedules that anneal: along cosines, with restarts, and to the learning rate of averaging."""

import math

from ms_optim.arguments import Whole
from ms_optim.lr_scheduler.base import HasGroups, LRScheduler, check_optimizer
from ms_optim.lr_scheduler.kinds import COMMON, NONNEGATIVE, PerGroup, common


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

    T_max: int
    eta_min: float
    arguments = {"T_max": Whole(1), **common("eta_min")}
    goes_on_from = ", nothing below 'eta_min'"

    def __init__(self, optimizer: HasGroups, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
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

    T_0: int
    T_mult: int
    eta_min: float
    arguments = {"T_0": Whole(1), "T_mult": Whole(1), **common("eta_min")}
    attributes = {"T_cur": NONNEGATIVE, "T_i": Whole(1)}

    def __init__(self, optimizer: HasGroups, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        self._keep(T_0=T_0, T_mult=T_mult, eta_min=eta_min)
        self.T_i = self.T_0
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Go on to the next epoch, or to a given one, which may be a fraction: epoch + batch / batches."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        with self._as_a_whole():
            if epoch is None:
                epoch = self.last_epoch + 1
                self.T_cur += 1
                if self.T_cur >= self.T_i:
                    self.T_cur %= self.T_i
                    self.T_i *= self.T_mult
            else:
                epoch = self._check_epoch(epoch)
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

    anneal_epochs: int
    arguments = {"swa_lr": PerGroup(NONNEGATIVE), "anneal_epochs": Whole(0), **common("anneal_strategy")}
    attributes = {"_anneal_strategy": COMMON["anneal_strategy"]}
    later = frozenset({"_anneal_strategy"})
    earlier = frozenset({"anneal_func"})

    def __init__(
        self,
        optimizer: HasGroups,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):
        self.optimizer = check_optimizer(type(self).__name__, optimizer)
        self._keep(anneal_epochs=anneal_epochs)
        self._anneal_strategy = self._check("anneal_strategy", anneal_strategy)
        rates = self._for_each_group("swa_lr", swa_lr)
        with self._as_a_whole():
            for group, lr in zip(optimizer.param_groups, rates):
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
