"""Every scheduler against torch's, to the last bit at every step; tables in the graph; callbacks in Model.train."""

import functools
import inspect
import json
import math
import pickle
import re
from copy import deepcopy
from types import SimpleNamespace

import mindspore.dataset as ds
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import Callback, Model

from ms_optim import EMA, SGD, Adam, lr_scheduler
from ms_optim._groups import NOTES
from ms_optim.convert import load
from ms_optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, SchedulerCallback, StepLR, table

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TORCH = SimpleNamespace(**vars(torch.optim.lr_scheduler), SWALR=torch.optim.swa_utils.SWALR)
NAMES = [name for name in torch.optim.lr_scheduler.__all__ if name != "LRScheduler"] + ["SWALR"]
LRS = (0.1, 0.037)
STEPS = 1000
METRICS = np.random.default_rng(0).integers(-1, 2, STEPS).cumsum() / 10 + 3  # many are equal


class Fading:
    """A factor that depends on how often it was asked for, which is its state."""

    def __init__(self):
        self.asked = 0

    def __call__(self, epoch):
        """Fade with each question."""
        self.asked += 1
        return 0.999**self.asked


# The class and its arguments; for those made of others, theirs under "schedulers".
CASES = {
    "lambda": ("LambdaLR", dict(lr_lambda=lambda epoch: 0.99**epoch)),
    "lambda of each": ("LambdaLR", dict(lr_lambda=[lambda epoch: 1 / (1 + epoch), Fading()])),
    "multiplicative": ("MultiplicativeLR", dict(lr_lambda=lambda epoch: 1 - 1 / (2 + epoch))),
    "multiplicative of each": ("MultiplicativeLR", dict(lr_lambda=(lambda epoch: 0.999, Fading()))),
    "step": ("StepLR", dict(step_size=7)),
    "step 1": ("StepLR", dict(step_size=1, gamma=0.993)),
    "multi-step": ("MultiStepLR", dict(milestones=[50, 0, 3, 50, 999], gamma=0.3)),
    "constant": ("ConstantLR", dict()),
    "constant 0.3": ("ConstantLR", dict(factor=0.3, total_iters=600)),
    "linear": ("LinearLR", dict()),
    "linear down": ("LinearLR", dict(start_factor=0.9, end_factor=0.013, total_iters=333)),
    "linear to zero": ("LinearLR", dict(start_factor=0.7, end_factor=0.0, total_iters=700)),
    "exponential": ("ExponentialLR", dict(gamma=0.97)),
    "polynomial": ("PolynomialLR", dict()),
    "polynomial 0.9": ("PolynomialLR", dict(total_iters=900, power=0.9)),
    "cosine": ("CosineAnnealingLR", dict(T_max=1000)),
    "cosine up and down": ("CosineAnnealingLR", dict(T_max=37, eta_min=0.0123)),
    "cosine 1": ("CosineAnnealingLR", dict(T_max=1, eta_min=0.05)),
    "restarts": ("CosineAnnealingWarmRestarts", dict(T_0=10)),
    "longer restarts": ("CosineAnnealingWarmRestarts", dict(T_0=7, T_mult=3, eta_min=1e-4)),
    "cyclic": ("CyclicLR", dict(base_lr=0.01, max_lr=0.1, step_size_up=13)),
    "cyclic of each": (
        "CyclicLR",
        dict(
            base_lr=[0.01, 0.003],
            max_lr=[0.1, 0.2],
            step_size_up=20,
            step_size_down=31,
            mode="triangular2",
            base_momentum=[0.5, 0.6],
            max_momentum=[0.95, 0.7],
        ),
    ),
    "cyclic by iterations": (
        "CyclicLR",
        dict(
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=9,
            step_size_down=0,
            mode="exp_range",
            gamma=0.997,
            cycle_momentum=False,
        ),
    ),
    "cyclic by a function": (
        "CyclicLR",
        dict(
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=9,
            mode="unused",
            scale_fn=lambda step: 1 / (1 + step),
            scale_mode="iterations",
        ),
    ),
    "cyclic by an object": (
        "CyclicLR",
        dict(base_lr=0.01, max_lr=0.1, step_size_up=9, scale_fn=Fading(), cycle_momentum=False),
    ),
    "one cycle": ("OneCycleLR", dict(max_lr=0.2, total_steps=1000)),
    "one cycle of each": (
        "OneCycleLR",
        dict(
            max_lr=[0.2, 0.07],
            epochs=50,
            steps_per_epoch=20,
            pct_start=0.41,
            anneal_strategy="linear",
            base_momentum=[0.5, 0.6],
            max_momentum=0.9,
            div_factor=7,
            final_div_factor=33.0,
        ),
    ),
    "one cycle of three": ("OneCycleLR", dict(max_lr=0.2, total_steps=1000, three_phase=True, pct_start=0.37)),
    "one cycle without momentum": (
        "OneCycleLR",
        dict(max_lr=0.2, total_steps=1001, cycle_momentum=False, pct_start=0.0),
    ),
    "swa": ("SWALR", dict(swa_lr=0.005)),
    "swa of each": ("SWALR", dict(swa_lr=[0.005, 0.3], anneal_epochs=77, anneal_strategy="linear")),
    "swa at once": ("SWALR", dict(swa_lr=0.005, anneal_epochs=0)),
    "plateau": ("ReduceLROnPlateau", dict()),
    "plateau of max": (
        "ReduceLROnPlateau",
        dict(mode="max", factor=0.8, patience=3, threshold=0.02, cooldown=2, min_lr=[1e-3, 1e-2], eps=1e-5),
    ),
    "plateau by abs": (
        "ReduceLROnPlateau",
        dict(factor=0.9, patience=0, threshold=0.1, threshold_mode="abs", min_lr=1e-4),
    ),
    "plateau of max by abs": (
        "ReduceLROnPlateau",
        dict(mode="max", factor=0.9, patience=1, threshold=0.1, threshold_mode="abs"),
    ),
    "plateau of equal metrics": ("ReduceLROnPlateau", dict(factor=0.99, patience=0, threshold=0.0)),
    "warm-up, cosine": (
        "SequentialLR",
        dict(
            schedulers=[("LinearLR", dict(start_factor=0.01, total_iters=50)), ("CosineAnnealingLR", dict(T_max=950))],
            milestones=[50],
        ),
    ),
    "four in a row": (
        "SequentialLR",
        dict(
            schedulers=[
                ("ConstantLR", dict(factor=0.0, total_iters=90)),
                ("CosineAnnealingWarmRestarts", dict(T_0=10, T_mult=2)),
                ("SWALR", dict(swa_lr=0.01)),
                ("ExponentialLR", dict(gamma=0.99)),
            ],
            milestones=[20, 200, 300],
        ),
    ),
    "two of three": (
        "SequentialLR",
        dict(
            schedulers=[
                ("StepLR", dict(step_size=3)),
                ("LambdaLR", dict(lr_lambda=Fading())),
                ("PolynomialLR", dict(total_iters=100)),
            ],
            milestones=[0, 30],
        ),
    ),
    "chain": (
        "ChainedScheduler",
        dict(
            schedulers=[
                ("ConstantLR", dict(factor=0.1, total_iters=20)),
                ("ExponentialLR", dict(gamma=0.999)),
                ("CosineAnnealingLR", dict(T_max=1000, eta_min=1e-3)),
            ]
        ),
    ),
    "chain with a cycle": (
        "ChainedScheduler",
        dict(
            schedulers=[
                ("ExponentialLR", dict(gamma=0.9)),
                ("CyclicLR", dict(base_lr=0.01, max_lr=[0.3, 0.2], step_size_up=7)),
            ]
        ),
    ),
    "row in a chain": (
        "ChainedScheduler",
        dict(
            schedulers=(
                (
                    "SequentialLR",
                    dict(
                        schedulers=[("LinearLR", dict(total_iters=9)), ("StepLR", dict(step_size=30))], milestones=[9]
                    ),
                ),
                ("MultiplicativeLR", dict(lr_lambda=lambda epoch: 0.999)),
            )
        ),
    ),
    "chain, then polynomial": (
        "SequentialLR",
        dict(
            schedulers=[
                (
                    "ChainedScheduler",
                    dict(
                        schedulers=[
                            ("ConstantLR", dict(factor=0.5, total_iters=5)),
                            ("CosineAnnealingLR", dict(T_max=40)),
                            ("LinearLR", dict()),
                        ]
                    ),
                ),
                ("PolynomialLR", dict(total_iters=500, power=2.0)),
            ],
            milestones=[30],
        ),
    ),
    "row in a row": (
        "SequentialLR",
        dict(
            schedulers=[
                (
                    "SequentialLR",
                    dict(schedulers=[("LinearLR", dict()), ("ExponentialLR", dict(gamma=0.9))], milestones=[6]),
                ),
                ("OneCycleLR", dict(max_lr=0.3, total_steps=980)),
            ],
            milestones=[21],
        ),
    ),
}
MADE_OF_OTHERS = ("ChainedScheduler", "SequentialLR")
each = pytest.mark.parametrize("name", CASES)


