"""What may part two runs in one step: the numbers of groups, the loss, the gradients, and what became of them."""

from dataclasses import dataclass, field, replace

import numpy as np

from ms_optim._groups import HOW, NOTES
from parity.cases import ENTRIES
from parity.cases.formats import FORMATS
from parity.judge.norms import Difference, differences, distance

# How far apart a loss or a gradient may be, relative to its size, where the weights are the same; and how many times
# further apart than the weights are, where they are not, or so many times what it was at most before.
SAME, AMPLIFIED, GROWTH = 1e-4, 100.0, 10.0
# Weights are not taken to be nearer to each other than this, to tell how many times.
NEAREST = 1e-7
# The same of what an optimizer whose rule is not known makes of gradients.
SAME_STEP = 1e-2
# Weights before the first step, and numbers of groups, which may have been rounded to float32; and losses and gradients
# that nearly vanish, relative to the largest that there were.
ROUNDED = 1e-6
# A gradient this small beside all others may be noise, as that of a bias before a normalization; but not if so many
# elements or more are, in this cosine, those of the other run times something. Elements that are as small are noise
# where some of them are this far from each other.
NOISE, ELEMENTS, COSINE, UNLIKE = 1e-6, 6, 0.999, 0.1
# Of how many rows of a tensor a gradient may differ, where rounding lets a ReLU or a maximum choose otherwise.
FEW = 0.25


@dataclass(frozen=True)
class Finding:
    """Where two runs part.

    Attributes:
        step (int): At which step, from 0; -1 is before the first.
        whose (str): "names", "weights", "state", "numbers", "loss", "gradient", "optimizer" or "steps".
        text (str): What was found.
        tensors (tuple[Difference, ...]): What differs, in the order of the network.
    """

    step: int
    whose: str
    text: str
    tensors: tuple[Difference, ...] = ()

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
    differing: dict[tuple[str, str], list[str]] = {}
    for name, called in pairs.items():
        for key in one[name].keys() & other[called].keys() - {*HOW, *NOTES, "params"}:
            mine, its = one[name][key], other[called][key]
            if not is_same(mine, its):
                differing.setdefault((key, f"{told(mine)} and {told(its)}"), []).append(name)
    if not differing:
        return None
    said = [f"{key} is {values} for {_some(names, len(pairs))}" for (key, values), names in sorted(differing.items())]
    return Finding(i, "numbers", "; ".join(said) + _shifted(first, second, [key for key, _ in differing]))


def _by_parameter(run, i):
    """The numbers of each parameter; what None stands for in its dtype is said."""
    entry, dtypes = ENTRIES.get(run.header["optimizer"]), run.header["dtypes"]

    def explicit(group, name):
        return entry.explicit(group, eps=FORMATS[dtypes[name]].eps, group=True) if entry else group

    pairs = zip(run.header["groups"], run.steps[i].groups)
    return {name: explicit(group, name) for members, group in pairs for name in members["params"]}


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


def _shifted(first, second, keys):
    """Whether one has what the other had a step before, as where a schedule steps at another place."""
    steps = min(len(first.steps), len(second.steps))
    if steps < 3 or [*{*keys}] != ["lr"]:
        return ""
    one, other = ([run.steps[i].groups[0].get("lr") for i in range(steps)] for run in (first, second))
    for word, early, late in (("second", one, other), ("first", other, one)):
        if len({*early}) > 1 and all(map(is_same, early[:-1], late[1:])):
            return f": the {word} has the learning rates of one step before"
    return ""


