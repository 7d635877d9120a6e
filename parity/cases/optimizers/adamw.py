"""AdamW, whose rule is Adam's: here are the mistakes that only decoupled decay can make."""

from parity.cases.case import Entry, grid, mutants
from parity.cases.shared import ADAM_GRID, DECAY

_STEP = "param - step_size * exp_avg / (largest.sqrt() / root + eps)"

ENTRY = Entry(
    "AdamW",
    cases=(
        *grid("AdamW", *ADAM_GRID),
        *grid(
            "AdamW",
            {"lr": 0.03, "weight_decay": 0.6},
            groups=(
                ("*.weight", {"lr": 1e-7, "betas": (0.7, 0.95), "eps": 1e-2, "amsgrad": True}),
                ("*.b*", {"weight_decay": 0.0, "maximize": True}),
            ),
        ),
    ),
    mutants=mutants(
        "AdamW",
        ("decay coupled for decoupled", "param = param * keep", DECAY),
        ("decay after the step", f"param = {_STEP}", f"param = ({_STEP.replace('param', 'param / keep', 1)}) * keep"),
        ("decay without the learning rate", "lr * weight_decay, beta1", "weight_decay, beta1"),
        ("decay dropped", "param = param * keep", "param = param * 1"),
    ),
    memory=(({}, 2), ({"amsgrad": True}, 3)),
    kernels=(
        ({}, 22, 30, 17),
        ({"amsgrad": True, "maximize": True}, 26, 30, 17),
    ),
    network="transformer",
    training=grid(
        "AdamW",
        {"lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.05},
        groups=(("*.bias", {"weight_decay": 0.0}), ("*norm*", {"weight_decay": 0.0})),
    )[0],
    nn="AdamWeightDecay",
    experimental="AdamW",
)
