"""The base of all schedulers: it holds the optimizer, counts epochs and sets learning rates."""

import contextlib
import numbers
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, ClassVar, Protocol

from ms_optim.arguments import Whole
from ms_optim.lr_scheduler.kinds import COMMON, NONNEGATIVE, Each, Real, declared
from ms_optim.lr_scheduler.state import Stateful


class HasGroups(Protocol):
    """What schedulers take: an object with groups, each a mutable mapping with the key "lr"."""

    @property
    def param_groups(self) -> Sequence[MutableMapping[str, Any]]:
        """The groups."""


def check_optimizer(owner: str, optimizer: Any) -> HasGroups:
    """Give back the optimizer if it has groups whose learning rates are numbers.

    Raises:
        TypeError: If it has not.
    """
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, Sequence) or not groups:
        raise TypeError(
            f"For '{owner}', 'optimizer' must have 'param_groups', as the optimizers of ms_optim do, but "
            f"got {type(optimizer).__name__}."
        )
    for i, group in enumerate(groups):
        if not isinstance(group["lr"], numbers.Real):
            raise TypeError(
                f"For '{owner}', 'optimizer' must have a number for the 'lr' of each group, for a table or "
                f"schedule is already in the graph, but got {type(group['lr']).__name__} in group {i}."
            )
    return optimizer


def follow_requires_grad(optimizer: HasGroups) -> None:
    """Let an optimizer of ms_optim take over a `requires_grad` that was set by hand; others know no such thing."""
    follow = getattr(optimizer, "follow_requires_grad", None)
    if follow is not None:
        follow()


def _is_same(one, other):
    """Whether two values of a group are the same, of whatever kind a user's are."""
    try:
        return one is other or bool(one == other)
    except (TypeError, ValueError):  # as of arrays
        return False


