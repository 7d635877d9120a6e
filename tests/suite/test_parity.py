"""Every case of the parity suite on the synthetic problem."""

import functools
import sys
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import COMPOSED
from mindspore import nn

import ms_optim
from ms_optim import SGD, Adafactor, _composed, _host, _math
from parity import suite
from parity.cases import CASES, ENTRIES, MINIMIZERS
from parity.cases.losses import losses
from parity.cases.problems import PART, Problem, synthetic
from parity.check import check
from parity.judge.compare import compare_exactly
from parity.sides import mindspore as mindspore_side
from parity.sides import torch as torch_side


def sooner(problem):
    """The problem with gradients that break after 8 and 11 steps, for 20 and 24: two more show what comes of it."""
    broken = "breaking.weight"
    problem.gradients[8][broken][1, 2], problem.gradients[11][broken][0, 1] = np.inf, np.nan
    return problem


# A rule takes as much time for each parameter to compile, and for each pattern of absent gradients.
PROBLEM, PRESENT = sooner(synthetic(14)), sooner(synthetic(14, absent=False))
SMALL = PROBLEM.part(PART)
# One matrix is enough where each parameter is computed by itself.
APART = PRESENT.part(PART[1:])
EXTREME = PRESENT.part([*PART[1:], "tiny.weight", "huge.gamma", "temperature", "breaking.weight"])
LOUDEST = [cases[-1] for cases in CASES.values()]
# What rules take sums by.
SUMS = {"clip_adaptively", "mean", "mean_square", "root_mean_square", "total"}
SUMS |= {"mean_of_slices", "mean_square_of_slices", "root_mean_square_of_slices"}
EACH = pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases], ids=str)
# The quietest and the loudest of each optimizer.
ENDS = [case for cases in CASES.values() for case in dict.fromkeys((cases[0], cases[-1]))]


def assert_passed(outcome):
    """Every leg, or what each has found."""
    assert outcome.passed, {leg: str(verdict) for leg, verdict in outcome.verdicts.items()}


@EACH
def test_equals_torch_by_the_kernel(case):
    """The mathematics in float64 and the kernel's arithmetic: parameters and every slot at every step.

    Where gradients are absent, the last of a grid is, which is the loudest. That and the quietest are compiled too.
    """
    path = "native" if case in ENDS else "direct"
    assert_passed(suite.verify(case, PROBLEM if case in LOUDEST else PRESENT, ("graph",), (path,)))


@pytest.mark.parametrize("case", ENDS, ids=str)
def test_equals_torch_by_the_rule(case):
    """As MindSpore compiles it; the mathematics of all cases, and on more parameters, are in the test before.

    `python -m parity` runs each case whole, in both modes and on both paths.
    """
    assert_passed(suite.verify(case, APART, ("graph",), ("composed",), maths=False))


@pytest.mark.parametrize("case", LOUDEST, ids=str)
def test_equals_torch_in_pynative(case):
    """Where gradients are tiny, huge and not finite too; composed, where that is the one path, and on some others.

    The mathematics are those of the tests before.
    """
    both = "native" not in suite.paths(case) or (case.inner or case).optimizer in COMPOSED
    on = ("composed", "native") if both else ("native",)
    assert_passed(suite.verify(case, EXTREME, ("pynative",), on, maths=False))


def sums(case):
    """Whether the rule of a case takes sums over a tensor."""
    return bool({*vars(sys.modules[getattr(ms_optim, case.optimizer).update.__module__])} & SUMS)


@pytest.mark.parametrize("case", [case for case in LOUDEST if not case.inner and sums(case)], ids=str)
def test_equals_torch_with_the_sums_of_devices(case, monkeypatch):
    """Which are float32, in parts and scaled, where on CPU they are float64."""
    monkeypatch.setenv(_composed.SUMS, "float32")
    try:
        assert_passed(suite.verify(case, EXTREME, ("graph",), ("composed",), maths=False))
        assert not _math.sums_in_float64
    finally:
        monkeypatch.undo()
        _composed.prepare_sums()


@pytest.mark.parametrize("loss", losses(), ids=lambda loss: loss.name)
@pytest.mark.parametrize("case", [case for cases in MINIMIZERS.values() for case in cases], ids=str)
def test_minimizes_as_torch_does(case, loss):
    """Evaluations, losses and parameters after each step; in PYNATIVE those on the digits by the loudest case alone."""
    loudest = any(case is cases[-1] for cases in MINIMIZERS.values())
    modes = ("graph", "pynative") if loudest or loss.name != "logistic" else ("graph",)
    outcome = suite.minimized(case, loss, modes)
    assert outcome.passed, {leg: str(verdict) for leg, verdict in outcome.verdicts.items()}
    assert all({"loss", "func_evals", "n_iter", "parameter"} == {*verdict.scores} for verdict in outcome.modes.values())


