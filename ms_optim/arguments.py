"""The kinds of arguments: what a value may be, checked in one place for optimizers, averages, schedulers and groups.

A class declares what only it has, or means otherwise, as `arguments`; all else is in `COMMON`, the vocabulary of names
that mean one thing everywhere.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

FLOATS = (ms.float16, ms.bfloat16, ms.float32, ms.float64)
# The gap between 1 and the next number of each of these.
EPSILONS = dict(zip(FLOATS, (2.0**-10, 2.0**-7, 2.0**-23, 2.0**-52)))


class Kind:
    """What the values of an argument may be.

    A number may change between steps: `members` names the numbers that `scalars` takes for an argument. Any other kind
    is decided at construction, for each parameter by `decided`.
    """

    @property
    def each(self) -> "Kind":
        """What one of the values is, where there may be one for each step."""
        return self

    def check(self, owner: str, name: str, value: Any) -> Any:
        """The value as it is kept.

        Raises:
            TypeError: If it is of the wrong kind.
            ValueError: If it is out of range.
        """
        raise TypeError(f"For '{owner}', '{name}' must be of a kind that says how values are checked.")

    def members(self, name: str) -> tuple[str, ...]:
        """What `scalars` calls the numbers of an argument; empty if it is decided at construction."""
        return ()

    def number(self, value: Any, member: str, group: Mapping) -> float:
        """The number of a checked value that `scalars` calls `member`, for a group of parameters."""
        return value

    def decided(self, owner: str, name: str, value: Any, param: Parameter) -> Any:
        """What a parameter gets for a value that is decided at construction."""
        return value


def machine_epsilon(group: Mapping[str, Any]) -> float:
    """The gap after 1 of the floats that the group's first parameter holds, which is what torch takes."""
    return EPSILONS[next((param.dtype for param in group["params"]), ms.float32)]


@dataclass(frozen=True)
class Number(Kind):
    """A number in an interval such as "[0, 1)".

    Args:
        interval: The interval.
        none: What None stands for: a function from a group to a number. Without it None is no value.
    """

    interval: str
    none: Callable[[Mapping], float] | None = None

    def __str__(self) -> str:
        return f"{self.interval} or None" if self.none else self.interval

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the interval."""
        low, high = map(float, self.interval[1:-1].split(","))
        return low, high

    def check(self, owner: str, name: str, value: Any) -> Any:
        """The value as a float, or None."""
        if self.none and value is None:
            return None
        item = value.item() if getattr(value, "shape", None) == () else value
        if not isinstance(item, Real) or isinstance(item, bool):
            raise TypeError(f"For '{owner}', '{name}' must be a number in {self}, but got {value!r}.")
        number, (low, high) = float(item), self.bounds
        above = number >= low if self.interval[0] == "[" else number > low
        below = number <= high if self.interval[-1] == "]" else number < high
        if not (above and below):
            raise ValueError(f"For '{owner}', '{name}' must be in {self}, but got {value!r}.")
        return number

    def members(self, name: str) -> tuple[str, ...]:
        """The argument itself."""
        return (name,)

    def number(self, value: Any, member: str, group: Mapping) -> float:
        """The value, or what None stands for."""
        return self.none(group) if value is None and self.none else value


@dataclass(frozen=True)
class Numbers(Kind):
    """Several numbers in a sequence, as `betas`.

    Args:
        parts: What each may be, by the name that `scalars` has for it.
    """

    parts: Mapping[str, Number]

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts.values()))

    def check(self, owner: str, name: str, value: Any) -> tuple[float | None, ...]:
        """The value as a tuple of floats."""
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(self.parts):
            raise TypeError(f"For '{owner}', '{name}' must be {len(self.parts)} numbers in {self}, but got {value!r}.")
        return tuple(
            part.check(owner, f"{name}[{i}]", item) for i, (part, item) in enumerate(zip(self.parts.values(), value))
        )

    def members(self, name: str) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(self.parts)

    def number(self, value: tuple, member: str, group: Mapping) -> float:
        """One of the parts."""
        return self.parts[member].number(value[list(self.parts).index(member)], member, group)


def _listed(owner, name, value, each, what):
    """The numbers of a list, an array, a 1-d Tensor or an iterator, which is read once, here; None if it is no such."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim > 1:
            raise ValueError(f"For '{owner}', '{name}' must be {what}, but got {value.ndim} dimensions.")
        value = value.tolist() if isinstance(value, np.ndarray) else value.asnumpy().tolist()
    listed = isinstance(value, Iterable) and not hasattr(value, "__float__")
    if not listed or isinstance(value, (str, bytes, Mapping, set, frozenset)):
        return None
    table = [each.check(owner, f"{name}[{i}]", item) for i, item in enumerate(value)]
    if not table:
        raise ValueError(f"For '{owner}', '{name}' must be {what}, but got an empty list.")
    return table


@dataclass(frozen=True)
class PerStep(Number):
    """A number in an interval, or a list or 1-d Tensor of them: one for each step, of which the last holds."""

    @property
    def each(self) -> Number:
        """One of them."""
        return Number(self.interval, self.none)

    def check(self, owner: str, name: str, value: Any) -> Any:
        """The value as a float, or a list of floats."""
        what = f"a number in {self}, or a list or 1-d Tensor of them"
        if callable(value):  # a schedule of MindSpore
            raise TypeError(f"For '{owner}', '{name}' must be {what}, one for each step, but got {value!r}.")
        table = _listed(owner, name, value, self.each, what) if not isinstance(value, Real) else None
        return super().check(owner, name, value) if table is None else table


