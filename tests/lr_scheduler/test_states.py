"""States of schedulers: resumed from, through files, between torch and here, and refused as a whole."""

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers.schedules import (
    CASES,
    TORCH,
    build,
    copy_groups,
    each_case,
    numbers,
    positive,
    stand_in,
    step,
    torch_optimizer,
)
from mindspore import Parameter, Tensor

from ms_optim import SGD, lr_scheduler
from ms_optim.arguments import Number, Whole
from ms_optim.convert import load
from ms_optim.lr_scheduler import StepLR

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@each_case
@pytest.mark.parametrize("direction", ["ours to ours", "torch to ours", "ours to torch"])
def test_resumed_from_a_state(name, direction):
    """A new scheduler goes on, from a state that has been written to a file, as the old one does."""
    source, target = [
        (TORCH, torch_optimizer) if side == "torch" else (lr_scheduler, stand_in) for side in direction.split(" to ")
    ]
    for at, until in ((1, 60), (57, 350)):
        old, new = source[1](), target[1]()
        going, resumed = build(source[0], old, CASES[name]), build(target[0], new, CASES[name])
        for count in range(at):
            step(going, count)
        copy_groups(old, new)
        state = going.state_dict()
        kept = deepcopy(state)
        resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
        assert resumed.state_dict() == kept
        for count in range(at, until):
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


def resume(case, going, state):
    """One of ours that has the state of another, whose groups its optimizer has, and its optimizer."""
    optimizer = stand_in()
    scheduler = build(lr_scheduler, optimizer, case)
    copy_groups(going.optimizer, optimizer)
    scheduler.load_state_dict(state)
    return scheduler, optimizer


def go_on(going, resumed, at, until):
    """From one step to another, each of those that were resumed gives what the one that was not gives."""
    for count in range(at, until):
        step(going, count)
        expected = positive(numbers(going.optimizer))
        for i, (scheduler, optimizer) in enumerate(resumed):
            step(scheduler, count)
            assert positive(numbers(optimizer)) == expected, (count, i)


def old_function(*_):
    """What older states have of functions, and no pickle of ours calls."""
    raise AssertionError


# What states of older versions of torch lack of today's, and have besides; the first is all that has changed for most.
OLDER = {
    None: ({"_last_lr", "_is_initial", "_get_lr_called_within_step"}, {"verbose": False}),
    "ReduceLROnPlateau": ({"default_min_lr", "_last_lr"}, {"verbose": True}),
    "OneCycleLR": (
        {"_anneal_func_type", "_schedule_phases", "use_beta1", "_last_lr"},
        {"anneal_func": old_function, "step_size_up": 89.0, "step_size_down": 209.0},
    ),
    "CyclicLR": ({"use_beta1", "_scale_fn_custom"}, {"_scale_fn_ref": old_function, "scale_fn": old_function}),
    "SWALR": ({"_anneal_strategy"}, {"anneal_func": old_function}),
}


def aged(name, state):
    """A state as an older torch had it."""
    if isinstance(state, list):
        return [aged(None, part) if isinstance(part, dict) else part for part in state]
    lacking, more = OLDER.get(name, OLDER[None])
    kept = {key: value for key, value in state.items() if key not in lacking}
    if "milestones" in kept:
        kept["milestones"] = sorted(kept["milestones"].elements())
    return {key: aged(None, value) if key == "_schedulers" else value for key, value in kept.items()} | more


@pytest.mark.parametrize("name", [name for name in CASES if name != "cyclic by an object"])  # whose state was not kept
def test_the_states_of_all_versions_go_on(name, tmp_path):
    """What later versions added stays as the scheduler was made with; the numbers are those of the run that goes on.

    As it was, and read from a file.
    """
    case = CASES[name]
    going = build(TORCH, torch_optimizer(), case)
    for count in range(5):
        step(going, count)
    state = aged(type(going).__name__, going.state_dict())
    torch.save(state, tmp_path / "state.pt")
    resumed = [resume(case, going, given) for given in (state, load(tmp_path / "state.pt"))]
    go_on(going, resumed, 5, 80)


@each_case
def test_a_state_through_a_file(name, tmp_path):
    """Of text, whose keys are text and which has lists only; and of torch, read as plain containers."""
    going = build(TORCH, torch_optimizer(), CASES[name])
    step(going, 0)
    state = going.state_dict()
    torch.save(state, tmp_path / "state.pt")
    resumed = [
        resume(CASES[name], going, given) for given in (json.loads(json.dumps(state)), load(tmp_path / "state.pt"))
    ]
    assert [scheduler.state_dict() for scheduler, _ in resumed] == [state, state]
    go_on(going, resumed, 1, 100)


