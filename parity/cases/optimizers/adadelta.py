"""Adadelta."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import COUPLED_MISTAKES, DECAY

_RATIO = "(acc_delta + eps).sqrt() / (square_avg + eps).sqrt()"

ENTRY = Entry(
    "Adadelta",
    cases=grid(
        "Adadelta",
        {},
        {"lr": 0.5, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"lr": 2.0, "rho": 0.99999, "eps": 1e-8, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.1, "rho": 0.0, "eps": 1e-2},
    ),
    mutants=mutants(
        "Adadelta",
        ("1 - rho in float32", "lr, rho, 1 - rho, ", "lr, rho, 1 - rho.float().double(), "),
        ("eps outside the roots", _RATIO, "(acc_delta.sqrt() + eps) / (square_avg.sqrt() + eps)"),
        ("eps outside the lower root", _RATIO, "(acc_delta + eps).sqrt() / (square_avg.sqrt() + eps)"),
        ("no eps in the upper root", _RATIO, "acc_delta.sqrt() / (square_avg + eps).sqrt()"),
        ("lr inside the average of steps", "take * delta * delta", "take * lr * delta * lr * delta"),
        ("the average of steps is that of gradients", "take * delta * delta", "grad * grad * take"),
        ("rho and 1 - rho swapped", "lr, rho, 1 - rho, ", "lr, 1 - rho, rho, "),
        ("lr ignored, as in the paper", "param - lr * delta", "param - delta"),
        ("decay decoupled for coupled", DECAY, "param = param - lr * weight_decay * param"),
        *COUPLED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "Adadelta",
        (
            "acc_delta is of the gradient",
            "mean_square(acc_delta, delta, rho, take)",
            "mean_square(acc_delta, grad, rho, take)",
        ),
        ("it ascends", "fused(delta, -lr, param)", "fused(delta, lr, param)"),
    ),
    memory=(({}, 2),),
    kernels=(
        ({}, 26, 17, 10),
        ({"maximize": True}, 27, 17, 10),
    ),
    network="nfnet",
    training=grid("Adadelta", {"lr": 1.0})[0],
    nn="Adadelta",
    experimental="Adadelta",
)
