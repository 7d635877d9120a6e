"""The references are held to numbers worked out by hand, and to torch where torch has the same thing."""

import math

import pytest
import torch
from helpers.clipped import CLIPPED
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from parity.references import EMA, SGDAGC, clip_adaptively, ema_decay, unit_dims

NAN, INF = math.nan, math.inf
DTYPES = [torch.float32, torch.float64]


def param(value, dtype=torch.float64):
    """A parameter that holds a value."""
    return torch.nn.Parameter(torch.tensor(value, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("unit", "weight", "grad", "clipped"), CLIPPED.values(), ids=CLIPPED)
def test_clips_as_by_hand(unit, weight, grad, clipped, dtype):
    """Within rounding, in the gradient's dtype."""
    weight, grad, clipped = (torch.tensor(value, dtype=dtype) for value in (weight, grad, clipped))
    ours = clip_adaptively(grad, weight, 0.5, 0.1, unit)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, clipped, rtol=4 * torch.finfo(dtype).eps, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "output", "squeezed"),
    [
        ((), (), ()),
        ((3,), (0,), (0,)),
        ((3, 2), (1,), (1,)),
        ((3, 1), (1,), (0, 1)),
        ((1, 3), (1,), (0, 1)),
        ((3, 2, 4), (1, 2), (1,)),
        ((3, 1, 1), (1, 2), (0, 1, 2)),
        ((3, 1, 4), (1, 2), (1,)),
        ((3, 2, 3, 3), (1, 2, 3), (1, 2, 3)),
        ((3, 1, 1, 1), (1, 2, 3), (0, 1, 2, 3)),
        ((3, 2, 1, 1), (1, 2, 3), (1, 2, 3)),
        ((3, 2, 2, 2, 2), (1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_units(shape, output, squeezed):
    """In torch's layout, for each rank and with axes of size 1."""
    assert unit_dims(shape, "output") == output
    assert unit_dims(shape, "squeezed") == squeezed


def test_an_unknown_unit_raises():
    """And names what there is."""
    with pytest.raises(ValueError, match="'unit' must be 'output' or 'squeezed', but got 'rows'"):
        unit_dims((2, 2), "rows")


def test_a_huge_gradient_does_not_overflow_its_norm():
    """Whose square is beyond float32."""
    clipped = clip_adaptively(torch.tensor([3e30, 4e30]), torch.tensor([3.0, 4.0]), 0.5, 0.1, "output")
    torch.testing.assert_close(clipped, torch.tensor([1.5, 2.0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_steps_by_hand(dtype):
    """Clip, then decay, then momentum; lr, momentum and weight decay 1/2, so that every number is exact.

    Step 1: the gradient 8 is clipped to 4 / 2 = 2, decay adds 4 / 2: buffer 4, weight 4 - 4 / 2 = 2.
    Step 2: the gradient 1/2 is below 2 / 2 and stays, decay adds 1: buffer 4 / 2 + 3/2, weight 2 - (7/2) / 2 = 1/4.
    """
    weight = param(4.0, dtype)
    optimizer = SGDAGC([weight], 0.5, 0.5, weight_decay=0.5, clipping=0.5)
    for grad, buffer, expected in ((8.0, 4.0, 2.0), (0.5, 3.5, 0.25)):
        weight.grad = torch.tensor(grad, dtype=dtype)
        optimizer.step()
        assert optimizer.state[weight] == {"momentum_buffer": torch.tensor(buffer, dtype=dtype)}
        assert weight == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(momentum=0.0, weight_decay=0.1),
        dict(momentum=0.9, dampening=0.5, weight_decay=0.1),
        dict(momentum=0.9, nesterov=True),
        dict(momentum=0.9, maximize=True),
    ],
    ids=lambda kwargs: ",".join(kwargs),
)
def test_without_clipping_it_is_torch_sgd(kwargs, dtype):
    """Bit for bit, weights and buffers."""
    rng = torch.Generator().manual_seed(0)
    draw = [torch.randn(shape, generator=rng, dtype=dtype) for shape in ((), (3,), (4, 3), (2, 3, 3, 3)) * 5]
    ours, torchs = ([torch.nn.Parameter(value.clone()) for value in draw[:4]] for _ in range(2))
    optimizers = SGDAGC(ours, 0.1, clipping=0.0, **kwargs), torch.optim.SGD(torchs, 0.1, **kwargs)
    for step in range(1, 5):
        for weights in (ours, torchs):
            for weight, grad in zip(weights, draw[4 * step :], strict=False):
                weight.grad = grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_the_gradients_of_the_caller_stay():
    """The tensor itself, and what is in it; an absent one stays absent."""
    weight, absent = param([3.0, 4.0]), param([1.0])
    weight.grad = grad = torch.tensor([6.0, 8.0], dtype=torch.float64)
    SGDAGC([weight, absent], 1.0).step()
    assert weight.grad is grad
    assert grad.tolist() == [6.0, 8.0]
    assert absent.grad is None
    assert absent == 1


def test_a_closure_is_called_with_gradients_enabled():
    """And its loss is returned; the gradient 4 is clipped to 1."""
    weight = param(2.0)
    optimizer = SGDAGC([weight], 1.0, clipping=0.5)

    def closure():
        optimizer.zero_grad()
        loss = 4 * weight
        loss.backward()
        return loss

    assert optimizer.step(closure) == 8
    assert weight == 1


def stepped(params, **kwargs):
    """Each parameter's step of lr 1 and gradient 8 from weight 4: 2 if clipped by half, 8 if not."""
    weights = {name: param(4.0) for name in ("fc.weight", "fc.bias")}
    optimizer = SGDAGC(params(weights), 1.0, clipping=0.5, **kwargs)
    for weight in weights.values():
        weight.grad = torch.tensor(8.0, dtype=torch.float64)
    optimizer.step()
    return {name: 4 - weight.item() for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("exempt", "expected"),
    [
        ((), [2, 2]),
        ("fc.weight", [8, 2]),
        (["*.bias"], [2, 8]),
        (("fc.*",), [8, 8]),
        (lambda name: name.endswith("weight"), [8, 2]),
    ],
    ids=["none", "name", "pattern", "all", "predicate"],
)
def test_exempt(exempt, expected):
    """Patterns, one or several, and a predicate, on names."""
    assert list(stepped(lambda weights: list(weights.items()), exempt=exempt).values()) == expected


def test_exempt_without_names_raises():
    """And does not silently exempt nothing."""
    with pytest.raises(ValueError, match="'exempt' goes by name"):
        stepped(lambda weights: list(weights.values()), exempt="fc.weight")


def test_groups_have_their_own_clipping():
    """And the others' is the default."""

    def groups(weights):
        return [
            {"params": [("fc.weight", weights["fc.weight"])], "clipping": 0.0},
            {"params": [("fc.bias", weights["fc.bias"])], "clip_eps": 8.0},
        ]

    assert stepped(groups) == {"fc.weight": 8, "fc.bias": 4}


# The decay at an update, by hand from the sources.
DECAYS = [
    ("constant", 1, {}, 0.75),
    ("constant", 1000, {}, 0.75),
    ("zero_start", 1, {}, 0.75),
    ("averaged_model", 1, {}, 0.0),
    ("averaged_model", 2, {}, 0.75),
    ("timm", 1, dict(power=1.0), 0.0),
    ("timm", 2, dict(power=1.0), 0.5),
    ("timm", 3, dict(power=1.0), 1 - 1 / 3),
    ("timm", 4, dict(power=1.0), 0.75),
    ("timm", 5, dict(power=1.0), 0.75),
    ("timm", 2, dict(power=1.0, gamma=4.0), 0.2),
    ("timm", 4, dict(power=0.5), 0.5),
    ("timm", 8, dict(), 0.75),
    ("timm", 2, dict(power=1.0, min_decay=0.625), 0.625),
    ("timm", 1, dict(power=1.0, min_decay=0.625), 0.0),
    ("timm", 6, dict(power=1.0, update_after_step=5), 0.0),
    ("timm", 7, dict(power=1.0, update_after_step=5), 0.5),
    ("torch_ema", 1, {}, 2 / 11),
    ("torch_ema", 8, {}, 0.5),
    ("torch_ema", 26, {}, 0.75),
    ("torch_ema", 27, {}, 0.75),
    ("yolov5", 1, {}, 0.75 * 0.000499875020830729),
    ("yolov5", 2000, {}, 0.75 * 0.6321205588285577),
]


@pytest.mark.parametrize(("schedule", "step", "kwargs", "expected"), DECAYS)
def test_ema_decay(schedule, step, kwargs, expected):
    """The first update is number 1."""
    assert ema_decay(schedule, step, 0.75, **kwargs) == pytest.approx(expected, rel=1e-12)


def test_an_unknown_schedule_raises():
    """And is named."""
    with pytest.raises(ValueError, match="but got 'linear'"):
        ema_decay("linear", 1, 0.9)


# The weight starts at 8 and becomes 16, 32, 64: the averages after each, by hand.
AVERAGES = [
    ("constant", {}, [8 * 0.75 + 16 * 0.25, 10 * 0.75 + 32 * 0.25]),
    ("timm", dict(power=1.0), [16, 16 * 0.5 + 32 * 0.5]),
    ("torch_ema", {}, [8 * 2 / 11 + 16 * 9 / 11, (8 * 2 / 11 + 16 * 9 / 11) / 4 + 32 * 3 / 4]),
    ("zero_start", {}, [16, (16 * 0.25 * 0.75 + 32 * 0.25) / (1 - 0.75**2)]),
    ("constant", dict(update_every=2), [10, 10, 10 * 0.75 + 64 * 0.25]),
    ("averaged_model", dict(update_every=2), [16, 16, 16 * 0.75 + 64 * 0.25]),
    ("zero_start", dict(update_every=2), [16, 16, (16 * 0.25 * 0.75 + 64 * 0.25) / (1 - 0.75**2)]),
    ("timm", dict(power=1.0, update_every=2), [16, 16, 16 * 2 / 3 + 64 / 3]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("schedule", "kwargs", "expected"), AVERAGES)
def test_averages_by_hand(schedule, kwargs, expected, dtype):
    """The weight changes in place, as an optimizer changes it."""
    weight = param(8.0, dtype)
    ema = EMA([weight], 0.75, schedule, **kwargs)
    for value, average in zip((16.0, 32.0, 64.0), expected, strict=False):
        with torch.no_grad():
            weight.fill_(value)
        ema.update()
        torch.testing.assert_close(ema.average, [torch.tensor(average, dtype=dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
def test_constant_ema_is_that_of_torch(decay, dtype):
    """`AveragedModel` copies at its first update: a schedule of ours, and our constant one if it starts from there."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3, dtype=dtype)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    copying = EMA(model.parameters(), decay, "averaged_model")
    for step in range(10):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        if step == 0:
            constant = EMA(model.parameters(), decay)
        else:
            constant.update()
        copying.update()
        averaged.update_parameters(model)
        for ema in (constant, copying):
            for ours, theirs in zip(ema.average, averaged.module.parameters(), strict=True):
                assert torch.equal(ours, theirs)
