"""Momentum with clipping on columns that several processes share.

It prints, as JSON, how far the columns of this process are from those of the whole: where norms are summed over the
processes, and where each takes its own for that of the whole.
"""

import json

import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import MomentumAGC

SHAPES = (16, 64), (64,), (8, 3, 4, 32)
STEPS = 20


def main(rank, count):
    """Train the whole and its parts alike."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [
        [np.float32(rng.standard_normal(shape) * 10 ** rng.uniform(-3, 3)) for shape in SHAPES] for _ in range(STEPS)
    ]

    def columns(array):
        width = array.shape[-1] // count
        return np.ascontiguousarray(array[..., rank * width : (rank + 1) * width])

    def trained(part, unit_group):
        params = [Parameter(Tensor(part(weight)), name=f"weight{i}") for i, weight in enumerate(weights)]
        optimizer = MomentumAGC(params, lr=0.1, nesterov=True, unit_group=unit_group)
        for step in gradients:
            optimizer(tuple(Tensor(part(grad)) for grad in step))
        return [param.asnumpy() for param in params]

    whole = trained(np.asarray, None)
    far = {}
    for unit_group in ("hccl_world_group", "whole"):
        parts = trained(columns, unit_group)
        far[unit_group] = [
            float(abs(part - columns(all_of_it)).max() / abs(all_of_it).max()) for part, all_of_it in zip(parts, whole)
        ]
    print("COLUMNS " + json.dumps({"rank": rank, "far": far}), flush=True)
