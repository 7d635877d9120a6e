"""MomentumAGC, which torch lacks."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import mend_nesterov

_REFERENCE = "parity.references.SGDAGC"
_NORM = "norm_of_units(unit_group)"
_CLIP = f"clip_adaptively(grad, param, clipping, clip_eps, unit, clips, {_NORM})"

ENTRY = Entry(
    "MomentumAGC",
    cases=(
        *grid(
            "MomentumAGC",
            {},
            {"lr": 0.1, "momentum": 0.95, "dampening": 0.3, "weight_decay": 0.2, "clipping": 0.3, "clip_eps": 0.5},
            {
                "lr": 0.05,
                "momentum": 0.8,
                "nesterov": True,
                "weight_decay": 0.1,
                "clipping": 0.05,
                "clip_eps": 1e-2,
                "exempt": ("fc.*", "*gain"),
                "unit": "squeezed",
            },
            reference=_REFERENCE,
        ),
        *grid(
            "MomentumAGC",
            {"lr": 0.1, "momentum": 0.0, "clipping": 2.0, "weight_decay": 0.3, "maximize": True, "unit": "squeezed"},
            reference=_REFERENCE,
            groups=(("*.weight", {"clipping": 0.1, "unit": "output"}), ("*.b*", {"clipping": 0.0, "lr": 0.02})),
        ),
    ),
    mutants=mutants(
        "MomentumAGC",
        (
            "clip after the decay",
            _CLIP,
            f"{_CLIP.replace('grad', 'grad + weight_decay * param', 1)} - weight_decay * param",
        ),
        (
            "eps added and no floor",
            _CLIP,
            f"clip_adaptively(grad, param.abs() + clip_eps, clipping, clip_eps * 0, unit, clips, {_NORM})",
        ),
        (
            "no floor under the weight's norm",
            "param, clipping, clip_eps, unit,",
            "param, clipping, clip_eps * 0, unit,",
        ),
        ("clipping twice as much", "param, clipping, clip_eps, unit,", "param, clipping / 2, clip_eps, unit,"),
        ("the other unit", "clip_eps, unit,", 'clip_eps, "squeezed" if unit == "output" else "output",'),
        ("exempt ignored", "if not exempt:", "if exempt or not exempt:"),
        ("everything exempt", "if not exempt:", "if exempt and not exempt:"),
        ("gradient and weight swapped", "clip_adaptively(grad, param,", "clip_adaptively(param, grad,"),
    ),
    kernel_mutants=kernel_mutants(
        "MomentumAGC",
        (
            "the norm of the parameter for that of the gradient",
            "grad_norm = std::sqrt(squares.grad)",
            "grad_norm = std::sqrt(squares.param)",
        ),
        ("one unit for the whole tensor", "return {size / shape[0], 1};", "return {size, 1};"),
    ),
    memory=(({"momentum": 0.0}, 0), ({"momentum": 0.9}, 1)),
    kernels=(
        ({}, 42, 21, 12),
        ({"momentum": 0.0}, 37, 21, 12),
        ({"nesterov": True, "maximize": True, "unit": "squeezed"}, 45, 21, 12),
    ),
    network="nfnet",
    training=grid(
        "MomentumAGC",
        {
            "lr": 0.05,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 2e-5,
            "clipping": 0.05,
            "exempt": ("head.weight",),
        },
        reference=_REFERENCE,
        groups=(("*.gain", {"weight_decay": 0.0}), ("*.bias", {"weight_decay": 0.0})),
    )[0],
    yardstick=("timm AGC + torch SGD fused", "parity.references.yardsticks.timm_agc"),
    timed={"lr": 1e-6, "momentum": 0.9},
    spans={"clip_eps": (-6, 1), "clipping": (-4, 1)},
    mend=mend_nesterov,
)
