"""Schedulers with drawn arguments against torch's, to the last bit."""

import pytest
from helpers.schedules import MADE_OF_OTHERS, TORCH, build, numbers, positive, stand_in, step, torch_optimizer
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_optim import lr_scheduler

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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
