"""What torch publishes: its optimizers, their signatures, and the configurations and errors that its own tests use."""

import functools
import inspect
import pkgutil
import re
from dataclasses import replace

import pytest
import torch
from helpers import DENSE, make_params
from helpers.published import (
    ABSENT,
    ACCEPTED,
    MESSAGES,
    OWN,
    PLACED,
    PUBLISHED,
    arguments,
    translated_arguments,
    translated_parameters,
)

import ms_optim
from ms_optim import _native
from parity.cases import CASES, Case
from parity.cases.problems import synthetic
from parity.judge.compare import compare
from parity.sides import mindspore as mindspore_side
from parity.sides import rules
from parity.sides import torch as torch_side

each = pytest.mark.parametrize("name", DENSE)
TORCHS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}
COMMON = [name for name in DENSE if name in TORCHS]

# Not among DENSE, whose steps take a dense gradient for each parameter; their tests are their own.
APART = {"LBFGS", "SparseAdam"}


def test_the_optimizers_are_those_of_torch():
    """What is missing is named with its reason, as long as it is, and what torch has is what ours is compared with.

    torch publishes tests of all of its optimizers.
    """
    assert TORCHS.keys() <= set(ms_optim.__all__)
    assert TORCHS.keys() - DENSE.keys() == APART
    assert [name for name in DENSE if CASES[name][0].reference == f"torch.optim.{name}"] == COMMON
    assert PUBLISHED.keys() == TORCHS.keys()


@each
def test_the_signature_is_that_of_torch(name):
    """Its order and defaults; what comes after an argument that ours lacks goes by name, as what ours adds does, last.

    A position would mean one thing there and another here.
    """
    expected, positional = {}, True
    for argument, (bare, default, flag) in arguments(pkgutil.resolve_name(CASES[name][0].reference)).items():
        positional = positional and bare and argument not in ABSENT
        if argument not in ABSENT:
            expected[argument] = (positional, default, flag)
    got = arguments(DENSE[name])
    own = [*PLACED.get(name, ()), *OWN]
    added = [argument for argument in own if argument not in expected]
    assert list(got) == [*expected, *added]
    assert got == expected | {argument: got[argument] for argument in added}
    assert not any(got[argument][0] for argument in own)


@each
@pytest.mark.parametrize("argument", ABSENT)
def test_what_has_no_meaning_raises(name, argument):
    """Even at torch's default; in a group too."""
    params = make_params(name)
    for value in (None, False, True):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
            DENSE[name](params, **{argument: value})
        with pytest.raises(ValueError, match=f"^For '{name}', the keys of a group .*, but got \\['{argument}'\\]"):
            DENSE[name]([{"params": params, argument: value}])


@each
def test_what_a_group_may_have(name):
    """Every argument but what is the whole optimizer's, and no other."""
    group = DENSE[name](make_params(name)).param_groups[0]
    hidden = {"AdamW": {"decoupled_weight_decay"}}  # torch's AdamW is its Adam with this one set, and a group has it
    assert set(group) - hidden.get(name, set()) == arguments(DENSE[name]).keys() - set(OWN)


# The loudest parameters, for a compilation takes as long as there are parameters. CASES have every rank, and absence.
NAMES = ("twin.weight", "huge.gamma", "zero.weight", "breaking.weight")
# Beyond the sixth, from which RAdam rectifies; there are a hundred configurations. Rprop halves its step sizes down to
# the least one in the last of 30.
STEPS, LONGER = 12, {"Rprop": 30}
# None is the machine epsilon of the dtype, and the truth is of another.
EXPLICIT = {"Adafactor": {"eps": (torch.finfo(torch.float32).eps, 1e-3)}}


def configurations(name):
    """The keyword arguments of each published configuration of the numbers, once."""
    found = [
        {key: value for key, value in published.kwargs.items() if key not in (*ABSENT, "fused")}
        for published in PUBLISHED[name].optim_inputs_func(device="cpu")
    ]
    return list({str(kwargs): kwargs for kwargs in found}.values())


def problem(rank, steps):
    """The loudest parameters of the synthetic problem that have this rank."""
    return synthetic(steps).part(NAMES).fitting(Case("", "", {}, rank=rank))


@functools.cache
def expected(name):
    """What torch makes of each of its configurations, in float32 and in float64, with the case and the problem."""
    found = {}
    for kwargs in configurations(name):
        case = replace(CASES[name][0], kwargs=EXPLICIT.get(name, {}) | kwargs)
        steps = LONGER.get(name, STEPS) + int(kwargs.get("t0", 0))  # ASGD averages from there on
        given, reference = problem(case.rank, steps), torch_side.factory(case)
        runs = [torch_side.run(reference, given, dtype) for dtype in ("float32", "float64")]
        found[str(kwargs)] = replace(case, kwargs=translated_arguments(kwargs)), given, runs
    return found


@pytest.mark.parametrize("name", COMMON)
def test_published_configurations(name, path):
    """Parameters and every slot at every step are no further from the truth than three times torch in float32."""
    failed = {}
    for told, (case, given, runs) in expected(name).items():
        ours = mindspore_side.factory(case)
        # What the rule gives in operators is asked of it alone: compiled it is compared in the test of parity.
        alone = path == "composed" or _native.obstacle(name, DENSE[name].update)
        trace = rules.run(ours, given, "float32") if alone else mindspore_side.run(ours, given, path)
        verdict = compare(trace, *runs, noise=case.noise, initial=given.initial)
        if not verdict.passed:
            failed[told] = str(verdict)
    assert not failed


ERRORS = [
    (name, error.optimizer_error_input)
    for name in COMMON
    for error in PUBLISHED[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
]


@pytest.mark.parametrize(("name", "wrong"), ERRORS, ids=[f"{name}-{wrong.desc}" for name, wrong in ERRORS])
def test_published_errors(name, wrong):
    """What torch refuses raises here when it is constructed, by a message with the argument and the value."""
    params = make_params(name) if wrong.params is None else translated_parameters(wrong.params)
    kwargs = translated_arguments(wrong.kwargs)
    if wrong.desc in ACCEPTED:
        assert DENSE[name](params, **kwargs)
        return
    with pytest.raises((TypeError, ValueError)) as error:
        DENSE[name](params, **kwargs)
    told = str(error.value)
    for argument in kwargs.keys() & set(ABSENT):
        assert f"unexpected keyword argument '{argument}'" in told
        return
    if wrong.desc in MESSAGES:
        assert re.fullmatch(f"For '{name}', {MESSAGES[wrong.desc]}.", told), told
        return
    (argument,) = kwargs.keys() - {"lr"}
    value = kwargs[argument]
    members = value if isinstance(value, tuple) else (value,)
    found = re.fullmatch(rf"For '{name}', '{argument}(\[\d\])?' must .*, but got (.*)\.", told)
    assert found and found[2] in map(repr, members), told


def test_the_tables_of_errors_have_no_more():
    """Each entry is about an error that torch publishes."""
    assert ACCEPTED.keys() | MESSAGES.keys() <= {wrong.desc for _, wrong in ERRORS}
