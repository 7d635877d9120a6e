"""What may part two runs besides losses and gradients: state, numbers of groups, weights, and what steps made of it."""

from dataclasses import dataclass, replace

import numpy as np

from ms_optim._groups import HOW, NOTES
from parity.cases import ENTRIES
from parity.cases.formats import FORMATS
from parity.judge.norms import Difference, differences

# How far apart a loss or a gradient may be, relative to its size, where the weights are the same.
SAME = 1e-4
# The same of what an optimizer whose rule is not known makes of gradients.
SAME_STEP = 1e-2
# Weights before the first step, and numbers of groups, which may have been rounded to float32; and losses and gradients
# that nearly vanish, relative to the largest that there were.
ROUNDED = 1e-6


@dataclass(frozen=True)
class Finding:
    """Where two runs part.

    Attributes:
        step (int): At which step, from 0; -1 is before the first.
        whose (str): "names", "weights", "state", "numbers", "loss", "gradient", "optimizer" or "steps".
        text (str): What was found.
        tensors (tuple[Difference, ...]): What differs, in the order of the network.
        by_rule (bool): Whether the rule of an optimizer tells it, beyond what rounding does.
    """

    step: int
    whose: str
    text: str
    tensors: tuple[Difference, ...] = ()
    by_rule: bool = False

    def __str__(self) -> str:
        when = "before the first step" if self.step < 0 else f"at step {self.step}"
        return f"{when}, {self.whose}: {self.text}"


def averages_apart(first, second):
    """What averages around the optimizers are made with otherwise."""
    one, other = (run.header.get("average", {}) for run in (first, second))
    differing = [key for key in one if key in other and not is_same(one[key], other[key])]
    if not differing:
        return None
    said = "; ".join(f"{key} is {told(one[key])} and {told(other[key])}" for key in differing)
    return Finding(-1, "numbers", f"of the averages, {said}")


def state_apart(first, second, pairs):
    """What state the runs begin with, of that which both can have: what comes later was nothing before."""
    mine, others, alone = {}, {}, {}
    for name, called in pairs.items():
        one, other = first.initial_state.get(name, {}), second.initial_state.get(called, {})
        for slot in one.keys() & other.keys():
            if np.shape(one[slot]) == np.shape(other[slot]):
                mine[f"{slot} of {name}"], others[f"{slot} of {name}"] = one[slot], other[slot]
        later = [bool(run.steps[0].state.get(own)) for run, own in ((first, name), (second, called))]
        for word, some, none, told in (("first", one, other, later[1]), ("second", other, one, later[0])):
            if not none and told and _has_begun(some):  # one that never tells its state says nothing by this
                alone.setdefault(word, []).append(name)
    if alone:
        said = "; ".join(
            f"the {word} alone goes on with that of {_some(names, len(pairs))}" for word, names in alone.items()
        )
        return Finding(-1, "state", said)
    apart = tuple(tensor for tensor in differences(mine, others) if not tensor.relative <= ROUNDED)
    return Finding(-1, "state", in_words(apart, mine), apart) if apart else None


def _has_begun(slots):
    """Whether state is that of a parameter which has taken steps."""
    if "step" in slots:
        return bool(np.any(slots["step"]))
    return any(np.any(value) for value in slots.values())


def numbers_apart(first, second, pairs, i):
    """The numbers of groups that differ, parameter by parameter."""
    one, other = (_by_parameter(run, i) for run in (first, second))
    mine_said, its_said = (_by_parameter(run, i, explicit=False) for run in (first, second))
    differing: dict[tuple[str, str], list[str]] = {}
    for name, called in pairs.items():
        for key in one[name].keys() & other[called].keys() - {*HOW, *NOTES, "params"}:
            mine, its = one[name][key], other[called][key]
            if is_same(mine, its):
                continue
            values = f"{told(mine)} and {told(its)}"
            if is_same(mine_said[name][key], its_said[called][key]):
                dtypes = first.header["dtypes"][name], second.header["dtypes"][called]
                values += f" (what {told(mine_said[name][key])} is in {' and in '.join(dtypes)})"
            differing.setdefault((key, values), []).append(name)
    if not differing:
        return None
    said = [f"{key} is {values} for {_some(names, len(pairs))}" for (key, values), names in sorted(differing.items())]
    others = classes_apart(first, second)
    said = [others, *said] if others else said
    return Finding(i, "numbers", "; ".join(said) + _shifted(first, second, [key for key, _ in differing], i))


