"""What hypothesis draws for the arguments of an optimizer: within their ranges, their ends, and all magnitudes."""

import inspect

from hypothesis import strategies as st

import ms_optim
from ms_optim.arguments import RANGES, is_flag
from parity.cases import ENTRIES

# The decades from which a number is drawn; others have DECADES, or what the entry of the optimizer says. Beyond them
# floats overflow within the steps of a draw.
DECADES = (-6, 0)
# Parameters, and what says how a step computes and not what.
NOT_DRAWN = {"params", "optimizer", "fused", "loss_scale", "buffers", "buffer_update"}
# What stands for a choice of parameters by a pattern of their names.
PATTERN = ("a pattern",)
SPANS = {"eps": (-16, 0), "lr": (-7, 1)}


def arguments_of(name: str) -> tuple[list[str], dict[str, tuple]]:
    """The arguments of an optimizer that are numbers, and those that are flags with their choices."""
    known = inspect.signature(getattr(ms_optim, name)).parameters.keys() - NOT_DRAWN
    choices = ENTRIES[name].choices
    flags = {
        argument: PATTERN if RANGES[argument] == "predicate" else tuple(RANGES[argument])[:7]
        for argument in sorted(known - choices.keys())
        if is_flag(argument)
    }
    flags |= choices
    return [argument for argument in sorted(known) if argument not in flags], flags


def values(owner: str, name: str) -> st.SearchStrategy:
    """What an argument that holds numbers may be, within its range: its ends, and all magnitudes that make sense."""
    allowed = RANGES.get(f"{owner}.{name}") or RANGES[name]
    entry = ENTRIES[owner]
    span = entry.spans.get(name) or SPANS.get(name, DECADES)
    several = isinstance(allowed, list)
    drawn = st.tuples(*(interval(item, span) for item in allowed)) if several else interval(allowed, span)
    return drawn.filter(entry.within[name]) if name in entry.within else drawn


def interval(allowed: str, span: tuple[int, int]) -> st.SearchStrategy:
    """The numbers of an interval such as "(0, 1]" or "[0, inf) or None"."""
    text, _, optional = allowed.partition(" or ")
    low, high = map(float, text[1:-1].split(","))
    closed = {low: text[0] == "[", high: text[-1] == "]"}
    ends = [end for end in (low, high) if closed[end]] + [None] * bool(optional)
    inside = decades(*span)
    if high - low < float("inf"):
        part = st.one_of(decades(-6, -1), decades(-6, -1).map(lambda x: 1 - x), decades(-1, -1))
        inside = part.map(lambda x: low + (high - low) * x)
    elif low > -float("inf"):
        inside = inside.map(lambda x: low + x)
    elif high < float("inf"):
        inside = inside.map(lambda x: high - x)
    else:
        inside = st.one_of(inside, inside.map(lambda x: -x), st.just(0.0))
    # Not one_of, which would take an end every other time.
    return st.sampled_from([inside] * 7 + [st.sampled_from(ends)] * bool(ends)).flatmap(lambda chosen: chosen)


def decades(least: int, most: int) -> st.SearchStrategy:
    """A number of two digits, log-uniform."""
    return st.builds(
        lambda digits, power: float(f"{digits}e{power - 1}"), st.integers(10, 99), st.integers(least, most)
    )
