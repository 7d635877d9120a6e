"""Why a run parts: the mistake that it follows is named, and no other."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.recorded import network, opened, trained
from mindspore import nn
from safetensors.numpy import save_file

import ms_optim
import parity
from parity.__main__ import main
from parity.cases import ENTRIES
from parity.cases.problems import synthetic
from parity.hunt import diagnosis, mistakes, naming, search, whole
from parity.hunt.diagnosis import Suspects, diagnose
from parity.hunt.mistakes import Mistake
from parity.hunt.mutants import breed
from parity.hunt.naming import measured
from parity.hunt.search import Search
from parity.hunt.unknowns import Unknown, solved
from parity.hunt.whole import Whole
from parity.runs import read
from parity.runs.follow import Unjudged, begun, by_the_rule, counterpart, stepped, trace_of
from parity.runs.problems import run_of_case
from parity.runs.replay import replay
from parity.sides.rules import shaken_of
from parity.sides.trace import Recorder

STEPS = 12


def decayed(params, **options):
    """Two groups: matrices decay, and nothing else."""
    groups = [[p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]]
    options = {"lr": 0.02, "weight_decay": 0.1, **options}
    return ms_optim.AdamW(
        [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}, {"order_params": params}], **options
    )


TORCH = {
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1),
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.02),
}
ADAMW, MOMENTUM = {"lr": 0.02, "weight_decay": 0.1}, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
# The optimizer that was recorded, one that is wrong, and what is to be named.
WRONG = {
    "L2": ("AdamW", lambda p: ms_optim.Adam(p, **ADAMW), "decay coupled for decoupled"),
    "biases": ("AdamW", decayed, "weight_decay of matrices alone"),
    "eps": ("AdamW", lambda p: ms_optim.AdamW(p, eps=1e-6, **ADAMW), "eps 1e-06 for 1e-08"),
    "betas": ("AdamW", lambda p: ms_optim.AdamW(p, betas=(0.9, 0.95), **ADAMW), "betas (0.9, 0.95) for [0.9, 0.999]"),
    "world size": ("SGD", lambda p: ms_optim.SGD(p, loss_scale=24.0, **MOMENTUM), "gradients times 1/24"),
    "a larger rate": ("SGD", lambda p: ms_optim.SGD(p, **{**MOMENTUM, "lr": 0.2}), "lr times 10"),
    "momentum": ("SGD", lambda p: ms_optim.SGD(p, **{**MOMENTUM, "momentum": 0.99}), "momentum 0.99 for 0.9"),
    "nesterov": ("SGD", lambda p: ms_optim.SGD(p, nesterov=True, **MOMENTUM), "nesterov True for False"),
    "SGD decoupled": ("SGD", lambda p: Decoupled(p), "weight_decay of the parameters themselves"),
    "decay alone": ("AdamW", lambda p: Undamped(p), "decay without the learning rate"),
}


class Decoupled(ms_optim.SGD):
    """SGD whose parameters decay themselves."""

    def __init__(self, params):
        super().__init__(params, lr=0.02, momentum=0.9)

    def __call__(self, gradients):
        """Decay, and step."""
        for param in self.parameters:
            param.set_data(param * (1 - 0.02 * 0.1))
        return super().__call__(gradients)


class Undamped(ms_optim.AdamW):
    """AdamW whose parameters decay as fast at any rate."""

    def __init__(self, params):
        super().__init__(params, lr=0.02, weight_decay=0.0)

    def __call__(self, gradients):
        """Decay, and step."""
        for param in self.parameters:
            param.set_data(param * (1 - 0.1))
        return super().__call__(gradients)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of torch's optimizer of a name."""

    @functools.cache
    def run(name):
        folder, net = tmp_path_factory.mktemp("runs") / name, network()
        trained(TORCH[name](net), net, folder, STEPS)
        return read(folder)

    return run


@pytest.fixture(scope="module")
def suspects(recorded):
    """What a trajectory may follow that was taken by the gradients of such a run."""
    return functools.cache(lambda name: Suspects(recorded(name)))


def taken(run, build):
    """The verdict and the trajectory of an optimizer on the gradients of a run, called as a user does."""
    ((_, verdict, ours),) = replay(run, build)
    return verdict, ours