def cycles_momentum(case):
    """Whether a scheduler, or a part of one, does."""
    cls, kwargs = case
    alone = cls in ("CyclicLR", "OneCycleLR") and kwargs.get("cycle_momentum", True)
    return alone or any(map(cycles_momentum, kwargs.get("schedulers", ())))


def build(lib, optimizer, case, **more):
    """The scheduler of a case: torch's or ours."""
    cls, kwargs = case
    if "schedulers" in kwargs:
        kwargs = {**kwargs, "schedulers": [build(lib, optimizer, part) for part in kwargs["schedulers"]]}
    else:
        kwargs = deepcopy(kwargs)
    first = () if cls == "ChainedScheduler" else (optimizer,)
    return getattr(lib, cls)(*first, **kwargs, **more)


def torch_optimizer(cls="SGD", lrs=LRS):
    """One of torch, with a group for each learning rate."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, momentum=0.9) if cls == "SGD" else torch.optim.Adam(groups)


def stand_in(cls="SGD", lrs=LRS):
    """What our schedulers see of one."""
    rest = dict(momentum=0.9) if cls == "SGD" else dict(betas=(0.9, 0.999))
    return SimpleNamespace(param_groups=[{"lr": lr, **rest} for lr in lrs])


def our_optimizer(cls=SGD, lrs=LRS, dtype=np.float64, **kwargs):
    """One of ours, with a group for each learning rate and a parameter, zero, in each."""
    params = [Parameter(Tensor(np.zeros(2, dtype)), name=f"group{i}") for i in range(len(lrs))]
    return cls([{"params": [param], "lr": lr} for param, lr in zip(params, lrs)], **kwargs)


def step(scheduler, count):
    """One step; the one that needs a metric gets one."""
    if hasattr(scheduler, "num_bad_epochs"):
        scheduler.step(METRICS[count])
    else:
        scheduler.step()


NUMBERS = ("lr", "momentum", "betas", *NOTES)


def numbers(optimizer):
    """What a scheduler may change of each group."""
    return [{key: group[key] for key in NUMBERS if key in group} for group in optimizer.param_groups]


def positive(groups):
    """The numbers of torch's groups, with zero for a learning rate that rounding took below."""
    return [{**group, "lr": 0.0 if -1e-15 < group["lr"] < 0 else group["lr"]} for group in groups]


def copy_groups(source, target):
    """Give the groups of one optimizer the numbers of another's."""
    for group, saved in zip(target.param_groups, numbers(source)):
        for key, value in saved.items():
            group[key] = value


def test_none_is_missing():
    """Every scheduler of torch has a case, and torch's arguments with torch's defaults."""
    assert {cls for cls, _ in CASES.values()} == set(NAMES)
    for name in [*NAMES, "LRScheduler"]:
        ours, torchs = (inspect.signature(getattr(lib, name)).parameters for lib in (lr_scheduler, TORCH))
        assert [(key, value.default, value.kind) for key, value in ours.items()] == [
            (key, value.default, value.kind) for key, value in torchs.items()
        ], name


@each
@pytest.mark.parametrize("cls", ["SGD", "Adam"])
def test_every_step_has_torchs_bits(name, cls):
    """A thousand steps of two groups: learning rates, momenta and what is noted in the groups; then the state."""
    theirs, ours = torch_optimizer(cls), stand_in(cls)
    schedulers = build(TORCH, theirs, CASES[name]), build(lr_scheduler, ours, CASES[name])
    for count in range(STEPS):
        assert numbers(ours) == positive(numbers(theirs)), count
        assert schedulers[1].get_last_lr() == [group["lr"] for group in ours.param_groups]
        for scheduler in schedulers:
            step(scheduler, count)
    state, expected = (scheduler.state_dict() for scheduler in reversed(schedulers))
    expected["_last_lr"] = [max(lr, 0.0) for lr in expected["_last_lr"]]  # one past the end of a cycle
    assert state == expected
    if CASES[name][0] not in MADE_OF_OTHERS:
        assert vars(schedulers[1])["last_epoch"] == STEPS


def test_rounding_below_zero():
    """The case above is one of these: torch's learning rate is negative by rounding."""
    optimizer = torch_optimizer()
    scheduler = build(TORCH, optimizer, CASES["linear to zero"])
    for _ in range(700):
        scheduler.step()
    assert -1e-15 < optimizer.param_groups[0]["lr"] < 0


def test_one_past_the_end_of_a_cycle():
    """Where every training loop steps the scheduler once more, and a line overshoots what an optimizer takes."""
    kwargs = dict(max_lr=0.1, total_steps=8, anneal_strategy="linear", base_momentum=0.5, max_momentum=0.99)
    for cls, made in ((SGD, dict(momentum=0.9)), (Adam, {})):
        ours, theirs = our_optimizer(cls, **made), torch_optimizer(cls.__name__)
        schedulers = OneCycleLR(ours, **kwargs), torch.optim.lr_scheduler.OneCycleLR(theirs, **kwargs)
        for _ in range(8):
            assert numbers(ours) == numbers(theirs)
            for scheduler in schedulers:
                scheduler.step()
        for mine, group in zip(ours.param_groups, theirs.param_groups):
            assert group["lr"] < mine["lr"] == 0.0
            if cls is Adam:
                assert group["betas"][0] > 1 and mine["betas"] == (0.99, 0.999)
            else:
                assert mine["momentum"] == group["momentum"] > 1


