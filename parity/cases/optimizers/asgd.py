"""ASGD."""

from parity.cases.case import Entry, grid, kernel_mutants, mutants
from parity.cases.shared import COUPLED_MISTAKES, DECAY

_NUMBERS = "return next_eta, next_mu, eta, mu, 1 - lambd * eta, "
_STEP = """    param = param * keep - eta * grad
    return param, (param.where(copied, ax + (param - ax) * mu),)"""

ENTRY = Entry(
    "ASGD",
    cases=grid(
        "ASGD",
        {},
        {"lr": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 8, "weight_decay": 0.1},
        {"lr": 0.05, "lambd": 0.5, "alpha": 1.5, "t0": 0, "weight_decay": 0.3, "maximize": True},
    ),
    mutants=mutants(
        "ASGD",
        ("t0 off by one", "since = step - t0", "since = step - t0 + 1"),
        ("eta one step ahead", _NUMBERS, "return next_eta, next_mu, next_eta, mu, 1 - lambd * next_eta, "),
        ("eta one step behind", "power(1 + lambd * lr * step,", "power(1 + lambd * lr * (step - 1),"),
        ("eta starts at 0", "lr.where(step == 1, eta)", "eta.where(step > 0, lr)"),
        ("alpha ignored", "step, alpha)", "step, 0.75 + 0 * alpha)"),
        ("mu one step ahead", _NUMBERS, "return next_eta, next_mu, eta, next_mu, 1 - lambd * eta, "),
        ("the average starts at once", "since = step - t0", "since = step - 0 * t0"),
        (
            "the average is of the parameters before the step",
            _STEP,
            _STEP.replace("param = ", "new = ", 1).replace("return param,", "return new,"),
        ),
        ("lambd without eta", "1 - lambd * eta", "1 - lambd"),
        ("lambd times lr and not eta", "1 - lambd * eta", "1 - lambd * lr"),
        ("lambd after the gradient", "param * keep - eta * grad", "(param - eta * grad) * keep"),
        ("decay decoupled for coupled", DECAY, "param = param - eta * weight_decay * param"),
        *COUPLED_MISTAKES,
    ),
    kernel_mutants=kernel_mutants(
        "ASGD",
        ("the average moves away", "(param - ax) * mu", "(ax - param) * mu"),
        ("the parameter does not shrink", "param * keep)", "param)"),
    ),
    memory=(({}, 1),),
    kernels=(
        ({}, 15, 37, 28),
        ({"maximize": True}, 16, 37, 28),
    ),
    network="transformer",
    training=grid("ASGD", {"lr": 0.1, "t0": 100.0, "weight_decay": 1e-4})[0],
    nn="ASGD",
    experimental="ASGD",
    spans={"lambd": (-6, 1), "t0": (0, 1)},
)
