"""Adagrad."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import COUPLED_MISTAKES, DECAY

_RATE = "lr / (1 + (step - 1) * lr_decay)"

ENTRY = Entry(
    "Adagrad",
    cases=grid(
        "Adagrad",
        {},
        {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"lr": 0.5, "lr_decay": 0.01, "eps": 1e-2, "weight_decay": 0.1, "maximize": True},
    ),
    mutants=mutants(
        "Adagrad",
        ("lr_decay one step ahead", _RATE, "lr / (1 + step * lr_decay)"),
        ("eps inside the root", "(total.sqrt() + eps)", "((total + eps).sqrt())"),
        ("eps squared inside the root", "(total.sqrt() + eps)", "((total + eps * eps).sqrt())"),
        (
            "initial_accumulator_value ignored",
            'Slot("sum",',
            'type("Zeros", (Slot,), {"first": lambda *given: 0.0})("sum",',
        ),
        ("the sum starts at 0.1", "initial_accumulator_value: float = 0.0", "initial_accumulator_value: float = 0.1"),
        ("lr_decay compounds", _RATE, "lr / (1 + lr_decay)**(step - 1)"),
        ("lr_decay dropped", _RATE, "lr + 0 * lr_decay"),
        (
            "the sum is that of the gradients without decay",
            f"    {DECAY}\n    total = total + grad * grad\n",
            f"    total = total + grad * grad\n    {DECAY}\n",
        ),
        ("decay decoupled for coupled", DECAY, "param = param - step_size * weight_decay * param"),
        *COUPLED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "Adagrad",
        ("eps inside the root", "square_root(sum) + eps", "square_root(sum + eps)"),
        ("the gradients are summed up", "fused(grad, grad, sum)", "fused(grad, T(1), sum)"),
        ("the sum is not fused", "sum = fused(grad, grad, sum);", "sum = grad * grad + sum;", "bits"),
    ),
    memory=(({"initial_accumulator_value": 0.1}, 1),),
    kernels=(
        ({}, 15, 20, 13),
        ({"maximize": True}, 16, 20, 13),
    ),
    network="transformer",
    training=grid("Adagrad", {"lr": 0.02})[0],
    nn="Adagrad",
    experimental="Adagrad",
    spans={"initial_accumulator_value": (-8, 2)},
    ungrouped=("initial_accumulator_value",),
)