@each
def test_groups_of_an_optimizer(name):
    """They get what plain dicts get."""
    for cls in (SGD, Adam) if cycles_momentum(CASES[name]) else (SGD,):
        ours, expected = our_optimizer(cls, **(dict(momentum=0.9) if cls is SGD else {})), stand_in(cls.__name__)
        schedulers = [build(lr_scheduler, optimizer, CASES[name]) for optimizer in (ours, expected)]
        for count in range(12):
            assert numbers(ours) == numbers(expected), count
            for scheduler in schedulers:
                step(scheduler, count)
        assert schedulers[0].state_dict() == schedulers[1].state_dict()


@each
@pytest.mark.parametrize("direction", ["ours to ours", "torch to ours", "ours to torch"])
def test_resumed_from_a_state(name, direction):
    """A new scheduler goes on, from a state that has been written to a file, as the old one does."""
    source, target = [
        (TORCH, torch_optimizer) if side == "torch" else (lr_scheduler, stand_in) for side in direction.split(" to ")
    ]
    for at in (1, 57):
        old, new = source[1](), target[1]()
        going, resumed = build(source[0], old, CASES[name]), build(target[0], new, CASES[name])
        for count in range(at):
            step(going, count)
        copy_groups(old, new)
        state = going.state_dict()
        kept = deepcopy(state)
        resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
        assert resumed.state_dict() == kept
        for count in range(at, 400):
            step(going, count)
            step(resumed, count)
            assert positive(numbers(new)) == positive(numbers(old)), count
        assert state == kept


def test_a_state_is_a_copy():
    """What is done to it afterwards reaches neither the scheduler that gave it nor the one that took it."""
    given, taken = (build(lr_scheduler, stand_in(), CASES["chain with a cycle"]) for _ in range(2))
    state = given.state_dict()
    taken.load_state_dict(state)
    for part in state["_schedulers"]:
        part["base_lrs"][0] = 9.0
    assert all(part.base_lrs[0] < 9 for scheduler in (given, taken) for part in scheduler._schedulers)


def test_a_state_of_an_older_torch():
    """It had a flag for printing, and not some that later ones have."""
    state = build(TORCH, torch_optimizer(), CASES["step"]).state_dict()
    del state["_is_initial"], state["_get_lr_called_within_step"]
    optimizer = stand_in()
    scheduler = StepLR(optimizer, 100, 0.5)
    scheduler.load_state_dict({**state, "verbose": False, "last_epoch": 6})
    scheduler.step()
    assert (scheduler.step_size, scheduler.gamma, scheduler.last_epoch) == (7, 0.1, 7)
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.1
    assert not hasattr(scheduler, "verbose")


@each
@pytest.mark.parametrize("way", ["JSON", "torch"])
def test_a_state_through_a_file(name, way, tmp_path):
    """Of text, whose keys are text and which has lists only; or of torch, read as plain containers."""
    old, new = torch_optimizer(), stand_in()
    going, resumed = build(TORCH, old, CASES[name]), build(lr_scheduler, new, CASES[name])
    step(going, 0)
    copy_groups(old, new)
    state = going.state_dict()
    torch.save(state, tmp_path / "state.pt")
    resumed.load_state_dict(json.loads(json.dumps(state)) if way == "JSON" else load(tmp_path / "state.pt"))
    assert resumed.state_dict() == state
    for count in range(1, 100):
        step(going, count)
        step(resumed, count)
        assert positive(numbers(new)) == positive(numbers(old)), count


def test_a_state_of_a_tensor_learning_rate():
    """Is one of numbers."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.5))
    state = build(TORCH, optimizer, ("ExponentialLR", dict(gamma=0.5))).state_dict()
    scheduler = build(lr_scheduler, stand_in(lrs=[0.1]), ("ExponentialLR", dict(gamma=0.9)))
    scheduler.load_state_dict({**state, "base_lrs": [np.array(0.5, np.float32)]})
    assert list(map(type, (*scheduler.base_lrs, *scheduler.get_last_lr()))) == [float, float]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("step", "last_epoch", "x"),
        ("step", "last_epoch", float("nan")),
        ("step", "last_epoch", None),
        ("step", "last_epoch", -5),
        ("step", "step_size", 0),
        ("step", "step_size", "3"),
        ("step", "gamma", None),
        ("step", "base_lrs", None),
        ("step", "base_lrs", []),
        ("step", "base_lrs", [0.1, -1.0]),
        ("step", "_last_lr", None),
        ("step", "_last_lr", [1]),
        ("step", "_step_count", "x"),
        ("step", 3, 4),
        ("multi-step", "milestones", [2, 3]),
        ("multi-step", "milestones", {"x": 1}),
        ("multi-step", "milestones", {2: -1}),
        ("cosine", "T_max", 0),
        ("restarts", "T_i", 0),
        ("restarts", "T_cur", float("inf")),
        ("one cycle", "_schedule_phases", []),
        ("one cycle", "_schedule_phases", None),
        ("one cycle", "_schedule_phases", [{"end_step": 1}] * 2),
        ("one cycle", "_schedule_phases", [1, 2]),
        ("one cycle", "total_steps", "x"),
        ("one cycle", "use_beta1", True),
        ("cyclic", "mode", "saw"),
        ("cyclic", "total_size", 0),
        ("cyclic", "max_lrs", ["x", 1]),
        ("lambda of each", "lr_lambdas", [None, 3]),
        ("lambda of each", "lr_lambdas", None),
        ("plateau", "best", float("nan")),
        ("plateau", "factor", 1.0),
        ("plateau of max", "default_min_lr", -1),
        ("swa", "_anneal_strategy", "sin"),
        ("chain", "_schedulers", None),
        ("four in a row", "_milestones", [9, 3, 1]),
        ("four in a row", "_milestones", [9]),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_state_that_cannot_be_changes_nothing(name, key, value, inside):
    """Neither the scheduler nor, where it is the last of several, those before it."""
    case = ("ChainedScheduler", dict(schedulers=[CASES["lambda of each"], CASES[name]])) if inside else CASES[name]
    if inside and (name.startswith("plateau") or value == -5):
        pytest.skip("not in a chain, or where it is before the first epoch")
    scheduler = build(lr_scheduler, stand_in(), case)
    before = scheduler.state_dict()
    later = build(lr_scheduler, stand_in(), case)
    for count in range(3):
        step(later, count)
    state = later.state_dict()
    (state["_schedulers"][1] if inside else state)[key] = value
    with pytest.raises((TypeError, ValueError), match=rf"^For '{CASES[name][0]}', .*('{key}|'end_step'|differ in)"):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


def test_a_class_of_ones_own_keeps_what_it_likes():
    """Only what each scheduler has is checked."""

    class Own(lr_scheduler.LRScheduler):
        def __init__(self, optimizer):
            self.mode, self.factor, self.best, self.total_size = "own", [3], True, None
            super().__init__(optimizer)

        def get_lr(self):
            return [0.5 for _ in self.base_lrs]

    first, second = Own(stand_in()), Own(stand_in())
    first.mode, first.factor, first.best = 3, [], False
    second.load_state_dict(first.state_dict())
    assert (second.mode, second.factor, second.best) == (3, [], False)
    with pytest.raises(TypeError, match="For 'Own', 'last_epoch' must be a number"):
        second.load_state_dict({**first.state_dict(), "last_epoch": "x"})


def test_a_learning_rate_that_no_optimizer_takes():
    """Where torch's is below zero; the scheduler is named, and what it came from."""
    optimizer, theirs = our_optimizer(lrs=LRS[:1]), torch_optimizer(lrs=LRS[:1])
    case = (
        "ChainedScheduler",
        dict(schedulers=[("CosineAnnealingLR", dict(T_max=10, eta_min=0.01)), ("ExponentialLR", dict(gamma=0.5))]),
    )
    schedulers = build(TORCH, theirs, case), build(lr_scheduler, optimizer, case)
    with pytest.raises(ValueError, match=r"^For 'CosineAnnealingLR', what 'step' computes for group 0 .*but got -"):
        for _ in range(12):
            for scheduler in schedulers:
                scheduler.step()
    assert theirs.param_groups[0]["lr"] < 0


