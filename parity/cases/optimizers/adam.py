"""Adam."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import ADAM_GRID, DECAY, DECAY_SIGNED, NO_MAXIMIZE

_DENOMINATOR = "(largest.sqrt() / root + eps)"

ENTRY = Entry(
    "Adam",
    cases=grid("Adam", *ADAM_GRID, {"lr": 0.03, "weight_decay": 0.6, "decoupled_weight_decay": True}),
    mutants=mutants(
        "Adam",
        ("eps inside the root", _DENOMINATOR, "((largest / (root * root) + eps).sqrt())"),
        ("eps before the bias correction", _DENOMINATOR, "((largest.sqrt() + eps) / root)"),
        ("eps squared inside the root", _DENOMINATOR, "((largest / (root * root) + eps * eps).sqrt())"),
        ("eps ten times too large", "correction2.sqrt(), eps", "correction2.sqrt(), eps * 10"),
        ("no bias correction of the first moment", "lr / correction1", "lr"),
        ("no bias correction of the second moment", "correction2.sqrt()", "(beta2 * 0 + 1)"),
        ("bias correction one step ahead", "power(beta1, step)", "power(beta1, step + 1)"),
        ("second bias correction one step ahead", "power(beta2, step)", "power(beta2, step + 1)"),
        ("1 - beta1 in float32", "weight_decay, beta1, beta2,", "weight_decay, beta1.float().double(), beta2,"),
        ("1 - beta2 in float32", "weight_decay, beta1, beta2,", "weight_decay, beta1, beta2.float().double(),"),
        (
            "bias corrections in float32",
            "correction2.sqrt()",
            "(1 - beta2.float()**step.float()).double().sqrt()",
        ),
        ("betas swapped", "lerp(exp_avg, grad, take1, near1)", "exp_avg + (grad - exp_avg) * take2"),
        ("second moment of exp_avg", "take2 * grad * grad", "take2 * exp_avg * exp_avg"),
        DECAY_SIGNED,
        ("decay of the gradient dropped", DECAY, "grad = grad + 0"),
        NO_MAXIMIZE,
        ("amsgrad forgets the maximum", "max_exp_avg_sq.maximum(exp_avg_sq)", "exp_avg_sq"),
        (
            "amsgrad divides by the last maximum",
            "largest = max_exp_avg_sq = max_exp_avg_sq.maximum(exp_avg_sq)",
            "largest, max_exp_avg_sq = max_exp_avg_sq, max_exp_avg_sq.maximum(exp_avg_sq)",
        ),
    ),
    kernel_mutants=kernel_mutants(
        "Adam",
        ("amsgrad forgets", "largest = max_exp_avg_sq = larger(", "largest = larger("),
        ("eps inside the root", "square_root(largest) / root + eps", "square_root(largest + eps) / root"),
        (
            "the second moment is not fused",
            ": mean_square(exp_avg_sq, grad, beta2, take2);",
            ": beta2 * exp_avg_sq + take2 * grad * grad;",
            "bits",
        ),
    ),
    memory=(({}, 2), ({"amsgrad": True}, 3)),
    kernels=(
        ({}, 24, 32, 17),
        ({"amsgrad": True, "decoupled_weight_decay": True, "maximize": True}, 26, 30, 17),
    ),
    network="transformer",
    training=grid("Adam", {"lr": 2e-3})[0],
    nn="Adam",
    experimental="Adam",
)
