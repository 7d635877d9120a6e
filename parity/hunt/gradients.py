"""The losses and gradients of a step of two runs, which part with the weights, and may vanish or be noise."""

from dataclasses import dataclass, field

import numpy as np

from parity.hunt.causes import ROUNDED, SAME, Finding, in_words
from parity.judge.norms import Difference, differences, distance

# How many times further apart than the weights a loss or a gradient may be, or how many times what it was so before.
AMPLIFIED, GROWTH = 100.0, 10.0
# Weights are not taken to be nearer to each other than this, to tell how many times.
NEAREST = 1e-7
# A gradient this small beside all others may be noise, as that of a bias before a normalization; but not if so many
# elements or more are, in this cosine, those of the other run times something. Elements that are as small are noise
# where some of them are this far from each other.
NOISE, ELEMENTS, COSINE, UNLIKE = 1e-6, 6, 0.999, 0.1
# What multiplies a loss and its gradients.
SCALED = "all gradients: a mean for a sum, a loss scale, or a number of devices or of batches that are added up"
# Of how many rows of a tensor a gradient may differ, where rounding lets a ReLU or a maximum choose otherwise.
FEW = 0.25


@dataclass
class Seen:
    """What losses and gradients were like in the steps so far, by the names of the first run.

    Attributes:
        sizes (dict[str, float]): The largest norm of each gradient.
        loss (float): The largest loss.
        times (float): How many times further apart than the weights they were, at most.
        noise (dict[str, ndarray]): Where gradients were not alike, but no more than noise beside all others.
        chosen (dict[str, float]): How far apart a gradient was, at most, where rounding let something choose otherwise.
        switched (dict[int, str]): The steps at which that was so, each with the tensor that shows it.
        at_first (Difference): The gradient that was furthest at the first step, if the weights were the same.
    """

    sizes: dict[str, float] = field(default_factory=dict)
    loss: float = 0.0
    times: float = 0.0
    noise: dict[str, np.ndarray] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)
    switched: dict[int, str] = field(default_factory=dict)
    at_first: Difference | None = None

    def allowed(self, drift: float) -> float:
        """How far apart they may be where the weights are so far apart."""
        return max(SAME, drift * max(AMPLIFIED, GROWTH * self.times))

    def add(self, relative: float, drift: float) -> None:
        """Take note of how far apart one was."""
        self.times = max(self.times, relative / max(drift, NEAREST))


def loss_apart(one, other, pairs, i, drift, seen):
    """The losses of a step that differ; by one factor with all gradients is said as such."""
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
    factor = _factor(*_sides(_both(one, other, pairs)), allowed) if _are_of_the_same(one, other, pairs) else None
    if factor is not None and one.loss and abs(other.loss / one.loss / factor - 1) <= 10 * allowed:
        return Finding(i, "loss", f"{text}: the second is the first times {factor:.7g}, and so are {SCALED}")
    return Finding(i, "loss", f"{text}: other data, or another network or loss")


def gradients_apart(one, other, pairs, i, drift, seen):
    """The gradients that differ, in the order of the network; all by one factor is said as such."""
    present = [
        (name, name in one.gradients, called in other.gradients)
        for name, called in pairs.items()
        if (name in one.gradients) != (called in other.gradients)
    ]
    if present:
        said = ", ".join(f"{name} in the {'first' if here else 'second'} alone" for name, here, _ in present)
        return Finding(i, "gradient", f"there is one of {said}")
    both = _both(one, other, pairs)
    mine, others = _sides(both)
    tensors, allowed = differences(mine, others), seen.allowed(drift)
    seen.sizes |= {tensor.name: max(tensor.size, seen.sizes.get(tensor.name, 0.0)) for tensor in tensors}
    if i == 0 and not drift:
        seen.at_first = max(tensors, key=lambda tensor: tensor.relative, default=None)
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
            seen.switched[i] = tensor.name
        for name, pair in both.items():
            where = _are_noise(*pair, noise, allowed)
            of_rows = where.ndim and isinstance(one.gradients[name], tuple)  # which are others in each step
            if where.any() and not of_rows:
                seen.noise[name] = where | seen.noise.get(name, False)
        return None
    factor = _factor(mine, others, allowed)
    if factor is not None and len(apart) == len(tensors):
        norms = [
            float(np.sqrt(sum(np.square(grad, dtype=float).sum() for grad in side.values()))) for side in (mine, others)
        ]
        text = (
            f"all of the second are those of the first times {factor:.7g}, of norms {norms[0]:.5g} and {norms[1]:.5g}: "
            "a mean for a sum, a loss scale, a number of devices, or clipping in one of them"
        )
        return Finding(i, "gradient", text, apart)
    names = {tensor.name for tensor in apart}
    own, its = _sides({name: pair for name, pair in both.items() if name in names})
    tells = sum(map(np.size, own.values())) >= ELEMENTS
    factor = _factor(own, its, allowed) if tells else None
    scaled = "" if factor is None else f"; in the second {_those(len(apart))} of the first times {factor:.7g}"
    return Finding(i, "gradient", in_words(apart, pairs) + scaled, apart)


def _those(count):
    return "it is that" if count == 1 else "they are those"


def _are_of_the_same(one, other, pairs):
    """Whether there are gradients, of the same parameters in both."""
    return bool(one.gradients) and all(
        (name in one.gradients) == (own in other.gradients) for name, own in pairs.items()
    )


def _both(one, other, pairs):
    """The gradients of each parameter in both steps."""
    return {
        name: _dense(one.gradients[name], other.gradients[called])
        for name, called in pairs.items()
        if name in one.gradients
    }


def _sides(both):
    """Those of the first by name, and those of the second."""
    return [{name: pair[side] for name, pair in both.items()} for side in (0, 1)]


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
