"""Muon."""

from parity.cases.case import Entry, grid, mutants

_BUFFER = "momentum_buffer = lerp(momentum_buffer, grad, take, near)"
_UPDATE = "lerp(grad, momentum_buffer, momentum, near_momentum) if nesterov else momentum_buffer"
_RATIO = "exact(max(rows, columns), columns, lr)"
_STEP = "param * keep - lr * ratio * update"
# torch rounds to bfloat16 after each product, in an order of summation that depends on the processor, and a rounding
# that falls the other way changes what follows.
_LIMITS = {"rank": 2, "noise": 1e-3}

ENTRY = Entry(
    "Muon",
    cases=grid(
        "Muon",
        {},
        {"lr": 0.2, "weight_decay": 0.5, "momentum": 0.8, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        {
            "lr": 1.0,
            "momentum": 0.5,
            "ns_coefficients": (2.0, -1.5, 0.5),
            "eps": 1e-3,
            "ns_steps": 2,
            "adjust_lr_fn": "original",
        },
        **_LIMITS,
    ),
    # A tall matrix that is not transposed gives the same in exact numbers, and the rounding to bfloat16 left out or an
    # eps that is added stays inside the noise of the cases: they are no mutants.
    mutants=mutants(
        "Muon",
        ("one iteration too few", "range(steps)", "range(steps - 1)"),
        ("nesterov ignored", _UPDATE, "momentum_buffer"),
        ("nesterov always", _UPDATE, "lerp(grad, momentum_buffer, momentum, near_momentum)"),
        ("nesterov from the gradient's side", _UPDATE, _UPDATE.replace("momentum, near_momentum)", "take, near)")),
        ("momentum sums", _BUFFER, "momentum_buffer = (1 - take) * momentum_buffer + grad"),
        ("momentum and 1 - momentum swapped", _BUFFER, _BUFFER.replace("take, near", "momentum, near_momentum")),
        ("coefficients swapped", "b * gram + c * (gram @ gram)", "c * gram + b * (gram @ gram)"),
        ("no floor under the norm", "rounded(eps).where(norm < eps, norm)", "norm"),
        ("not normalized", "x / rounded(eps).where(norm < eps, norm)", "x"),
        ("rows and columns swapped in the ratio", _RATIO, "exact(max(rows, columns), rows, lr)"),
        ("ratio below 1", _RATIO, "exact(rows, columns, lr)"),
        ("the shorter side", "exact(max(rows, columns), 25, lr)", "exact(min(rows, columns), 25, lr)"),
        ("adjust_lr_fn ignored", 'if adjust_lr_fn == "match_rms_adamw"', 'if adjust_lr_fn == "nothing"'),
        ("decay after the step", _STEP, "(param - lr * ratio * update) * keep"),
        ("decay with the adjusted lr", _STEP, "param * (1 - (1 - keep) * ratio) - lr * ratio * update"),
        ("decay dropped", "param * keep - lr", "param - lr"),
    ),
    memory=(({}, 1),),
    kernels=(
        ({}, 105, 28, 12),
        ({"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}, 102, 25, 12),
        ({"ns_steps": 1, "adjust_lr_fn": "original"}, 45, 28, 12),
    ),
    network="transformer",
    training=grid("Muon", {"lr": 0.02}, **_LIMITS)[0],
    spans={"eps": (-10, 1), "ns_coefficients": (-2, -1)},
    # Newton-Schulz with larger ones explodes, and bfloat16 overflows before what stands in for it does.
    within={"ns_coefficients": lambda numbers: sum(map(abs, numbers)) <= 1},
)
