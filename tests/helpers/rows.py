"""Muon on matrices whose rows several processes share.

It prints, as JSON, how far the rows of this process are from those of the whole: where the rows of all are gathered,
and where each takes its own for the whole.
"""

import json

import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import Muon

SHAPES = (16, 24), (32, 8), (8, 8)  # wide, tall, and tall but for those of one process
STEPS = 20


def main(rank, count):
    """Train the whole and its parts alike."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [
        [np.float32(rng.standard_normal(shape) * 10 ** rng.uniform(-3, 3)) for shape in SHAPES] for _ in range(STEPS)
    ]

    def rows(array):
        height = len(array) // count
        return np.ascontiguousarray(array[rank * height :][:height])

    def trained(part, matrix_group):
        params = [Parameter(Tensor(part(weight)), name=f"weight{i}") for i, weight in enumerate(weights)]
        groups = [{"params": params[:1], "adjust_lr_fn": "match_rms_adamw"}, {"params": params[1:]}]
        optimizer = Muon(groups, lr=0.1, matrix_group=matrix_group)
        for step in gradients:
            optimizer(tuple(Tensor(part(grad)) for grad in step))
        return [param.asnumpy() for param in params]

    whole, far = trained(np.asarray, None), {}
    for matrix_group in ("hccl_world_group", "whole"):
        pairs = zip(trained(rows, matrix_group), whole)
        far[matrix_group] = [float(abs(part - rows(one)).max() / abs(one).max()) for part, one in pairs]
    print("ROWS " + json.dumps({"rank": rank, "far": far}), flush=True)
