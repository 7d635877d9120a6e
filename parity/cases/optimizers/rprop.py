"""Rprop."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import NO_MAXIMIZE

_CLAMP = "step_size.maximum(step_size_min).minimum(step_size_max)"
_FACTOR = "etaplus.where(turn > 0, etaminus.where(turn < 0, 1))"
_TURN = "grad = grad.where((turn < 0).logical_not(), 0)"
_STEP = "return param - grad.sign() * step_size, (grad, step_size)"

ENTRY = Entry(
    "Rprop",
    cases=grid(
        "Rprop",
        {},
        {"lr": 0.5, "etas": (0.3, 1.7), "step_sizes": (1e-2, 2.0)},
        {"lr": 0.4, "etas": (0.9, 1.1), "step_sizes": (0.05, 0.3), "maximize": True},
    ),
    mutants=mutants(
        "Rprop",
        (
            "prev is kept where the sign turns",
            f"    {_TURN}\n    {_STEP}",
            f"    kept = {_TURN.removeprefix('grad = ')}\n    {_STEP.replace('grad', 'kept', 1)}",
        ),
        ("it steps where the sign turns", _TURN, "grad = grad + 0"),
        (
            "it steps back where the sign turns",
            _STEP,
            _STEP.replace("step_size,", "step_size + (prev.sign() * slots[1]).where(turn < 0, 0),", 1),
        ),
        ("no smallest step", _CLAMP, "step_size.minimum(step_size_max)"),
        ("no largest step", _CLAMP, "step_size.maximum(step_size_min)"),
        ("etas swapped", _FACTOR, "etaminus.where(turn > 0, etaplus.where(turn < 0, 1))"),
        ("a gradient of zero keeps its sign", _FACTOR, "etaplus.where(turn >= 0, etaminus)"),
        ("the first step is not lr", "lr.where(begins, step_size)", "step_size.where(first >= 0, lr)"),
        ("lr is the second step too", "(step == 1).double()", "(step <= 2).double()"),
        ("prev is a sign", _STEP, "return param - grad.sign() * step_size, (grad.sign(), step_size)"),
        ("steps along the gradient", _STEP, "return param - grad * step_size, (grad, step_size)"),
        NO_MAXIMIZE,
    ),
    kernel_mutants=kernel_mutants(
        "Rprop",
        ("the step is taken back where the sign turns", "turn < T(0) ? T(0) : grad", "turn < T(0) ? -grad : grad"),
        (
            "the largest step is the smallest",
            "step > step_size_max ? step_size_max : step",
            "step > step_size_max ? step_size_min : step",
        ),
    ),
    memory=(({}, 2),),
    kernels=(
        ({}, 21, 18, 11),
        ({"maximize": True}, 22, 18, 11),
    ),
    network="nfnet",
    training=grid("Rprop", {"lr": 1e-3, "step_sizes": (1e-6, 1e-2)})[0],
    nn="Rprop",
    experimental="Rprop",
    spans={"step_sizes": (-8, 2)},
)
