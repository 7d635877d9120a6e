"""Adaptive clipping in MindSpore, as the references have it by hand; which parameters are clipped, and by how much."""

import math
import re

import mindspore as ms
import numpy as np
import pytest
from helpers import assert_compiled
from helpers.clipped import CLIPPED
from mindspore import Parameter, Tensor

from ms_optim import MomentumAGC
from ms_optim._math import clip_adaptively, is_applied
from parity.sides.mindspore import set_mode

NAN, INF = math.nan, math.inf

# The unit, the weight, the gradient, the gradient clipped by hand; clipping; clip_eps.
CASES = {name: (*case, 0.5, 0.1) for name, case in CLIPPED.items()} | {
    "NaN in a 0-d gradient": ("output", 2.0, NAN, NAN, 0.5, 0.1),
    "NaN in a 1-d gradient": ("output", [3.0, 4.0], [0.1, NAN], [NAN, NAN], 0.5, 0.1),
    "NaN in a 4-d gradient": (
        "output",
        [[[[3.0]], [[4.0]]]] * 2,
        [[[[0.1]], [[NAN]]], [[[6.0]], [[8.0]]]],
        [[[[NAN]], [[NAN]]], [[[1.5]], [[2.0]]]],
        0.5,
        0.1,
    ),
    "-inf in a gradient": ("output", [3.0, 4.0], [1.0, -INF], [0.0, NAN], 0.5, 0.1),
    "NaN in a 0-d weight": ("output", NAN, 1.0, NAN, 0.5, 0.1),
    "NaN in a 1-d weight": ("output", [3.0, NAN], [0.1, 0.0], [NAN, NAN], 0.5, 0.1),
    "NaN in a 2-d weight": (
        "output",
        [[NAN, 4.0], [3.0, 4.0]],
        [[6.0, 8.0], [6.0, 8.0]],
        [[NAN, NAN], [1.5, 2.0]],
        0.5,
        0.1,
    ),
    "NaN in a weight, squeezed": (
        "squeezed",
        [[[NAN, 8.0], [4.0, 15.0]]],
        [[[6.0, 4.0], [8.0, 7.5]]],
        [[[NAN, 4.0], [NAN, 7.5]]],
        0.5,
        0.1,
    ),
    "an infinite weight bounds nothing": ("output", [INF, 4.0], [6.0, 8.0], [6.0, 8.0], 0.5, 0.1),
    "an infinite weight and gradient": ("output", [INF, 4.0], [INF, 8.0], [NAN, NAN], 0.5, 0.1),
    # The gradient's norm counts as 1e-6 at least, which only shows where the bound, here 1e-9, is below that.
    "below the bound": ("output", 0.0, 5e-10, 5e-10, 1e-6, 1e-3),
    "far below the floor": ("output", 0.0, 1e-8, 1e-11, 1e-6, 1e-3),
    "below the floor": ("output", [0.0, 0.0], [3e-7, 4e-7], [3e-10, 4e-10], 1e-6, 1e-3),
    "below the floor by rows": (
        "output",
        [[0.0, 0.0]] * 2,
        [[3e-7, -4e-7], [3e-5, 4e-5]],
        [[3e-10, -4e-10], [6e-10, 8e-10]],
        1e-6,
        1e-3,
    ),
    "above the floor": ("output", 0.0, 2e-6, 1e-9, 1e-6, 1e-3),
    # A float32 square overflows from 2e19 on and is zero below 1e-23.
    "square of a gradient overflows": ("output", [3.0, 4.0], [6e25, 8e25], [1.5, 2.0], 0.5, 0.1),
    "factor is no normal float32": ("output", 1.0, 1e37, 0.01, 0.01, 1e-3),
    "factor is no normal float32 by rows": ("output", [[0.6, 0.8]], [[6e36, -8e36]], [[0.006, -0.008]], 0.01, 1e-3),
    "square of a weight overflows": ("output", [3e25, 4e25], [6e25, 8e25], [1.5e25, 2e25], 0.5, 0.1),
    "square of a weight is zero": ("output", [3e-25, 4e-25], [6.0, 8.0], [1.5e-25, 2e-25], 0.5, 0.0),
    "square of a gradient is zero": ("output", 1e-30, 1e-25, 0.0, 0.5, 0.0),
    "a bound of zero": ("output", 0.0, 1e-25, 0.0, 0.5, 0.0),
    "no clipping": ("output", [3.0, 4.0], [6e25, NAN], [6e25, NAN], 0.0, 0.1),
    "no clipping of an infinite gradient": ("output", [3.0, 4.0], [INF, 8.0], [INF, 8.0], 0.0, 0.1),
}
DTYPES = [np.float32, np.float64]


