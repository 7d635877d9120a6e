"""What a step is compiled to where there are no native kernels is what Ascend runs on its AI Core.

MindSpore compiles for Ascend the same operators as for CPU, so that its graph can be read here.
"""

from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from helpers.graphs import nodes
from mindspore import Parameter, Tensor

import ms_optim
from ms_optim import LBFGS, SGD, Optimizer, Slot, SparseAdam, _compiled, _composed, _native
from ms_optim._host import SWITCH
from ms_optim._math import AT_ONCE, PART, length_of_parts, product
from ms_optim.sgd import sgd_scalars
from parity.cases import ENTRIES

ROOT = Path(__file__).parents[2]
# How MindSpore 2.10.0 runs operators on Ascend910B2, by their dtypes: its own selection of kernels, as its log has it
# with MS_SIMULATION_LEVEL=1; "aclop" is the older and slower path. CANN has no float64 for any of them on the AI Core,
# but for what only moves data. What has no kernel there goes back to the host, as operators of bits do of bools.
ASCEND = {
    "aclnn": {
        "float32": "Abs Add ClampScalar Concat Div Divs MatMulExt Max Maximum Minimum Mul Muls Neg Reciprocal "
        "ReduceMax Reshape Select Sign Sqrt StridedSlice Sub SumExt Transpose",
        "bool float32": "EqScalar Equal Greater Less LessScalar NotEqual Select",
        "bool": "LogicalAnd LogicalNot LogicalOr ReduceAll",
        "bfloat16 float32": "Cast",
        "float32 int32": "TensorScatterAdd",
        "float32 float64": "Cast",
        "int32": "FloorDiv Sub",
        "bool int32": "EqScalar Greater",
    },
    "aclop": {
        "float32": "Assign Slice TensorMove Unstack",
        "bool float32": "IsNan",
        "float32 int32": "Gather ScatterUpdate",
        "int32": "AssignAdd FloorMod Reshape",
        "bool": "Split",
    },
    "AI CPU": {
        "int32": "Unique",
        "float64": "Add Assign Div Divs Exp FloorDiv Gather Maximum Minimum Mul Muls Neg Pow Reciprocal Sqrt Stack "
        "Sub Unstack",
        "bool float64": "Cast EqScalar Equal Greater Less LessScalar Select",
        "float64 int32": "Cast",
    },
}
# How it runs them on GPUs: its selection again, as its log has it with CUDA 11.6 whose functions do nothing. What has
# no kernel is replaced by operators that have one, as Muls by Mul.
GPU = {
    "kernel": {
        "float32": "Abs Add Assign Concat Div Maximum Minimum Mul Neg Reciprocal ReduceMax Reshape Select Sign Slice "
        "Sqrt StridedSlice Sub TensorMove Transpose Unstack",
        "bool float32": "Equal Greater IsNan Less NotEqual Select",
        "bool": "LogicalAnd LogicalNot LogicalOr ReduceAll Split",
        "bfloat16 float32": "Cast",
        "float32 int32": "Gather ScatterUpdate TensorScatterAdd",
        "float32 float64": "Cast",
        "int32": "AssignAdd FloorDiv FloorMod Reshape Sub Unique",
        "bool int32": "Greater",
        "float64 int32": "Cast",
        "float64": "Add Assign Div Exp FloorDiv Gather Maximum Minimum Mul Neg Pow Reciprocal Sqrt Stack Sub Unstack",
        "bool float64": "Cast Equal Greater Less Select",
    },
    "replaced": {
        "float32": "ClampScalar Divs MatMulExt Max Muls SumExt",
        "bool float32": "EqScalar LessScalar",
        "bool int32": "EqScalar",
        "float64": "Divs Muls",
        "bool float64": "EqScalar LessScalar",
    },
}
KNOWN = {
    device: {
        (primitive, frozenset(dtypes.split()))
        for kinds in table.values()
        for dtypes, primitives in kinds.items()
        for primitive in primitives.split()
    }
    for device, table in (("Ascend", ASCEND), ("GPU", GPU))
}
# A parameter's shape, one of which units and whole are summed in parts, and one of which all is, with a rest of each;
# and two that networks have.
SHAPES = {
    "small": (9, 13),
    "in parts": (3, PART + 8),
    "columns in parts": (257, 65),
    "matrix": (768, 768),
    "convolution": (512, 512, 3, 3),
}
# How many rows are added up at once there.
ROWS = length_of_parts(257)
# The version of MindSpore that operators are counted with.
COUNTED_WITH = "2.10.0"
# Each way that an optimizer is counted in, how many operators it may have then, and whether it is the first.
COUNTED = [
    pytest.param(name, arguments, ceilings, i == 0, id=f"{name}{arguments or ''}")
    for name, entry in ENTRIES.items()
    for i, (arguments, *ceilings) in enumerate(entry.kernels)
]


