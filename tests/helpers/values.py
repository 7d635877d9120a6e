"""Values that arguments must refuse, and a schedule."""

import numpy as np
from mindspore import nn

from ms_optim.arguments import Choice, Devices, Flag, Number, Numbers, PerStep, Predicate, Rate, Whole

nan, inf = float("nan"), float("inf")
EXPONENTIAL = nn.ExponentialDecayLR(0.1, 0.9, 4)
NO_NUMBERS = [nan, "1", True, np.bool_(True), 1j, {}, np.array("1"), np.ones((1, 1))]


# Lists that are none of numbers for the steps, and what would have to be asked for each.
TABLES = [[], ["1"], [0.1, -0.1], [nan], [True], [[0.1]], np.zeros(0), lambda step: 0.1, nn.ReLU()]


def bad(cls, argument):
    """Values that an argument of an optimizer must refuse: what is beyond its ends, and of other kinds."""
    return _bad(cls.kind_of(argument))


def _bad(kind):
    if isinstance(kind, Number):
        lists = TABLES if isinstance(kind, PerStep) else [[0.5]]
        return [*_outside(kind), *NO_NUMBERS, *lists, *([] if kind.none else [None])]
    if isinstance(kind, Rate):
        return [*_outside(kind.each), *NO_NUMBERS, None, *TABLES]
    if isinstance(kind, Numbers):
        good, count = [_inside(part) for part in kind.parts.values()], len(kind.parts)
        wrong = [
            (*good[:i], value, *good[i + 1 :])
            for i, part in enumerate(kind.parts.values())
            for value in (*_outside(part), nan, "1", True)
        ]
        return [0.5, tuple(good[1:]), (*good, good[0]), *wrong, "ab"[:count].ljust(count, "c"), None, 1]
    if isinstance(kind, Whole):
        above = [] if kind.below == inf else [kind.below]
        return [kind.least - 1, *above, 2.0, "2", None, True, np.bool_(True), (2,)]
    if isinstance(kind, Flag):
        return [1, 0, "yes", None, np.bool_(True), [True]]
    if isinstance(kind, Choice):
        return ["none of them", 1, *({True, None} - {*kind.choices} if True not in kind.choices else [0])]
    if isinstance(kind, Predicate):
        return [1, None, [1], True, {"scale"}]
    if isinstance(kind, Devices):
        return [1, "", True, ("devices",), b"devices"]
    raise TypeError(f"{kind} has no values here that it refuses.")


def _outside(kind):
    """Numbers just beyond the ends of an interval."""
    (low, high), (first, *_, last) = kind.bounds, kind.interval
    below = [] if low == -inf else [np.nextafter(low, -inf) if first == "[" else low]
    above = [] if high == inf else [np.nextafter(high, inf) if last == "]" else high]
    ends = [end for end in (-inf, inf) if not (end == high and last == "]") and not (end == low and first == "[")]
    return [*map(float, below), *map(float, above), *ends]


def _inside(kind):
    """A number well within an interval."""
    low, high = kind.bounds
    if low > -inf:
        return low + min(1.0, high - low) / 2
    return min(high, 0.0) - 0.5
