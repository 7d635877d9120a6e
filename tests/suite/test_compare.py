"""The comparer itself: what it must reject, and what it must accept."""

import copy

import numpy as np
import pytest

from parity.judge.compare import compare, compare_bits, compare_exactly
from parity.sides.trace import PARAMETER, Recorder

STEPS = 4


@pytest.fixture
def traces():
    """Three runs of two parameters and a slot: ours and torch in float32, and the truth."""
    return drawn((20, 20))


def drawn(shape):
    """The same, where the larger parameter and its slot have a shape."""
    rng = np.random.default_rng(0)
    truth = {
        (PARAMETER, "weight"): [rng.standard_normal(shape) for _ in range(STEPS)],
        (PARAMETER, "bias"): [rng.standard_normal(3) for _ in range(STEPS)],
        ("exp_avg", "weight"): [rng.standard_normal(shape) for _ in range(STEPS)],
    }
    single = {key: [np.float32(step) for step in steps] for key, steps in truth.items()}
    return copy.deepcopy(single), single, truth


def test_equal_runs_pass(traces):
    """A run that is the reference scores at most 1 and is equal in every bit."""
    verdict = compare(*traces)
    assert verdict.passed
    assert set(verdict.scores) == {PARAMETER, "exp_avg"}
    assert all(score.ratio <= 1 and score.bit_equal == 1 for score in verdict.scores.values())


