"""RAdam."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import ADAM_GRID, FLAGGED_MISTAKES

_DENOMINATOR = "root / (exp_avg_sq.sqrt() + eps)"
_HALF = "step * decay2 / correction2"

ENTRY = Entry(
    "RAdam",
    cases=grid(
        "RAdam",
        *ADAM_GRID[:4],
        {"lr": 0.03, "betas": (0.5, 0.9), "weight_decay": 0.6, "decoupled_weight_decay": True},
    ),
    mutants=mutants(
        "RAdam",
        ("rectified from rho 4", "(half, 2.5)", "(half, 2)"),
        ("rho of the next step", _HALF, "(step + 1) * power(beta2, step + 1) / (1 - power(beta2, step + 1))"),
        ("rho_inf without its 1", "1 / take2 - 0.5", "1 / take2"),
        ("rectified without the root", "rect.sqrt()", "rect"),
        ("rectified without the bias correction", "correction2.sqrt()", "correction2 * 0 + 1"),
        ("never rectified", " * rect)", ")"),
        ("adaptive before it is rectified", ".where(adapts, change)", ".where(adapts.logical_or(excess < 0), change)"),
        ("no step before it is rectified", ".where(adapts, change)", ".where(adapts, 0)"),
        ("no bias correction of the first moment", "exp_avg / correction1 * lr", "exp_avg * lr"),
        ("bias correction one step ahead", "power(beta1, step)", "power(beta1, step + 1)"),
        ("eps inside the root", _DENOMINATOR, "root / (exp_avg_sq + eps).sqrt()"),
        ("eps after the bias correction", _DENOMINATOR, "1 / (exp_avg_sq.sqrt() / root + eps)"),
        ("1 - beta2 in float32", "weight_decay, beta1, beta2,", "weight_decay, beta1, beta2.float().double(),"),
        *FLAGGED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "RAdam",
        ("never rectified", "excess > T(0) ?", "excess > T(1e9) ?"),
        ("the first moment is not corrected", "exp_avg / correction1", "exp_avg"),
    ),
    memory=(({}, 2),),
    kernels=(
        ({}, 27, 47, 30),
        ({"decoupled_weight_decay": True, "maximize": True}, 26, 45, 30),
    ),
    network="transformer",
    training=grid("RAdam", {"lr": 2e-3})[0],
    experimental="RAdam",
)
