"""What hypothesis draws for the arguments of an optimizer: within their ranges, their ends, and all magnitudes."""

import inspect
import itertools

from hypothesis import strategies as st

import ms_optim
from ms_optim.arguments import COMMON, Choice, Devices, Kind, Number, Numbers, Predicate, Rate
from parity.cases import ENTRIES
from parity.cases.draws import Draw

# The decades from which a number is drawn; others have DECADES, or what the entry of the optimizer says. Beyond them
# floats overflow within the steps of a draw.
DECADES = (-6, 0)
# Parameters, and what says how a step computes and not what.
NOT_DRAWN = {*inspect.signature(ms_optim.Optimizer).parameters, "optimizer", "buffers", "buffer_update"}
# What stands for a choice of parameters by a pattern of their names.
PATTERN = ("a pattern",)
SPANS = {"eps": (-16, 0), "lr": (-7, 1)}


def arguments_of(name: str) -> tuple[list[str], dict[str, tuple]]:
    """The arguments of an optimizer that are numbers, and those that are flags with their choices."""
    cls, numbers, flags = getattr(ms_optim, name), [], dict(ENTRIES[name].choices)
    for argument in sorted(inspect.signature(cls).parameters.keys() - NOT_DRAWN - flags.keys()):
        kind = kind_of(cls, argument)
        if isinstance(kind, Devices):  # there are none
            continue
        if kind.members(argument):
            numbers.append(argument)
        elif isinstance(kind, Predicate):
            flags[argument] = PATTERN
        else:
            flags[argument] = kind.choices if isinstance(kind, Choice) else tuple(range(kind.least, kind.least + 7))
    return numbers, flags


def check_arguments(draw: Draw) -> None:
    """Raise if a draw gives an optimizer what is none of its arguments, or is never drawn.

    Raises:
        ValueError: Naming them.
    """
    inner = draw.inner or draw.optimizer
    given = [(draw.optimizer, draw.kwargs), (inner, draw.inner_kwargs), *((inner, group) for _, group in draw.groups)]
    for name, kwargs in given:
        known = sorted(itertools.chain(*arguments_of(name)))
        odd = sorted({*kwargs} - {*known})
        if odd:
            raise ValueError(f"the arguments of {name} must be in {known}, but got {odd}")


def kind_of(cls: type, argument: str) -> Kind:
    """What an argument of an optimizer may be."""
    return cls.arguments.get(argument) or COMMON[argument]


def values(owner: str, name: str) -> st.SearchStrategy:
    """What an argument that holds numbers may be, within its range: its ends, and all magnitudes that make sense."""
    kind, entry = kind_of(getattr(ms_optim, owner), name), ENTRIES[owner]
    span = entry.spans.get(name) or SPANS.get(name, DECADES)
    if isinstance(kind, Numbers):
        drawn = st.tuples(*(interval(part, span) for part in kind.parts.values()))
    else:
        drawn = interval(kind.each if isinstance(kind, Rate) else kind, span)
    return drawn.filter(entry.within[name]) if name in entry.within else drawn


def interval(kind: Number, span: tuple[int, int]) -> st.SearchStrategy:
    """The numbers of a kind such as that of "(0, 1]"."""
    text, optional, (low, high) = kind.interval, kind.none is not None, kind.bounds
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
