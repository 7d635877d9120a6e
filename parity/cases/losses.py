"""What optimizers that take a closure are compared on: losses, each written once for torch and MindSpore alike."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from parity.cases.networks import digits

MINIMIZING_STEPS = 8


@dataclass(frozen=True, eq=False)
class Loss:
    """A function of weights, data and `ops`, which is `torch` or `mindspore.ops`; and where the weights start."""

    name: str
    function: Callable
    initial: dict[str, np.ndarray]
    data: tuple[np.ndarray, ...] = ()


def rosenbrock(weights, data, ops):
    """Two parameters of no dimension in a curved valley."""
    x, y = weights
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def quadratic(weights, data, ops):
    """One vector; curvatures from 1 to 10,000 that no axis is along."""
    residual = (data[0] * (weights[0] - data[1])).sum(1)
    return (residual * residual).sum()


def logistic(weights, data, ops):
    """A matrix and a vector; cross-entropy of the handwritten digits with a penalty."""
    images, labels, penalty = data
    logits = images @ weights[0].mT + weights[1]
    return (ops.logsumexp(logits, 1) - (logits * labels).sum(1)).mean() + penalty * (weights[0] * weights[0]).sum()


@functools.cache
def losses() -> tuple[Loss, ...]:
    """A curved valley, an ill-conditioned quadratic and logistic regression on the digits, in float32."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    (images, labels), _ = digits()
    plan = [
        (rosenbrock, {"x": -1.2, "y": 1.0}, ()),
        (quadratic, {"x": np.zeros(30)}, (np.logspace(0, 2, 30)[:, None] * rotation, rng.standard_normal(30))),
        (
            logistic,
            {"weight": np.zeros((10, 64)), "bias": np.zeros(10)},
            (images.reshape(-1, 64), np.eye(10)[labels], 1e-3),
        ),
    ]
    return tuple(
        Loss(
            function.__name__,
            function,
            {name: np.asarray(value, np.float32) for name, value in initial.items()},
            tuple(np.asarray(value, np.float32) for value in data),
        )
        for function, initial, data in plan
    )
