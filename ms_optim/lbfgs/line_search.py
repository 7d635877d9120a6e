"""A line search for the strong Wolfe conditions (Nocedal and Wright 2006, "Numerical Optimization", 3.5).

It is torch's, number by number; all of it is arithmetic of the host.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# What a step must gain of what the slope promised, and what part of the slope it may leave.
ARMIJO, CURVATURE = 1e-4, 0.9
# A bracket in which no parameter can move so far is left as it is.
NARROW = 1e-9


class Point(NamedTuple):
    """What is known at a step length: the loss there, its gradient, and its slope along the direction.

    A loss is a float. A slope is an array of one element, and so is a step length that was computed from one: beside
    Python's numbers it keeps its dtype, as a tensor of torch does, and comparisons are of that dtype.
    """

    t: float | np.ndarray
    loss: float
    grad: object
    slope: np.ndarray


@np.errstate(all="ignore")
def cubic_minimum(one: Point, other: Point, bounds: tuple | None = None) -> Any:
    """Where the cubic through two points has its minimum, within bounds; their middle if it has none.

    The bounds are the points, unless they are given. At a learning rate of 0 both are the start.
    """
    left, right = (one, other) if one.t <= other.t else (other, one)
    low, high = bounds or (left.t, right.t)
    if left.t == right.t:
        return (low + high) / 2.0
    mean = left.slope + right.slope - 3 * (left.loss - right.loss) / (left.t - right.t)
    square = mean**2 - left.slope * right.slope
    if not square >= 0:
        return (low + high) / 2.0
    root = np.sqrt(square)
    t = right.t - (right.t - left.t) * ((right.slope + root - mean) / (right.slope - left.slope + 2 * root))
    return min(max(t, low), high)


@np.errstate(all="ignore")
def too_high(point: Point, start: Point) -> bool:
    """Whether the loss has not fallen as far as the slope at the start promised."""
    return bool(point.loss > start.loss + ARMIJO * point.t * start.slope)


def flat_enough(point: Point, start: Point) -> bool:
    """Whether little is left of the slope at the start."""
    return bool(abs(point.slope) <= -CURVATURE * start.slope)


@np.errstate(all="ignore")
def beyond(previous: Point, point: Point) -> Any:
    """The next step length of a search that has not bracketed a minimum yet."""
    return cubic_minimum(previous, point, (point.t + 0.01 * (point.t - previous.t), point.t * 10))


@np.errstate(all="ignore")
def between(bracket: list[Point], stalled: bool) -> tuple[Any, bool]:
    """The next step length inside a bracket, and whether it is close to an end, which it may be once in a row."""
    ends = [point.t for point in bracket]
    low, high = min(ends), max(ends)
    t = cubic_minimum(*bracket)
    margin = 0.1 * (high - low)
    if not min(high - t, t - low) < margin:
        return t, False
    if not (stalled or t >= high or t <= low):
        return t, True
    return high - margin if abs(t - high) < abs(t - low) else low + margin, False


@np.errstate(all="ignore")
def narrow(bracket: list[Point], longest: np.ndarray) -> bool:
    """Whether no parameter can move far inside a bracket."""
    return bool(reach(bracket[1].t - bracket[0].t, longest) < NARROW)


@np.errstate(all="ignore")
def reach(t: Any, longest: np.ndarray) -> np.ndarray:
    """How far the parameter moves that moves farthest."""
    return abs(t) * longest


@np.errstate(all="ignore")
def rises(point: Point, origin: Any, target: Any) -> bool:
    """Whether the loss does not fall at a point on the way from one step length to another."""
    return bool(point.slope * (target - origin) >= 0)


def strong_wolfe(
    evaluate: Callable[..., Point], start: Point, t: Any, longest: np.ndarray, most: int
) -> tuple[Point, int]:
    """The point where the search ends, and how often it evaluated the loss.

    Args:
        evaluate: The point at a step length.
        start: The point at step length 0.
        t: The first step length to try.
        longest: The largest magnitude in the direction.
        most: How many evaluations may follow the first.
    """
    previous, point, more, stalled = start, evaluate(t), 0, False
    while more < most:
        if too_high(point, start) or (more > 1 and point.loss >= previous.loss):
            bracket = [previous, point]
            break
        if flat_enough(point, start):
            return point, more + 1
        if point.slope >= 0:
            bracket = [previous, point]
            break
        previous, point = point, evaluate(beyond(previous, point))
        more += 1
    else:
        bracket = [start, point]
    best = _lower(bracket)
    while more < most and not narrow(bracket, longest):
        t, stalled = between(bracket, stalled)
        point = evaluate(t)
        more += 1
        if too_high(point, start) or point.loss >= bracket[best].loss:
            bracket[1 - best] = point
            best = _lower(bracket)
            continue
        if flat_enough(point, start):
            return point, more + 1
        if rises(point, bracket[best].t, bracket[1 - best].t):
            bracket[1 - best] = bracket[best]
        bracket[best] = point
    return bracket[best], more + 1


def _lower(bracket):
    return 0 if bracket[0].loss <= bracket[1].loss else 1