@pytest.mark.parametrize(
    "name", [name for name, (cls, _) in CASES.items() if cls not in (*MADE_OF_OTHERS, "ReduceLROnPlateau")]
)
def test_resumed_by_last_epoch(name):
    """In groups that have kept what the first scheduler left there."""
    for at in (0, 4, 57):
        made = []
        for lib, optimizer in ((TORCH, torch_optimizer()), (lr_scheduler, stand_in())):
            first = build(lib, optimizer, CASES[name])
            for count in range(at):
                step(first, count)
            made.append((optimizer, build(lib, optimizer, CASES[name], last_epoch=at)))
        for count in range(100):
            assert numbers(made[1][0]) == positive(numbers(made[0][0])), (at, count)
            for _, scheduler in made:
                scheduler.step()
        assert made[1][1].last_epoch == made[0][1].last_epoch == at + 101


def test_resumed_by_last_epoch_in_an_optimizer():
    """Of which the groups are made with what the first scheduler left in them."""
    params = Parameter(Tensor(np.zeros(2)), name="one")
    optimizer = SGD([{"params": [params], "lr": 0.05, "initial_lr": 0.1}])
    scheduler = StepLR(optimizer, 3, 0.5, last_epoch=4)
    assert (scheduler.base_lrs, scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == ([0.1], 5, 0.05)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


fractions = st.floats(0.01, 1.0)
SIMPLE = {
    "LambdaLR": dict(lr_lambda=fractions.map(lambda gamma: lambda epoch: gamma**epoch)),
    "MultiplicativeLR": dict(lr_lambda=fractions.map(lambda gamma: lambda epoch: gamma)),
    "StepLR": dict(step_size=st.integers(1, 9), gamma=st.floats(0.0, 1.5)),
    "MultiStepLR": dict(milestones=st.lists(st.integers(0, 40), max_size=5), gamma=st.floats(0.0, 1.5)),
    "ConstantLR": dict(factor=fractions, total_iters=st.integers(1, 40)),
    "LinearLR": dict(start_factor=fractions, end_factor=st.floats(0.0, 1.0), total_iters=st.integers(1, 40)),
    "ExponentialLR": dict(gamma=st.floats(0.1, 1.1)),
    "PolynomialLR": dict(total_iters=st.integers(1, 40), power=st.floats(0.0, 3.0)),
    "CosineAnnealingLR": dict(T_max=st.integers(1, 40), eta_min=st.floats(0.0, 0.1)),
    "CosineAnnealingWarmRestarts": dict(T_0=st.integers(1, 9), T_mult=st.integers(1, 4), eta_min=st.floats(0.0, 0.1)),
    "CyclicLR": dict(
        base_lr=st.floats(0.0, 0.1),
        max_lr=st.floats(0.1, 1.0),
        step_size_up=st.integers(1, 9),
        step_size_down=st.none() | st.integers(0, 9),
        gamma=fractions,
        mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
        cycle_momentum=st.booleans(),
        base_momentum=st.floats(0.1, 0.8),
        max_momentum=st.floats(0.5, 0.99),
    ),
    "OneCycleLR": dict(
        max_lr=st.floats(0.01, 1.0),
        total_steps=st.integers(89, 120),
        pct_start=st.floats(0.05, 0.95),
        anneal_strategy=st.sampled_from(["cos", "linear"]),
        cycle_momentum=st.booleans(),
        base_momentum=st.floats(0.1, 0.8),
        max_momentum=st.floats(0.5, 0.99),
        div_factor=st.floats(1.0, 99.0),
        final_div_factor=st.floats(1.0, 1e5),
        three_phase=st.booleans(),
    ),
    "SWALR": dict(
        swa_lr=st.floats(0.0, 0.1), anneal_epochs=st.integers(0, 20), anneal_strategy=st.sampled_from(["cos", "linear"])
    ),
}
simple = st.one_of([st.tuples(st.just(cls), st.fixed_dictionaries(kwargs)) for cls, kwargs in SIMPLE.items()])
plateaus = st.tuples(
    st.just("ReduceLROnPlateau"),
    st.fixed_dictionaries(
        dict(
            mode=st.sampled_from(["min", "max"]),
            factor=st.floats(0.0, 0.99),
            patience=st.integers(0, 5),
            threshold=st.floats(0.0, 0.1),
            threshold_mode=st.sampled_from(["rel", "abs"]),
            cooldown=st.integers(0, 5),
            min_lr=st.floats(0.0, 0.01),
            eps=st.floats(0.0, 1e-3),
        )
    ),
)
rows = st.lists(simple, min_size=1, max_size=3).flatmap(
    lambda parts: st.tuples(
        st.just("SequentialLR"),
        st.fixed_dictionaries(
            dict(
                schedulers=st.just(parts),
                milestones=st.lists(st.integers(0, 40), min_size=len(parts) - 1, max_size=len(parts) - 1).map(sorted),
            )
        ),
    )
)
chains = st.tuples(
    st.just("ChainedScheduler"), st.fixed_dictionaries(dict(schedulers=st.lists(simple | rows, min_size=1, max_size=3)))
)


@given(
    case=simple | simple | plateaus | rows | chains,
    lrs=st.tuples(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0)),
    by_hand=st.dictionaries(st.integers(0, 59), st.floats(1e-4, 1.0), max_size=3),
    jumps=st.dictionaries(st.integers(0, 59), st.integers(0, 29), max_size=3),
)
@settings(max_examples=600, derandomize=True, deadline=None, database=None)
def test_random_settings(case, lrs, by_hand, jumps):
    """With learning rates that are changed by hand, and jumps to other epochs by the closed form."""
    runs = []
    for lib, optimizer in ((TORCH, torch_optimizer("SGD", lrs)), (lr_scheduler, stand_in("SGD", lrs))):
        seen, scheduler = [], build(lib, optimizer, case)
        for count in range(60):
            seen.append(positive(numbers(optimizer)))
            if count in by_hand:
                optimizer.param_groups[count % 2]["lr"] = by_hand[count]
            if count in jumps and case[0] not in (*MADE_OF_OTHERS, "ReduceLROnPlateau"):
                scheduler.step(jumps[count])
            else:
                step(scheduler, count)
            for group, saved in zip(optimizer.param_groups, positive(numbers(optimizer))):
                group["lr"] = saved["lr"]
        runs.append(seen)
    assert runs[1] == runs[0]