@pytest.fixture(autouse=True)
def device_form(monkeypatch, graph, own_graph):
    """No kernel and no power of the library's, sums as on devices, and no direct calls."""
    monkeypatch.setattr(_native, "library", lambda: None)
    monkeypatch.setattr(_native, "_power", None)
    monkeypatch.setenv(_composed.SUMS, "float32")
    monkeypatch.setenv(SWITCH, "0")
    yield
    monkeypatch.undo()
    _composed.prepare_sums()


def compiled(make, count, shape):
    """The operators of a step of so many parameters, which is neither built for a backend nor taken."""
    params = [Parameter(Tensor(np.ones(shape), ms.float32), name=f"p{i}") for i in range(count)]
    optimizer, grad = make(params), Tensor(np.ones(shape), ms.float32)
    if isinstance(optimizer, SparseAdam):  # all of its rows
        grad = (Tensor(np.arange(shape[0], dtype=np.int32)), grad)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MS_DEV_PRECOMPILE_ONLY", "1")
        optimizer((grad,) * count)
    return nodes(optimizer)


def unknown(operators):
    """What no table has, in sentences."""
    return [
        f"{node.primitive} of {sorted(node.dtypes)} is in no table of {device}"
        for node in operators
        for device, known in KNOWN.items()
        if (node.primitive, node.dtypes) not in known
    ]


def summed_at_once(operators):
    """What sums so many elements at once that float32 loses digits, in sentences; of rows fewer are too many."""
    sums = [node for node in operators if node.primitive == "SumExt"]
    shapes = [(node.takes[0][1], node.gives[0][1]) for node in sums]
    told = []
    for taken, given in shapes:
        count, by_rows = product(taken) // product(given), given and taken[-1] == given[-1] > 1
        if count > (ROWS if by_rows else AT_ONCE):
            told.append(f"SumExt of {count} elements at once and not in parts")
    return told


def counted(what, has, said, exactly):
    """What is wrong with how many operators there are said to be, at most or exactly, in a sentence."""
    is_wrong = has != said if exactly else has > said
    return [f"{has:g} operators {what}, where {said} are said"] if is_wrong else []


def what_is_wrong(make, shape, ceilings, apart=True, exactly=False):
    """What keeps a step from running as it is claimed to, in sentences.

    What there is for each parameter is told apart from what there is for a step by a second compilation, or not.
    """
    many = compiled(make, 2, shape)
    found = unknown(many) + summed_at_once(many)
    wide = [node for node in many if "float64" in node.dtypes]
    found += [f"{node.primitive} in float64 of a parameter's size" for node in wide if shape in node.shapes]
    if not apart:
        each, step, step_wide = ceilings
        said = "for two parameters", "in float64 for two parameters"
        for what, has, ceiling in zip(said, (len(many), len(wide)), (step + 2 * each, step_wide)):
            found += counted(what, has, ceiling, exactly)
        return sorted({*found})
    few = compiled(make, 1, shape)
    count = [Counter("float64" in node.dtypes for node in part) for part in (few, many)]
    each, each_wide = sum(count[1].values()) - sum(count[0].values()), count[1][True] - count[0][True]
    step, step_wide = sum(count[0].values()) - each, count[0][True] - each_wide
    if each_wide:
        found.append(f"{each_wide:g} in float64 for each parameter")
    said = "for each parameter", "for each step", "in float64 for each step"
    for what, has, ceiling in zip(said, (each, step, step_wide), ceilings):
        found += counted(what, has, ceiling, exactly)
    return sorted({*found})


