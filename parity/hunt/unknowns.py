"""Numbers that a training may have had instead of those that it says, as the optimizer declares its arguments.

What such a number was is not among a few that are usual: it is solved for, by where the run went.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ms_optim import OPTIMIZERS
from ms_optim._groups import HOW
from ms_optim.arguments import Number, Numbers
from parity.cases.formats import FORMATS
from parity.hunt.mistakes import Mistake, each_of, is_number, regrouped
from parity.runs.files import Run
from parity.runs.problems import OF_ALL

# How often a number is improved, and how often half of an improvement is tried where all of it is none.
ROUNDS, HALVES = 12, 6
# A step to tell how much a number does, as a part of it or, of 0, as it is.
NUDGE = 1e-4
# To what of itself a distance is to fall for another round, and in all; and to how many times what is nearest it may
# rise by a number of fewer digits.
GAIN, EXPLAINED, AS_NEAR, DIGITS = 0.95, 0.5, 1.5, 7

Distance = Callable[[float], np.ndarray | None]


@dataclass(frozen=True)
class Unknown:
    """A number to be solved for.

    Args:
        said: What the run says that it is.
        starts: From where it is looked for.
        bounds: Its least and its largest.
        at: The mistake of another number.
    """

    said: float
    starts: tuple[float, ...]
    bounds: tuple[float, float]
    at: Callable[[float], Mistake]


def unknowns(name: str, run: Run, parted: Iterable[str]) -> Iterator[Unknown]:
    """Each number of the arguments of an optimizer, where a run has it the same at each step.

    It is another in all groups that have it, or, if all of a group follow the rule, in those of what parts alone; of
    these the learning rate, and of what parts the gradients, may be multiplied besides.

    Args:
        name: Whose arguments.
        run: The run.
        parted: The parameters that leave the rule.
    """
    cls, parted = OPTIMIZERS[name], {*parted}
    groups = [{*group["params"]} for group in run.header["groups"]]
    leading = {min(members & parted) for members in groups if members & parted}
    some = frozenset(leading) if 0 < len(leading) < len(groups) else None
    for key, parameter in inspect.signature(cls).parameters.items():
        if key not in (*HOW, *OF_ALL, "params", "lr") and isinstance(kind := cls.kind_of(key), (Number, Numbers)):
            for said in _said(run, key, parameter.default):
                yield from _of_argument(kind, key, said, parameter.default, None, run)
                have = [group.get(key, parameter.default) == said for group in run.header["groups"]]
                if some and any(own and not here for own, here in zip(have, _places(run, some))):
                    yield from _of_argument(kind, key, said, parameter.default, some, run)
    if some:
        where = _where(some, run)
        yield _factor(lambda factor: Mistake((f"lr times {factor:g}{where}",), alter=partial(_rates, factor, some)))
    if parted and parted < {*run.initial}:
        names = frozenset(parted)
        of = ", ".join(map(repr, sorted(parted)))
        yield _factor(
            lambda factor: Mistake((f"gradients of {of} times {factor:g}",), prepare=partial(_scaled, factor, names))
        )


def solved(unknown: Unknown, distance: Distance) -> float | None:
    """The number that a run is nearest to, with as few digits as it is; None if none is nearer than what is said.

    Args:
        unknown: What is looked for.
        distance: How far the run is, element by element, from where a number leads; None if that leads nowhere.
    """

    def far(number):
        off = distance(number) if unknown.bounds[0] <= number <= unknown.bounds[1] else None
        return np.inf if off is None else float(np.abs(off).sum())

    known = {start: far(start) for start in dict.fromkeys((unknown.said, *unknown.starts))}
    number = min(known, key=known.get)
    least = known[number]
    for _ in range(ROUNDS):
        better = _improved(number, least, distance, far)
        if better is None:
            break
        before, (number, least) = least, better
        if least > GAIN * before:
            break
    if not least < EXPLAINED * known[unknown.said]:
        return None
    shorter = (float(f"{number:.{digits}g}") for digits in range(1, DIGITS))
    return next((one for one in shorter if far(one) <= AS_NEAR * least), number)


def _improved(number, least, distance, far):
    """A number that is nearer, and how far it is: where most of what is off vanishes, whatever few elements do."""
    here = distance(number)
    nudge = NUDGE * abs(number) or NUDGE
    nudged = next((one for one in (nudge, -nudge) if far(number + one) < np.inf), None)
    if here is None or nudged is None:
        return None
    way = (distance(number + nudged) - here) / nudged
    moved = way != 0
    if not moved.any():
        return None
    step = _median(-here[moved] / way[moved], np.abs(way[moved]))
    tried = ((number + step / 2**half, far(number + step / 2**half)) for half in range(HALVES))
    return next((better for better in tried if better[1] < least), None)


def _median(values, weights):
    """The value that half of the weights are below."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])


