"""What was noted of two runs that part, and is not the same in both: it is said beside whose it is."""

from collections.abc import Iterator, Mapping

import numpy as np

from parity.hunt.causes import SAME, is_same, told
from parity.runs.files import Run

# How many of several clippings of one step are said.
SAID = 3
# By the name of the note: what gradients are clipped to, and what was found before.
CLIPPED = {
    "clip_grad_norm": ("max_norm", "norm", "to a norm of {} (theirs was {})"),
    "clip_grad_value": ("clip_value", "largest", "to values of {} (the largest was {})"),
}
WORDS = "first", "second"


def noted(first: Run, second: Run, pairs: Mapping[str, str], step: int) -> tuple[str, ...]:
    """What differs in the notes of a step, and which steps were skipped up to it.

    Args:
        first (Run): One run.
        second (Run): The other.
        pairs (Mapping[str, str]): The names of parameters in the first, and in the second.
        step (int): The place of the step among those that were recorded; one that not both have is their end.
    """
    found = [*_skipped(first, second, step)]
    if step < min(len(first.steps), len(second.steps)):
        names = {called: name for name, called in pairs.items()}
        one, other = dict(first.steps[step].notes), _renamed(second.steps[step].notes, names)
        for key in dict.fromkeys((*one, *other)):
            found += _of(key, one, other)
    return tuple(found)


def _skipped(first, second, step) -> Iterator[str]:
    """The steps that were skipped in one alone, or not as many of them."""
    counts = [_counts(run, step) for run in (first, second)]
    for word, mine, its in zip(WORDS, counts, counts[::-1]):
        for when, count in mine.items():
            if count != its.get(when):
                yield f"the {word} skipped {told(count)} step{'' if count == 1 else 's'} {when}"


def _counts(run, step):
    """How many steps were skipped, and when."""
    every, steps = run.header.get("every", 1), min(step + 1, len(run.steps))
    found = {f"before step {i * every}": run.steps[i].notes.get("skipped") for i in range(steps)}
    if step >= len(run.steps):
        found["after its last"] = run.header.get("after", {}).get("skipped")
    return {when: count for when, count in found.items() if count}


def _of(key, one, other):
    """What is said of one note."""
    if key == "skipped":
        return
    mine, its = one.get(key, []), other.get(key, [])
    if _are_clippings(key, mine) and _are_clippings(key, its):
        if len(mine) != len(its) or not all(map(_is_same_clipping, mine, its)):
            yield _clippings(key, mine, its)
    elif key == "loss_scale" or (key in one and key in other):
        mine, its = one.get(key, 1.0), other.get(key, 1.0)
        if not is_same(mine, its):
            yield f"{key} is {told(mine)} and {told(its)}"
    else:
        word, value = (WORDS[0], one[key]) if key in one else (WORDS[1], other[key])
        yield f"{key} is {told(value)} in the {word} alone"


def _are_clippings(key, value):
    """Whether it is what a recording notes of clipping, and nothing that was said under the same name."""
    limit, size, _ = CLIPPED.get(key, ("", "", ""))
    return (
        key in CLIPPED
        and isinstance(value, list)
        and all(isinstance(one, dict) and {limit, size} <= one.keys() for one in value)
    )


def _is_same_clipping(one, other):
    """Whether gradients were clipped to the same, and were as large before but for what rounding explains."""
    return one.keys() == other.keys() and all(
        np.isclose(one[key], other[key], rtol=SAME, atol=0.0, equal_nan=True)
        if key in ("norm", "largest")
        else is_same(one[key], other[key])
        for key in one
    )


def _clippings(key, mine, its):
    """Both, in words."""
    said = [f"{_clipping(key, some)} in the {word}" for word, some in zip(WORDS, (mine, its)) if some]
    said += [f"not in the {word}" for word, some in zip(WORDS, (mine, its)) if not some]
    return f"gradients were clipped {', and '.join(said)}"


def _clipping(key, clippings):
    limit, size, text = CLIPPED[key]
    said = []
    for one in clippings[:SAID]:
        kind = f" of order {told(one['norm_type'])}" if "norm_type" in one else ""
        some = f", of {', '.join(one['params'])}" if "params" in one else ""
        said.append(text.format(f"{told(one[limit])}{kind}", f"{one[size]:.5g}") + some)
    more = f" and {len(clippings) - SAID} times more" if len(clippings) > SAID else ""
    return ", then ".join(said) + more


def _renamed(notes, names):
    """The notes of the second, with the names that parameters have in the first."""
    return {
        key: [
            {**one, "params": [names.get(name, name) for name in one["params"]]} if "params" in one else one
            for one in value
        ]
        if _are_clippings(key, value)
        else value
        for key, value in notes.items()
    }
