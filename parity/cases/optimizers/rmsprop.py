"""RMSprop, centered or not, with and without momentum."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import COUPLED_MISTAKES, DECAY

_VARIANCE = """        grad_avg = lerp(grad_avg, grad, way_of(take), is_near(take))
        variance = square_avg - grad_avg * grad_avg
"""
_BUFFER = "momentum * momentum_buffer + grad / deviation"
_STEP = f"{_BUFFER}\n    return param - lr * momentum_buffer"

ENTRY = Entry(
    "RMSprop",
    cases=grid(
        "RMSprop",
        {},
        {"lr": 0.05, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.3, "momentum": 0.9},
        {"lr": 0.02, "alpha": 0.9, "eps": 1e-2, "weight_decay": 0.1, "centered": True, "maximize": True},
        {"lr": 0.01, "alpha": 0.99999, "eps": 1e-4, "momentum": 0.5, "centered": True},
    ),
    mutants=mutants(
        "RMSprop",
        (
            "lr inside the momentum buffer",
            _STEP,
            "momentum * momentum_buffer + lr * grad / deviation\n    return param - momentum_buffer",
        ),
        ("eps inside the root", "variance.sqrt() + eps", "(variance + eps).sqrt()"),
        (
            "the mean square starts at 1",
            "square_avg = alpha * square_avg",
            "square_avg = alpha * square_avg.where(square_avg > 0, 1)",
        ),
        ("centered ignored", "variance = square_avg - grad_avg * grad_avg", "variance = square_avg + 0"),
        (
            "centered by the mean of the last step",
            _VARIANCE,
            "".join(reversed(_VARIANCE.splitlines(keepends=True))),
        ),
        (
            "the buffer holds gradients that are not divided yet",
            _STEP,
            "momentum * momentum_buffer + grad\n    return param - lr * momentum_buffer / deviation",
        ),
        ("momentum averages", _BUFFER, "momentum * momentum_buffer + (1 - momentum) * grad / deviation"),
        ("alpha and 1 - alpha swapped", "lr, alpha, 1 - alpha, ", "lr, 1 - alpha, alpha, "),
        ("1 - alpha in float32", "lr, alpha, 1 - alpha, ", "lr, alpha, 1 - alpha.float().double(), "),
        ("decay decoupled for coupled", DECAY, "param = param - lr * weight_decay * param"),
        *COUPLED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "RMSprop",
        ("the mean is not taken off", "fused(-grad_avg, grad_avg, square_avg)", "square_avg"),
        (
            "the momentum does not fade",
            "momentum * momentum_buffer + grad / deviation",
            "momentum_buffer + grad / deviation",
        ),
    ),
    memory=(
        ({}, 1),
        ({"momentum": 0.9}, 2),
        ({"centered": True}, 2),
        ({"momentum": 0.9, "centered": True}, 3),
    ),
    kernels=(
        ({}, 17, 17, 10),
        ({"momentum": 0.9, "centered": True, "maximize": True}, 34, 17, 10),
    ),
    network="nfnet",
    training=grid("RMSprop", {"lr": 1e-3, "momentum": 0.9})[0],
    nn="RMSProp",
    experimental="RMSprop",
)
