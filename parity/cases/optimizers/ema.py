"""EMA, which wraps another optimizer and which torch has as a model."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants

_SGD = grid("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True})[0]
_ADAMW = grid("AdamW", {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.3})[0]
_REFERENCE = "parity.references.EMA"
_STEP = """        done = self.optimizer(gradients) if present is None else self.optimizer(gradients, present)
"""
_AVERAGE = """        weight, due = self.weight_of_step()
        self.average_part(weight, due, self.laid_out)
"""

ENTRY = Entry(
    "EMA",
    cases=(
        *grid(
            "EMA",
            {},
            {"decay": 0.99999, "schedule": "averaged_model"},
            {"decay": 0.9, "schedule": "timm", "gamma": 3.0, "power": 0.8, "min_decay": 0.3, "update_after_step": 4},
            {"decay": 0.7, "update_after_step": 3},
            {"decay": 0.6, "schedule": "torch_ema", "update_every": 3},
            reference=_REFERENCE,
            inner=_SGD,
        ),
        *grid(
            "EMA",
            {"decay": 0.9999, "schedule": "yolov5"},
            {"decay": 0.95, "schedule": "zero_start"},
            reference=_REFERENCE,
            inner=_ADAMW,
        ),
    ),
    mutants=mutants(
        "EMA",
        (
            "1 - decay in float32",
            "weight = schedule(n, steps, decay, warmup)",
            "weight = 1 - (1 - schedule(n, steps, decay, warmup)).float().double()",
        ),
        ("averages before the step", _STEP + _AVERAGE, _AVERAGE + _STEP, "graph"),
        ("no copy at first", "(1 - decay).where(n > 1, 1)", "(1 - decay).where(n > 0, 1)"),
        ("timm's warm-up one step ahead", "(steps - 1).double()", "steps.double()"),
        ("timm's floor ignored", ".maximum(min_decay)", ".maximum(min_decay * 0)"),
        ("torch_ema one step ahead", "(1 + n).double() / (10 + n)", "(2 + n).double() / (11 + n)"),
        ("yolov5 one step behind", "n.double() / -2000", "(n - 1).double() / -2000"),
        (
            "no bias correction of the zero start",
            "((1 - decay) / (1 - decay**n)).where(decay < 1, 1 / n)",
            "(1 - decay).where(n > 0, 1)",
        ),
        ("update_every ignored", "due = is_multiple(before, update_every)", "due = step > 0"),
        ("one step too late after update_after_step", ".where(steps > 0, 1)", ".where(steps >= 0, 1)"),
        ("update_after_step ignored", "count - update_after_step if", "count - 0 * update_after_step if"),
    ),
    kernel_mutants=kernel_mutants(
        "EMA",
        ("the average and the value change places", "lerp(mean, value, weight)", "lerp(value, mean, weight)"),
        ("the weight is taken twice", "lerp(mean, value, weight)", "lerp(mean, value, weight * weight)"),
    ),
    memory=(({}, 1),),
    kernels=(
        ({}, 16, 27, 16),
        ({"schedule": "averaged_model"}, 16, 29, 18),
        ({"schedule": "timm"}, 16, 36, 25),
        ({"schedule": "torch_ema"}, 16, 31, 20),
        ({"schedule": "yolov5"}, 16, 31, 20),
        ({"schedule": "zero_start"}, 16, 33, 22),
        ({"update_after_step": 4, "update_every": 3}, 16, 34, 18),
        ({"schedule": "timm", "update_after_step": 4, "update_every": 3}, 16, 42, 25),
    ),
    network="nfnet",
    training=grid(
        "EMA",
        {"decay": 0.99, "schedule": "timm"},
        reference=_REFERENCE,
        inner=grid("AdamW", {"lr": 2e-3})[0],
    )[0],
    state=("ema",),
    yardstick=("torch _foreach_lerp_", "parity.references.yardsticks.foreach_lerp"),
    timed={},
    choices={
        "gamma": (1.0, 3.0, 0.5),
        "min_decay": (0.0, 0.3),
        "power": (2 / 3, 0.8, 1.5),
        "update_after_step": (0, 1, 4),
        "update_every": (1, 2, 3),
    },
)
