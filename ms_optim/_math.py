"""The vocabulary of rules: formulas that several optimizers share, for tensors and arrays in their form alike."""


def is_near(weight):
    """Whether `lerp` goes by a weight from its start, and not from its end."""
    return weight.abs() < 0.5


def way_of(weight):
    """How far `lerp` goes by a weight, from its start or, where that is nearer, back from its end."""
    return weight.where(is_near(weight), weight - 1)


def lerp(start, end, way, near):
    """Go from start to end, as torch does: from the nearer side, so that weights 0 and 1 are exact."""
    return start.where(near, end) + (end - start) * way


def is_applied(number):
    """Whether a number is not zero."""
    return number != 0


def is_one(number):
    """Whether a number is 1."""
    return number == 1


def is_positive(number):
    """Whether a number is positive."""
    return number > 0


def decide(numbers, conditions, weights):
    """Decide what a rule chooses by, of all parameters at once.

    Args:
        numbers: A row for each parameter.
        conditions: For each condition the column that it is of, and a function.
        weights: Which columns are weights of `lerp`; None if none is.

    Returns:
        The numbers, weights as ways; and the conditions, each a vector.
    """
    columns, made = numbers.unbind(1), ()
    for place, condition in conditions:
        made = (*made, condition(columns[place]))
    if weights is not None:
        numbers = way_of(numbers).where(weights, numbers)
    return numbers, made


def decay_gradient(grad, param, weight_decay, decays):
    """Add weight_decay*param, and nothing where weight_decay is 0: there torch leaves an infinite param out of it."""
    return grad + (weight_decay * param).where(decays, 0)


def maximum(x, y):
    """The larger of two numbers, or NaN if one is: MindSpore's own drops a NaN of the first on CPU."""
    return x.where((x > y).logical_or(x != x), y)


def larger(x, y):
    """The larger of two numbers, or y if x is NaN, as Python's max(y, x) has it."""
    return x.where(x > y, y)


# Whether sums of many elements are taken in float64, which a CPU alone computes at speed. Elsewhere they are taken in
# the dtype of the elements and in parts. A graph has what it was when it was compiled.
sums_in_float64 = True
# How many elements a part of a sum has at most.
PART = 4096
# How many are summed at once. Along the last axes a device adds in lanes, and of a norm the root halves the error;
# along others it may add one row to another, each time with a rounding.
AT_ONCE, AT_ONCE_OF_MEAN, ROWS_AT_ONCE = 1024, 32, 16
# The range of what float32 elements are divided by before they are squared.
TINY, HUGE = 2.0**-126, 2.0**127


def product(sizes):
    """The number of elements of a shape."""
    count = 1
    for size in sizes:
        count = count * size
    return count


def length_of_parts(count):
    """How many elements a part of a sum of so many has: about as many as there are parts."""
    length = 16
    for longer in (64, 256, 1024, PART):
        length = longer if count > length * length else length
    return length


def sum_in_parts(x, axes, at_once=AT_ONCE):
    """The sum along adjacent axes, which stay, or of all: of parts first, because many float32 would lose digits."""
    begin, end = (0, len(x.shape)) if axes is None else (axes[0], axes[-1] + 1)
    before, sizes, after = x.shape[:begin], x.shape[begin:end], x.shape[end:]
    count = product(sizes)
    if count <= (at_once if end == len(x.shape) else ROWS_AT_ONCE):
        return x.sum() if axes is None else x.sum(axes, keepdims=True)
    length = length_of_parts(count)
    parts, rest = count // length, count % length
    x = x.reshape(product(before), count, product(after))
    whole = x[:, : parts * length] if rest else x
    summed = whole.reshape(product(before), parts, length, product(after)).sum(2).sum(1)
    if rest:
        summed = summed + x[:, parts * length :].sum(1)
    return summed.reshape(()) if axes is None else summed.reshape(*before, *(1,) * len(axes), *after)


def sum_of_mean(x, axes):
    """The same of what no root is taken of."""
    return sum_in_parts(x, axes, AT_ONCE_OF_MEAN)


def sum_by_axes(x, axes):
    """The same, of one axis after another, without a size of it: where a shape is not what it is when a step runs."""
    axes = tuple(range(len(x.shape))) if axes is None else axes
    for i in range(len(axes)):
        x = x.sum(axes[len(axes) - 1 - i], keepdims=True)
    return x.reshape(()) if len(axes) == len(x.shape) else x


def total(x, add=sum_in_parts):
    """The sum of all elements; float32 is summed by `add`."""
    return x.double().sum() if sums_in_float64 else add(x, None)


def sum_of_products(x, y, axes, add=sum_in_parts):
    """The sum of products of elements along adjacent axes, which stay, or of all: float64 where that is the way.

    float32 is summed by `add`.
    """
    if sums_in_float64:
        products = x.double() * y.double()
        return products.sum() if axes is None else products.sum(axes, keepdims=True)
    return add(x * y, axes)


def norm(x, axes, add=sum_in_parts):
    """The L2 norm along adjacent axes, which stay, or of all; float32 is summed by `add`.

    In float32 the square of 1e20 is infinite and that of 1e-23 is 0: elements are taken relative to the largest there.
    """
    if sums_in_float64:
        return sum_of_products(x, x, axes).sqrt()
    scale = (x.abs().max() if axes is None else x.abs().amax(axes, True)).clamp(TINY, HUGE)
    x = x / scale
    return add(x * x, axes).sqrt() * scale


def mean(x, axis, add=sum_of_mean):
    """The mean along an axis, which stays; float32 is summed by `add`."""
    if sums_in_float64:
        return x.double().mean(axis, True).to(x.dtype)
    return add(x * (1 / x.shape[axis]), (len(x.shape) + axis,))


def mean_square(x, axis, add=sum_of_mean):
    """The mean of squares along an axis, which stays; float32 is summed by `add`."""
    if sums_in_float64:
        return (x.double() * x.double()).mean(axis, True).to(x.dtype)
    return sum_of_products(x, x * (1 / x.shape[axis]), (len(x.shape) + axis,), add)


def root_mean_square(x, add=sum_in_parts):
    """The root of the mean of all squares; float32 is summed by `add`."""
    if sums_in_float64:
        return (x.double() * x.double()).mean().sqrt().to(x.dtype)
    return norm(x, None, add) * product(x.shape) ** -0.5


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


def clip_adaptively(grad, param, clipping, eps, unit, clips, norm=norm):
    """Compute grad * min(1, clipping * max(|param|, eps) / max(|grad|, 1e-6)) by units, if it clips.

    A unit whose weight or gradient holds a NaN becomes NaN: every choice is written so that NaN is not swallowed.
    """
    axes = unit_axes(param.shape, unit)
    param_norm, grad_norm = norm(param, axes), norm(grad, axes)
    floor = eps.to(grad_norm.dtype)
    max_norm = floor.where(param_norm < floor, param_norm) * clipping
    factor = (max_norm * 1_000_000).where(grad_norm * 1_000_000 < 1, max_norm / grad_norm)
    clipped = (grad_norm < max_norm).logical_not().logical_and(clips)
    return (grad.to(factor.dtype) * factor.where(clipped, 1)).to(grad.dtype)