def assert_close(got, expected, dtype, name):
    """Within rounding of the dtype; a 0 by hand is what is 0 in float32."""
    assert got.dtype == dtype, name
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps, atol=1e-40, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clips_as_by_hand(dtype):
    """The formula itself, on MindSpore tensors."""
    set_mode("pynative")
    for name, (unit, weight, grad, clipped, *numbers) in CASES.items():
        weight, grad, clipping, eps = (Tensor(np.array(value, dtype)) for value in (weight, grad, *numbers))
        assert_close(
            clip_adaptively(grad, weight, clipping, eps, unit, is_applied(clipping)).asnumpy(),
            np.array(clipped),
            dtype,
            name,
        )


def test_a_step_clips_as_by_hand(mode):
    """Every case is a step of one optimizer, which has a group for each unit and shape.

    It takes the clipped gradient from the weight.
    """
    dtype, kinds = np.float32, {}
    for name, (unit, weight, *_) in CASES.items():
        kinds.setdefault((unit, np.shape(weight)), []).append(name)
    optimizer = MomentumAGC(
        [
            {"params": [Parameter(Tensor(np.ones(shape, dtype)), name=f"weight{i}")], "unit": unit}
            for i, (unit, shape) in enumerate(kinds)
        ],
        lr=1.0,
        momentum=0.0,
    )
    for i in range(max(map(len, kinds.values()))):
        names = [kind[min(i, len(kind) - 1)] for kind in kinds.values()]
        for param, group, name in zip(optimizer.parameters, optimizer.param_groups, names, strict=True):
            _, weight, _, _, clipping, eps = CASES[name]
            ms.ops.assign(param, Tensor(np.array(weight, dtype)))
            group["clipping"], group["clip_eps"] = clipping, eps
        optimizer(tuple(Tensor(np.array(CASES[name][2], dtype)) for name in names))
        for param, name in zip(optimizer.parameters, names):
            _, weight, _, clipped, *_ = CASES[name]
            assert_close(param.asnumpy(), np.array(weight) - np.array(clipped), dtype, name)


NAMES = ("stem.weight", "stem.gain", "head.weight", "head.bias")


def make_params():
    """Four weights of norm 5."""
    return [Parameter(Tensor(np.array([3.0, 4.0], np.float32)), name=name) for name in NAMES]


def steps_of(optimizer):
    """The norm of each parameter's step, if its gradient has norm 10."""
    before = [param.asnumpy().copy() for param in optimizer.parameters]
    optimizer((Tensor(np.array([6.0, 8.0], np.float32)),) * len(before))
    return [float(np.linalg.norm(old - new.asnumpy())) for old, new in zip(before, optimizer.parameters)]


def is_bias(param):
    """A predicate for `exempt`."""
    return param.name.endswith("bias")


@pytest.mark.parametrize(
    ("exempt", "clippings"),
    [
        ((), (0.5, 0.5, 0.5, 0.5)),
        ("head.weight", (0.5, 0.5, 0.0, 0.5)),
        (["*.gain", "head.*"], (0.5, 0.0, 0.0, 0.0)),
        (("stem.*", "stem.gain"), (0.0, 0.0, 0.5, 0.5)),
        (is_bias, (0.5, 0.5, 0.5, 0.0)),
        (lambda param: np.bool_(is_bias(param)), (0.5, 0.5, 0.5, 0.0)),
        (lambda param: False, (0.5, 0.5, 0.5, 0.5)),
    ],
    ids=["none", "name", "patterns", "overlapping", "predicate", "NumPy's bool", "nothing"],
)
def test_what_is_exempt_is_not_clipped(either, exempt, clippings):
    """And what is public of it is what happens."""
    optimizer = MomentumAGC(make_params(), lr=1.0, momentum=0.0, clipping=0.5, exempt=exempt)
    assert optimizer.group_clipping_tuple == clippings
    assert steps_of(optimizer) == pytest.approx([5 * clipping or 10.0 for clipping in clippings], rel=1e-6)


