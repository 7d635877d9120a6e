"""Rules that look at whole units or matrices, on parts of them that several processes share.

It prints, as JSON, how far the parts of this process are from those of the whole: where the processes communicate, and
where each takes its own for the whole.
"""

import json

import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import MomentumAGC, Muon

STEPS = 20


def momentum_agc(params, group):
    """Momentum with clipping, of which processes have columns."""
    return MomentumAGC(params, lr=0.1, nesterov=True, unit_group=group)


def muon(params, group):
    """Muon, of whose matrices processes have rows."""
    groups = [{"params": params[:1], "adjust_lr_fn": "match_rms_adamw"}, {"params": params[1:]}]
    return Muon(groups, lr=0.1, matrix_group=group)


# What cuts tensors along which axis; the matrices are wide, tall, and tall but for the rows of one process.
SHARED = {
    "COLUMNS": (momentum_agc, -1, [(16, 64), (64,), (8, 3, 4, 32)]),
    "ROWS": (muon, 0, [(16, 24), (32, 8), (8, 8)]),
}


def far(make, axis, shapes, rank, count):
    """How far each part is from that of the whole, of its largest element, by the group that the optimizer is told."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    gradients = [
        [np.float32(rng.standard_normal(shape) * 10 ** rng.uniform(-3, 3)) for shape in shapes] for _ in range(STEPS)
    ]

    def own(array):
        return np.ascontiguousarray(np.split(array, count, axis)[rank])

    def trained(part, group):
        params = [Parameter(Tensor(part(weight)), name=f"weight{i}") for i, weight in enumerate(weights)]
        optimizer = make(params, group)
        for step in gradients:
            optimizer(tuple(Tensor(part(grad)) for grad in step))
        return [param.asnumpy() for param in params]

    whole, found = trained(np.asarray, None), {}
    for group in ("hccl_world_group", "whole"):
        pairs = zip(trained(own, group), whole)
        found[group] = [float(abs(part - own(one)).max() / abs(one).max()) for part, one in pairs]
    return found


def main(rank, count):
    """Train the whole and its parts alike, by each rule."""
    for name, shared in SHARED.items():
        print(f"{name} " + json.dumps({"rank": rank, "far": far(*shared, rank, count)}), flush=True)