def composed(name, arguments):
    """A function that makes the optimizer with these arguments, or an average around SGD."""
    if name == "EMA":
        return lambda params: ms_optim.EMA(SGD(params, fused=False), **arguments)
    return lambda params: getattr(ms_optim, name)(params, fused=False, **arguments)


@pytest.mark.parametrize(("name", "arguments", "ceilings", "is_first"), COUNTED)
def test_a_step_runs_on_the_device(name, arguments, ceilings, is_first):
    """No operator goes back to the host, none of a parameter is float64, and they are as many as README has of them.

    Other versions may need fewer.
    """
    exactly = ms.__version__ == COUNTED_WITH
    wrong = what_is_wrong(composed(name, arguments), SHAPES["small"], ceilings, is_first, exactly)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "shape", "more"),
    [
        ("MomentumAGC", "in parts", 14),
        ("Adafactor", "in parts", 23),
        ("Adafactor", "columns in parts", 37),
        ("MomentumAGC", "convolution", 6),
        ("Adafactor", "matrix", 10),
        ("Muon", "matrix", 3),
    ],
)
def test_sums_in_parts_run_on_the_device(name, shape, more):
    """Which need some more operators, as the README has it."""
    arguments, each, *step = ENTRIES[name].kernels[0]
    wrong = what_is_wrong(composed(name, arguments), SHAPES[shape], (each + more, *step))
    assert not wrong, "\n".join(wrong)


def test_a_follower_runs_on_the_device():
    """What it takes of each pair of Parameters, of which none is float64."""

    def followed(count):
        source, target = (
            [Parameter(Tensor(np.ones(SHAPES["small"]), ms.float32), name=f"{kind}{i}") for i in range(count)]
            for kind in ("source", "target")
        )
        follow = ms_optim.ParameterEMA(source, target, decay=0.99)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("MS_DEV_PRECOMPILE_ONLY", "1")
            follow()
        return nodes(follow)

    few, many = followed(1), followed(2)
    assert unknown(many) == []
    assert not any("float64" in node.dtypes and SHAPES["small"] in node.shapes for node in many)
    assert len(many) - len(few) <= 6 and len(few) <= 12


def graphs_of_lbfgs(count, shape, monkeypatch):
    """The operators of each graph that some iterations over so many parameters compile."""
    found, call = [], _compiled.call

    def recorded(cell, *args):
        before = set(cell.compile_cache)
        result = call(cell, *args)
        found.extend(nodes(cell, phase) for phase in sorted(cell.compile_cache - before))
        return result

    values = np.linspace(0.5, 2, np.prod(shape)).reshape(shape)
    params = [Parameter(Tensor(values, ms.float32), name=f"p{i}") for i in range(count)]
    never = {"max_eval": 100, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer = LBFGS(params, max_iter=3, line_search_fn="strong_wolfe", **never)

    def closure():
        grads = [Tensor(param.asnumpy() ** 3) for param in params]
        return Tensor(sum(float((param.asnumpy() ** 4).sum()) for param in params) / 4, ms.float32), grads

    with monkeypatch.context() as patched:
        patched.setattr(_compiled, "call", recorded)
        optimizer.step(closure)
    return found


# Its functions of vectors compile once in a process for each size, which no other test has.
@pytest.mark.parametrize("shape", [(7, 31), (5, PART + 8)], ids=["small", "in parts"])
def test_iterations_of_lbfgs_run_on_the_device(shape, monkeypatch):
    """All of its graphs: none takes more operators for each parameter than it needs to read or write it."""
    few, many = (graphs_of_lbfgs(count, shape, monkeypatch) for count in (1, 2))
    assert len(few) == len(many) > 8
    everything = [node for graph in (*few, *many) for node in graph]
    assert unknown(everything) + summed_at_once(everything) == []
    assert not any("float64" in node.dtypes for node in everything)
    assert sum(map(len, many)) - sum(map(len, few)) <= 6


LEVELS = """
import sys
from parity.cases import CASES
from parity.cases.problems import synthetic
from parity.judge.compare import compare_bits
from parity.sides import mindspore

for name in sys.argv[1:]:
    case = CASES[name][-1]
    build = mindspore.factory(case, fused=False)
    problem = synthetic(3, absent=False).part(("twin.weight", "huge.gamma", "breaking.weight")).fitting(case)
    runs = [mindspore.run(build, problem, "graph", True, "CPU", level) for level in ("O0", "O2")]
    assert all(compare_bits(run, runs[0]).passed for run in runs), name
"""


def test_every_level_of_optimization_compiles_to_the_same_bits(forks, tmp_path):
    """What methods of Tensors mean differs from one level to another."""
    (tmp_path / "levels.py").write_text(LEVELS)
    forks.run(tmp_path, tmp_path / "levels.py", "MomentumAGC", "Adafactor", **{_composed.SUMS: "float32"})


def of_rule(rule):
    """A class of optimizers of a rule with a momentum."""

    def init(self, params):
        defaults = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "maximize": False}
        Optimizer.__init__(self, params, defaults, fused=False)

    parts = {"scalars": sgd_scalars, "update": rule, "slots": (Slot("velocity"),), "__init__": init}
    return type("Ruled", (Optimizer,), parts)