class LRScheduler(Stateful):
    """The base of all schedulers, as `torch.optim.lr_scheduler.LRScheduler` (2.13) is.

    `base_lrs` are the learning rates at the start, `last_epoch` counts the calls of `step`. The numbers are set in
    Python, in torch's order of operations: they are torch's to the last bit. A subclass defines `get_lr`, and may say
    as `arguments` and `attributes` of which kinds (`ms_optim.arguments`) its arguments and the rest of its state are.

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

    arguments = {"last_epoch": Whole(-1)}
    attributes = {
        "_last_lr": Each(Real("[-inf, inf]")),
        "_step_count": Whole(0),
        "base_lrs": Each(NONNEGATIVE, same_length=False),  # it keeps its length when a group is added
        "last_epoch": Real("[-1, inf)"),  # a float after `step` with one
    }
    later = frozenset({"_last_lr"})
    _notes: tuple[str, ...] = ("initial_lr",)
    _closed: Callable | None = None
    # Whether a step sets more than rates.
    _sets_more = False
    # What it can go on from, for the message where it cannot.
    goes_on_from: ClassVar[str] = ""

    def __init__(self, optimizer: HasGroups, last_epoch: int = -1):
        owner = type(self).__name__
        self.optimizer = check_optimizer(owner, optimizer)
        self.last_epoch = self._check("last_epoch", last_epoch)
        self._get_lr_called_within_step = False
        with self._as_a_whole():
            self._begin(last_epoch)

    def _begin(self, last_epoch):
        """Note what each group begins with, and set what its first step reads."""
        owner = type(self).__name__
        for i, group in enumerate(self.optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            missing = [name for name in self._notes if name not in group]
            if missing:
                raise KeyError(
                    f"For '{owner}', 'last_epoch' must be -1 unless each group has {self._notes}, but got "
                    f"{last_epoch} and no {missing} in group {i}."
                )
        self.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
        self._initial_step()

    def _initial_step(self):
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _check(self, name, value):
        """Check the value of an argument and give it as it is kept."""
        owner, kinds = type(self).__name__, declared(type(self), "arguments")
        if name not in kinds:
            raise TypeError(
                f"For '{owner}', 'arguments' must have the kind of '{name}', as a Number, but got {sorted(kinds)}."
            )
        return kinds[name].check(owner, name, value)

    def _keep(self, **arguments):
        """Check arguments and keep them as attributes."""
        for name, value in arguments.items():
            setattr(self, name, self._check(name, value))

    def _for_each_group(self, name, value):
        """Check an argument that is one value for all groups, or one for each; list the value of each."""
        count, checked = len(self.optimizer.param_groups), self._check(name, value)
        if not isinstance(checked, list):
            return [checked] * count
        if len(checked) != count:
            raise ValueError(
                f"For '{type(self).__name__}', '{name}' must have one entry for each of the {count} groups, but got "
                f"{len(checked)}."
            )
        return checked

    def _check_epoch(self, epoch):
        return COMMON["epoch"].check(type(self).__name__, "epoch", epoch)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch, or to a given one by the closed form, where there is one.

        Call it after the optimizer's step. A `requires_grad` that was set by hand takes effect too.
        """
        epoch = epoch if epoch is None else self._check_epoch(epoch)
        with self._as_a_whole(groups=self._sets_more):  # all rates are checked before the first is set
            self._step_count += 1
            self._update_lr(epoch)

    def _inside(self):
        """It, and the schedulers that it is made of."""
        return [self, *(inner for one in getattr(self, "_schedulers", ()) for inner in one._inside())]

    @contextlib.contextmanager
    def _as_a_whole(self, groups=True):
        """Leave it, the schedulers that it is made of, and the groups of the optimizer as they were, if it raises."""
        before = [(one, {**vars(one)}) for one in self._inside()]
        kept = [(group, {**group}) for group in self.optimizer.param_groups] if groups else []
        try:
            yield
        except Exception:
            for one, attributes in before:
                vars(one).update(attributes)
            for group, values in kept:
                for key in [*group]:
                    if key not in values:
                        del group[key]
                    elif not _is_same(group[key], values[key]):
                        group[key] = values[key]
            raise

    def _update_lr(self, epoch=None):
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if epoch is None or self._closed is None:
            self._set_lr(self.get_lr())
        else:
            self._set_lr([self._closed(base_lr) for base_lr in self.base_lrs])

    def _set_lr(self, lrs):
        """Set what the optimizer's next step reads: learning rates, and which parameters are frozen."""
        groups = self.optimizer.param_groups
        if len(lrs) != len(groups):
            raise ValueError(
                f"For '{type(self).__name__}', 'optimizer' must keep the groups that it had, but got "
                f"{len(groups)} instead of {len(lrs)}."
            )
        for i, (group, lr) in enumerate(zip(groups, lrs)):  # all of them, before the first is set
            try:
                getattr(group, "check", lambda *_: None)("lr", lr)
            except (TypeError, ValueError) as error:
                raise type(error)(
                    f"For '{type(self).__name__}', what 'step' computes for group {i} must be a learning "
                    f"rate that the optimizer takes, but got {lr} at epoch {self.last_epoch}, from "
                    f"{group['lr']} before: what is set by hand, or by another scheduler, must be what "
                    f"it can go on from{self.goes_on_from}."
                ) from error
        for group, lr in zip(groups, lrs):
            group["lr"] = lr
        self._last_lr = self._lrs()
        follow_requires_grad(self.optimizer)

    def _lrs(self):
        """Read the learning rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """Compute the learning rate of each group at `last_epoch` from the one before."""
        return [self._next(group) for group in self.optimizer.param_groups]

    def _next(self, group):
        """Compute the learning rate of one group."""
        raise NotImplementedError(f"For '{type(self).__name__}', 'get_lr' must be defined.")

    def get_last_lr(self) -> list[float]:
        """Tell the learning rate of each group after the last `step`."""
        return self._last_lr