def test_groups_that_are_added():
    """What is a function of the one before goes on, as torch's does; what needs the first says so."""
    optimizer = stand_in()
    step_lr, lambda_lr = StepLR(optimizer, 1, 0.5), build(lr_scheduler, optimizer, CASES["lambda"])
    plateaus = [ReduceLROnPlateau(optimizer, factor=0.5, patience=0, min_lr=min_lr) for min_lr in (0.01, [0.01, 0.02])]
    optimizer.param_groups.append({"lr": 0.8})
    step_lr.step()
    assert optimizer.param_groups[2] == {"lr": 0.4}
    for metric in (1.0, 2.0):
        plateaus[0].step(metric)
    assert optimizer.param_groups[2] == {"lr": 0.2}
    with pytest.raises(ValueError, match=r"^For 'LambdaLR', 'optimizer' must keep .*, but got 3 instead of 2"):
        lambda_lr.step()
    plateaus[1].step(1.0)
    with pytest.raises(ValueError, match=r"^For 'ReduceLROnPlateau', 'min_lrs' must have .* 3 groups .*, but got 2"):
        plateaus[1].step(2.0)


def test_the_next_step_takes_the_learning_rate(mode):
    """Of each group, without compiling again; also one that is set by hand, and through an EMA."""
    for wrap, dtype in ((lambda optimizer: optimizer, np.float64), (EMA, np.float32)):
        optimizer = wrap(our_optimizer(dtype=dtype))
        scheduler, expected = StepLR(optimizer, 2, 0.3), [np.zeros(2, dtype), np.zeros(2, dtype)]
        for count in range(9):
            if count == 5:
                optimizer.param_groups[1]["lr"] = 0.77
            for value, group in zip(expected, optimizer.param_groups):
                value -= dtype(group["lr"])
            optimizer((Tensor(np.ones(2, dtype)),) * 2)
            scheduler.step()
        assert len(optimizer.compile_cache) == 1
        assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.3 * 0.3 * 0.3 * 0.3, 0.77 * 0.3 * 0.3]
        for value, param in zip(expected, optimizer.parameters):
            np.testing.assert_array_equal(param.asnumpy(), value, strict=True)


@pytest.mark.parametrize(
    ("cls", "case", "tolerance"),
    [
        ("SGD", ("CyclicLR", dict(base_lr=0.01, max_lr=[0.1, 0.2], step_size_up=4, base_momentum=0.3)), 1e-14),
        ("Adam", ("OneCycleLR", dict(max_lr=[0.1, 0.2], total_steps=30, base_momentum=0.3)), 1e-13),
        ("SGD", CASES["chain"], 1e-14),
    ],
    ids=["SGD", "Adam", "chain"],
)
def test_training_follows_torch(cls, case, tolerance, mode):
    """Momentum and beta1 too; one compilation."""
    rng = np.random.default_rng(0)
    kwargs = dict(momentum=0.9) if cls == "SGD" else {}
    ours = our_optimizer({"SGD": SGD, "Adam": Adam}[cls], **kwargs)
    params = [torch.zeros(2, dtype=torch.float64) for _ in LRS]
    theirs = getattr(torch.optim, cls)([{"params": [param], "lr": lr} for param, lr in zip(params, LRS)], **kwargs)
    schedulers = build(lr_scheduler, ours, case), build(TORCH, theirs, case)
    for _ in range(30):
        grads = rng.standard_normal((2, 2))
        ours(tuple(Tensor(grad) for grad in grads))
        for param, grad in zip(params, grads):
            param.grad = torch.tensor(grad)
        theirs.step()
        for scheduler in schedulers:
            scheduler.step()
    assert len(ours.compile_cache) == 1
    for mine, param in zip(ours.parameters, params):
        np.testing.assert_allclose(mine.asnumpy(), param.numpy(), rtol=tolerance)


def host_driven(case, steps):
    """What a scheduler gives on the host."""
    optimizer = stand_in(lrs=LRS[:1])
    scheduler, lrs = build(lr_scheduler, optimizer, case), []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return lrs


TABLED = {
    name: case
    for name, case in CASES.items()
    if not (name.endswith("each") or cycles_momentum(case) or case[0] == "ReduceLROnPlateau")
}


@pytest.mark.parametrize("name", TABLED)
def test_a_table_holds_what_the_host_gives(name):
    """At each of its steps; the scheduler is not stepped beyond."""
    lrs = table(lambda optimizer: build(lr_scheduler, optimizer, TABLED[name]), LRS[0], STEPS)
    np.testing.assert_array_equal(lrs, host_driven(TABLED[name], STEPS), strict=True)


def test_the_graph_takes_the_table(mode):
    """At each of a thousand steps to the last bit of a double, or rounded once to float32; then the last one holds."""
    names = ("one cycle without momentum", "warm-up, cosine")
    lrs = [
        table(lambda optimizer, name=name: build(lr_scheduler, optimizer, CASES[name]), LRS[0], STEPS) for name in names
    ]
    dtypes = (np.float64, np.float32)
    params = [Parameter(Tensor(np.zeros(2, dtype)), name=f"{i}.{dtype.__name__}") for i in range(2) for dtype in dtypes]
    optimizer = SGD([{"params": params[:2], "lr": lrs[0]}, {"params": params[2:], "lr": lrs[1]}])
    ones = tuple(Tensor(np.ones(2, dtype)) for _ in range(2) for dtype in dtypes)
    zeros = tuple(Tensor(np.zeros(2, dtype)) for dtype in dtypes * 2)
    for count in range(STEPS + 20):
        optimizer(ones)
        for i, param in enumerate(params):
            expected = dtypes[i % 2](lrs[i // 2][min(count, STEPS - 1)])
            assert param.asnumpy().tolist() == [-expected] * 2, (count, param.name)
            ops.assign(param, zeros[i])
    assert len(optimizer.compile_cache) == 1


def warm(step, warmup):
    """The factor that rises linearly from zero."""
    return float(step) / float(max(1, warmup))


def progressed(step, warmup, steps):
    """How much of what comes after the rise is over."""
    return float(step - warmup) / float(max(1, steps - warmup))


def waves(step, warmup, steps, cycles):
    """A cosine that is never below zero."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * float(cycles) * 2.0 * progressed(step, warmup, steps))))


def falls(step, warmup, steps, cycles):
    """Half a cosine, several times."""
    progress = progressed(step, warmup, steps)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(cycles) * progress) % 1.0))))


# transformers' signatures after "optimizer", and the factor after the warm-up.
TRANSFORMERS = {
    "get_constant_schedule": (dict(last_epoch=-1), {}, lambda step: 1),
    "get_constant_schedule_with_warmup": (dict(num_warmup_steps=0, last_epoch=-1), {}, lambda step, warmup: 1.0),
    "get_linear_schedule_with_warmup": (
        dict(num_warmup_steps=0, num_training_steps=0, last_epoch=-1),
        {},
        lambda step, warmup, steps: max(0.0, float(steps - step) / float(max(1, steps - warmup))),
    ),
    "get_cosine_schedule_with_warmup": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=0.5, last_epoch=-1),
        {},
        functools.partial(waves, cycles=0.5),
    ),
    "get_cosine_schedule_with_warmup of more": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=0.5, last_epoch=-1),
        dict(num_cycles=3.3),
        functools.partial(waves, cycles=3.3),
    ),
    "get_cosine_with_hard_restarts_schedule_with_warmup": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=1, last_epoch=-1),
        {},
        functools.partial(falls, cycles=1),
    ),
    "get_cosine_with_hard_restarts_schedule_with_warmup of more": (
        dict(num_warmup_steps=0, num_training_steps=0, num_cycles=1, last_epoch=-1),
        dict(num_cycles=3),
        functools.partial(falls, cycles=3),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 100), (1, 2), (7, 100), (100, 100), (333, 900)])
def test_transformers_schedules(name, warmup, steps):
    """Against torch's LambdaLR with the formulas, before, at and after the end; the state loads both ways."""
    signature, kwargs, factor = TRANSFORMERS[name]
    schedule = getattr(lr_scheduler, name.split()[0])
    parameters = list(inspect.signature(schedule).parameters.values())[1:]
    assert [parameter.name for parameter in parameters] == list(signature)
    assert [parameter.default for parameter in parameters if parameter.default is not parameter.empty] == [
        value for key, value in signature.items() if key in ("last_epoch", "num_cycles")
    ]
    given = {
        key: value for key, value in dict(num_warmup_steps=warmup, num_training_steps=steps).items() if key in signature
    }

    def expected(step):
        if given and step < warmup:
            return warm(step, warmup)
        return factor(step, *given.values())

    ours, theirs = stand_in(), torch_optimizer()
    schedulers = schedule(ours, **given, **kwargs), torch.optim.lr_scheduler.LambdaLR(theirs, expected)
    for count in range(STEPS):
        assert numbers(ours) == numbers(theirs), count
        for scheduler in schedulers:
            scheduler.step()
    resumed = schedule(stand_in(), **given, **kwargs)
    resumed.load_state_dict(schedulers[1].state_dict())
    schedulers[1].load_state_dict(schedulers[0].state_dict())
    assert resumed.state_dict() == schedulers[0].state_dict()
    assert resumed.optimizer.param_groups[0]["lr"] == schedule(stand_in(), **given, **kwargs).get_last_lr()[0]


RNG = np.random.default_rng(2)
INPUTS, LABELS = RNG.standard_normal((6, 3)).astype(np.float32), RNG.standard_normal((6, 2)).astype(np.float32)


class Recorder(Callback):
    """What each step had for a learning rate and for a loss."""

    def __init__(self, optimizer):
        self.optimizer, self.lrs, self.losses = optimizer, [], []

    def on_train_step_begin(self, run_context):
        """Before."""
        self.lrs.append(self.optimizer.param_groups[0]["lr"])

    def on_train_step_end(self, run_context):
        """After."""
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))


