"""SGD, with and without momentum."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import DECAY, DECAY_TURNED, NO_DECAY, mend_nesterov

_BUFFER = "momentum_buffer = momentum * momentum_buffer + take * grad"
_BODY = f"""    {DECAY}
    if momentum_buffer is not None:
        momentum_buffer = momentum * momentum_buffer + take * grad
        grad = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * grad"""

ENTRY = Entry(
    "SGD",
    cases=(
        *grid(
            "SGD",
            {},
            {"lr": 0.1, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.95, "dampening": 0.4, "weight_decay": 0.3},
            {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
            {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "maximize": True},
            {"lr": 0.3, "momentum": 0.0, "dampening": 0.6, "weight_decay": 0.2},
        ),
        *grid(
            "SGD",
            {"lr": 0.1, "momentum": 0.9},
            groups=(("*.weight", {"momentum": 0.0}), ("*.b*", {"lr": 0.01, "nesterov": True})),
        ),
    ),
    mutants=mutants(
        "SGD",
        ("first step dampened", "(1 - dampening).where(step > 1, 1)", "1 - dampening"),
        ("dampening dropped", "(1 - dampening).where(step > 1, 1)", "1 - dampening * 0"),
        ("lr inside the momentum buffer", _BUFFER, _BUFFER.replace("take", "lr * take")),
        ("nesterov ignored", "grad + momentum * momentum_buffer if nesterov", "momentum_buffer if nesterov"),
        ("nesterov without the momentum", "grad + momentum * momentum_buffer if", "grad + momentum_buffer if"),
        ("momentum averages", "(1 - dampening).where(step > 1, 1)", "(1 - momentum).where(step > 1, 1)"),
        ("decay after the momentum", _BODY, _BODY.partition("\n")[2] + " - lr * weight_decay * param"),
        NO_DECAY,
        DECAY_TURNED,
    ),
    kernel_mutants=kernel_mutants(
        "SGD",
        (
            "momentum and take change places",
            "lr, momentum, take, weight_decay, nesterov);",
            "lr, take, momentum, weight_decay, nesterov);",
        ),
        ("nesterov ignored", "weight_decay, nesterov);", "weight_decay, false);"),
        ("the update is not fused", "param = fused(grad, -lr, param);", "param = param - lr * grad;", "bits"),
    ),
    memory=(({}, 0), ({"momentum": 0.9}, 1)),
    kernels=(
        ({}, 8, 19, 12),
        ({"momentum": 0.9}, 13, 19, 12),
        ({"momentum": 0.9, "nesterov": True, "maximize": True}, 16, 19, 12),
    ),
    network="nfnet",
    training=grid("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4})[0],
    nn="Momentum",
    experimental="SGD",
    timed={"lr": 1e-6, "momentum": 0.9},
    mend=mend_nesterov,
)