@pytest.mark.parametrize("cause", WRONG)
def test_the_cause_is_named(cause, recorded, suspects):
    """It fits, torch's rule does not, and it is the nearest of all that fit."""
    name, build, words = WRONG[cause]
    verdict, ours = taken(recorded(name), build)
    found = suspects(name).diagnosis(ours)
    assert not verdict.passed and not found.is_right
    assert words in {fit for fit, _ in found.fits}, str(found)
    assert found.fits[0][1] < 3 < 10 < found.right
    assert f"it follows {name} with this mistake: " in str(found)


# The optimizer, its arguments, those that the run says instead, and what is to be named.
NUMBERS = {
    "none": ("SGD", {"momentum": 0.9, "dampening": 0.1}, {"dampening": 0}, "dampening 0.1 for 0"),
    "no slot": ("SGD", {"momentum": 0.9}, {"momentum": 0}, "momentum 0.9 for 0"),
    "decay": ("AdamW", {"weight_decay": 0.05}, {"weight_decay": 0.1}, "weight_decay 0.05 for 0.1"),
    "one of two": ("AdamW", {"betas": (0.89, 0.999)}, {"betas": [0.9, 0.999]}, "betas (0.89, 0.999) for [0.9, 0.999]"),
    "tiny": ("AdamW", {"eps": 3e-6}, {"eps": 1e-8}, "eps 3e-06 for 1e-08"),
    "small": ("NAdam", {"momentum_decay": 1e-3}, {"momentum_decay": 4e-3}, "momentum_decay 0.001 for 0.004"),
    "not said": ("RMSprop", {"alpha": 0.93}, {"alpha": None}, "alpha 0.93 for 0.99"),
}


def saying(run, *groups):
    """The run with what it says of its groups replaced; None is nothing."""

    def others(numbers):
        return [
            {key: value for key, value in {**group, **other}.items() if value is not None}
            for group, other in zip(numbers, groups)
        ]

    header = {**run.header, "groups": others(run.header["groups"])}
    steps = with_groups(run, [others(step.groups) for step in run.steps])
    return type(run)(header, run.initial, run.initial_state, steps)


@pytest.mark.parametrize("cause", NUMBERS)
def test_a_number_is_solved_for(cause, tmp_path):
    """Whatever it was, by what the optimizer declares; and no mistake of the rule is named for it."""
    name, used, said, words = NUMBERS[cause]
    net = network()
    trained(getattr(torch.optim, name)(net.parameters(), lr=0.02, **used), net, tmp_path / "run", STEPS)
    found = diagnose(saying(read(tmp_path / "run"), said))
    assert [fit for fit, _ in found.fits] == [words] and found.fits[0][1] < 3 < 10 < found.right, str(found)


def test_a_number_that_is_far_from_what_is_said_is_solved_for():
    """By many decades, on gradients of as many."""
    problem = synthetic(STEPS, absent=False).part(["twin.weight", "conv.weight", "ema.gain", "offset"])
    run = run_of_case(ENTRIES["Adamax"].cases[0], problem)
    wrong = run_of_case(replace(ENTRIES["Adamax"].cases[0], kwargs={"eps": 0.37}), problem)
    (ours,) = by_the_rule(wrong, begun(wrong, counterpart(wrong, ms_optim.Adamax)), ("float32",))
    assert [fit for fit, _ in diagnose(run, ours).fits] == ["eps 0.37 for 1e-08"]


def test_a_number_is_solved_for_whatever_few_elements_do():
    """As those whose sign turns elsewhere; and not where nothing is nearer, or nothing is led to."""
    most, turns = np.linspace(0.01, 0.02, 20), np.array([0.5, 0.6, 0.7])

    def distance(number):
        few = 0.05 * np.sign(number - turns) + 0.05 + 0.01 * number
        return np.concatenate([most * (number - 0.37), few])

    unknown = Unknown(0.0, (1.0,), (0.0, 1.0), lambda number: Mistake((f"{number}",)))
    assert solved(unknown, distance) == 0.37
    assert solved(replace(unknown, bounds=(0.0, 0.05)), distance) is None
    assert solved(unknown, lambda number: most) is None
    assert solved(unknown, lambda number: None) is None


PARTS = {
    "lr": ({}, {"lr": 0.005}, {"lr": 0.02}, ["lr times 0.25 in the group of '0.bias'"]),
    "decay": (
        {"weight_decay": 0.1},
        {"weight_decay": 0.03},
        {"weight_decay": 0.1},
        ["weight_decay 0.03 for 0.1 in the group of '0.bias'"],
    ),
    "its own": ({"weight_decay": 0.1}, {"weight_decay": 0.03}, {"weight_decay": 0.05}, ["weight_decay 0.03 for 0.05"]),
}


