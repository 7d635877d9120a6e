"""The fuzzer: right rules pass a slice of it, wrong ones are found, shrunk and reproduced by the command it prints."""

import functools
import itertools
import random
import shlex
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import ms_optim
from ms_optim._native import obstacle
from ms_optim.arguments import Number, machine_epsilon
from parity.__main__ import main
from parity.cases import CASES, ENTRIES, Mutant
from parity.cases.draws import DTYPES, PATHS, REGIMES, Draw
from parity.hunt import fuzz, strategies
from parity.hunt.drawn import compare_draw
from parity.hunt.mutants import breed

DRAW = Draw(
    "AdamW",
    {"a": ((2, 3), 1.0, "normal"), "b": ((), 0.0, "sparse")},
    7,
    {"lr": 0.1 + 0.2, "betas": (0.0, 1 - 1e-6), "eps": 5e-324, "maximize": True},
    (("a", {"betas": (0.1, 0.7), "amsgrad": True}), ("*", {})),
    {"b": (0, 3)},
    5,
    "float64",
    "pynative",
)


@functools.cache
def part(name):
    """Two structures of an optimizer: one that has a kernel if there is one, and one composed, in the other mode."""
    pool = fuzz.structures(name, random.Random(name), 300)[3:]
    native = next(one for one in pool if one.path == "native" and (one.groups or one.absent) and len(one.shapes) < 4)
    composed = [one for one in pool if one.path == "composed" and one.mode != native.mode and not one.absent]
    return [native, min(composed, key=lambda one: len(one.shapes))]  # each parameter costs as much to compile


def test_the_parts_of_all_optimizers_have_everything():
    """Both modes and paths, each dtype, groups, absent gradients, rows and averages."""
    chosen = [one for name in fuzz.NAMES for one in part(name)]
    assert {(one.mode, one.path) for one in chosen} == set(
        itertools.product(("graph", "pynative"), ("native", "composed"))
    )
    assert {one.dtype for one in chosen} == set(DTYPES)
    assert all(any(getattr(one, what) for one in chosen) for what in ("groups", "absent", "inner"))
    assert any(ENTRIES[name].sparse for name in fuzz.NAMES)