def as_it_should_be(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """The rule that the others spoil."""
    (velocity,) = slots
    velocity = momentum * velocity + take * grad
    return param - lr * velocity, (velocity,)


def in_float64(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """The gradient is widened."""
    (velocity,) = slots
    velocity = (momentum.double() * velocity.double() + take * grad.double()).float()
    return param - lr * velocity, (velocity,)


def bit_by_bit(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """Two conditions are joined by the operator of bits."""
    (velocity,) = slots
    velocity = momentum * velocity + take * grad
    return param - lr * velocity.where((momentum > 0) & (take > 0), grad), (velocity,)


def of_two_dtypes(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """A number is multiplied by a condition, for which GPUs have no kernel."""
    (velocity,) = slots
    velocity = momentum * (take > 0) * velocity + take * grad
    return param - lr * velocity, (velocity,)


def one_cast_more(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """It goes through half precision."""
    (velocity,) = slots
    velocity = momentum * velocity + take * grad
    return param - lr * velocity.half().float(), (velocity,)


def of_another_operator(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """Nobody has looked at it."""
    (velocity,) = slots
    velocity = momentum * velocity + take * grad
    return param - lr * velocity.atan(), (velocity,)


def summed(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """A sum of all elements, which is not in parts."""
    (velocity,) = slots
    velocity = momentum * velocity + take * grad
    return param - lr * velocity / velocity.sum(), (velocity,)


def summed_by_rows(param, grad, slots, lr, momentum, take, weight_decay, maximize):
    """One row is added to another, each time with a rounding."""
    (velocity,) = slots
    velocity = momentum * velocity + take * grad
    return param - lr * velocity / velocity.sum(0), (velocity,)


@pytest.mark.parametrize(
    ("rule", "shape", "expected"),
    [
        (summed, "in parts", f"SumExt of {3 * (PART + 8)} elements at once"),
        (summed_by_rows, "columns in parts", "SumExt of 257 elements at once"),
    ],
)
def test_a_sum_that_is_not_in_parts_is_named(rule, shape, expected):
    """It takes fewer operators than one that is, so that no ceiling does it."""
    assert what_is_wrong(of_rule(rule), SHAPES["small"], (12, 40, 30)) == []
    (found,) = what_is_wrong(of_rule(rule), SHAPES[shape], (12, 40, 30))
    assert expected in found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (as_it_should_be, []),
        (in_float64, ["in float64 for each parameter", "in float64 of a parameter's size"]),
        (bit_by_bit, ["BitwiseAnd of ['bool'] is in no table of Ascend"]),
        (of_two_dtypes, ["Mul of ['bool', 'float32'] is in no table of GPU"]),
        (one_cast_more, ["operators for each parameter, where 10 are said"]),
        (of_another_operator, ["Atan of ['float32'] is in no table of Ascend"]),
    ],
)
def test_what_is_spoiled_is_named(rule, expected):
    """Each in the sentence that is about it, and the rule itself in none."""
    found = what_is_wrong(of_rule(rule), SHAPES["small"], (10, 40, 30))
    assert bool(found) == bool(expected)
    for sentence in expected:
        assert any(sentence in one for one in found), found