@pytest.mark.parametrize("cause", PARTS)
def test_a_number_of_one_group_is_named_with_the_group(cause, tmp_path):
    """Where all others follow the rule."""
    of_all, used, said, words = PARTS[cause]
    net = network()
    matrices, others = ([param for param in net.parameters() if (param.ndim > 1) == side] for side in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": others, **used}], **{"lr": 0.02, **of_all})
    trained(optimizer, net, tmp_path / "run", STEPS)
    assert [fit for fit, _ in diagnose(saying(read(tmp_path / "run"), {}, said)).fits] == words


def test_gradients_of_one_parameter_times_a_constant(tmp_path):
    """Which a step multiplies by itself."""

    class Favouring(torch.optim.AdamW):
        def step(self, closure=None):
            favoured = self.param_groups[0]["params"][1]
            favoured.grad = favoured.grad * 1.01
            super().step()

    Favouring.__name__ = "AdamW"
    net = network()
    trained(Favouring(net.parameters(), lr=0.02), net, tmp_path / "run", STEPS)
    found = diagnose(read(tmp_path / "run"))
    assert [fit for fit, _ in found.fits] == ["gradients of '0.weight' times 1.01"], str(found)


def test_choices_and_whole_numbers_are_tried():
    """By what an optimizer declares of them."""
    problem = synthetic(2, absent=False).part(["fc.weight"])
    case = ENTRIES["Muon"].cases[0]
    words = {str(mistake) for mistake in mistakes.mistakes("Muon", run_of_case(case, problem), [1.0, 1.0])}
    assert {"adjust_lr_fn match_rms_adamw for None", "ns_steps 4 for 5", "ns_steps 6 for 5"} <= words
    assert {"nesterov False for True"} <= words


MINDSPORE = {
    "Adam": (lambda params: nn.Adam(params, 0.02), {"eps before the bias correction"}),
    "AdamWeightDecay": (
        lambda params: nn.AdamWeightDecay(params, 0.02, eps=1e-8),
        {"no bias correction of the first moment", "no bias correction of the second moment"},
    ),
}


@pytest.mark.parametrize("name", MINDSPORE)
def test_several_mistakes_at_once_are_named(name, recorded, suspects):
    """Those of MindSpore's own, which also compute numbers in float32."""
    build, mistakes = MINDSPORE[name]
    _, ours = taken(recorded("Adam"), build)
    found = suspects("Adam").diagnosis(ours)
    (words, ratio), *_ = found.fits
    assert all(mistake in words for mistake in mistakes) and "float32" in words
    assert ratio < 3 and found.tried > 100


def test_what_is_right_has_no_mistake(recorded, suspects):
    """Whether it has a state or not."""
    for build in (lambda p: ms_optim.SGD(p, **MOMENTUM), lambda p: nn.Momentum(p, 0.02, 0.9, weight_decay=0.1)):
        _, ours = taken(recorded("SGD"), build)
        assert str(suspects("SGD").diagnosis(ours)).startswith("it follows the rule of SGD: ratio ")
    assert suspects("AdamW").diagnosis().is_right


def test_what_does_not_show_is_said(recorded, suspects):
    """Mistakes about flags and decays that a run does not have."""
    _, ours = taken(recorded("Adam"), lambda p: ms_optim.Adam(p, 0.02, betas=(0.9, 0.99)))
    found = suspects("Adam").diagnosis(ours)
    assert {"maximize ignored", "amsgrad forgets the maximum"} <= {*found.hidden}
    assert "cannot be told on these gradients: " in str(found)


def test_what_is_unknown_is_not_named(recorded, suspects):
    """A run that follows nothing that is known."""
    run = recorded("SGD")
    ours = {key: [step + 0.01 * i**2 for i, step in enumerate(steps)] for key, steps in trace_of(run).items()}
    found = suspects("SGD").diagnosis(ours)
    assert not found.fits and not found.is_right
    assert f"it follows none of {found.tried} known mistakes of SGD; without any ratio " in str(found)
    with pytest.raises(Unjudged, match=r"'optimizer' must be one of \['ASGD', .*\], but got 'EMA'"):
        diagnose(run, ours, "EMA")


def test_schedules(tmp_path):
    """A learning rate of the step before, or of the next."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    rates = [0.1 / (1 + step) for step in range(STEPS)]

    def between(step):
        optimizer.param_groups[0]["lr"] = rates[step]

    trained(optimizer, net, tmp_path / "run", STEPS, between)
    run = read(tmp_path / "run")
    for words, used in (("late", [rates[0], *rates[:-1]]), ("early", [*rates[1:], rates[-1]])):
        shifted = [[{**group, "lr": rate} for group in step.groups] for step, rate in zip(run.steps, used)]
        wrong = type(run)(run.header, run.initial, run.initial_state, with_groups(run, shifted))
        (_, _, ours), *_ = replay(wrong)
        assert [fit for fit, _ in diagnose(run, ours).fits] == [f"lr one step {words}"]


def test_a_schedule_of_an_optimizers_own_is_replayed(tmp_path):
    """Its rates are what it is judged by, and not those of the run; other numbers are those of the run."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    rates = [0.1 / (1 + step) for step in range(STEPS)]

    def between(step):
        optimizer.param_groups[0].update(lr=rates[step], eps=1e-4 if step > 2 else 1e-8)

    trained(optimizer, net, tmp_path / "run", STEPS, between)
    run = read(tmp_path / "run")
    verdict, _ = taken(run, lambda params: ms_optim.AdamW(params, lr=rates))
    assert verdict.passed, str(verdict)
    verdict, ours = taken(run, lambda params: ms_optim.AdamW(params, lr=[rates[0], *rates[:-1]]))
    assert not verdict.passed and [fit for fit, _ in diagnose(run, ours).fits] == ["lr one step late"]


def test_each_mistake_is_followed_from_the_first_numbers(tmp_path):
    """Those of a rule's functions share one optimizer, which a run with a schedule leaves with its last rate."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, eps=1e-3)

    def between(step):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)

    trained(optimizer, net, tmp_path / "run", STEPS, between)
    run = read(tmp_path / "run")
    mistake = "eps before the bias correction"
    (mutant,) = (mutant for mutant in ENTRIES["Adam"].mutants if mutant.mistake == mistake)
    wrong = counterpart(run, breed(tmp_path, mutant))
    (ours,) = by_the_rule(run, begun(run, wrong), ("float32",))
    assert [fit for fit, _ in diagnose(run, ours).fits] == [mistake]


def with_groups(run, groups):
    """The steps with other numbers."""
    return [type(step)(**{**vars(step), "groups": other}) for step, other in zip(run.steps, groups)]


def test_a_part_of_a_large_run_is_enough(recorded, monkeypatch):
    """Some tensors of each group and rank."""
    run = recorded("AdamW")
    monkeypatch.setattr(diagnosis, "ELEMENTS", 12)
    _, ours = taken(run, decayed)
    found = diagnose(run, ours)
    assert "weight_decay of matrices alone" in {fit for fit, _ in found.fits}, str(found)


@pytest.mark.parametrize("searches", [2, 1])
def test_what_refutes_a_mistake_is_looked_at(searches, recorded, monkeypatch):
    """A tensor that was not, by which what fits the others is not all; and what is refuted is no near ratio."""
    monkeypatch.setattr(diagnosis, "TENSORS", 1)
    monkeypatch.setattr(diagnosis, "AGAIN", searches - 1)
    monkeypatch.setattr(search, "TELLING", 2)
    monkeypatch.setattr(search, "LEFT", 1e9)

    def build(params):
        decay, none = ([p for p in params if (".bias" in p.name) == side] for side in (False, True))
        groups = [{"params": decay}, {"params": none, "weight_decay": 0.0}, {"order_params": params}]
        return ms_optim.Adam(groups, **ADAMW)

    _, ours = taken(recorded("AdamW"), build)
    found = diagnose(recorded("AdamW"), ours)
    if searches > 1:
        assert "no weight_decay where a name has bias and decay coupled for decoupled" in {fit for fit, _ in found.fits}
    else:
        assert not found.fits and found.nearest[1] > 3, str(found)


@pytest.mark.parametrize(
    ("build", "spoiled", "telling"),
    [
        (lambda params: ms_optim.SGD(params, **{**MOMENTUM, "momentum": 0.99}), 1e-6, True),
        (lambda params: ms_optim.SGD(params, **{**MOMENTUM, "momentum": 0.99}), 1e-2, False),
        (lambda params: ms_optim.SGD(params, **MOMENTUM), 1e-6, False),
    ],
)
def test_the_nearest_is_said_if_it_tells_something(build, spoiled, telling, recorded, suspects):
    """If it leaves no more than a tenth of what the rule does, and a thousand roundings."""
    _, ours = taken(recorded("SGD"), build)
    ours = {key: [step + spoiled * i for i, step in enumerate(steps)] for key, steps in ours.items()}
    found = suspects("SGD").diagnosis(ours)
    assert not found.fits and not found.is_right and (found.nearest is not None) == telling, str(found)
    assert ("; the nearest is momentum 0.99 for 0.9 (ratio " in str(found)) == telling


LATE, LOST_AT = 28, 24
LOST = {
    "all": (lambda net, optimizer: optimizer.state.clear(), "the state of all begun anew at step 24"),
    "one": (
        lambda net, optimizer: [value.zero_() for value in optimizer.state[net[4].bias].values()],
        "the state of '4.bias' begun anew at step 24",
    ),
    "a moment": (
        lambda net, optimizer: [slots["exp_avg"].zero_() for slots in optimizer.state.values()],
        "exp_avg of all begun anew at step 24",
    ),
    "not the steps": (
        lambda net, optimizer: [
            slots[name].zero_() for slots in optimizer.state.values() for name in slots if "_" in name
        ],
        "the state but for its numbers of all begun anew at step 24",
    ),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_comes_late_or_to_one_of_many_is_found(lost, tmp_path, monkeypatch):
    """In a run that is larger than what mistakes are tried on, of which some elements of each tensor are drawn."""
    monkeypatch.setattr(whole, "ELEMENTS", 7)
    lose, words = LOST[lost]
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(5)), torch.nn.Linear(4, 3))
    net.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.5)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    trained(optimizer, net, tmp_path / "run", LATE, lambda step: lose(net, optimizer) if step == LOST_AT else None)
    found = diagnose(read(tmp_path / "run"))
    assert [fit for fit, _ in found.fits] == [words], str(found)
    assert (found.steps, found.tensors, found.divergence.step) == (LATE, 13, LOST_AT)
    kept = type(found)("AdamW", 1.0, steps=3, tensors=2)
    assert str(kept) == "it follows the rule of AdamW: ratio 1.00, in 3 steps of 2 parameters"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_run_is_measured_alike_as_a_whole_and_in_parts(wrong, recorded, tmp_path):
    """One step at a time, and all of them at once; of parameters alone too."""
    run = recorded("SGD")
    _, ours = taken(run, lambda p: ms_optim.SGD(p, **{**MOMENTUM, "momentum": 0.9 if not wrong else 0.8}))
    for some in (ours, {key: steps for key, steps in ours.items() if key[0] == "parameter"}):
        followed, part = Whole(run, "SGD").follow(some), Search(run, "SGD", tmp_path).diagnosis(some, 1)
        assert (followed.ratio, followed.divergence) == (part.right, part.divergence) and part.is_right != wrong


def test_a_mistake_that_ends_does_not_fit(tmp_path):
    """Though it does as long as mistakes are tried."""

    class Late(torch.optim.AdamW):
        def step(self, closure=None):
            told = self.param_groups[0]["eps"]
            self.param_groups[0]["eps"] = 1e-4 if len(run.taken) < 2 * 23 else told  # its twin takes each step too
            super().step()
            self.param_groups[0]["eps"] = told
            run.taken.append(1)

    Late.__name__ = "AdamW"
    net, run = network(), SimpleNamespace(taken=[])
    trained(Late(net.parameters(), lr=0.02), net, tmp_path / "run", LATE)
    found = read(tmp_path / "run")
    steps = [replace(step, groups=[{**group, "eps": 1e-8} for group in step.groups]) for step in found.steps]
    groups = [{**group, "eps": 1e-8} for group in found.header["groups"]]
    for count, fits in ((22, ["eps 0.0001 for 1e-08"]), (LATE, [])):
        part = type(found)({**found.header, "groups": groups}, found.initial, found.initial_state, steps[:count])
        assert [fit for fit, _ in diagnose(part).fits] == fits


def test_what_comes_again_is_found(tmp_path):
    """State that is lost every few steps."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    trained(optimizer, net, tmp_path / "run", LATE, lambda step: optimizer.state.clear() if step % 7 == 0 else None)
    found = diagnose(read(tmp_path / "run"))
    assert [fit for fit, _ in found.fits] == ["the state of all begun anew every 7 steps"], str(found)


def test_what_comes_too_late_is_said(tmp_path, monkeypatch):
    """Where mistakes are not tried."""
    monkeypatch.setattr(diagnosis, "MOST_STEPS", 20)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    trained(optimizer, net, tmp_path / "run", LATE, lambda step: optimizer.state.clear() if step == LOST_AT else None)
    found = diagnose(read(tmp_path / "run"))
    assert not found.is_right and not found.fits
    assert "it leaves the rule of SGD beyond what is looked at to tell what for: step 24, " in str(found)


def test_a_frozen_parameter_is_found(tmp_path):
    """Which has a gradient, and stands still; in a run of MindSpore it is recorded so."""
    net, kept = network(), {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    trained(optimizer, net, tmp_path / "run", 30)
    for step in range(12, 30):
        file = tmp_path / "run" / f"{step:06d}.safetensors"
        tensors, metadata = opened(file)
        for key in ("parameter/2.bias", "state/momentum_buffer/2.bias"):
            kept.setdefault(key, opened(tmp_path / "run" / "000011.safetensors")[0][key])
            tensors[key] = kept[key]
        save_file(tensors, file, metadata)
    found = diagnose(read(tmp_path / "run"))
    assert [fit for fit, _ in found.fits] == ["'2.bias' standing still from step 12 on"], str(found)


def test_runs_in_float64_are_judged(tmp_path):
    """As what float32 would have of them."""
    net = network().double()
    trained(TORCH["AdamW"](net), net, tmp_path / "right", STEPS, dtype=torch.float64)
    assert diagnose(read(tmp_path / "right")).right < 1
    net = network().double()
    trained(torch.optim.Adam(net.parameters(), lr=0.02), net, tmp_path / "wrong", STEPS, dtype=torch.float64)
    assert diagnose(read(tmp_path / "wrong"), optimizer="NAdam").right > 100
    net = network().double()

    def enlarge(step):
        for param in net.parameters():
            param.grad.mul_(1e25)

    trained(TORCH["AdamW"](net), net, tmp_path / "huge", STEPS, enlarge, dtype=torch.float64)
    assert diagnose(read(tmp_path / "huge")).is_right  # squares that float32 does not hold are infinite in it


def test_sums_may_be_taken_in_another_order(tmp_path):
    """Those of Adafactor over many rows, which torch adds one after another."""
    torch.manual_seed(0)
    net = torch.nn.Linear(64, 500)
    optimizer = torch.optim.Adafactor(net.parameters())
    with parity.record(optimizer, tmp_path / "run", model=net):
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(8, 64)).square().mean().backward()
            optimizer.step()
    assert diagnose(read(tmp_path / "run")).is_right


def test_what_is_too_large_is_not_searched(recorded, monkeypatch):
    """Where it leaves its rule is said, and no mistake is tried."""
    run = recorded("AdamW")
    _, ours = taken(run, decayed)
    monkeypatch.setattr(diagnosis, "ELEMENTS", 5)
    monkeypatch.setattr(diagnosis, "MOST", 5)
    found = diagnose(run, ours)
    assert not found.is_right and "beyond what is looked at to tell what for: step 0, parameter of " in str(found)


def test_numbers_that_are_not_told_are_said(recorded):
    """They may be what a run differs by."""
    run = recorded("SGD")
    told = [[{"lr": group["lr"]} for group in step.groups] for step in run.steps]
    header = {**run.header, "groups": [{"params": group["params"], "lr": 0.02} for group in run.header["groups"]]}
    found = diagnose(type(run)(header, run.initial, run.initial_state, with_groups(run, told)))
    assert not found.is_right and "the run does not tell momentum, dampening, weight_decay, nesterov, max" in str(found)
    with pytest.raises(Unjudged, match="'run' must tell the learning rate of each group, as 'lr', but got none"):
        header = {**header, "groups": [{"params": group["params"]} for group in header["groups"]]}
        diagnose(type(run)(header, run.initial, run.initial_state, run.steps))


def shaken(run, build, seed):
    """Where a rule leads that rounds otherwise."""
    optimizer, recorder = begun(run, build), Recorder()
    rule = shaken_of(optimizer, seed)
    for _ in stepped(run, optimizer, [rule]):
        recorder.add(rule.params, rule.state)
    return recorder.trace()


def test_a_rule_that_rounds_well_by_chance_is_no_measure(tmp_path, monkeypatch):
    """Of Adadelta, whose roundings add up: what others may be is tried before a run is called wrong."""
    net = network()
    trained(torch.optim.Adadelta(net.parameters(), lr=1.0), net, tmp_path / "run", 60)
    run = read(tmp_path / "run")
    ours = shaken(run, counterpart(run, ms_optim.Adadelta), 104)
    monkeypatch.setattr(search, "TOGETHER", 1)
    assert diagnose(run, ours).is_right
    monkeypatch.setattr(whole, "NEAR", 0.0)
    assert diagnose(run, ours).right > 3


def test_nor_is_a_mistake_that_does(recorded, suspects, monkeypatch):
    """A part of the run by which it does not fit is not the last word."""
    _, build, words = WRONG["momentum"]
    run, found = recorded("SGD"), suspects("SGD")
    monkeypatch.setattr(search, "TOGETHER", 1)
    monkeypatch.setattr(search, "unknowns", lambda *args: ())
    trajectories = [shaken(run, build, seed) for seed in range(6)]
    for ours in trajectories:
        assert [fit for fit, _ in found.diagnosis(ours).fits] == [words]
    monkeypatch.setattr(search, "NEAR", 0.0)
    assert any(not found.diagnosis(ours).fits for ours in trajectories)


def test_mutants_are_told_apart():
    """Each is named where it shows, though it rounds otherwise."""
    found = measured("SGD", synthetic(20, absent=False))
    assert found.wrongly == () and found.alone + found.among + found.hidden == len(ENTRIES["SGD"].mutants)
    assert found.alone > found.among + found.hidden


def test_a_case_that_rounding_breaks_measures_nothing(monkeypatch):
    """Where alpha is near 1, RMSprop's swap of it takes the root of a difference of equals, which is NaN or is not."""
    monkeypatch.setattr(naming, "TENSORS", ("fc.weight",))
    entry, mistake = ENTRIES["RMSprop"], "alpha and 1 - alpha swapped"
    mutants = tuple(mutant for mutant in entry.mutants if mutant.mistake == mistake)
    monkeypatch.setitem(ENTRIES, "RMSprop", replace(entry, cases=entry.cases[-2:], mutants=mutants))
    found = measured("RMSprop", synthetic(2, absent=False))
    assert (found.alone + found.among, found.wrongly) == (1, ())
    monkeypatch.setitem(ENTRIES, "RMSprop", replace(entry, cases=entry.cases[-1:], mutants=mutants))
    assert measured("RMSprop", synthetic(2, absent=False)).hidden == 1


def test_commands(tmp_path, capsys, monkeypatch):
    """`diagnose` says what a run follows; `replay` does where it fails."""
    monkeypatch.setattr(search, "TOGETHER", 1)
    net = network()
    trained(TORCH["AdamW"](net), net, tmp_path / "run", STEPS)
    assert main(["diagnose", str(tmp_path / "run")]) == 0
    assert "it follows the rule of AdamW" in capsys.readouterr().out
    assert main(["diagnose", str(tmp_path / "run"), "--optimizer", "NAdam"]) == 1
    assert "known mistakes of NAdam" in capsys.readouterr().out
    assert main(["diagnose", str(tmp_path / "none")]) == 2
    assert main(["diagnose", str(tmp_path / "run"), "--optimizer", "LBFGS"]) == 2
    assert "but got 'LBFGS'" in capsys.readouterr().err
    monkeypatch.setattr("parity.runs.replay.named", lambda target: decayed)
    assert main(["replay", str(tmp_path / "run"), "--optimizer", "mine:build"]) == 1
    assert "graph: it follows AdamW with this mistake: weight_decay of matrices alone" in capsys.readouterr().out
    file = tmp_path / "run" / "000003.safetensors"
    tensors, metadata = opened(file)
    tensors["gradient/2.bias"][1] *= 1.5
    save_file(tensors, file, metadata)
    assert main(["replay", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().out
    assert "graph composed: it follows the rule of AdamW" in said
    assert "the recorded run: it follows none of" in said