@dataclass
class Seen:
    """What losses and gradients were like in the steps before.

    Attributes:
        sizes (dict[str, float]): The largest norm of each gradient, by name.
        loss (float): The largest loss.
        times (float): How many times further apart than the weights they were, at most.
        chosen (dict[str, float]): How far apart a gradient was, at most, because rounding let something choose
            otherwise, by name.
    """

    sizes: dict[str, float] = field(default_factory=dict)
    loss: float = 0.0
    times: float = 0.0
    chosen: dict[str, float] = field(default_factory=dict)

    def allowed(self, drift: float) -> float:
        """How far apart they may be where the weights are so far apart."""
        return max(SAME, drift * max(AMPLIFIED, GROWTH * self.times))

    def add(self, relative: float, drift: float) -> None:
        """Take note of how far apart one was."""
        self.times = max(self.times, relative / max(drift, NEAREST))


def loss_apart(one, other, i, drift, seen):
    """The losses of a step that differ."""
    if one.loss is None or other.loss is None:
        return None
    off, allowed = distance(one.loss, other.loss), seen.allowed(drift)
    sizes = [abs(loss) for loss in (one.loss, other.loss, seen.loss) if np.isfinite(loss)]
    seen.loss = max(sizes, default=0.0)
    if abs(one.loss - other.loss) <= ROUNDED * seen.loss:
        return None
    if off <= allowed:
        seen.add(off, drift)
        return None
    text = f"{one.loss:.8g} and {other.loss:.8g}, {off:.2g} apart where the weights are the same to {allowed:.2g}"
    return Finding(i, "loss", f"{text}: other data, or another network or loss")


def gradients_apart(one, other, pairs, i, drift, seen):
    """The gradients that differ, in the order of the network; all by one factor is said as such.

    Returns:
        The finding or None; where gradients are noise: not alike, but no more than that beside all others, by name;
        and those that differ because rounding has let a ReLU or a maximum choose otherwise.
    """
    present = [
        (name, name in one.gradients, called in other.gradients)
        for name, called in pairs.items()
        if (name in one.gradients) != (called in other.gradients)
    ]
    if present:
        said = ", ".join(f"{name} in the {'first' if here else 'second'} alone" for name, here, _ in present)
        return Finding(i, "gradient", f"there is one of {said}"), {}, ()
    both = {
        name: _dense(one.gradients[name], other.gradients[called])
        for name, called in pairs.items()
        if name in one.gradients
    }
    mine, others = ({name: pair[side] for name, pair in both.items()} for side in (0, 1))
    tensors, allowed = differences(mine, others), seen.allowed(drift)
    seen.sizes |= {tensor.name: max(tensor.size, seen.sizes.get(tensor.name, 0.0)) for tensor in tensors}
    noise = NOISE * np.sqrt(sum(tensor.size**2 for tensor in tensors))
    vanished = [tensor.name for tensor in tensors if tensor.off <= ROUNDED * seen.sizes[tensor.name]]
    apart = tuple(
        tensor
        for tensor in tensors
        if tensor.relative > max(allowed, GROWTH * seen.chosen.get(tensor.name, 0.0))
        and tensor.name not in vanished
        and (tensor.off > noise or _is_multiple(*both[tensor.name], allowed))
    )
    # what chose otherwise is nearest to the loss, or shows it most where the network is not in order
    deciding = {apart[-1].name, max(apart, key=lambda tensor: tensor.relative).name} if apart else set()
    if not apart or (i > 0 and any(_of_few_rows(*both[name], allowed) for name in deciding)):
        for tensor in tensors:
            if tensor.relative <= allowed and tensor.name not in vanished:
                seen.add(tensor.relative, drift)
        for tensor in apart:
            seen.chosen[tensor.name] = max(tensor.relative, seen.chosen.get(tensor.name, 0.0))
        unlike = {name: _are_noise(*pair, noise, allowed) for name, pair in both.items()}
        whole = {name for name in unlike if isinstance(one.gradients[name], tuple)}  # of the rows that are there
        return (
            None,
            {name: where for name, where in unlike.items() if where.any() and (not where.ndim or name not in whole)},
            tuple(tensor.name for tensor in apart),
        )
    factor = _factor(mine, others, allowed)
    if factor is not None and len(apart) == len(tensors):
        norms = [
            float(np.sqrt(sum(np.square(grad, dtype=float).sum() for grad in side.values()))) for side in (mine, others)
        ]
        text = (
            f"all of the second are those of the first times {factor:.7g}, of norms {norms[0]:.5g} and {norms[1]:.5g}: "
            "a mean for a sum, a loss scale, a number of devices, or clipping in one of them"
        )
        return Finding(i, "gradient", text, apart), {}, ()
    return Finding(i, "gradient", in_words(apart, pairs), apart), {}, ()