def trained(make=None, by=None, epochs=4, lr=0.1, **kwargs):
    """What `Model.train` did with three batches in each epoch, and the scheduler that it stepped, if any."""
    dense = nn.Dense(3, 2, weight_init="ones", bias_init="zeros")
    optimizer = SGD(dense.trainable_params(), lr=lr, momentum=0.9)
    scheduler, recorder = make and make(optimizer), Recorder(optimizer)
    data = ds.NumpySlicesDataset((INPUTS, LABELS), shuffle=False).batch(2)
    callbacks = [recorder, SchedulerCallback(scheduler, by)] if make else [recorder]
    Model(dense, nn.MSELoss(), optimizer).train(epochs, data, callbacks=callbacks, **kwargs)
    return recorder, scheduler


def test_host_and_graph_train_alike(mode):
    """The losses under a callback are those under the table, bit for bit."""

    def schedule(optimizer):
        return build(lr_scheduler, optimizer, ("ExponentialLR", dict(gamma=0.7)))

    losses = trained(schedule, "step")[0].losses
    assert losses == trained(lr=table(schedule, 0.1, 12))[0].losses
    assert losses != trained(lr=0.1)[0].losses


@pytest.mark.parametrize("kwargs", [dict(dataset_sink_mode=False), dict(dataset_sink_mode=True)], ids=["host", "sink"])
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_callback(by, kwargs, mode):
    """Each step, or each epoch, takes the next learning rate. On CPU data sink is none."""
    recorder, scheduler = trained(lambda optimizer: OneCycleLR(optimizer, 0.3, 12), by, **kwargs)
    lrs = host_driven(("OneCycleLR", dict(max_lr=0.3, total_steps=12)), 12)
    assert recorder.lrs == (lrs if by == "step" else [lr for lr in lrs[:4] for _ in range(3)])
    assert scheduler.last_epoch == (12 if by == "step" else 4)


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_callback_of_a_plateau(by, mode):
    """Its metric is the mean of the epoch's losses, or the loss of the step."""
    kwargs = dict(factor=0.5, patience=1, threshold=0.05)
    recorder, scheduler = trained(lambda optimizer: ReduceLROnPlateau(optimizer, **kwargs), by, epochs=8)
    losses = recorder.losses
    metrics = losses if by == "step" else [math.fsum(losses[i : i + 3]) / 3 for i in range(0, 24, 3)]
    optimizer = torch_optimizer(lrs=LRS[:1])
    expected, lrs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **kwargs), []
    for metric in metrics:
        lrs += [optimizer.param_groups[0]["lr"]] * (1 if by == "step" else 3)
        expected.step(metric)
    assert recorder.lrs == lrs
    assert len(set(lrs)) > 1
    assert scheduler.state_dict() == expected.state_dict()


def test_callback_refuses_steps_that_it_does_not_see():
    """A CPU has no data sink, so the arguments are what an accelerator's would be."""
    callback = SchedulerCallback(StepLR(stand_in(), 3), "step")
    for mode, size, refused in ((True, 10, True), (True, -1, True), (True, 1, False), (False, -1, False)):
        context = SimpleNamespace(
            original_args=lambda mode=mode, size=size: SimpleNamespace(dataset_sink_mode=mode, sink_size=size)
        )
        SchedulerCallback(callback.scheduler, "epoch").on_train_begin(context)
        if refused:
            with pytest.raises(ValueError, match=r"^For 'SchedulerCallback', 'by' must be 'epoch' with data sink"):
                callback.on_train_begin(context)
        else:
            callback.on_train_begin(context)


def test_callback_takes_the_loss_of_a_scaled_step():
    """Which comes first of three; the mean, where it has a shape."""
    scheduler = ReduceLROnPlateau(stand_in())
    callback = SchedulerCallback(scheduler, "epoch")
    for loss in (1.0, 2.0):
        outputs = (Tensor(np.array([loss, loss + 2])), Tensor(False), Tensor(1024.0))
        callback.on_train_step_end(
            SimpleNamespace(original_args=lambda outputs=outputs: SimpleNamespace(net_outputs=outputs))
        )
    callback.on_train_epoch_end(None)
    assert (scheduler.best, scheduler.last_epoch) == (2.5, 1)


def _numbers(*outside):
    return [*outside, float("nan"), float("inf"), "1", None, True, 1j, {}, np.ones(2)]


def _ints(low):
    return [low - 1, 1.5, float("nan"), "1", None, True, [2]]


