"""The kinds of the schedulers' arguments and of what their states hold, beside those of `ms_optim.arguments`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ms_optim.arguments import Choice, Flag, Kind, Number, Whole


@dataclass(frozen=True)
class Real(Number):
    """A number in an interval. An int stays an int, as in torch's states."""

    def check(self, owner: str, name: str, value: Any) -> float:
        """The value as a float, unless it is an int."""
        number = super().check(owner, name, value)
        return value if type(value) is int else number


@dataclass(frozen=True)
class OrNone(Kind):
    """A value of another kind, or None."""

    kind: Kind

    def check(self, owner: str, name: str, value: Any) -> Any:
        """The value as the other kind keeps it, or None."""
        return None if value is None else self.kind.check(owner, name, value)


@dataclass(frozen=True)
class Each(Kind):
    """A list of values of one kind.

    Args:
        kind: The kind of the values.
        same_length: Whether a state must hold as many as the scheduler does.
    """

    kind: Kind
    same_length: bool = True

    def check(self, owner: str, name: str, value: Any) -> list:
        """The values as a list."""
        if not isinstance(value, Iterable) or isinstance(value, (str, Mapping)):
            raise TypeError(f"For '{owner}', '{name}' must be a list, but got {value!r}.")
        return [self.kind.check(owner, f"{name}[{i}]", item) for i, item in enumerate(value)]


@dataclass(frozen=True)
class Sorted(Each):
    """A list of values of one kind, from the lowest to the highest."""

    def check(self, owner: str, name: str, value: Any) -> list:
        """The values as a list."""
        values = super().check(owner, name, value)
        if values != sorted(values):
            raise ValueError(f"For '{owner}', '{name}' must be in order, but got {value!r}.")
        return values


@dataclass(frozen=True)
class PerGroup(Kind):
    """A value for all groups, or a list or tuple with one for each group."""

    kind: Kind

    def check(self, owner: str, name: str, value: Any) -> Any:
        """The value, or the list of them."""
        kind = Each(self.kind) if isinstance(value, (list, tuple)) else self.kind
        return kind.check(owner, name, value)


NONNEGATIVE = Real("[0, inf)")
# Names that mean one thing to every scheduler.
COMMON: dict[str, Kind] = {
    "anneal_strategy": Choice("cos", "linear"),
    "base_momentum": PerGroup(NONNEGATIVE),
    "cycle_momentum": Flag(),
    "epoch": NONNEGATIVE,
    "eta_min": NONNEGATIVE,
    "gamma": NONNEGATIVE,
    "max_lr": PerGroup(NONNEGATIVE),
    "max_momentum": PerGroup(NONNEGATIVE),
    "milestones": Each(Whole(0)),
    "num_cycles": NONNEGATIVE,
    "num_training_steps": Whole(1),
    "num_warmup_steps": Whole(0),
    "total_iters": Whole(1),
}


def common(*names: str) -> dict[str, Kind]:
    """Choose the kinds of these names."""
    return {name: COMMON[name] for name in names}


def declared(cls: type, *tables: str) -> dict[str, Kind]:
    """Merge these tables of a class and of its bases; a class goes before its bases, a later table before others."""
    kinds = {}
    for base in reversed(cls.__mro__):
        for table in tables:
            kinds.update(vars(base).get(table, {}))
    return kinds