@pytest.mark.parametrize("loss", losses(), ids=lambda loss: loss.name)
def test_minimizes_as_torch_does_where_all_is_compiled(loss, monkeypatch):
    """As it does on other devices than the CPU."""
    monkeypatch.setenv(_host.SWITCH, "0")
    for cases in MINIMIZERS.values():
        outcome = suite.minimized(cases[-1], loss, ("graph",))
        assert outcome.passed, {leg: str(verdict) for leg, verdict in outcome.verdicts.items()}


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.dense])
def test_float64_parameters_equal_torch_in_float64(name, graph):
    """No number of a step passes through float32 on its way to a float64 parameter."""
    case = CASES[name][-1]
    problem = PRESENT.part([*PART[1:], "temperature"]).fitting(case)
    wide = Problem(
        "float64",
        {key: value.astype(np.float64) for key, value in problem.initial.items()},
        [
            {key: None if grad is None else grad.astype(np.float64) / 3 for key, grad in gradients.items()}
            for gradients in problem.gradients
        ],
    )
    ours = mindspore_side.run(mindspore_side.factory(case), wide, graph)
    verdict = compare_exactly(ours, torch_side.run(torch_side.factory(case), wide, "float64"), case.noise, wide.initial)
    assert verdict.passed, str(verdict)


def momentum(**kwargs):
    """A stock optimizer and the one that it equals, as `check` takes them."""
    return check(
        lambda params: nn.Momentum(params, 0.1, 0.9),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        **kwargs,
    )


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_checks_the_optimizer_of_a_user(mode):
    """A stock optimizer that equals torch passes, with state under other names too."""
    assert momentum(problem=SMALL, mode=mode).passed
    state = momentum(problem=SMALL, mode=mode, state={"moments": "momentum_buffer"})
    assert state.passed and {*state.scores} == {"parameter", "momentum_buffer"}
    with pytest.raises(
        ValueError, match=r"'state' must name tensors that the optimizer has, but got .* no \['momentum'\]"
    ):
        momentum(problem=synthetic(2, absent=False).part(PART), mode=mode, state={"moment": "momentum"})
    for given in (("x", momentum), (momentum, "x")):
        with pytest.raises(TypeError, match=r"^For 'check', '(optimizer|reference)' must be a function .*'x'"):
            check(*given)
    assert ms.get_context("mode") == {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}[mode]


def test_tells_a_user_where_an_optimizer_parts(monkeypatch):
    """And why, by what is checked unless another problem is given, of which some is enough here."""
    drawn = []

    def some(**kwargs):
        drawn.append(kwargs)
        return synthetic(12, **kwargs).part(["twin.weight", "flip.beta"])

    monkeypatch.setattr("parity.check.synthetic", some)
    bad = check(
        lambda params: nn.Adam(params, 0.1, eps=1e-3),
        lambda params: torch.optim.Adam(params, lr=0.1, eps=1e-3),
        mode="pynative",
    )
    assert drawn == [{"absent": False}]
    assert not bad.passed
    assert bad.divergence.step == 0
    assert "first leaves the reference at step 0, parameter of" in str(bad) and " of it)" in str(bad)
    assert "eps before the bias correction" in bad.why and bad.why in str(bad)


def test_a_class_of_ones_own_is_judged_by_what_it_is(graph):
    """Though one that has its numbers was right."""

    class Scaled(SGD):
        def __init__(self, params, factor):
            super().__init__(params, lr=0.1)
            self.factor = factor

        def construct(self, gradients, present=None):
            """Take the step of other gradients."""
            return super().construct(tuple(grad * self.factor for grad in gradients), present)

    def reference(params):
        return torch.optim.SGD(params, lr=0.1)

    problem = synthetic(3, absent=False)
    for factor in (1.0, 3.0):
        made = functools.partial(Scaled, factor=factor)
        assert check(made, reference, problem).passed == (factor == 1)


def test_an_eps_that_goes_by_the_dtype_is_that_of_float32():
    """In the truth too, where it would be 2**-52: another than that of float32 is told from it, and itself is right."""
    problem = synthetic(6, absent=False).part(["twin.weight"])
    tiny = [{name: grad * np.float32(1e-6) for name, grad in drawn.items()} for drawn in problem.gradients]
    problem = replace(problem, gradients=tiny)
    for eps, right in ((None, True), (2.0**-22, False)):
        made = functools.partial(Adafactor, eps=(eps, 1e-3))
        assert check(made, torch.optim.Adafactor, problem, "pynative").passed == right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "GRAPH"}, r"'mode' must be one of \['graph', 'pynative'\], but got 'GRAPH'"),
        ({"state": ["moment1"]}, r"'state' must map names to names, but got \['moment1'\]"),
        ({"optimizer": lambda params: None}, "'optimizer' must give a mindspore optimizer, but gave None"),
        ({"reference": lambda params: None}, "'reference' must give a torch optimizer, but gave None"),
        ({"optimizer": 3}, "'optimizer' must be a function of the parameters, but got 3"),
    ],
)
def test_what_cannot_be_checked(change, message):
    """Is named."""
    given = {"optimizer": SGD, "reference": torch.optim.SGD, **change}
    with pytest.raises((TypeError, ValueError), match=f"^For 'check', {message}"):
        check(problem=synthetic(2, absent=False), **given)
