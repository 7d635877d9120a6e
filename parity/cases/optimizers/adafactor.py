"""Adafactor."""

from parity.cases.case import Entry, grid, mutants
from parity.cases.shared import NO_MAXIMIZE

_SCALE = "larger(root_mean_square_of_slices(param, matrix_group, length), eps2)"
_MEAN = "mean_of_slices(rows, -2, matrix_group, length)"
_STEP = "param = param * keep - alpha / larger(rms / d, 1 + 0 * d) * update"


def _explicit(options, eps, group=False):
    """The arguments with the first number of `eps`, which is the gap of the dtype where it is None."""
    if group and "eps" not in options:
        return options
    first, second = options.get("eps", (None, 1e-3))
    return {**options, "eps": (eps if first is None else first, second)}


ENTRY = Entry(
    "Adafactor",
    cases=grid(
        "Adafactor",
        {"eps": (1e-7, 1e-3)},  # None is 2**-23 in float32 and 2**-52 in float64: no truth to judge by
        {"lr": 0.3, "beta2_decay": -0.3, "eps": (1e-2, 0.3), "d": 1.5, "weight_decay": 0.2},
        {"lr": 0.1, "beta2_decay": -1.0, "eps": (1e-5, 1e-2), "d": 4.0, "weight_decay": 0.6, "maximize": True},
        {"lr": 0.05, "beta2_decay": 0.0, "eps": (0.0, 0.0), "d": 1.0},
    ),
    mutants=mutants(
        "Adafactor",
        ("beta2_decay one step ahead", "power(step, beta2_decay)", "power(step + 1, beta2_decay)"),
        ("eps1 not squared", "eps1 * eps1", "eps1"),
        ("no floor under the mean of the rows", "eps1.where(overall < eps1, overall)", "overall"),
        ("eps1 added and no floor", "eps1_square.where(estimate < eps1_square, estimate)", "(estimate + eps1_square)"),
        ("sum for mean", _MEAN, "rows.sum(-2, True)"),
        ("the mean of the whole stack", _MEAN, "rows.mean()"),
        (
            "the new gradient's share taken for the old one's",
            "power(step, beta2_decay)",
            "1 - power(step, beta2_decay)",
        ),
        ("d ignored", "rms / d", "rms"),
        ("updates not clipped", "larger(rms / d, 1 + 0 * d)", "(1 + 0 * d)"),
        ("no scale of the parameter", _SCALE, "(1 + 0 * eps2)"),
        ("eps2 added and no floor", _SCALE, _SCALE.replace("larger(", "(").replace(", eps2", " + eps2")),
        ("the scale of the decayed parameter", _SCALE, _SCALE.replace("param,", "param * keep,")),
        ("lr without the limit", "lr.where(lr < limit, limit)", "lr"),
        ("the limit is a floor", "lr.where(lr < limit, limit)", "lr.where(lr > limit, limit)"),
        (
            "decay with the limited lr",
            "return 1 - lr * weight_decay",
            "return 1 - lr.where(lr < limit, limit) * weight_decay",
        ),
        ("decay after the step", _STEP, "param = (param - alpha / larger(rms / d, 1 + 0 * d) * update) * keep"),
        ("decay dropped", "param * keep - alpha", "param - alpha"),
        NO_MAXIMIZE,
    ),
    memory=(({}, 0.002),),
    kernels=(
        ({}, 61, 30, 17),
        ({"maximize": True}, 62, 30, 17),
    ),
    explicit=_explicit,
    network="transformer",
    training=grid("Adafactor", {"lr": 1e-2, "eps": (1e-7, 1e-3)})[0],
)