def _said(run, key, default):
    """What a run says of an argument, each once, if it is the same at each step; the default where it says nothing."""
    first = [group.get(key, default) for group in run.header["groups"]]
    if any([group.get(key, default) for group in step.groups] != first for step in run.steps):
        return []
    found: list[Any] = []
    for said in first:
        found += [said] if said not in found else []
    return found


def _of_argument(kind, key, said, default, names, run):
    """The numbers of one argument, where it is said to be the same, in all groups or in those of some parameters."""
    where = "" if names is None else _where(names, run)

    def at(place, number):
        other = number if place is None else (*said[:place], number, *said[place + 1 :])
        told = other if place is None else tuple(other)
        return Mistake((f"{key} {told} for {said}{where}",), alter=partial(_replaced, key, said, other, default, names))

    if isinstance(kind, Number):
        yield from _of_number(kind, said, default, partial(at, None))
    elif isinstance(said, Sequence) and len(said) == len(kind.parts):
        usual = default if isinstance(default, Sequence) else (None,) * len(said)
        for place, part in enumerate(kind.parts.values()):
            yield from _of_number(part, said[place], usual[place], partial(at, place))


def _of_number(kind, said, default, at):
    said = FORMATS["float32"].eps if said is None and kind.none else said  # what None is of a dtype is its gap after 1
    if is_number(said):
        yield Unknown(float(said), tuple(_starts(kind, float(said), default)), kind.bounds, at)


def _starts(kind, said, default):
    """From where a number of a kind is looked for: its default, the ends of what it may be, and what is between."""
    low, high = kind.bounds
    found = [0.0, float(default) if is_number(default) else said]
    if high - low < np.inf:
        found += [low, high, 1 - said, *(low + (high - low) * (1 - 10.0**-power) for power in range(1, 5))]
    else:
        found += [said * 10.0**power for power in (-4, -2, -1, 1, 2, 4) if said] + [1e-8, 1e-5, 1e-2, 1.0]
    return (float(start) for start in found)


def _factor(at):
    return Unknown(1.0, (), (0.0, np.inf), at)


def _where(names, run):
    """In which groups, by one parameter of each."""
    own = [repr(name) for group in run.header["groups"] for name in group["params"] if name in names]
    return f" in the group{'s' if len(own) > 1 else ''} of {', '.join(own)}"


def _places(run, names):
    """Which groups have some of the names; all if there are none."""
    return [names is None or bool(names & {*group["params"]}) for group in run.header["groups"]]


def _replaced(key, said, other, default, names, run):
    places = _places(run, names)

    def change(groups, i):
        return [
            {**group, key: other} if here and group.get(key, default) == said else group
            for here, group in zip(places, groups)
        ]

    return regrouped(run, change)


def _rates(factor, names, run):
    places = _places(run, names)
    return regrouped(
        run,
        lambda groups, i: [
            {**group, "lr": group["lr"] * factor} if here else group for here, group in zip(places, groups)
        ],
    )


def _scaled(factor, names, rule, i, drawn):
    return {**drawn, **each_of({name: drawn[name] for name in names}, lambda grad: grad * factor)}