@pytest.mark.usefixtures("own_graph")
def test_clipping_is_told_in_the_order_of_the_parameters(mode):
    """Groups, patterns and predicates in one optimizer, in the order of the gradients; a group may have it set."""
    stem, gain, head, bias = params = make_params()
    optimizer = MomentumAGC(
        [
            {"params": [bias, gain], "clipping": 0.2, "exempt": is_bias},
            {"params": [head], "clipping": 0.3, "exempt": ("head.*",)},
            {"params": [stem]},
            {"order_params": params},
        ],
        lr=1.0,
        momentum=0.0,
        clipping=0.5,
    )
    assert optimizer.group_clipping_tuple == (0.5, 0.2, 0.0, 0.0)
    assert steps_of(optimizer) == pytest.approx([2.5, 1.0, 10.0, 10.0], rel=1e-6)
    for param in params:
        ms.ops.assign(param, Tensor(np.array([3.0, 4.0], np.float32)))
    for group, clipping in zip(optimizer.param_groups, (0.1, 0.0, 0.4)):
        group["clipping"] = clipping
    assert optimizer.group_clipping_tuple == (0.4, 0.1, 0.0, 0.0)
    assert steps_of(optimizer) == pytest.approx([2.0, 0.5, 10.0, 10.0], rel=1e-6)
    assert_compiled(optimizer)


def test_clipping_is_described():
    """One row for each parameter, with what its group says and whether it is exempt."""
    stem, gain, head, bias = make_params()
    optimizer = MomentumAGC(
        [{"params": [stem, gain], "clipping": 0.25}, {"params": [head, bias], "exempt": is_bias}], clipping=0.5
    )
    header, *rows, _ = (re.split(r"\s{2,}", row) for row in optimizer.describe().splitlines())
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["parameter"], row["clipping"], row["exempt"]) for row in rows] == [
        ("stem.weight", "0.25", "False"),
        ("stem.gain", "0.25", "False"),
        ("head.weight", "0.5", "False"),
        ("head.bias", "0.5", "True"),
    ]


@pytest.mark.parametrize(
    ("groups", "exempt", "names", "idle"),
    [
        (lambda params: params, "fc.weight", NAMES, "fc.weight"),
        (lambda params: params, ("head.*", "fc.*"), NAMES, "fc.*"),
        (lambda params: params, ("HEAD.*",), NAMES, "HEAD.*"),
        (lambda params: params, ("head",), NAMES, "head"),
        (lambda params: [{"params": params[:2], "exempt": "head.*"}, {"params": params[2:]}], (), NAMES[:2], "head.*"),
        (
            lambda params: [{"params": params[:2]}, {"params": params[2:], "exempt": ("*.bias", "*.gain")}],
            (),
            NAMES[2:],
            "*.gain",
        ),
        (lambda params: [{"params": params[:2]}, {"params": params[2:], "exempt": ()}], "head.*", NAMES[:2], "head.*"),
    ],
)
def test_a_pattern_that_exempts_nothing_raises(groups, exempt, names, idle):
    """And lists the names that it could have matched: those of the groups that it is for."""
    message = f"For 'MomentumAGC', each pattern of 'exempt' must match one of {list(names)}, but got {idle!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MomentumAGC(groups(make_params()), exempt=exempt)


def test_a_pattern_need_not_match_in_every_group():
    """That of the optimizer is for all groups together."""
    params = make_params()
    optimizer = MomentumAGC([{"params": params[:2]}, {"params": params[2:]}], clipping=0.5, exempt="head.weight")
    assert optimizer.group_clipping_tuple == (0.5, 0.5, 0.0, 0.5)


@pytest.mark.parametrize("answer", [None, 0, 1, "no", [], Tensor(True)], ids=repr)
@pytest.mark.parametrize("in_group", [False, True])
def test_a_predicate_answers_with_a_bool(answer, in_group):
    """What is merely truthy is a mistake, as of a function that forgets to return."""

    def exempt(param):
        return answer

    group = {"params": make_params(), **({"exempt": exempt} if in_group else {})}
    with pytest.raises(TypeError, match=r"'exempt'.* must return a bool, but got .* for 'stem.weight'"):
        MomentumAGC([group], exempt=() if in_group else exempt)


def test_what_follows_momentum_goes_by_its_name():
    """Where SGD of torch has dampening and weight decay, Momentum of MindSpore has weight decay and a loss scale."""
    with pytest.raises(TypeError, match="positional argument"):
        MomentumAGC(make_params(), 0.1, 0.9, 1e-4, 1024.0)
    assert MomentumAGC(make_params(), 0.1, 0.9).param_groups[0]["momentum"] == 0.9