@dataclass(frozen=True)
class Rate(Kind):
    """A learning rate: a number, one for each step, or a schedule of MindSpore."""

    each: Number = Number("[0, inf)")

    def __str__(self) -> str:
        return f"a number in {self.each}, a list or 1-d Tensor of them or a LearningRateSchedule"

    def check(self, owner: str, name: str, value: Any) -> float | list[float] | LearningRateSchedule:
        """A float, a list of floats, or the schedule; an iterator is read once, here."""
        if isinstance(value, LearningRateSchedule):
            return value
        table = _listed(owner, name, value, self.each, self)
        if table is not None:
            return table
        if callable(value):  # a Cell is
            raise TypeError(f"For '{owner}', '{name}' must be {self}, but got {value!r}.")
        return self.each.check(owner, name, value)

    def members(self, name: str) -> tuple[str, ...]:
        """The argument itself."""
        return (name,)


@dataclass(frozen=True)
class Whole(Kind):
    """An int from `least` on, and below `below`."""

    least: int
    below: int | float = math.inf

    def __str__(self) -> str:
        return f"[{self.least}, {self.below})"

    def check(self, owner: str, name: str, value: Any) -> int:
        """The value as an int."""
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"For '{owner}', '{name}' must be an int in {self}, but got {value!r}.")
        if not self.least <= int(value) < self.below:
            raise ValueError(f"For '{owner}', '{name}' must be in {self}, but got {value!r}.")
        return int(value)


class Choice(Kind):
    """One of several values."""

    def __init__(self, *choices: Any):
        self.choices = choices

    def __str__(self) -> str:
        return f"one of {self.choices}"

    def check(self, owner: str, name: str, value: Any) -> Any:
        """The value, if it is one of them and not only equal to one: 1 is not True."""
        alike = [choice for choice in self.choices if isinstance(choice, str) or type(value) is type(choice)]
        if not any(value == choice for choice in alike):
            kind = ValueError if isinstance(value, type(self.choices[-1])) else TypeError
            raise kind(f"For '{owner}', '{name}' must be {self}, but got {value!r}.")
        return value


class Flag(Choice):
    """True or False."""

    def __init__(self):
        super().__init__(False, True)


class NamePatterns(tuple):
    """fnmatch patterns as a predicate: whether one of them matches the name of a Parameter."""

    __slots__ = ()

    def __call__(self, param: Parameter) -> bool:
        """Match its name."""
        return any(fnmatchcase(param.name, pattern) for pattern in self)


class Predicate(Kind):
    """A choice among parameters: name patterns, or a function from a Parameter to bool."""

    def __str__(self) -> str:
        return "name patterns or a function of a Parameter"

    def check(self, owner: str, name: str, value: Any) -> Callable[[Parameter], bool]:
        """A function of a Parameter."""
        if callable(value):
            return value
        patterns = (value,) if isinstance(value, str) else value
        if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(f"For '{owner}', '{name}' must be {self}, but got {value!r}.")
        return NamePatterns(patterns)

    def decided(self, owner: str, name: str, value: Callable[[Parameter], bool], param: Parameter) -> bool:
        """What the function says of a parameter."""
        answer = value(param)
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(f"For '{owner}', '{name}' must return a bool, but got {answer!r} for '{param.name}'.")
        return bool(answer)


@dataclass(frozen=True)
class Devices(Kind):
    """The devices that hold parts of something: a communication group.

    Args:
        whole: What says instead that there are no parts.
    """

    whole: str

    def __str__(self) -> str:
        return f"{self.whole!r} or the name of a communication group"

    def check(self, owner: str, name: str, value: Any) -> str | None:
        """The value: a text that is not empty, or None."""
        meant = isinstance(value, str) and value.lower() == self.whole and value != self.whole
        if value is not None and (meant or not (isinstance(value, str) and value)):
            kind = ValueError if isinstance(value, str) else TypeError
            raise kind(f"For '{owner}', '{name}' must be None, {self}, but got {value!r}.")
        return value


class Function(Kind):
    """Anything that can be called."""

    def __str__(self) -> str:
        return "a function"

    def check(self, owner: str, name: str, value: Any) -> Callable:
        """The value."""
        if not callable(value):
            raise TypeError(f"For '{owner}', '{name}' must be {self}, but got {value!r}.")
        return value


def refuse_idle_patterns(owner: str, name: str, patterns: Iterable[str], params: Iterable[Parameter]) -> None:
    """Raise if a pattern matches nothing: whoever wrote it believes that it does.

    Raises:
        ValueError: Naming the first such pattern.
    """
    params = list(params)
    for pattern in patterns:
        if not any(map(NamePatterns([pattern]), params)):
            raise ValueError(
                f"For '{owner}', each pattern of '{name}' must match one of {[param.name for param in params]}, but "
                f"got {pattern!r}."
            )


COMMON: dict[str, Kind] = {
    "amsgrad": Flag(),
    "betas": Numbers({"beta1": Number("[0, 1)"), "beta2": Number("[0, 1)")}),
    "buffer_update": Choice("average", "copy", "skip"),
    "dampening": Number("(-inf, inf)"),
    "decay": Number("[0, 1]"),
    "decoupled_weight_decay": Flag(),
    "eps": Number("[0, inf)"),
    "fused": Choice(None, False, True),
    "loss_scale": Number("(0, inf)"),
    "lr": Rate(),
    "master_weights": Flag(),
    "maximize": Flag(),
    "momentum": PerStep("[0, inf)"),
    "nesterov": Flag(),
    "state_dtype": Choice(None, ms.float32),
    "weight_decay": PerStep("[0, inf)"),
}