@pytest.mark.parametrize("key", [(PARAMETER, "weight"), ("exp_avg", "weight")], ids=str)
def test_one_wrong_element_in_a_million_fails(key):
    """The maximum counts, not the mean; step, parameter, slot, element and values are named."""
    traces = drawn((1000, 1000))
    ours, _, _ = traces
    ours[key][2][123, 456] += 1e-4
    verdict = compare(*traces)
    assert not verdict.passed
    found = verdict.divergence
    assert (found.step, found.kind, found.parameter, found.element) == (2, *key, (123, 456))
    assert found.ours == pytest.approx(found.reference + 1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails(traces, value):
    """NaN equals nothing but NaN, and infinity nothing but itself."""
    ours, _, _ = traces
    ours[PARAMETER, "bias"][1][0] = value
    assert not compare(*traces).passed


def test_a_reference_that_is_not_finite_must_be_met(traces):
    """Where torch float32 is NaN or overflows, so must ours; where it does not, float64 is no excuse."""
    ours, single, _ = traces
    single[PARAMETER, "bias"][1][:2] = np.nan, np.inf
    assert not compare(*traces).passed
    ours[PARAMETER, "bias"][1][:2] = np.nan, np.inf
    assert compare(*traces).passed
    ours[PARAMETER, "bias"][1][1] = -np.inf
    assert not compare(*traces).passed


def test_a_truth_that_is_not_finite_excuses_nothing(traces):
    """Else it would set a tolerance without end."""
    ours, single, double = traces
    double[PARAMETER, "bias"][1][0] = np.nan
    ours[PARAMETER, "bias"][1][1] += 1
    assert "finite in float32 and not in float64" in str(compare(ours, single, double))


def test_a_missing_key_fails(traces):
    """Ours lacks a slot, or has one too many, or the float64 run lacks one."""
    ours, single, double = traces
    fewer = {key: steps for key, steps in ours.items() if key[0] == PARAMETER}
    assert "exp_avg of 'weight' is missing" in str(compare(fewer, single, double))
    assert "exp_avg of 'weight' is not in the reference" in str(compare(ours, fewer, double))
    assert not compare(ours, single, {key: double[key] for key in fewer}).passed


def test_a_missing_step_fails(traces):
    """A run that stopped early is not compared as far as it goes."""
    ours, _, _ = traces
    ours[PARAMETER, "bias"].pop()
    assert "3 steps for 4" in str(compare(*traces))


def test_a_transposed_tensor_fails(traces):
    """Of another shape, and of the same shape."""
    ours, single, double = traces
    ours[PARAMETER, "weight"] = [step.T for step in ours[PARAMETER, "weight"]]
    assert not compare(*traces).passed
    for run in traces:
        run[PARAMETER, "bias"] = [step.reshape(1, 3) for step in run[PARAMETER, "bias"]]
    ours[PARAMETER, "bias"] = [step.T for step in single[PARAMETER, "bias"]]
    assert "shape (3, 1) for (1, 3)" in str(compare(ours, single, double))


def test_another_dtype_fails(traces):
    """A float64 tensor that is as close as can be is not what a float32 parameter holds."""
    ours, _, double = traces
    ours[PARAMETER, "bias"] = double[PARAMETER, "bias"]
    assert "dtype float64 for float32" in str(compare(*traces))


def test_nothing_is_not_a_pass():
    """Empty runs agree in nothing."""
    assert not compare({}, {}, {}).passed
    assert not compare_exactly({}, {}).passed


def test_the_reference_sets_the_tolerance(traces):
    """Three times torch's own error pass, and a little more does not."""
    ours, single, truth = traces
    weight = PARAMETER, "weight"
    ulp = np.spacing(np.float32(np.abs(truth[weight][0]).max()))
    off = np.abs(np.float64(single[weight][0]) - truth[weight][0]).max()
    budget = max(off, ulp)
    for factor, passed in ((2.5, True), (4.0, False)):
        ours[weight][0] = np.float32(truth[weight][0] + factor * budget)
        assert compare(*traces).passed is passed


@pytest.mark.parametrize("kind", [PARAMETER, "exp_avg"])
def test_the_error_of_one_tensor_excuses_no_other(kind):
    """Torch is off by 432 ulps in a tiny tensor and by 3 in another, where 1,296 are wrong; and so the other way."""
    ulp = float(np.spacing(np.float32(1.0)))
    truth = {(kind, name): [np.ones(2)] for name in ("tiny", "other")}

    def off(tiny, other):
        ulps = {"tiny": tiny, "other": other}
        return {key: [np.float32([1.0, 1.0 + ulps[key[1]] * ulp])] for key in truth}

    assert compare(off(1296, 9), off(432, 3), truth).passed
    assert compare(off(1296, 9), off(432, 3), truth).scores[kind].ratio == 3.0
    verdict = compare(off(432, 1296), off(432, 3), truth)
    assert not verdict.passed and verdict.divergence.parameter == "other"
    assert not compare(off(1300, 3), off(432, 1296), truth).passed


def test_errors_are_measured_by_the_largest_magnitude_so_far():
    """A scalar that crosses zero is not 1e6 ulps off for that."""
    truth = {(PARAMETER, "x"): [np.array([1.0]), np.array([1e-9])]}
    single = {key: [np.float32(step) for step in steps] for key, steps in truth.items()}
    ours = {(PARAMETER, "x"): [np.float32([1.0]), np.float32([2e-9])]}
    assert compare(ours, single, truth).passed
    truth[PARAMETER, "x"].reverse()
    assert not compare(
        {key: steps[::-1] for key, steps in ours.items()}, {key: steps[::-1] for key, steps in single.items()}, truth
    ).passed


def test_the_first_value_counts_among_the_magnitudes():
    """A parameter of 1 that a step takes to 1e-9 is not off by more than rounding."""
    truth = {(PARAMETER, "x"): [np.array([1e-9])]}
    single = {key: [np.float32(step) for step in steps] for key, steps in truth.items()}
    ours, initial = {(PARAMETER, "x"): [np.float32([2e-9])]}, {"x": np.array([1.0])}
    assert not compare(ours, single, truth).passed
    assert compare(ours, single, truth, initial=initial).passed
    assert not compare_exactly({(PARAMETER, "x"): [np.array([1e-9 + 1e-13])]}, truth).passed
    assert compare_exactly({(PARAMETER, "x"): [np.array([1e-9 + 1e-13])]}, truth, initial=initial).passed


def test_exact_comparison():
    """The float64 leg allows 1e-12 of the largest magnitude."""
    truth = {(PARAMETER, "x"): [np.array([1.0, 1e-3])]}
    assert compare_exactly({(PARAMETER, "x"): [np.array([1.0, 1e-3 + 5e-13])]}, truth).passed
    assert not compare_exactly({(PARAMETER, "x"): [np.array([1.0, 1e-3 + 2e-12])]}, truth).passed


def test_bits():
    """Neither rounding, nor another zero, nor the last bit of a number in float64."""

    def passes(one, other):
        return compare_bits({(PARAMETER, "x"): [one]}, {(PARAMETER, "x"): [other]}).passed

    ones, nan = np.float32([1.0, 0.0]), np.float32([np.nan])
    assert passes(ones, ones.copy()) and passes(nan, nan.copy())
    assert not passes(ones, np.float32([1.0, -0.0])) and not passes(ones, np.nextafter(ones, np.float32(2)))
    number = np.asarray(0.1)
    assert passes(number, number.copy()) and not passes(number, np.nextafter(number, 1))
    assert not passes(np.float32(0.1), number)
    assert not compare_bits({}, {}).passed


@pytest.mark.parametrize(
    ("kind", "off", "passed"), [(PARAMETER, 2.9e-3, True), (PARAMETER, 3.1e-3, False), ("momentum_buffer", 1e-5, False)]
)
def test_the_noise_of_a_rule_excuses_its_parameters_alone(kind, off, passed):
    """Three times what its own rounding may do, in both comparisons; its state is judged as any other's."""
    truth = {(key, "x"): [np.array([1.0, 0.5])] for key in (PARAMETER, "momentum_buffer")}
    single = {key: [np.float32(step) for step in steps] for key, steps in truth.items()}
    double = dict(truth) | {(kind, "x"): [np.array([1.0, 0.5 + off])]}
    ours = {key: [np.float32(step) for step in steps] for key, steps in double.items()}
    assert compare(ours, single, truth, noise=1e-3).passed is passed
    assert compare_exactly(double, truth, noise=1e-3).passed is passed
    assert not compare(ours, single, truth).passed and not compare_exactly(double, truth).passed


def test_a_recorder_keeps_copies_and_starts_state_at_zero():
    """What changes in place afterwards does not change the trace; state made later was zero before."""
    value = np.ones(2, np.float32)
    recorder = Recorder()
    recorder.add({"x": value}, {})
    value += 1
    recorder.add({"x": value}, {"x": {"exp_avg": value}})
    trace = recorder.trace()
    assert [step.tolist() for step in trace[PARAMETER, "x"]] == [[1, 1], [2, 2]]
    assert [step.tolist() for step in trace["exp_avg", "x"]] == [[0, 0], [2, 2]]