FLAG = [1, 0, "yes", None]
CHOICE = ["other", 1, None, True, ["cos"]]
GOOD = {
    "LambdaLR": dict(lr_lambda=math.sqrt),
    "MultiplicativeLR": dict(lr_lambda=math.sqrt),
    "StepLR": dict(step_size=3),
    "MultiStepLR": dict(milestones=[3]),
    "ExponentialLR": dict(gamma=0.9),
    "CosineAnnealingLR": dict(T_max=3),
    "CosineAnnealingWarmRestarts": dict(T_0=3),
    "CyclicLR": dict(base_lr=0.1, max_lr=0.2),
    "OneCycleLR": dict(max_lr=0.1, total_steps=9),
    "SWALR": dict(swa_lr=0.1),
    "SequentialLR": dict(schedulers=[StepLR(SimpleNamespace(param_groups=[{"lr": 0.1}]), 3)], milestones=[]),
    "get_constant_schedule_with_warmup": dict(num_warmup_steps=3),
    **{
        f"get_{name}_schedule_with_warmup": dict(num_warmup_steps=3, num_training_steps=9)
        for name in ("linear", "cosine", "cosine_with_hard_restarts")
    },
}
MOMENTA = _numbers(-1e-9, [0.9], [0.9, -1.0], [0.9, "1"])
PER_GROUP = _numbers(-1e-9, [0.1], [0.1, 0.2, 0.3], [0.1, -1.0], [0.1, "1"])
BAD = {
    "LambdaLR": dict(lr_lambda=[0.9, None, "f", [math.sqrt], [math.sqrt, 0.9]]),
    "MultiplicativeLR": dict(lr_lambda=[0.9, None, "f", [math.sqrt], [math.sqrt, 0.9]]),
    "StepLR": dict(step_size=_ints(1), gamma=_numbers(-1e-9)),
    "MultiStepLR": dict(milestones=[3, "3", None, [-1], [1.5], [True], {3: 1}], gamma=_numbers(-1e-9)),
    "ConstantLR": dict(factor=_numbers(-1e-9, 1.1), total_iters=_ints(1)),
    "LinearLR": dict(start_factor=_numbers(0.0, 1.1), end_factor=_numbers(-1e-9, 1.1), total_iters=_ints(1)),
    "ExponentialLR": dict(gamma=_numbers(-1e-9)),
    "PolynomialLR": dict(total_iters=_ints(1), power=_numbers(-1e-9)),
    "CosineAnnealingLR": dict(T_max=_ints(1), eta_min=_numbers(-1e-9)),
    "CosineAnnealingWarmRestarts": dict(T_0=_ints(1), T_mult=_ints(1), eta_min=_numbers(-1e-9)),
    "CyclicLR": dict(
        base_lr=PER_GROUP,
        max_lr=PER_GROUP,
        step_size_up=_numbers(0),
        step_size_down=[-1, float("nan"), "1", True],
        mode=CHOICE,
        gamma=_numbers(-1e-9),
        scale_fn=[1, "f"],
        scale_mode=CHOICE,
        cycle_momentum=FLAG,
        base_momentum=MOMENTA,
        max_momentum=MOMENTA,
    ),
    "OneCycleLR": dict(
        max_lr=PER_GROUP,
        total_steps=_ints(1),
        epochs=[],
        steps_per_epoch=[],
        pct_start=_numbers(-1e-9, 1.1),
        anneal_strategy=CHOICE,
        cycle_momentum=FLAG,
        base_momentum=MOMENTA,
        max_momentum=MOMENTA,
        div_factor=_numbers(0),
        final_div_factor=_numbers(0),
        three_phase=FLAG,
    ),
    "SWALR": dict(swa_lr=PER_GROUP, anneal_epochs=_ints(0), anneal_strategy=CHOICE),
    "SequentialLR": dict(
        schedulers=[[], None, "ab", 3, [3], [StepLR(stand_in(), 3)]], milestones=[[3], [-1], 3, None, "3", [1.5]]
    ),
    "ReduceLROnPlateau": dict(
        mode=CHOICE,
        factor=_numbers(-1e-9, 1.0),
        patience=_ints(0),
        threshold=_numbers(-1e-9),
        threshold_mode=CHOICE,
        cooldown=_ints(0),
        min_lr=PER_GROUP,
        eps=_numbers(-1e-9),
    ),
    "get_constant_schedule": {},
    "get_constant_schedule_with_warmup": dict(num_warmup_steps=_ints(0)),
    "get_linear_schedule_with_warmup": dict(num_warmup_steps=_ints(0), num_training_steps=_ints(1)),
    **{
        f"get_{name}_schedule_with_warmup": dict(
            num_warmup_steps=_ints(0), num_training_steps=_ints(1), num_cycles=_numbers(-1e-9)
        )
        for name in ("cosine", "cosine_with_hard_restarts")
    },
}


