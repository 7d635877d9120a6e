"""Values that arguments must refuse, and a schedule."""

import numpy as np
from mindspore import nn

nan, inf = float("nan"), float("inf")


def _numbers(*outside):
    return [*outside, nan, inf, -inf, "1", None, True, np.bool_(True), 1j, {}, np.array("1"), np.ones((1, 1))]


FLAG = [1, 0, "yes", None, np.bool_(True), [True]]
PAIR = [0.9, (0.9,), (0.9, 0.9, 0.9), (0.9, 1.0), (-1e-9, 0.9), (0.9, nan), "ab", ("a", "b"), (True, 0.9), None, 1]
BAD = {
    "Adafactor.eps": [
        1e-3,
        (1e-3,),
        (1e-3, 1e-3, 1e-3),
        (-1e-9, 1e-3),
        (1e-3, -1e-9),
        (1e-3, None),
        (nan, 1e-3),
        "ab",
        None,
    ],
    "adjust_lr_fn": ["match", 1, True],
    "alpha": _numbers(-1e-9, [0.5]),
    "amsgrad": FLAG,
    "beta2_decay": _numbers(1e-9, [-0.5]),
    "betas": PAIR,
    "centered": FLAG,
    "clip_eps": _numbers(-1e-9, [0.5]),
    "clipping": _numbers(-1e-9, [0.5]),
    "d": _numbers(0.99, [2.0]),
    "dampening": _numbers([0.5]),
    "decoupled_weight_decay": FLAG,
    "eps": _numbers(-1e-9, [0.5]),
    "etas": [
        0.5,
        (0.5,),
        (0.5, 1.0),
        (0.0, 1.2),
        (1.0, 1.2),
        (1.2, 0.5),
        (0.5, inf),
        (0.5, nan),
        "ab",
        (0.5, True),
        None,
    ],
    "exempt": [1, None, [1], True, {"scale"}],
    "fused": [1, 0, "yes"],
    "initial_accumulator_value": _numbers(-1e-9, [0.5]),
    "lambd": _numbers(-1e-9, [0.5]),
    "loss_scale": _numbers(0.0, -1.0, [0.5]),
    "lr": _numbers(-1e-9, [], ["1"], [0.1, -0.1], [nan], [True], [[0.1]], np.zeros(0), lambda step: 0.1, nn.ReLU()),
    "lr_decay": _numbers(-1e-9, [0.5]),
    "maximize": FLAG,
    "momentum": _numbers(-1e-9, [0.5]),
    "momentum_decay": _numbers(-1e-9, [0.5]),
    "nesterov": FLAG,
    "ns_coefficients": [3.0, (3.0, -3.0), (3.0, -3.0, inf), (3.0, nan, 1.0), "abc", (3.0, "1", 1.0), None],
    "ns_steps": [-1, 100, 2.0, "2", None, True, np.bool_(True), (2,)],
    "rho": _numbers(-1e-9, 1.1, [0.5]),
    "step_sizes": [1.0, (1.0,), (-1e-9, 1.0), (inf, inf), (nan, 1.0), "ab", (0.0, None), None],
    "t0": _numbers([0.5]),
    "unit": ["input", 1, None, True],
    "weight_decay": _numbers(-1e-9, [0.5]),
}
EXPONENTIAL = nn.ExponentialDecayLR(0.1, 0.9, 4)
