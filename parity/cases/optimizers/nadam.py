"""NAdam."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import ADAM_GRID, FLAGGED_MISTAKES

_DENOMINATOR = "(exp_avg_sq / correction2).sqrt() + eps"
_MOMENTA, _PRODUCT = "now_and_next(momentum, step)", "mu_product.where(step > 1, 1) * mu"

ENTRY = Entry(
    "NAdam",
    cases=grid(
        "NAdam",
        *ADAM_GRID[:3],
        # With an eps as small as Adam's here, torch's float64 run itself multiplies a change of 1e-15 by 500.
        {"lr": 0.1, "betas": (0.99, 0.9), "eps": 1e-2, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.03, "momentum_decay": 0.3, "weight_decay": 0.6, "decoupled_weight_decay": True},
    ),
    # That 0.96 is rounded to float32 moves nothing by more than an ulp: it is no mutant.
    mutants=mutants(
        "NAdam",
        ("mu_next is this step's", _MOMENTA, "(momentum(step), momentum(step))"),
        ("mu_product one step ahead", _PRODUCT, f"{_PRODUCT}_next"),
        ("mu_product not multiplied", _PRODUCT, "mu_product * 0 + mu"),
        ("momentum_decay ignored", "step * momentum_decay)", "step * 0.004)"),
        (
            "momentum_decay one step behind",
            _MOMENTA,
            "(momentum(step - 1), momentum(step + 1))",
        ),
        ("the gradient is corrected as Adam's", "gradient / correction,", "gradient / (1 - power(beta1, step)),"),
        ("no Nesterov", "lr * mu_next / next_correction", "lr * mu / correction"),
        ("eps inside the root", _DENOMINATOR, "(exp_avg_sq / correction2 + eps).sqrt()"),
        ("eps before the bias correction", _DENOMINATOR, "(exp_avg_sq.sqrt() + eps) / correction2.sqrt()"),
        ("1 - beta2 in float32", "weight_decay, beta1, beta2,", "weight_decay, beta1, beta2.float().double(),"),
        *FLAGGED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "NAdam",
        (
            "corrected outside of the root",
            "square_root(exp_avg_sq / correction2)",
            "square_root(exp_avg_sq) / correction2",
        ),
        ("the gradient for the momentum", "momentum_size * exp_avg", "momentum_size * grad"),
    ),
    memory=(({}, 2),),
    kernels=(
        ({}, 27, 46, 31),
        ({"decoupled_weight_decay": True, "maximize": True}, 26, 44, 31),
    ),
    network="transformer",
    training=grid("NAdam", {"lr": 2e-3})[0],
    experimental="NAdam",
)
