"""Lion, which torch lacks."""

from parity.cases.case import Entry, grid, mutants
from parity.cases.shared import NO_MAXIMIZE

_REFERENCE = "parity.references.lion.Lion"
_DIRECTION = "(beta1 * exp_avg + take1 * grad).sign()"
_NUMBERS = "lr, beta1, 1 - beta1, beta2, 1 - beta2"

ENTRY = Entry(
    "Lion",
    cases=(
        *grid(
            "Lion",
            {},
            {"lr": 0.05, "betas": (0.5, 0.99999), "weight_decay": 0.3},
            {"lr": 0.02, "betas": (0.999, 0.7), "weight_decay": 0.5, "maximize": True},
            {"lr": 0.1, "betas": (0.0, 0.9)},
            reference=_REFERENCE,
        ),
        *grid(
            "Lion",
            {"lr": 0.03, "weight_decay": 0.6},
            reference=_REFERENCE,
            groups=(
                ("*.weight", {"lr": 1e-3, "betas": (0.7, 0.95)}),
                ("*.b*", {"weight_decay": 0.0, "maximize": True}),
            ),
        ),
    ),
    mutants=mutants(
        "Lion",
        ("a step along the moment and not its sign", _DIRECTION, "(beta1 * exp_avg + take1 * grad)"),
        ("a step along the last moment", _DIRECTION, "exp_avg.sign()"),
        ("a step along the new moment", _DIRECTION, "(beta2 * exp_avg + take2 * grad).sign()"),
        ("betas swapped", _NUMBERS, "lr, beta2, 1 - beta2, beta1, 1 - beta1"),
        ("the moment keeps beta1", "(beta2 * exp_avg + take2 * grad,)", "(beta1 * exp_avg + take1 * grad,)"),
        ("the moment takes all of the gradient", "take2 * grad,)", "grad,)"),
        ("1 - beta2 in float32", _NUMBERS, "lr, beta1, 1 - beta1, beta2, 1 - beta2.float().double()"),
        ("decay after the step", "param * keep - lr * direction", "(param - lr * direction) * keep"),
        ("decay without the learning rate", "1 - lr * weight_decay, lr", "1 - weight_decay, lr"),
        ("decay dropped", "param * keep - lr", "param - lr"),
        NO_MAXIMIZE,
    ),
    memory=(({}, 1),),
    kernels=(
        ({}, 15, 17, 13),
        ({"maximize": True}, 16, 17, 13),
    ),
    network="transformer",
    training=grid("Lion", {"lr": 1e-3, "weight_decay": 0.01}, reference=_REFERENCE)[0],
)
