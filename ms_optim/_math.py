"""The vocabulary of rules: tensor formulas that several optimizers share, for MindSpore and torch tensors alike."""


def lerp(start, end, weight):
    """Go from start to end by weight, as torch does: from the nearer side, so that weights 0 and 1 are exact."""
    near = weight.abs() < 0.5
    return start.where(near, end) + (end - start) * weight.where(near, weight - 1)


def decay_gradient(grad, param, weight_decay):
    """Add weight_decay*param, and nothing where weight_decay is 0: there torch leaves an infinite param out of it."""
    return grad + (weight_decay * param).where(weight_decay != 0, 0)


def exact(numerator, denominator, like):
    """A quotient of two ints in the precision of `like`; a Python float would be a float32 in a compiled graph."""
    return (0 * like + numerator) / denominator


def maximum(x, y):
    """The larger of two numbers, or NaN if one is: MindSpore's own drops a NaN of the first on CPU."""
    return x.where((x > y) | (x != x), y)


def larger(x, y):
    """The larger of two numbers, or y if x is NaN, as Python's max(y, x) has it."""
    return x.where(x > y, y)


def mean_square(x, axis):
    """The float64 mean of squares along an axis, which stays, or of all. A float32 sum is off at many elements."""
    square = x.double() * x.double()
    return square.mean() if axis is None else square.mean(axis, True)


def unit_axes(shape, unit):
    """The axes that one unit of a weight spans; None is the whole tensor.

    "output" is timm's convention: a unit is a slice along axis 0, and a vector or scalar is one unit. "squeezed" is
    that of DeepMind and optax: what is a vector or scalar without its axes of size 1 is one unit, and a unit of a 3-d
    weight spans axis 1 alone.
    """
    long_axes = len([size for size in shape if size != 1])
    if len(shape) <= 1 or (unit == "squeezed" and long_axes <= 1):
        return None
    if unit == "squeezed" and len(shape) == 3:
        return (1,)
    return tuple(range(1, len(shape)))


def unitwise_norm(x, unit):
    """The float64 L2 norm of each unit of x, broadcastable to x. A float32 sum is 2e-5 off at a million elements."""
    axes = unit_axes(x.shape, unit)
    square = x.double() * x.double()
    return square.sum().sqrt() if axes is None else square.sum(axes, True).sqrt()


def clip_adaptively(grad, param, clipping, eps, unit):
    """Compute grad * min(1, clipping * max(|param|, eps) / max(|grad|, 1e-6)) by units; clipping 0 is none.

    A unit whose weight or gradient holds a NaN becomes NaN: every choice is written so that NaN is not swallowed.
    """
    floor, param_norm, grad_norm = eps.double(), unitwise_norm(param, unit), unitwise_norm(grad, unit)
    max_norm = floor.where(param_norm < floor, param_norm) * clipping
    factor = (max_norm * 1_000_000).where(grad_norm * 1_000_000 < 1, max_norm / grad_norm)
    clipped = (grad_norm < max_norm).logical_not() & (clipping != 0)
    return (grad.double() * factor.where(clipped, 1)).to(grad.dtype)