def _are_noise(one, other, noise, allowed):
    """Which elements of a gradient are noise: all, if its difference is, or those as small, if some are not alike.

    As of the keys' part of the bias of an attention, which changes no output.
    """
    with np.errstate(invalid="ignore"):  # of what is infinite in both
        off, size = np.abs(np.subtract(one, other, dtype=float)), np.maximum(np.abs(one), np.abs(other))
    if allowed * np.linalg.norm(size.ravel()) < np.linalg.norm(off.ravel()) <= noise:
        return np.array(True)
    small = size <= noise
    return small & np.any(off[small] > UNLIKE * size[small])


def _of_few_rows(one, other, allowed):
    """Whether gradients differ in few rows: of the units where rounding has let something choose otherwise."""
    if np.ndim(one) == 0 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    one, other = (np.reshape(side, (len(side), -1)).astype(float) for side in (one, other))
    off = np.linalg.norm(one - other, axis=1)
    sizes = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    there = sizes > 0  # and not those that were not looked up
    least = 0.1 * np.sqrt(np.mean(sizes[there] ** 2))
    return np.mean(off[there] > allowed * np.maximum(sizes[there], least)) <= FEW


def furthest(one, other, pairs):
    """The gradient that is furthest from the other's, relative to its size; None if there is none."""
    both = {
        name: _dense(one.gradients[name], other.gradients[called])
        for name, called in pairs.items()
        if name in one.gradients and called in other.gradients
    }
    tensors = differences(*({name: pair[side] for name, pair in both.items()} for side in (0, 1)))
    return max(tensors, key=lambda tensor: tensor.relative, default=None)


def _dense(one, other):
    """Two gradients as arrays; of sparse ones the rows that either has, with zeros where it has one not."""
    sparse = [grad for grad in (one, other) if isinstance(grad, tuple)]
    if not sparse:
        return one, other
    if len(sparse) == 2:
        rows = np.unique(np.concatenate([own for own, _ in sparse]))
    else:
        rows = np.arange(len(other if isinstance(one, tuple) else one))

    def dense(own, values):
        made = np.zeros((len(rows), *values.shape[1:]))
        np.add.at(made, np.searchsorted(rows, own), values)
        return made

    return tuple(dense(*grad) if isinstance(grad, tuple) else grad for grad in (one, other))


def _is_multiple(one, other, allowed):
    """Whether a gradient is the other times something that is not 1, which noise is not."""
    if one.size < ELEMENTS or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    one, other = np.ravel(one).astype(float), np.ravel(other).astype(float)
    product, squares = float(one @ other), (float(one @ one), float(other @ other))
    if not all(squares):
        return False
    cosine = abs(product) / np.sqrt(squares[0] * squares[1])
    unexplained = np.sqrt(max(0.0, 1 - cosine**2))
    return cosine > COSINE and abs(product / squares[0] - 1) > max(allowed, 10 * unexplained)


def _factor(mine, others, allowed):
    """By what all of the second are the first, or None."""
    product = sum(float((mine[name] * np.asarray(others[name], float)).sum()) for name in mine)
    square = sum(float(np.square(grad, dtype=float).sum()) for grad in mine.values())
    if not (np.isfinite(product) and square > 0 and product > 0):
        return None
    factor = product / square
    scaled = {name: grad * factor for name, grad in mine.items()}
    return factor if all(tensor.relative <= 10 * allowed for tensor in differences(scaled, others)) else None


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
