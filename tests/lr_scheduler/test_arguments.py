"""What arguments and states must not be raises, and names it."""

import inspect
import math
import re
from copy import deepcopy
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.schedules import CASES, LRS, MADE_OF_OTHERS, NAMES, Fading, build, numbers, our_optimizer, stand_in
from mindspore import Tensor, nn

from ms_optim import SGD, lr_scheduler
from ms_optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, SchedulerCallback, StepLR, table
from ms_optim.lr_scheduler.kinds import declared

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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


@pytest.mark.parametrize("name", [*NAMES, *(name for name in lr_scheduler.__all__ if name.startswith("get_"))])
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
            lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: "x"),
            ValueError,
            "'LambdaLR', what 'lr_lambda' returns at epoch 0 must be real numbers .*, but got 'x'",
        ),
        (
            lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: None).step(),
            ValueError,
            "'MultiplicativeLR', what 'lr_lambda' returns at epoch 1 must be real numbers .*, but got None",
        ),
        (
            lambda optimizer: lr_scheduler.LambdaLR(SGD(nn.Dense(2, 3).trainable_params(), 0.1), lambda epoch: -1.0),
            ValueError,
            "'LambdaLR', what 'step' .* what it can go on from[.]$",
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
            lambda optimizer: table(lr_scheduler.get_constant_schedule, iter([0.1, 0.2]), 10),
            TypeError,
            "'table', 'lr' must be a number",
        ),
        (
            lambda optimizer: table(lr_scheduler.get_constant_schedule, 0.1, 0),
            ValueError,
            "'table', 'steps' must be in",
        ),
    ],
)
def test_what_cannot_be_raises(make, kind, message):
    """What does not go together, or comes too late, and what to do instead."""
    with pytest.raises(kind, match=f"For {message}" if message.startswith("'") else message):
        make(stand_in())


@pytest.mark.parametrize("factor", [True, np.bool_(True), Fraction(1), np.float32(1), Tensor(1.0), np.ones(1)])
def test_factors_may_be_of_any_kind(factor):
    """As that of a comparison."""
    optimizer = SGD(nn.Dense(2, 3).trainable_params(), 0.5)
    lr_scheduler.LambdaLR(optimizer, lambda epoch: factor).step()
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", [*NAMES, "LRScheduler"])
def test_arguments_have_kinds(name):
    """Each that a class takes, but for what it drives and what it is made of, and none besides."""
    cls = getattr(lr_scheduler, name)
    taken = {*inspect.signature(cls).parameters} - {"optimizer", "schedulers"}
    spare = {"last_epoch"} if name in ("ChainedScheduler", "ReduceLROnPlateau") else set()
    assert declared(cls, "arguments").keys() - spare == taken


def test_an_argument_without_a_kind_is_named():
    """Where a class checks it."""

    class Own(StepLR):
        def __init__(self, optimizer, trust):
            self._keep(trust=trust)
            super().__init__(optimizer, 3)

    with pytest.raises(TypeError, match=r"^For 'Own', 'arguments' must have the kind of 'trust', as a Number, but got"):
        Own(stand_in(), 1.0)


def test_iterators_are_read_once():
    """Milestones, for all groups."""
    optimizer = stand_in()
    scheduler = lr_scheduler.MultiStepLR(optimizer, iter([1, 2]), 0.5)
    for _ in range(2):
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [lr * 0.25 for lr in LRS]


def test_a_momentum_of_zero_has_no_buffer():
    """The optimizer says so before the scheduler has left anything."""
    optimizer = our_optimizer()
    for name in ("cyclic", "one cycle"):
        with pytest.raises(ValueError, match="'momentum' must stay zero"):
            build(lr_scheduler, optimizer, CASES[name])
    assert numbers(optimizer) == [{"lr": lr, "momentum": 0.0} for lr in LRS]
