"""Adamax."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import ADAM_GRID, COUPLED_MISTAKES, DECAY

_NORM = "exp_inf = maximum(beta2 * exp_inf, grad.abs() + eps)"

ENTRY = Entry(
    "Adamax",
    cases=grid("Adamax", *ADAM_GRID[:4]),
    mutants=mutants(
        "Adamax",
        (
            "eps beside the norm and not in it",
            f"    {_NORM}\n    return param - step_size * exp_avg / exp_inf",
            "    exp_inf = maximum(beta2 * exp_inf, grad.abs())\n"
            "    return param - step_size * exp_avg / (exp_inf + eps)",
        ),
        ("eps added after the maximum", _NORM, "exp_inf = maximum(beta2 * exp_inf, grad.abs()) + eps"),
        ("no eps", _NORM, "exp_inf = maximum(beta2 * exp_inf, grad.abs())"),
        ("the norm never decays", _NORM, "exp_inf = maximum(exp_inf, grad.abs() + eps)"),
        ("no bias correction", "lr / (1 - power(beta1, step))", "lr / (1 - beta1 * 0)"),
        ("bias correction one step ahead", "lr / (1 - power(beta1, step))", "lr / (1 - power(beta1, step + 1))"),
        (
            "the norm is corrected as Adam's second moment",
            "lr / (1 - power(beta1, step))",
            "lr / (1 - power(beta1, step)) * (1 - power(beta2, step))",
        ),
        ("1 - beta1 in float32", ", 1 - beta1, beta2, ", ", 1 - beta1.float().double(), beta2, "),
        ("betas swapped", ", 1 - beta1, beta2, ", ", 1 - beta2, beta1, "),
        ("decay decoupled for coupled", DECAY, "param = param - step_size * weight_decay * param"),
        *COUPLED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "Adamax",
        ("the norm does not fade", "larger(beta2 * exp_inf,", "larger(exp_inf,"),
        ("no absolute value", "(grad < T(0) ? -grad : grad)", "grad"),
    ),
    memory=(({}, 2),),
    kernels=(
        ({}, 24, 28, 13),
        ({"maximize": True}, 25, 28, 13),
    ),
    network="transformer",
    training=grid("Adamax", {"lr": 4e-3})[0],
    nn="AdaMax",
    experimental="Adamax",
)
