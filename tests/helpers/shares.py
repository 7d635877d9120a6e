"""Rules that look at whole units, matrices or tensors, on parts of them that several processes share.

It prints, as JSON, how far the parts of this process are from those of the whole: where the processes communicate, and
where each takes its own for the whole.
"""

import json

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from mindspore.ops.primitive import constexpr

from ms_optim import Adafactor, MomentumAGC, Muon, _shards
from ms_optim._math import is_near, way_of
from ms_optim.adafactor import adafactor_scalars, column_shape, row_shape
from parity.sides.arrays import array
from parity.sides.rules import rule_of

STEPS = 20


def momentum_agc(params, group):
    """Momentum with clipping, of which processes have columns."""
    return MomentumAGC(params, lr=0.1, nesterov=True, unit_group=group)


def muon(params, group):
    """Muon, of whose matrices processes have rows."""
    groups = [{"params": params[:1], "adjust_lr_fn": "match_rms_adamw"}, {"params": params[1:]}]
    return Muon(groups, lr=0.1, ns_steps=2, matrix_group=group)


# What cuts tensors along which axis; the matrices are wide, tall, and tall but for the rows of one process.
SHARED = {
    "COLUMNS": (momentum_agc, -1, [(16, 64), (64,), (8, 3, 4, 32)]),
    "ROWS": (muon, 0, [(16, 24), (32, 8), (8, 8)]),
}


def drawn(shapes):
    """Weights, and their gradients in each step."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    gradients = [
        [np.float32(rng.standard_normal(shape) * 10 ** rng.uniform(-3, 3)) for shape in shapes] for _ in range(STEPS)
    ]
    return weights, gradients


def parameters(part, weights):
    """Parameters that hold parts of weights."""
    return [Parameter(Tensor(part(weight)), name=f"weight{i}") for i, weight in enumerate(weights)]


def far(make, axis, shapes, rank, count):
    """How far each part is from that of the whole, of its largest element, by the group that the optimizer is told."""
    weights, gradients = drawn(shapes)

    def own(array):
        return np.ascontiguousarray(np.split(array, count, axis)[rank])

    def trained(part, group):
        params = parameters(part, weights)
        optimizer = make(params, group)
        for step in gradients:
            optimizer(tuple(Tensor(part(grad)) for grad in step))
        return [param.asnumpy() for param in params]

    whole, found = trained(np.asarray, None), {}
    for group in ("hccl_world_group", "whole"):
        pairs = zip(trained(own, group), whole)
        found[group] = [float(abs(part - own(one)).max() / abs(one).max()) for part, one in pairs]
    return found


# What Adafactor is made with, and the tensors that are cut into slices along the first axis: the vector into some of
# two lengths. The others are whole in each process.
NUMBERS = {"lr": 0.1, "eps": (1e-7, 1e-3), "d": 1.5, "weight_decay": 0.1}
CUT, UNCUT = [(16, 24), (4, 3, 5, 2), (65,)], [(6,), ()]
# And those that are trained as MindSpore slices them; in a step or two all happens that does.
SLICED, UNSLICED, FEW = CUT[:2], [(6, 4)], 4


def told(found, wanted):
    """How far each is from what is wanted, of its largest element."""
    return [float(abs(np.asarray(one) - other).max() / abs(other).max()) for one, other in zip(found, wanted)]


def cutter(uncut, rank, count):
    """What cuts the own slices out of an array, unless its shape is one of some."""

    def own(array):
        return array if array.shape in uncut else np.ascontiguousarray(np.array_split(array, count)[rank])

    return own


def by_rule(part, weights, gradients, dtype="float64"):
    """Adafactor's rule on arrays, which has taken the steps of parts of tensors."""
    rule = rule_of(Adafactor(parameters(part, weights), **NUMBERS), dtype)
    for step in gradients:
        rule.step({f"weight{i}": part(grad) for i, grad in enumerate(step)})
    return rule


def far_in_slices(rank, count, group):
    """How far from float64 are Adafactor's slices, the whole in float32, and slices that are taken for wholes."""
    weights, gradients = drawn([*CUT, *UNCUT])
    own = cutter(UNCUT, rank, count)
    truth, plain = (by_rule(np.asarray, weights, gradients, dtype).params.values() for dtype in ("float64", "float32"))
    wanted = [own(np.asarray(value)) for value in truth]
    params = parameters(own, weights)
    optimizer = Adafactor(params, **NUMBERS, matrix_group=group)
    for step in gradients:
        optimizer(tuple(Tensor(own(grad)) for grad in step))
    alone = told(by_rule(own, weights, gradients).params.values(), wanted)
    return {
        group: told([param.asnumpy() for param in params], wanted),
        "float32": told(plain, truth),
        "whole": alone[: len(CUT)],
    }


def where_sliced(weight, gradients, own, group):
    """Adafactor's rule as it runs where MindSpore slices, which leaves row_var and col_var whole; and these."""
    param = Tensor(own(weight))
    slots = *(Tensor(np.zeros(shape(weight.shape)), ms.float32) for shape in (row_shape, column_shape)), None
    for step, grad in enumerate(gradients, 1):
        numbers = (float(step), NUMBERS["lr"], -0.8, *NUMBERS["eps"], NUMBERS["d"], NUMBERS["weight_decay"])
        keep, take, *rest = adafactor_scalars(*map(array, numbers))
        numbers = [Tensor(np.float32(number)) for number in (keep, way_of(take), *rest)]
        near = Tensor(bool(is_near(take)))
        param, slots = Adafactor.update(param, Tensor(own(grad)), slots, *numbers, near, False, group)
    return param.asnumpy(), *(kept.asnumpy() for kept in slots[:2])


def far_where_sliced(rank, count, group):
    """How far the slices, and the state of the whole, are from those of the whole: one after another."""
    weights, gradients = drawn([*SLICED, *UNSLICED])
    own, found = cutter(UNSLICED, rank, count), []
    rule = by_rule(np.asarray, weights, gradients[:FEW])
    read, _shards.in_slices = _shards.in_slices, lambda: True
    try:
        for i, (weight, (name, slots)) in enumerate(zip(weights, rule.state.items())):
            wanted = own(np.asarray(rule.params[name])), np.asarray(slots["row_var"]), np.asarray(slots["col_var"])
            found += told(where_sliced(weight, [step[i] for step in gradients[:FEW]], own, group), wanted)
    finally:
        _shards.in_slices = read
    return found


def taken_for_rows(group):
    """What Muon makes where each process has all of a matrix, and MindSpore slices: whether all of it is NaN."""
    weights, gradients = drawn([(8, 8)])
    (param,) = parameters(np.asarray, weights)
    read, _shards.in_slices = _shards.in_slices, constexpr(lambda: True)
    try:
        Muon([param], matrix_group=group)((Tensor(gradients[0][0]),))
    finally:
        _shards.in_slices = read
    return bool(np.isnan(param.asnumpy()).all())


def main(rank, count, columns):
    """Train the whole and its parts alike: by columns, or by rows and slices."""
    name = "COLUMNS" if columns else "ROWS"
    print(f"{name} " + json.dumps({"rank": rank, "far": far(*SHARED[name], rank, count)}), flush=True)
    if columns:
        return
    group = "hccl_world_group"
    print("SLICES " + json.dumps({"rank": rank, "far": far_in_slices(rank, count, group)}), flush=True)
    print("SLICED " + json.dumps({"rank": rank, "far": far_where_sliced(rank, count, group)}), flush=True)
    print("COPIES " + json.dumps({"rank": rank, "nan": taken_for_rows(group)}), flush=True)