@pytest.mark.parametrize("name", [*NAMES, *dict.fromkeys(name.split()[0] for name in TRANSFORMERS)])
def test_bad_arguments_raise_and_name_themselves(name):
    """Each of them; and the groups stay as they were."""
    make = getattr(lr_scheduler, name)
    bad = {
        "optimizer": [
            None,
            3,
            nn.Dense(2, 3),
            nn.SGD(nn.Dense(2, 3).trainable_params()),
            SimpleNamespace(param_groups=[]),
            SimpleNamespace(param_groups=[{"lr": [0.1, 0.2]}]),
        ],
        **BAD.get(name, {}),
    }
    if "last_epoch" in inspect.signature(make).parameters:
        bad["last_epoch"] = _ints(-1)
    if name == "ChainedScheduler":
        bad = BAD["SequentialLR"] | {"optimizer": bad["optimizer"][1:]}
        bad.pop("milestones")
        bad["schedulers"] = bad["schedulers"][:-1]
    assert set(bad) == set(inspect.signature(make).parameters)
    for argument, values in bad.items():
        for value in values:
            optimizer = stand_in()
            kwargs = {"optimizer": optimizer, **GOOD.get(name, {})}
            if name in MADE_OF_OTHERS:
                kwargs["schedulers"] = [StepLR(optimizer, 3)]
            before = deepcopy(optimizer.param_groups)
            with pytest.raises((TypeError, ValueError)) as error:
                make(**{**kwargs, argument: value})
            owner = "LambdaLR" if name.startswith("get_") and argument in ("optimizer", "last_epoch") else name
            shown = "schedulers" if name in MADE_OF_OTHERS and argument == "optimizer" else argument
            assert re.match(rf"For '{owner}', '({argument}|{shown})(\[\d\])?' must .*but got .*", str(error.value)), (
                value,
                error,
            )
            if argument != "last_epoch":
                assert optimizer.param_groups == before, value


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda optimizer: OneCycleLR(optimizer, 0.1), ValueError, "'OneCycleLR', 'total_steps' must be an int where"),
        (
            lambda optimizer: OneCycleLR(optimizer, 0.1, epochs=3),
            ValueError,
            "'OneCycleLR', 'total_steps' must be an int",
        ),
        (
            lambda optimizer: OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=0),
            ValueError,
            "'OneCycleLR', 'steps_per_epoch' must be in",
        ),
        (
            lambda optimizer: OneCycleLR(optimizer, 0.1, epochs=3.0, steps_per_epoch=2),
            TypeError,
            "'OneCycleLR', 'epochs' must be an int",
        ),
        (
            lambda optimizer: OneCycleLR(optimizer, 0.1, 10, pct_start=0.1),
            ValueError,
            "'OneCycleLR', 'pct_start' must leave no phase without steps",
        ),
        (
            lambda optimizer: [scheduler.step() for scheduler in [OneCycleLR(optimizer, 0.1, 10)] * 11],
            ValueError,
            "'OneCycleLR', 'step' must be called at most 10 times, 'total_steps', but got 11",
        ),
        (
            lambda optimizer: [
                scheduler.step()
                for scheduler in [build(lr_scheduler, optimizer, ("ConstantLR", dict(factor=0.0, total_iters=2)))] * 2
            ],
            ValueError,
            "'ConstantLR', 'factor' must not be 0 ",
        ),
        (
            lambda optimizer: ReduceLROnPlateau(optimizer).step(None),
            TypeError,
            "'ReduceLROnPlateau', 'metrics' must be a",
        ),
        (
            lambda optimizer: StepLR(optimizer, 3, last_epoch=2),
            KeyError,
            r"'StepLR', 'last_epoch' must be -1 unless .*, but got 2 and no \['initial_lr'\] in group 0",
        ),
        (
            lambda optimizer: OneCycleLR(optimizer, 0.1, 10, last_epoch=2),
            KeyError,
            r"but got 2 and no \['initial_lr', 'max_lr', 'min_lr', 'base_momentum', 'max_momentum'\] in group 0",
        ),
        (lambda optimizer: StepLR(optimizer, 3).step(-1), ValueError, "'StepLR', 'epoch' must be in"),
        (lambda optimizer: StepLR(optimizer, 3).step("1"), TypeError, "'StepLR', 'epoch' must be a number"),
        (
            lambda optimizer: build(lr_scheduler, optimizer, CASES["restarts"]).step(-1),
            ValueError,
            "'CosineAnnealingWarmRestarts', 'epoch' must be in",
        ),
        (
            lambda optimizer: ReduceLROnPlateau(optimizer).step(1.0, epoch=-1),
            ValueError,
            "'ReduceLROnPlateau', 'epoch' must be in",
        ),
        (lambda optimizer: ReduceLROnPlateau(optimizer).get_lr(), NotImplementedError, "'ReduceLROnPlateau', 'get_lr'"),
        (
            lambda optimizer: build(
                lr_scheduler,
                optimizer,
                (
                    "SequentialLR",
                    dict(schedulers=[("StepLR", dict(step_size=3)), ("ReduceLROnPlateau", {})], milestones=[3]),
                ),
            ),
            ValueError,
            r"'SequentialLR', 'schedulers\[1\]' must not be a ReduceLROnPlateau",
        ),
        (
            lambda optimizer: build(
                lr_scheduler,
                optimizer,
                ("ChainedScheduler", dict(schedulers=[("StepLR", dict(step_size=3)), ("ReduceLROnPlateau", {})])),
            ),
            ValueError,
            r"'ChainedScheduler', 'schedulers\[1\]' must not be a ReduceLROnPlateau",
        ),
        (
            lambda optimizer: build(
                lr_scheduler,
                optimizer,
                ("SequentialLR", dict(schedulers=[("StepLR", dict(step_size=3)), CASES["chain"]], milestones=[3])),
            ),
            ValueError,
            r"'SequentialLR', 'schedulers\[1\]' must not be a ChainedScheduler, which cannot start at a milestone",
        ),
        (
            lambda optimizer: build(
                lr_scheduler,
                optimizer,
                ("SequentialLR", dict(schedulers=[("StepLR", dict(step_size=3))] * 3, milestones=[7, 3])),
            ),
            ValueError,
            "'SequentialLR', 'milestones' must be 2 epochs in order",
        ),
        (
            lambda optimizer: StepLR(optimizer, 3).load_state_dict([]),
            TypeError,
            "'StepLR', 'state_dict' must be a mapping",
        ),
        (
            lambda optimizer: StepLR(optimizer, 3).load_state_dict(
                build(lr_scheduler, optimizer, CASES["linear"]).state_dict()
            ),
            ValueError,
            r"'StepLR', 'state_dict' must have the keys .* they differ in \['end_factor', 'gamma', 'start_factor', "
            r"'step_size', 'total_iters'\]",
        ),
        (
            lambda optimizer: StepLR(optimizer, 3).load_state_dict(StepLR(stand_in(lrs=LRS[:1]), 3).state_dict()),
            ValueError,
            "'StepLR', '_last_lr' of 'state_dict' must have 2 entries, but got 1",
        ),
        (
            lambda optimizer: build(lr_scheduler, optimizer, CASES["cyclic"]).load_state_dict(
                build(
                    lr_scheduler, optimizer, ("CyclicLR", dict(base_lr=0.01, max_lr=0.1, scale_fn=Fading()))
                ).state_dict()
            ),
            ValueError,
            "'CyclicLR', 'scale_fn' must be given",
        ),
        (
            lambda optimizer: build(lr_scheduler, SimpleNamespace(param_groups=[{"lr": 0.1}]), CASES["cyclic"]),
            ValueError,
            "'CyclicLR', 'cycle_momentum' must be False where",
        ),
        (
            lambda optimizer: SchedulerCallback(optimizer, "step"),
            TypeError,
            "'SchedulerCallback', 'scheduler' must be a",
        ),
        (
            lambda optimizer: SchedulerCallback(StepLR(optimizer, 3), "batch"),
            ValueError,
            "'SchedulerCallback', 'by' must",
        ),
        (lambda optimizer: table(StepLR(optimizer, 3), 0.1, 10), TypeError, "'table', 'schedule' must be a function"),
        (lambda optimizer: table(lambda optimizer: optimizer, 0.1, 10), TypeError, "'table', 'schedule' must return a"),
        (
            lambda optimizer: table(ReduceLROnPlateau, 0.1, 10),
            TypeError,
            "'table', .* a ReduceLROnPlateau.* on the host",
        ),
        (
            lambda optimizer: table(lambda optimizer: OneCycleLR(optimizer, 0.1, 10), 0.1, 10),
            ValueError,
            "'OneCycleLR', 'cycle_momentum' must be False where .* table.* on the host",
        ),
        (lambda optimizer: table(lr_scheduler.get_constant_schedule, -1.0, 10), ValueError, "'table', 'lr' must be in"),
        (
            lambda optimizer: table(lr_scheduler.get_constant_schedule, 0.1, 0),
            ValueError,
            "'table', 'steps' must be in",
        ),
    ],
)
def test_what_cannot_be_raises(make, kind, message):
    """And says what to do."""
    with pytest.raises(kind, match=f"For {message}" if message.startswith("'") else message):
        make(stand_in())


def test_a_learning_rate_in_the_graph_is_not_driven_from_the_host():
    """Neither a table nor a schedule, in one group or in all, also through an EMA."""
    for lrs in ([[0.1, 0.2]], [0.1, [0.1, 0.2]], [nn.CosineDecayLR(0.01, 0.1, 10)]):
        for optimizer in (our_optimizer(lrs=lrs), EMA(our_optimizer(lrs=lrs))):
            with pytest.raises(TypeError, match=r"^For 'StepLR', 'optimizer' must have a number for the 'lr' of each"):
                StepLR(optimizer, 3)


def test_a_momentum_of_zero_has_no_buffer():
    """The optimizer says so before the scheduler has left anything."""
    optimizer = our_optimizer()
    for name in ("cyclic", "one cycle"):
        with pytest.raises(ValueError, match="'momentum' must stay zero"):
            build(lr_scheduler, optimizer, CASES[name])
    assert numbers(optimizer) == [{"lr": lr, "momentum": 0.0} for lr in LRS]