def test_a_state_of_a_tensor_learning_rate():
    """Is one of numbers."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.5))
    state = build(TORCH, optimizer, ("ExponentialLR", dict(gamma=0.5))).state_dict()
    scheduler = build(lr_scheduler, stand_in(lrs=[0.1]), ("ExponentialLR", dict(gamma=0.9)))
    scheduler.load_state_dict({**state, "base_lrs": [np.array(0.5, np.float32)]})
    assert list(map(type, (*scheduler.base_lrs, *scheduler.get_last_lr()))) == [float, float]


WRONG = [
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
    ("multi-step", "milestones", [2, -3]),
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
]


def may_be_inside(name, value):
    """Whether a chain can have the case, and refuses the value: an epoch below -1 is that before a milestone."""
    return not (name.startswith("plateau") or value == -5)


@pytest.mark.parametrize(
    ("inside", "name", "key", "value"),
    [(inside, *row) for inside in (False, True) for row in WRONG if not inside or may_be_inside(row[0], row[2])],
)
def test_a_state_that_cannot_be_changes_nothing(inside, name, key, value):
    """Neither the scheduler nor, where it is the last of several, those before it."""
    case = ("ChainedScheduler", dict(schedulers=[CASES["lambda of each"], CASES[name]])) if inside else CASES[name]
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


def test_a_class_of_ones_own_may_declare_kinds():
    """What it declares is checked as an argument and in states, beside what its base declares."""

    class Own(StepLR):
        arguments = {"trust": Number("[0, 1]")}
        attributes = {"seen": Whole(0)}

        def __init__(self, optimizer, trust):
            self._keep(trust=trust)
            self.seen = 0
            super().__init__(optimizer, 3)

    scheduler = Own(stand_in(), np.float32(0.5))
    assert (scheduler.trust, scheduler.step_size) == (0.5, 3)
    with pytest.raises(ValueError, match=r"^For 'Own', 'trust' must be in \[0, 1\], but got 2"):
        Own(stand_in(), 2)
    for key, value in (("trust", 2), ("seen", -1), ("step_size", 0)):
        with pytest.raises(ValueError, match=rf"^For 'Own', '{key}' must be in"):
            scheduler.load_state_dict({**scheduler.state_dict(), key: value})
    scheduler.load_state_dict({**scheduler.state_dict(), "trust": 1, "seen": 4})
    assert (scheduler.trust, scheduler.seen) == (1.0, 4)


@pytest.mark.parametrize("name", ["LambdaLR", "CosineAnnealingWarmRestarts"])
def test_a_step_that_cannot_be_changes_nothing(name):
    """Though it could be for the first group."""
    optimizer = SGD([{"params": [Parameter(Tensor([1.0]), name=name)], "lr": 0.5} for name in "ab"])
    if name == "LambdaLR":
        scheduler = lr_scheduler.LambdaLR(optimizer, [lambda epoch: 2.0 + epoch, lambda epoch: 1.0 - 2 * epoch])
    else:
        scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4)
        scheduler.base_lrs[1] = -3.0
    rates, state = [group["lr"] for group in optimizer.param_groups], scheduler.state_dict()
    for _ in range(2):
        with pytest.raises(ValueError, match="what 'step' computes for group 1 must be a learning rate"):
            scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == rates
        assert scheduler.state_dict() == state


def test_what_a_user_keeps_in_a_group_is_left():
    """Arrays too, where a step cannot be; and a step that sets momentum is undone as a whole."""
    param = Parameter(Tensor([1.0]), name="w")
    optimizer = SGD([{"params": [param], "mask": np.ones(3)}], lr=0.5, momentum=0.5)
    scheduler = lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(optimizer, 0.5), lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 - 2 * epoch)]
    )
    before = dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match="what 'step' computes for group 0 must be a learning rate"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == before["lr"] and optimizer.param_groups[0]["mask"] is before["mask"]
    scale = {"scale_fn": lambda x: -20.0 if x else 1.0, "scale_mode": "iterations"}
    cyclic = lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, 4, **scale)
    before, epoch = dict(optimizer.param_groups[0]), cyclic.last_epoch
    with pytest.raises(ValueError, match="must be"):
        for _ in range(3):
            before, epoch = dict(optimizer.param_groups[0]), cyclic.last_epoch
            cyclic.step()
    assert [optimizer.param_groups[0][name] for name in ("lr", "momentum")] == [before["lr"], before["momentum"]]
    assert cyclic.last_epoch == epoch