@pytest.mark.parametrize("name", fuzz.NAMES)
def test_equals_torch(name):
    """Two structures, and numbers of all magnitudes; few of the draws may be ill-conditioned."""
    fates = []

    @settings(max_examples=4, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(fuzz.draws(name, part(name)))
    def run(draw):
        judged, why = fuzz.judge(draw)
        assert not why, f"{draw.command}\n{why}"
        fates.append(judged.undecided)

    run()
    assert len(fates) == 4 and sum(fates) <= 1


@pytest.mark.parametrize(
    "draw",
    [
        # torch squares in float32 what it normalizes: beyond 1.8e19 the norm is infinite and the update zero.
        Draw("Muon", {"plain": ((3, 2), 1.0, "log_uniform")}, 23, {"momentum": 9.4}, seed=1),
    ],
    ids=str,
)
def test_what_was_found(draw):
    """It stays right."""
    judged = compare_draw(draw)
    assert judged.passed and not judged.undecided


def test_every_optimizer_is_drawn():
    """None is left out of the fuzzer but what makes its own gradients."""
    assert set(fuzz.NAMES) == set(CASES)


@settings(max_examples=40, derandomize=True, database=None, deadline=None)
@given(st.data())
def test_a_draw_survives_its_text(data):
    """Tuples, None, and every bit of the floats; and its arguments are those that are known."""
    name = data.draw(st.sampled_from(fuzz.NAMES))
    draw = data.draw(fuzz.draws(name, fuzz.structures(name, random.Random(name), 8)))
    assert repr(Draw.parse(str(draw))) == repr(draw)
    strategies.check_arguments(draw)


def test_a_draw_is_one_argument_of_a_shell():
    """What is printed can be pasted."""
    *command, option, text = shlex.split(DRAW.command)
    assert (command, option) == (["python", "-m", "parity"], "--case")
    assert repr(Draw.parse(text)) == repr(DRAW)


@pytest.mark.parametrize("name", ["Adafactor", "MomentumAGC", "Muon", "SGD"])
def test_draws_reach_the_ends_of_ranges_and_every_structure(name):
    """What the strategies can make: the first number of each range that has one, both modes, all dtypes and regimes."""
    seen = []

    @settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(fuzz.draws(name, fuzz.structures(name, random.Random(0), 60)))
    def run(draw):
        seen.append(draw)

    run()
    assert {draw.mode for draw in seen} == {"graph", "pynative"}
    assert {draw.path for draw in seen} == set(PATHS)
    assert {draw.dtype for draw in seen} == set(DTYPES) - (
        {"bfloat16"} if obstacle(name, getattr(ms_optim, name).update) else set()
    )
    assert {regime for draw in seen for _, _, regime in draw.parameters.values()} == set(REGIMES)
    assert {bool(draw.absent) for draw in seen} == {bool(draw.groups) for draw in seen} == {True, False}
    numbers, flags = strategies.arguments_of(name)
    for argument in (*numbers, *flags):
        assert len({draw.kwargs.get(argument) for draw in seen}) > 2, argument


@pytest.mark.parametrize(
    ("allowed", "ends"),
    [
        ("[0, 1)", {0.0}),
        ("[0, 1]", {0.0, 1.0}),
        ("(0, 1)", set()),
        ("(1, inf)", set()),
        ("[1, inf)", {1.0}),
        ("(-inf, 0]", {0.0}),
        ("(-inf, inf)", {0.0}),
        ("[0, inf) or None", {0.0, None}),
    ],
)
def test_numbers_keep_to_their_range(allowed, ends):
    """They reach the ends that belong to it, and many others."""
    seen, (interval, _, optional) = [], allowed.partition(" or ")
    kind = Number(interval, none=machine_epsilon if optional else None)

    @settings(max_examples=120, derandomize=True, database=None)
    @given(strategies.interval(kind, (-3, 2)))
    def run(number):
        seen.append(kind.check("anything", "number", number))

    run()
    assert ends <= set(seen) and len(set(seen)) > 50


RMSPROP = Draw(
    "RMSprop",
    {"plain": ((3, 2), 30.0, "sign_flipping"), "calm": ((4, 3), 1.0, "normal")},
    25,
    {"alpha": 3.5e-05, "centered": True, "weight_decay": 7.0},
    (("calm", {"alpha": 0.9, "eps": 1e-2, "weight_decay": 0.0}),),
    {"plain": (0, 17, 18, 22)},
    172,
)


def test_what_rounding_decides_is_undecided():
    """The variance about the mean of gradients that hardly change is lost in rounding, and so is the sign of it."""
    judged = compare_draw(RMSPROP)
    assert judged.passed and judged.undecided
    calm = compare_draw(replace(RMSPROP, kwargs={**RMSPROP.kwargs, "alpha": 0.5, "eps": 1e-2}))
    assert calm.passed and not calm.undecided


def test_chaos_in_one_tensor_does_not_excuse_another(tmp_path, monkeypatch):
    """Nor what it did itself before."""
    wrong = Mutant("RMSprop", "a slightly larger step", "return lr, alpha,", "return lr * (1 + lr / 10), alpha,")
    monkeypatch.setattr(ms_optim, "RMSprop", breed(tmp_path, wrong))
    judged = compare_draw(RMSPROP)
    assert not judged.undecided
    assert {verdict.divergence.step for verdict in judged.verdicts.values()} <= {0, 1, 2}


def test_overflow_in_torch_alone_is_no_failure():
    """Adafactor's norms are sums in float64, torch's overflow: equal to torch in float64 is right too."""
    huge = {"lr": 14.0, "weight_decay": 2.1}
    judged = compare_draw(Draw("Adafactor", {"plain": ((3, 2), 1.0, "normal")}, 14, huge, seed=2))
    assert judged.passed and not judged.undecided


def test_an_exception_is_a_failure():
    """It is shrunk as any other."""
    judged, why = fuzz.judge(replace(RMSPROP, kwargs={"alpha": -1.0}))
    assert judged is None and "'alpha' must be in" in why


WRONG = [
    Mutant("Adam", "eps before the correction", "(largest.sqrt() / root + eps)", "((largest.sqrt() + eps) / root)"),
    Mutant("Rprop", "turns count as steps", "grad = grad.where((turn < 0).logical_not(), 0)", "grad = grad + 0"),
]


@pytest.mark.parametrize("mutant", WRONG, ids=str)
def test_finds_and_shrinks_what_is_wrong(mutant, tmp_path, monkeypatch, capsys):
    """Within a few seconds of drawing; the command fails with the wrong rule, and passes with the right one."""
    monkeypatch.setattr(fuzz, "SHRINK_SECONDS", 2.0)
    with monkeypatch.context() as patched:
        patched.setattr(ms_optim, mutant.optimizer, breed(tmp_path, mutant))
        tally = fuzz.fuzz(mutant.optimizer, 60, 0)
        assert tally.failure and tally.draws < 100
        command, why = tally.failure
        case = shlex.split(command)[3:]
        assert main(case) == 1
        output = capsys.readouterr().out
        assert "FAILED" in output and why in output
    found = Draw.parse(case[1])
    assert len(found.parameters) == 1 and not found.groups and found.steps <= 3 and len(found.kwargs) <= 2
    assert main(case) == 0
    assert "passed" in capsys.readouterr().out