def classes_apart(first, second):
    """That the runs are of two optimizers, in words; None if they are of one."""
    one, other = (run.header["optimizer"] for run in (first, second))
    return None if one == other else f"the first is {one}, the second {other}"


def _by_parameter(run, i, explicit=True):
    """The numbers of each parameter, as the run says them or, if explicit, with what None stands for in its dtype."""
    entry, dtypes = ENTRIES.get(run.header["optimizer"]) if explicit else None, run.header["dtypes"]

    def numbers(group, name):
        return entry.explicit(group, eps=FORMATS[dtypes[name]].eps, group=True) if entry else group

    pairs = zip(run.header["groups"], run.steps[i].groups)
    return {name: numbers(group, name) for members, group in pairs for name in members["params"]}


def told(value):
    """A number as it is read, without the digits that it has by computation."""
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(told, value))})"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def is_same(one, other):
    """Whether two numbers, or lists of them, are the same but for float32; or anything else."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return bool(np.isclose(one, other, rtol=ROUNDED, atol=0.0, equal_nan=True))
    return one == other


def _shifted(first, second, keys, i):
    """Whether one has what the other had a step before, as where a schedule steps elsewhere or leaves out a step."""
    steps = min(len(first.steps), len(second.steps))
    if steps < 3 or [*{*keys}] != ["lr"]:
        return ""
    one, other = ([run.steps[k].groups[0].get("lr") for k in range(steps)] for run in (first, second))
    for word, early, late in (("second", one, other), ("first", other, one)):
        if len({*early}) > 1 and all(map(is_same, early[:-1], late[1:])):
            return f": the {word} has the learning rates of one step before"
    for word, ahead, behind in (("second", other, one), ("first", one, other)):
        if steps - i > 2 and len({*ahead[i:]}) > 1 and all(map(is_same, ahead[i:-1], behind[i + 1 :])):
            return f": from here on the {word} has those of the step after, as if it had left out one"
    return ""


def weights_apart(last, before, i, pairs, allowed):
    """What was done to the weights between two steps in one run and not in the other."""
    one, other = (
        {name: np.subtract(new[name], old[name], dtype=float) for name in new} for old, new in zip(last, before)
    )
    sizes = {tensor.name: tensor.size for tensor in differences(*before)}
    apart = [
        replace(tensor, relative=tensor.off / sizes[tensor.name] if sizes[tensor.name] else np.inf)
        for tensor in differences(one, other)
        if tensor.off > allowed * sizes[tensor.name]
    ]
    if not apart:
        return None
    who = [word for word, some in zip(("first", "second"), (one, other)) if any(map(np.any, some.values()))]
    whose = f"in the {who[0]} alone" if len(who) == 1 else "otherwise in the second than in the first"
    text = f"they were changed after the step before, {whose}: {in_words(tuple(apart), pairs)}"
    return Finding(i, "weights", text, tuple(apart))


def jumped(before, i, pairs, allowed):
    """Where the weights parted in steps that were not recorded: further than a drift goes in so many."""
    apart = tuple(tensor for tensor in differences(*before) if tensor.relative > allowed)
    if not apart:
        return None
    return Finding(i, "weights", f"after the last step that is there, {in_words(apart, pairs)}", apart)


def steps_apart(before, after, i, allowed):
    """Where the same gradients led elsewhere."""
    moved = [{name: np.subtract(new[name], old[name], dtype=float) for name in new} for old, new in zip(before, after)]
    apart = tuple(tensor for tensor in differences(*moved) if not tensor.relative <= allowed)
    if not apart:
        return None
    return Finding(
        i, "optimizer", f"the same gradients go in, and other steps come out: {in_words(apart, moved[0])}", apart
    )


def in_words(apart, everything):
    """The tensors that differ, in words: how many, the last, which is nearest to the loss, and the furthest."""
    worst, last = max(apart, key=lambda tensor: tensor.relative), apart[-1]
    broken = [tensor.name for tensor in apart if np.isnan(tensor.first) != np.isnan(tensor.second)]
    text = f"{len(apart)} of {len(everything)} differ, the last of the network {last.name!r} by {last.relative:.2g}"
    text += "" if worst is last else f", the most {worst.name!r} by {worst.relative:.2g}"
    return text + (f"; NaN in one alone: {_some(broken, len(everything))}" if broken else "")


def _some(names, of):
    if len(names) == of:
        return "all"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
