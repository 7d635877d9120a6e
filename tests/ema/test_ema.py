"""EMA and ParameterEMA: against plain float64 loops, in every way that MindSpore trains, and around checkpoints."""

import copy
import functools
import math
import pickle
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import assert_compiled
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import Callback, FixedLossScaleManager, Model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ms_optim import SGD, AdamW, MomentumAGC, _native, save
from ms_optim._host import SWITCH
from ms_optim.ema import EMA, SCHEDULES, ParameterEMA, ema_weight
from parity.sides.mindspore import set_mode

SHAPES = {"conv.weight": (3, 4), "bn.gamma": (3, 4), "bn.beta": (), "ema.scale": (1,), "ema.ema.x": (2, 3, 1, 2)}
# For what does not depend on the shapes: each parameter takes its time to compile.
FEW = {"bn.gamma": (3, 4), "bn.beta": ()}
ONE = {"bn.gamma": (3, 4)}
STEPS = 35


@pytest.fixture(params=["graph", "pynative composed"], autouse=True)
def mode(request, monkeypatch):
    """Each test runs in both modes, and without native kernels in one of them; parity has the other two."""
    if "composed" in request.param:
        monkeypatch.setattr(_native, "library", lambda: None)
    set_mode(request.param.split()[0])
    return request.param


# For what is computed on the host before a mode matters.
once = pytest.mark.parametrize("mode", ["graph"], indirect=True)


@pytest.fixture
def rng():
    """Random numbers, the same in each test."""
    return np.random.default_rng(0)


def make_parameters(rng, dtype=ms.float32, shapes=SHAPES):
    """A Parameter for each name."""
    return [Parameter(Tensor(rng.standard_normal(shape), dtype), name=name) for name, shape in shapes.items()]


def make_gradients(rng, params):
    """A gradient for each Parameter."""
    return tuple(Tensor(rng.standard_normal(param.shape), param.dtype) for param in params)


def values(params):
    """Copies of the values, as float64."""
    return [np.array(param.asnumpy(), np.float64) for param in params]


def bits(params):
    """Copies of the values, by name."""
    return {param.name: param.asnumpy().copy() for param in params}


def assert_same(first, second):
    """Names and values are equal, bit for bit."""
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name, strict=True)


def assert_rounded(averages, exact, reference):
    """Over all steps, the error is at most 3 times that of the same formula in torch float32, and of 1 ulp at least.

    It counts in units in the last place of the largest average so far.
    """
    largest = np.maximum.accumulate([np.abs(value).max() for value in exact])
    ulp = np.spacing(largest.astype(np.float32))
    ours, theirs = (
        [np.abs(value - oracle).max() for value, oracle in zip(values, exact)] / ulp for values in (averages, reference)
    )
    assert ours.max() <= 3 * max(theirs.max(), 1), (ours.max(), theirs.max())


def assert_follows(source, path, averages, decay, **options):
    """The averages of each parameter are those of the source's loop over its values, which a path holds."""
    for i in range(len(path[0])):
        exact, reference = (
            list(source(kind(path[0][i]), [kind(step[i]) for step in path[1:]], decay, **options))
            for kind in (np.asarray, lambda value: torch.tensor(value, dtype=torch.float32))
        )
        assert_rounded([average[i] for average in averages], exact, [value.numpy() for value in reference])


# Each source as it is written there: a loop over the steps that yields the average.


def timm_v3_constant(first, rest, decay):
    """ModelEmaV3.update(model), without a step: a deep copy of the model, then one formula."""
    ema = first
    for param in rest:
        ema = ema + (param - ema) * (1 - decay)
        yield ema


def averaged_model(first, rest, decay):
    """torch.optim.swa_utils.AveragedModel.update_parameters."""
    average = first
    for n_averaged, param in enumerate(rest):
        average = param if n_averaged == 0 else average + (param - average) * (1 - decay)
        yield average


def timm_v3(first, rest, decay, gamma=1.0, power=2 / 3, min_decay=0.0, update_after_step=0):
    """ModelEmaV3(use_warmup=True).update(model, step), where timm's train.py has counted the step already."""
    ema = first
    for num_updates, param in enumerate(rest, 1):
        step = max(0, num_updates - update_after_step - 1)
        now = max(min(1 - (1 + step / gamma) ** -power, decay), min_decay) if step > 0 else 0.0
        ema = ema + (param - ema) * (1 - now)
        yield ema


def torch_ema(first, rest, decay):
    """torch_ema.ExponentialMovingAverage.update."""
    shadow = first
    for num_updates, param in enumerate(rest, 1):
        now = min(decay, (1 + num_updates) / (10 + num_updates))
        shadow = shadow - (1.0 - now) * (shadow - param)
        yield shadow


def yolov5(first, rest, decay):
    """utils.torch_utils.ModelEMA.update."""
    ema = first
    for updates, param in enumerate(rest, 1):
        now = decay * (1 - math.exp(-updates / 2000))
        ema = ema * now + (1 - now) * param
        yield ema


def zero_start(first, rest, decay):
    """Adam's first moment, of parameters instead of gradients."""
    y = 0 * first
    for n, param in enumerate(rest, 1):
        y = decay * y + (1 - decay) * param
        yield y / (1 - decay**n)


def plain_mean(first, rest, decay):
    """Stochastic weight averaging, as AveragedModel does without a function of its own."""
    average = first
    for n_averaged, param in enumerate(rest):
        average = average + (param - average) / (n_averaged + 1)
        yield average


SOURCES: dict[str, tuple[Callable, dict]] = {
    "constant": (timm_v3_constant, {}),
    "averaged_model": (averaged_model, {}),
    "timm": (timm_v3, {}),
    "timm at its limit": (timm_v3, {"gamma": 1e-8}),
    "timm simple mean": (timm_v3, {"power": 1.0}),
    "timm late": (timm_v3, {"update_after_step": 5, "gamma": 2.0, "power": 0.75, "min_decay": 0.6}),
    "torch_ema": (torch_ema, {}),
    "yolov5": (yolov5, {}),
    "zero_start": (zero_start, {}),
}
DECAY = 0.99999


def trajectory(ema, rng):
    """The values of the parameters before and after each step, and the averages after each."""
    path, averages = [values(ema.parameters)], []
    for _ in range(STEPS):
        ema(make_gradients(rng, ema.parameters))
        path.append(values(ema.parameters))
        averages.append([average.asnumpy().copy() for average in ema.averages])
    return path, averages


@pytest.mark.parametrize("name", SOURCES)
def test_schedule_follows_its_source(name, rng):
    """Every average of every step is a few float32 roundings from the source's loop in float64."""
    source, options = SOURCES[name]
    params = make_parameters(rng, shapes=ONE)
    for param in params:
        param.set_data(Tensor(np.zeros(param.shape, np.float32)))
    ema = EMA(SGD(params, lr=1.0), DECAY, schedule=name.split()[0], **options)
    path, averages = trajectory(ema, rng)
    assert_follows(source, path, averages, DECAY, **options)


@once
@pytest.mark.parametrize("decay", (0.5, DECAY))
@pytest.mark.parametrize("name", SOURCES)
def test_weight_is_the_source_s_in_float64(name, decay):
    """The numbers alone, on torch float64 tensors and on MindSpore's, as the weight of a 1 among zeros tells them."""
    source, options = SOURCES[name]
    options = {"gamma": 1.0, "power": 2 / 3, "min_decay": 0.0, "update_after_step": 0, **options}
    late = options.pop("update_after_step")
    numbers = [decay, options["min_decay"], options["gamma"], options["power"]]
    for step in (1, 2, 5, 6, 7, 30, 1000):
        pulse = list(source(0.0, [*[0.0] * (step - 1), 1.0], decay, **SOURCES[name][1]))[-1]
        for number in (lambda value: torch.tensor(value, dtype=torch.float64), lambda value: Tensor(value, ms.float64)):
            now, *warmup = (number(value) for value in numbers)
            weight, due = ema_weight(number(float(step)), now, warmup, SCHEDULES[name.split()[0]], late, 1)
            assert float(weight) == pytest.approx(pulse, rel=1e-10, abs=0.0)
            assert bool(due)


@once
def test_schedules_by_hand():
    """The first decays, from the formulas, with pencil and paper."""
    hand = {
        "constant": (0.9, 0.9, 0.9),
        "averaged_model": (0.0, 0.9, 0.9),
        "timm": (0.0, 1 / 2, 2 / 3),
        "torch_ema": (2 / 11, 3 / 12, 4 / 13),
        "zero_start": (0.0, 0.09 / 0.19, 0.171 / 0.271),
        "yolov5": (0.9 * 4.9987502083e-4, 0.9 * 9.9950016663e-4, 0.9 * 1.49887556e-3),
    }
    assert set(hand) == set(SCHEDULES) == set(EMA.arguments["schedule"].choices)
    for name, decays in hand.items():
        warmup = [Tensor(number, ms.float64) for number in (0.0, 1.0, 1.0)]
        for step, decay in enumerate(decays, 1):
            weight, _ = ema_weight(Tensor(step, ms.float64), Tensor(0.9, ms.float64), warmup, SCHEDULES[name], 0, 1)
            assert float(weight) == pytest.approx(1 - decay, rel=1e-8, abs=1e-15), (name, step)


def test_zero_start_with_decay_1_is_the_plain_mean(rng):
    """Its limit, where y/(1 - decay^n) is 0/0."""
    ema = EMA(SGD(make_parameters(rng, shapes=ONE), lr=1.0), 1.0, schedule="zero_start")
    path, averages = trajectory(ema, rng)
    assert_follows(plain_mean, path, averages, None)


def test_averaged_model_of_torch(rng):
    """torch.optim.swa_utils itself, in float64, fed the same parameters."""
    params = make_parameters(rng, shapes=ONE)
    ema = EMA(SGD(params, lr=0.3), 0.99, schedule="averaged_model")
    path, averages = trajectory(ema, rng)
    model = torch.nn.ParameterList([torch.from_numpy(np.array(value)) for value in path[0]])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    for step, ours in zip(path[1:], averages):
        with torch.no_grad():
            for param, value in zip(model, step):
                param.copy_(torch.from_numpy(value))
        average.update_parameters(model)
        for mine, theirs in zip(ours, average.module):
            np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=0, atol=2e-6)


INNER = {
    "AdamW": lambda params: AdamW(params, lr=0.1),
    "MomentumAGC": lambda params: MomentumAGC(params, lr=0.1, clipping=0.5, nesterov=True),
    "grouped SGD": lambda params: SGD(
        [{"params": params[3:], "lr": [0.3, 0.2]}, {"params": params[:3], "momentum": 0.5}, {"order_params": params}],
        lr=nn.ExponentialDecayLR(0.1, 0.9, 4),
    ),
    "nn.Momentum": lambda params: nn.Momentum(params, 0.1, 0.9),
    "nn.Adam": lambda params: nn.Adam(params, 0.1),
    "nn.AdamWeightDecay": lambda params: nn.AdamWeightDecay(params, 0.1),
    "grouped nn.Momentum": lambda params: nn.Momentum(
        [{"params": params[3:], "lr": 0.3}, {"params": params[:3]}], nn.ExponentialDecayLR(0.1, 0.9, 4), 0.9
    ),
}


@functools.cache
def run_alone(name, mode):
    """What the Parameters of an optimizer are after each step, and what it has in the end.

    The mode of mindspore's own is None: in each they compile to the same, with no kernel of ours.
    """
    alone = inner_of(name)
    rng, steps = np.random.default_rng(0), []
    for _ in range(STEPS):
        alone(make_gradients(rng, alone.parameters))
        steps.append(bits(alone.parameters))
    return steps, bits(alone.get_parameters())


def inner_of(name):
    """An optimizer of all shapes, if it has groups, or of a few."""
    return INNER[name](make_parameters(np.random.default_rng(1), shapes=SHAPES if "grouped" in name else FEW))


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize("name", INNER)
def test_around_any_optimizer(name, rng, mode):
    """The inner optimizer does what it does alone, bit for bit, and the average reads the parameters after it."""
    alone, last = run_alone(name, None if "nn." in name else mode)
    ema = EMA(inner_of(name), 0.9999)
    path, averages = [values(ema.parameters)], []
    for expected in alone:
        ema(make_gradients(rng, ema.parameters))
        assert_same(expected, bits(ema.parameters))
        path.append(values(ema.parameters))
        averages.append([average.asnumpy().copy() for average in ema.averages])
    assert_follows(timm_v3_constant, path, averages, 0.9999)
    assert int(ema.global_step) == STEPS
    assert_compiled(ema)
    assert_same(
        last,
        {
            name: value
            for name, value in bits(ema.get_parameters()).items()
            if name not in bits(ema.averages) and not name.startswith("optimizer.ema_")
        },
    )


def test_shares_and_delegates(rng):
    """One learning rate, one step count, and what the wrapped optimizer alone has."""
    inner = MomentumAGC(make_parameters(rng), lr=0.25, exempt="bn.*", loss_scale=4.0)
    ema = EMA(inner)
    assert ema.learning_rate is inner.learning_rate
    assert ema.global_step is inner.global_step
    assert [id(param) for param in ema.parameters] == [id(param) for param in inner.parameters]
    assert ema.loss_scale == 4.0
    assert float(ema.get_lr()) == float(ema.get_lr_parameter(ema.parameters[0])) == 0.25
    assert ema.param_groups[0]["momentum"] == 0.9
    assert ema.group_clipping_tuple == inner.group_clipping_tuple == (0.01, 0.0, 0.0, 0.01, 0.01)
    assert ema.describe() == inner.describe()

    class Other(EMA):
        def weight_of_step(self):
            """Compute what a graph does."""
            return super().weight_of_step()

    assert Other(inner).describe().endswith("compiled, because the class has a 'weight_of_step' of its own.")
    with pytest.raises(TypeError, match="must be of this library to be described, but is mindspore's Momentum"):
        EMA(nn.Momentum(list(inner.parameters), 0.1, 0.9)).describe()
    assert ema.state_bytes == inner.state_bytes + 4 * sum(math.prod(shape) for shape in SHAPES.values()) + 16
    for missing in (ema, EMA(nn.Momentum(list(inner.parameters), 0.1, 0.9)), EMA.__new__(EMA)):
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = missing.no_such_thing
    with pytest.raises(AttributeError, match="state_bytes"):
        _ = EMA(nn.Momentum(list(inner.parameters), 0.1, 0.9)).state_bytes


def test_update_every_and_update_after_step(rng):
    """Averages at steps 1, 4, 7, ...; copies up to step 8; n counts from there. A count in a plain loop."""
    for schedule, source in (("zero_start", zero_start), ("averaged_model", averaged_model), ("torch_ema", torch_ema)):
        params = make_parameters(rng, shapes=ONE)
        ema = EMA(SGD(params, lr=1.0), 0.8, schedule=schedule, update_every=3, update_after_step=8)
        path, averages = trajectory(ema, rng)
        for i in range(len(params)):
            due = [step for step in range(1, STEPS + 1) if step % 3 == 1]
            copies, rest = [step for step in due if step <= 8], [step for step in due if step > 8]
            expected = {step: path[step][i] for step in copies}
            expected |= zip(rest, source(path[copies[-1]][i], [path[step][i] for step in rest], 0.8))
            for step in range(1, STEPS + 1):
                held = expected[max(before for before in due if before <= step)]
                np.testing.assert_allclose(averages[step - 1][i], held, rtol=0, atol=3e-6)


def test_update_every_of_timm_counts_steps(rng):
    """ema-pytorch evaluates the warm-up at the optimizer's step, though it averages at some steps only."""
    ema = EMA(SGD(make_parameters(rng, shapes=ONE), lr=1.0), 0.9999, schedule="timm", update_every=4)
    path, averages = trajectory(ema, rng)
    average = path[1]
    for step in range(5, STEPS + 1, 4):
        decay = 1 - (1 + (step - 1)) ** (-2 / 3)
        average = [decay * old + (1 - decay) * new for old, new in zip(average, path[step])]
        for held in averages[step - 1 : step + 3]:
            for mine, exact in zip(held, average):
                np.testing.assert_allclose(mine, exact, rtol=0, atol=3e-6)


def test_copies_are_exact(rng):
    """Weight 1 copies the bits, and what is not due keeps them."""
    ema = EMA(SGD(make_parameters(rng, shapes=FEW), lr=1.0), schedule="timm", update_every=2)
    ema(make_gradients(rng, ema.parameters))
    first = [param.asnumpy().copy() for param in ema.parameters]
    for _ in range(2):
        for average, value in zip(ema.averages, first):
            np.testing.assert_array_equal(average.asnumpy(), value)
        if int(ema.global_step) == 1:
            ema(make_gradients(rng, ema.parameters))


@pytest.mark.usefixtures("own_graph")
def test_decay_is_live(rng):
    """A new decay, learning rate or momentum works at the next step, and nothing is compiled again."""
    ema = EMA(MomentumAGC(make_parameters(rng, shapes=FEW), lr=0.1), 0.9)
    exact = values(ema.parameters)
    for decay, set_it in (
        (0.9, lambda: None),
        (0.25, lambda: setattr(ema, "decay", 0.25)),
        (0.7, lambda: ops.assign(ema.decay, Tensor(0.7, ms.float64))),
        (1.0, lambda: setattr(ema, "decay", 1)),
    ):
        set_it()
        ema.param_groups[0]["lr"] = decay
        ema(make_gradients(rng, ema.parameters))
        exact = [decay * average + (1 - decay) * value for average, value in zip(exact, values(ema.parameters))]
        for average, value in zip(ema.averages, exact):
            np.testing.assert_allclose(average.asnumpy(), value, rtol=0, atol=1e-6)
        assert float(ema.decay) == decay
        assert_compiled(ema)
    with pytest.raises(ValueError, match=r"For 'EMA', 'decay' must be in \[0, 1\], but got 1.5"):
        ema.decay = 1.5
    assert float(ema.decay) == 1.0


def test_absent_gradient(rng):
    """A parameter without gradient stands still and is averaged; a stock optimizer says that it cannot."""
    ema = EMA(AdamW(make_parameters(rng, shapes=FEW), lr=0.1), 0.5)
    ema(make_gradients(rng, ema.parameters))
    before, averages = values(ema.parameters), values(ema.averages)
    ema((None, *make_gradients(rng, ema.parameters)[1:]))
    np.testing.assert_array_equal(ema.parameters[0].asnumpy(), before[0])
    np.testing.assert_allclose(ema.averages[0].asnumpy(), (averages[0] + before[0]) / 2, rtol=0, atol=1e-6)
    assert (ema.parameters[1].asnumpy() != before[1]).all()
    assert list(ema.step_counts.asnumpy()) == [1, 2]
    stock = EMA(nn.Momentum(make_parameters(rng), 0.1, 0.9))
    with pytest.raises(ValueError, match="For 'EMA' of 'Momentum', no gradient must be None"):
        stock((None, *make_gradients(rng, stock.parameters)[1:]))


@pytest.mark.parametrize(
    ("dtype", "kept"), [(ms.float16, ms.float32), (ms.float32, ms.float32), (ms.float64, ms.float64)]
)
def test_average_is_at_least_float32(dtype, kept, rng):
    """At decay 0.9999 an average in float16 would not move; float64 parameters have float64 averages."""
    rounding = np.finfo(np.float32).eps  # also for float64, which the backend reads as float32 after it has assigned it
    ema = EMA(SGD(make_parameters(rng, dtype, FEW), lr=0.1), 0.9999)
    exact = values(ema.parameters)
    for _ in range(STEPS):
        ema(make_gradients(rng, ema.parameters))
        exact = [0.9999 * average + (1 - 0.9999) * value for average, value in zip(exact, values(ema.parameters))]
    for average, value in zip(ema.averages, exact):
        assert average.dtype == kept
        np.testing.assert_allclose(
            average.asnumpy(), value, rtol=0, atol=STEPS * rounding * (1e-4 if kept == ms.float64 else 1) * 4
        )
    with ema.average_parameters():
        for param, average in zip(ema.parameters, ema.averages):
            assert param.dtype == dtype
            np.testing.assert_array_equal(param.asnumpy(), average.asnumpy().astype(param.asnumpy().dtype))


def make_buffers():
    """A moving mean, a count of batches and a mask."""
    return [
        Parameter(Tensor(np.zeros(2), ms.float32), name="bn.moving_mean", requires_grad=False),
        Parameter(Tensor(0, ms.int32), name="bn.num_batches", requires_grad=False),
        Parameter(Tensor([True, False]), name="mask", requires_grad=False),
    ]


@pytest.mark.parametrize("choice", ["average", "copy", "skip"])
def test_buffers(choice, rng):
    """Each choice, over steps that average and one that does not; integers and bools are copied."""
    buffers = make_buffers()
    params = make_parameters(rng, shapes=FEW)
    ema = EMA(SGD(params, lr=0.1), 0.75, buffers=buffers, buffer_update=choice, update_every=2)
    averages = {average.name: average for average in ema.averages}
    if choice == "skip":
        assert list(averages) == [f"ema.{name}" for name in FEW]
        return
    mean = np.zeros(2)
    for step in range(1, 5):
        live = [np.full(2, 3.0 * step, np.float32), np.array(step, np.int32), np.array([step % 2 == 0, True])]
        for buffer, value in zip(buffers, live):
            ops.assign(buffer, Tensor(value))
        ema(make_gradients(rng, ema.parameters))
        if step % 2:
            mean, held = (0.75 * mean + 0.25 * live[0] if choice == "average" else live[0]), live
        np.testing.assert_array_equal(averages["ema.bn.moving_mean"].asnumpy(), mean)
        np.testing.assert_array_equal(averages["ema.bn.num_batches"].asnumpy(), held[1], strict=True)
        np.testing.assert_array_equal(averages["ema.mask"].asnumpy(), held[2], strict=True)
    with ema.average_parameters():
        np.testing.assert_array_equal(buffers[0].asnumpy(), mean)
        assert int(buffers[1]) == 3
    assert int(buffers[1]) == 4
    np.testing.assert_array_equal(buffers[0].asnumpy(), live[0])


class Net(nn.Cell):
    """A network with batch normalization."""

    def __init__(self):
        super().__init__()
        self.ema = nn.Dense(4, 3, weight_init="normal")
        self.bn = nn.BatchNorm1d(3)

    def construct(self, x):
        """Three logits."""
        return self.bn(self.ema(x))


def make_training(choice="average", **kwargs):
    """A network, its loss, and an EMA over all that it holds."""
    ms.set_seed(1)
    net = Net()
    buffers = [param for param in net.get_parameters() if not param.requires_grad]
    ema = EMA(MomentumAGC(net.trainable_params(), lr=0.1, **kwargs), 0.8, buffers=buffers, buffer_update=choice)
    return net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"), ema


def batches(count):
    """Batches of a fixed data set."""
    rng = np.random.default_rng(2)
    return [
        (rng.standard_normal((16, 4)).astype(np.float32), rng.integers(0, 3, 16).astype(np.int32)) for _ in range(count)
    ]


class Follow(Callback):
    """Keep the average of what each step leaves, in float64."""

    def __init__(self, ema):
        super().__init__()
        self.ema, self.exact = ema, values(ema.tracked)

    def step_end(self, run_context=None):
        """Take one more average."""
        self.exact = [0.8 * average + (1 - 0.8) * value for average, value in zip(self.exact, values(self.ema.tracked))]

    def check(self):
        """The averages are those; parameters and statistics have moved."""
        for average, exact in zip(self.ema.averages, self.exact):
            np.testing.assert_allclose(average.asnumpy(), exact, rtol=0, atol=2e-6, err_msg=average.name)
        names = [average.name for average in self.ema.averages]
        assert {"ema.ema.weight", "ema.bn.gamma", "ema.ema.bias", "ema.bn.moving_variance"} < set(names)
        assert np.ptp(self.exact[names.index("ema.bn.moving_variance")]) > 0
        assert int(self.ema.global_step) > 0


def cell_steps(net, loss, ema):
    """One call of nn.TrainOneStepCell after the other."""
    step = nn.TrainOneStepCell(nn.WithLossCell(net, loss), ema)
    step.set_train()
    return lambda x, y: step(x, y)


def eager_steps(net, loss, ema):
    """value_and_grad, then a call of the optimizer."""
    net.set_train()

    def forward(x, y):
        return loss(net(x), y)

    grad = ms.value_and_grad(forward, None, ema.parameters)
    return lambda x, y: ema(grad(x, y)[1])


def jit_steps(net, loss, ema):
    """value_and_grad and the optimizer in one graph."""
    net.set_train()

    def forward(x, y):
        return loss(net(x), y)

    grad = ms.value_and_grad(forward, None, ema.parameters)

    @ms.jit
    def step(x, y):
        value, grads = grad(x, y)
        ema(grads)
        return value

    return step


STEPPERS = {"cell": cell_steps, "eager": eager_steps, "jit": jit_steps}


@functools.cache
def trained(stepper, mode):
    """A network, its EMA and its step, which has compiled; the averages were right. `mode` is the one that is set."""
    net, loss, ema = make_training()
    step, follow = STEPPERS[stepper](net, loss, ema), Follow(ema)
    for x, y in batches(6):
        step(Tensor(x), Tensor(y))
        follow.step_end()
    follow.check()
    return net, ema, step


# They go on with one training.
shared = pytest.mark.xdist_group("training with an average")


@shared
@pytest.mark.parametrize("stepper", STEPPERS)
def test_training_steps(stepper, mode):
    """The average of a step is over parameters and statistics as this step leaves them."""
    _, ema, _ = trained(stepper, mode)
    assert int(ema.global_step) >= 6


@pytest.mark.parametrize(("sink", "scale"), [(False, 1.0), (True, 1024.0)])
def test_model_train(sink, scale):
    """Model.train, with and without data sink, with and without a fixed loss scale."""
    net, loss, ema = make_training(loss_scale=scale)
    manager = FixedLossScaleManager(scale, drop_overflow_update=False) if scale != 1.0 else None
    model = Model(net, loss, ema, loss_scale_manager=manager)
    follow = Follow(ema)
    data = ms.dataset.NumpySlicesDataset(tuple(map(np.concatenate, zip(*batches(6)))), shuffle=False)
    model.train(1, data.batch(16), [follow], dataset_sink_mode=sink, sink_size=1 if sink else -1)
    assert int(ema.global_step) == 6
    follow.check()


def test_skipped_step_is_not_averaged():
    """A cell that drops overflowing steps, in one graph."""

    class Careful(nn.TrainOneStepCell):
        def construct(self, x, y):
            grads = self.grad(self.network, self.weights)(x, y, ops.ones((), ms.float32))
            if grads[0].abs().max().isfinite():
                self.optimizer(grads)
            return grads[0].abs().max()

    net, loss, ema = make_training("copy")
    step = Careful(nn.WithLossCell(net, loss), ema)
    ((x, y),) = batches(1)
    step(Tensor(x), Tensor(y))
    before = bits([*ema.averages, *ema.parameters, ema.global_step, ema._step])
    step(Tensor(x * np.inf), Tensor(y))
    assert_same(before, bits([*ema.averages, *ema.parameters, ema.global_step, ema._step]))
    step(Tensor(x), Tensor(y))
    assert int(ema.global_step) == 2
    assert float(ema._step) == 2


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("extension", ["ckpt", "safetensors"])
def test_checkpoint_continues_bitwise(extension, compiled, tmp_path, rng):
    """Saved after 3 steps and loaded, into a new EMA or one that has run, 4 more steps give the same bits."""
    shapes = FEW | {"ema.scale": (1,), "optimizer.bias": (2,)}

    def make(seed):
        params = make_parameters(np.random.default_rng(seed), shapes=shapes)
        return EMA(AdamW(params, lr=0.1), 0.9, schedule="timm", update_every=2, buffers=make_buffers())

    first, second = make(1), make(2)
    gradients = [make_gradients(rng, first.parameters) for _ in range(7)]
    for grads in gradients[:3]:
        first(grads)
    first.decay = 0.85
    names = [param.name for param in first.get_parameters()]
    assert len(names) == len(set(names))
    ms.save_checkpoint(first, str(tmp_path / f"ema.{extension}"), format=extension)
    if compiled:
        second(gradients[5])
        second(gradients[6])
    loaded = ms.load_checkpoint(str(tmp_path / f"ema.{extension}"), format=extension)
    assert set(loaded) == set(names)
    assert ms.load_param_into_net(second, loaded) == ([], [])
    for grads in gradients[3:]:
        first(grads)
        second(grads)
        assert_same(bits(first.get_parameters()), bits(second.get_parameters()))
    assert float(second._step) == 7


@functools.cache
def another(mode):
    """A network to evaluate. `mode` is the one that is set."""
    return Net().set_train(False)


@shared
@pytest.mark.parametrize("stepper", STEPPERS)
def test_average_parameters_in_compiled_graphs(stepper, mode):
    """A graph that was compiled before reads the averages inside the block and the parameters after it."""
    net, ema, step = trained(stepper, mode)
    data = batches(4)
    for x, y in data:
        step(Tensor(x), Tensor(y))
    net.set_train(False)
    probe = Tensor(data[0][0])

    @ms.jit
    def predict(x):
        return net(x)

    before, direct = predict(probe).asnumpy(), net(probe).asnumpy()
    averaged = another(mode)
    ms.load_param_into_net(
        averaged,
        {param.name: Parameter(Tensor(average.asnumpy())) for param, average in zip(ema.tracked, ema.averages)},
    )
    expected, state = averaged(probe).asnumpy(), bits(ema.get_parameters())
    with ema.average_parameters():
        np.testing.assert_array_equal(net(probe).asnumpy(), expected)
        np.testing.assert_allclose(predict(probe).asnumpy(), expected, rtol=0, atol=1e-6)
        assert np.abs(predict(probe).asnumpy() - before).max() > 1e-4
    np.testing.assert_array_equal(predict(probe).asnumpy(), before)
    np.testing.assert_array_equal(net(probe).asnumpy(), direct)
    assert_same(state, bits(ema.get_parameters()))
    net.set_train()
    step(*map(Tensor, data[0]))
    ema.copy_to()
    for param, average in zip(ema.tracked, ema.averages):
        np.testing.assert_array_equal(param.asnumpy(), average.asnumpy())
    net.set_train(False)
    assert np.abs(predict(probe).asnumpy() - before).max() > 1e-4


@shared
def test_average_parameters_is_undone_on_exceptions(mode, tmp_path):
    """Whatever happens inside; the checkpoint of a network that is saved inside holds the averages."""
    net, ema, step = trained("cell", mode)
    for x, y in batches(2):
        step(Tensor(x), Tensor(y))
    state = bits([*ema.get_parameters(), *ema.tracked])
    with pytest.raises(KeyboardInterrupt), ema.average_parameters():
        assert not np.array_equal(net.ema.weight.asnumpy(), state["ema.weight"])
        ms.save_checkpoint(net, str(tmp_path / "net.ckpt"))
        raise KeyboardInterrupt
    assert_same(state, bits([*ema.get_parameters(), *ema.tracked]))
    loaded = ms.load_checkpoint(str(tmp_path / "net.ckpt"))
    assert set(loaded) == {param.name for param in ema.tracked}
    for param, average in zip(ema.tracked, ema.averages):
        np.testing.assert_array_equal(loaded[param.name].asnumpy(), average.asnumpy())
    with ema.average_parameters():
        pass


@once
def test_what_compiled_steps_hold_is_given_to_it():
    """Set as an attribute, it would be read by some steps alone, or by none; the decay is read by all."""
    for inner in (SGD, nn.SGD):
        ema = EMA(inner([Parameter(Tensor(np.ones(2, np.float32)), name="w")], 0.1))
        for name in ("update_every", "update_after_step", "schedule", "gamma", "power", "min_decay", "buffer_update"):
            with pytest.raises(AttributeError, match=f"^For 'EMA', '{name}' must be given to it, but was set as"):
                setattr(ema, name, 2)
        ema.decay = 0.5
        assert ema.decay.asnumpy() == 0.5
    for name in ("weight_decay", "loss_scale", "fused"):
        with pytest.raises(AttributeError, match=f"^For 'EMA', '{name}' must be given to its optimizer"):
            setattr(ema, name, 0.1)


@once
@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("no copy can be made", copy.deepcopy),
        ("no copy can be made", pickle.dumps),
        ("no state can be loaded", lambda one: one.load_state_dict(one.state_dict())),
        ("no step can be taken", lambda one: one.step((Tensor(np.ones(2, np.float32)),))),
    ],
)
def test_averages_are_not_taken_for_weights(what, how, tmp_path):
    """By what is done with the EMA, nor with its optimizer."""
    ema = EMA(SGD([Parameter(Tensor(np.ones(2, np.float32)), name="w")], lr=0.1))
    ema((Tensor(np.ones(2, np.float32)),))
    with ema.average_parameters():
        for one in (ema, ema.optimizer):
            with pytest.raises(RuntimeError, match=f"^For '{type(one).__name__}', {what} inside 'average_parameters'"):
                how(one)
            with pytest.raises(RuntimeError, match="'cell' must not hold an optimizer or an EMA inside"):
                save(one, tmp_path / "x.ckpt")
        with pytest.raises(RuntimeError, match="no group can be added inside 'average_parameters'"):
            ema.optimizer.add_param_group({"params": [Parameter(Tensor(np.ones(2)), name="x")]})
    for one in (ema, ema.optimizer):
        how(one)


@pytest.mark.parametrize("direct", [True, False])
def test_a_weight_that_overflows_is_that_of_a_graph(direct, monkeypatch, own_graph):
    """As of yolov5's schedule long before it begins: e to the power of 750."""
    monkeypatch.setenv(SWITCH, str(int(direct)))
    weight = Parameter(Tensor(np.ones(2, np.float32)), name="w")
    ema = EMA(SGD([weight], lr=0.5), schedule="yolov5", update_after_step=1_500_000)
    for step in range(2):
        ema((Tensor(np.ones(2, np.float32)),))
        np.testing.assert_array_equal(ema.averages[0].asnumpy(), ema.parameters[0].asnumpy())
        assert ema.state_dict()["ema"]["step"] == step + 1


@once
def test_a_step_of_another_optimizer_inside_is_noticed():
    """Which has no way of its own to refuse it."""
    ema = EMA(nn.SGD([Parameter(Tensor(np.ones(2, np.float32)), name="w")], 0.1))
    with pytest.raises(RuntimeError, match="a training step ran inside"), ema.average_parameters():
        ema.optimizer((Tensor(np.ones(2, np.float32)),))


@shared
def test_misuse_of_average_parameters(rng, mode):
    """Steps, copies and other blocks inside a block are refused; a compiled step is noticed at its end."""
    _, ema, compiled = trained("jit", mode)
    ((x, y),) = batches(1)
    state = bits(ema.tracked)
    with ema.average_parameters():
        with pytest.raises(RuntimeError, match="no step can be taken inside 'average_parameters'"):
            ema(make_gradients(rng, ema.parameters))
        with pytest.raises(RuntimeError, match="'copy_to' has no effect inside"):
            ema.copy_to()
        with pytest.raises(RuntimeError, match="no other block can be entered inside"), ema.average_parameters():
            raise AssertionError
    assert_same(state, bits(ema.tracked))

    compiled(Tensor(x), Tensor(y))
    state = bits(ema.tracked)
    with pytest.raises(RuntimeError, match="a training step ran inside"), ema.average_parameters():
        compiled(Tensor(x), Tensor(y))
    assert_same(state, bits(ema.tracked))


PARAMS = [Parameter(Tensor(np.ones(2), ms.float32), name=name) for name in ("w", "ema.w", "x")]


@once
@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"decay": -0.1}, ValueError, r"'decay' must be in \[0, 1\], but got -0.1"),
        ({"decay": 1.1}, ValueError, "'decay'"),
        ({"decay": math.nan}, ValueError, "'decay'"),
        ({"decay": "0.9"}, TypeError, "'decay'"),
        ({"decay": True}, TypeError, "'decay'"),
        ({"decay": None}, TypeError, "'decay'"),
        ({"min_decay": 2}, ValueError, "'min_decay'"),
        ({"gamma": 0.0}, ValueError, "'gamma'"),
        ({"gamma": math.inf}, ValueError, "'gamma'"),
        ({"power": -1.0}, ValueError, "'power'"),
        ({"power": [1.0]}, TypeError, "'power'"),
        ({"schedule": "cosine"}, ValueError, "'schedule' must be one of"),
        ({"schedule": 3}, TypeError, "'schedule' must be one of"),
        ({"buffer_update": "ignore"}, ValueError, "'buffer_update' must be one of"),
        ({"update_every": 0}, ValueError, r"'update_every' must be in \[1, inf\), but got 0"),
        ({"update_every": 1.0}, TypeError, "'update_every'"),
        ({"update_every": True}, TypeError, "'update_every'"),
        ({"update_after_step": -1}, ValueError, "'update_after_step'"),
        ({"buffers": PARAMS[2]}, TypeError, "'buffers' must be a list of Parameters"),
        ({"buffers": [PARAMS[2], "x"]}, TypeError, "'buffers' must be a list of Parameters, but got an element of str"),
        ({"buffers": 3}, TypeError, "'buffers' must be a list of Parameters"),
        ({"buffers": [PARAMS[0]]}, ValueError, r"different names, but got \['ema.w', 'w'\]"),
        ({"buffers": [PARAMS[1]]}, ValueError, r"different names, but got \['ema.w'\]"),
        ({"buffers": [PARAMS[2], PARAMS[2]]}, ValueError, "different names"),
    ],
)
def test_bad_arguments(kwargs, error, match):
    """Each names itself."""
    with pytest.raises(error, match=f"For 'EMA', .*{match}"):
        EMA(SGD(PARAMS[:1]), **kwargs)


@once
def test_bad_optimizer():
    """Only an nn.Optimizer can be wrapped, and not twice."""
    for wrong in (None, PARAMS, nn.Dense(1, 1), torch.optim.SGD([torch.zeros(1)]), EMA(SGD(PARAMS[:1])), SGD):
        with pytest.raises(TypeError, match=r"For 'EMA', 'optimizer' must be an nn\.Optimizer other than an EMA"):
            EMA(wrong)
    with pytest.raises(ValueError, match=r"different names, but got \['ema.w'\]"):
        EMA(SGD(PARAMS))
    with pytest.raises(ValueError, match="For 'EMA', 'gradients' must hold 1 entries"):
        EMA(SGD(PARAMS[:1]))(())


def make_pair():
    """A network and its follower."""
    source, target = Net(), Net()
    target.update_parameters_name("target.")
    for cell, value in ((source, 1.0), (target, 3.0)):
        ops.assign(cell.bn.moving_mean, Tensor(np.full(3, value), ms.float32))
    return source, target


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize(("choice", "mean"), [("skip", 3.0), ("copy", 1.0), ("average", 2.5)])
def test_parameter_ema(choice, mean, rng):
    """Soft updates by a live decay, hard updates; buffers by choice; one compilation."""
    source, target = make_pair()
    follow = ParameterEMA(source, target, 0.75, buffer_update=choice)
    names = bits(source.get_parameters()).keys() | bits(target.get_parameters()).keys()
    assert follow() is True
    np.testing.assert_array_equal(target.bn.moving_mean.asnumpy(), np.full(3, mean, np.float32))
    exact = values(target.trainable_params())
    for decay in (0.75, 0.75, 0.999, 0.999, 0.0, 0.995):
        follow.decay = decay
        for param in source.trainable_params():
            ops.assign(param, Tensor(rng.standard_normal(param.shape), ms.float32))
        follow()
        exact = [decay * old + (1 - decay) * new for old, new in zip(exact, values(source.trainable_params()))]
        for param, value in zip(target.trainable_params(), exact):
            np.testing.assert_allclose(param.asnumpy(), value, rtol=0, atol=1e-6)
    assert_compiled(follow)
    follow.copy()
    for param, other in zip(source.trainable_params(), target.trainable_params()):
        np.testing.assert_array_equal(param.asnumpy(), other.asnumpy())
    assert names == bits(source.get_parameters()).keys() | bits(target.get_parameters()).keys()


@pytest.mark.parametrize("choice", ["skip", "copy", "average"])
def test_buffers_of_four_bits(choice):
    """Are refused, unless they are skipped: no kernel copies them."""

    class Packed(nn.Cell):
        def __init__(self, prefix):
            super().__init__()
            self.w = Parameter(Tensor(np.ones(2, np.float32)), name=f"{prefix}w")
            self.q = Parameter(Tensor(np.ones(2, np.int8), ms.qint4x2), name=f"{prefix}q", requires_grad=False)

    pair = Packed("source."), Packed("target.")
    if choice == "skip":
        assert ParameterEMA(*pair, 0.5)() is True
        return
    with pytest.raises(TypeError, match=r"^For 'ParameterEMA', 'source' must be floats, .*Int4 for 'source.q'"):
        ParameterEMA(*pair, 0.5, buffer_update=choice)


def test_parameter_ema_of_lists(rng):
    """Lists are averaged whole, integers copied, float64 kept."""
    shapes = {"a": (2, 2), "b": ()}
    for dtype in (ms.float16, ms.float32, ms.float64):
        source = [*make_parameters(rng, dtype, shapes), Parameter(Tensor(7, ms.int32), name="n", requires_grad=False)]
        target = [copy.copy(param).clone() for param in source]
        for param in target:
            param.name = f"target.{param.name}"
            ops.assign(param, ops.zeros_like(param))
        ParameterEMA(tuple(source), iter(target), 0.25)()
        for param, other in zip(source[:2], target):
            assert other.dtype == dtype
            np.testing.assert_array_equal(other.asnumpy(), param.asnumpy() * param.asnumpy().dtype.type(0.75))
        assert int(target[2]) == 7


def test_parameter_ema_in_a_training_graph(rng):
    """MoCo: the step of the encoder and the update of the momentum encoder in one graph; the key follows after it."""

    class Contrast(nn.Cell):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Dense(4, 2), nn.Dense(4, 2)
            self.follow = ParameterEMA(self.query, self.key, 0.9)

        def construct(self, x):
            return ((self.query(x) - ops.stop_gradient(self.key(x))) ** 2).sum()

    net = Contrast()
    assert [param.name for param in net.get_parameters()] == [
        "query.weight",
        "query.bias",
        "key.weight",
        "key.bias",
        "follow._decay",
    ]
    ema = EMA(SGD(net.query.trainable_params(), lr=0.1), 0.5)
    grad = ms.value_and_grad(net, None, ema.parameters)

    @ms.jit
    def step(x):
        loss, grads = grad(x)
        ema(grads)
        net.follow()
        return loss

    exact = values(net.key.get_parameters())
    for i in range(5):
        net.follow.decay = 0.9 + i / 100
        step(Tensor(rng.standard_normal((3, 4)), ms.float32))
        exact = [
            (0.9 + i / 100) * old + (0.1 - i / 100) * new for old, new in zip(exact, values(net.query.get_parameters()))
        ]
    for param, value in zip(net.key.get_parameters(), exact):
        np.testing.assert_allclose(param.asnumpy(), value, rtol=0, atol=1e-6)


@once
def test_parameter_ema_says_which_pair_does_not_fit():
    """Count, place, shape, dtype and names."""
    same, (source, target) = Net(), make_pair()
    weight = source.ema.weight
    for first, second, match in (
        (source, same, r"pair 0: Parameter \(name=ema.weight"),
        (source, source, "different names.*pair 0"),
        (source, nn.Dense(4, 8), "pair 0"),
        (source, nn.SequentialCell(Net()), "pair 0"),
        ([weight], [target.ema.weight, target.ema.bias], r"pair 1: None and Parameter \(name=target.ema.bias"),
        ([weight, source.ema.bias], [target.ema.weight], "pair 1: .*and None"),
        ([weight], [target.ema.bias], "pair 0"),
        ([weight], [Parameter(Tensor(weight.asnumpy(), ms.float16), name="half")], "pair 0.*Float16"),
        ([], [], "'source' must hold a parameter"),
        (nn.ReLU(), nn.ReLU(), "'source' must hold a parameter"),
    ):
        with pytest.raises(ValueError, match=f"For 'ParameterEMA', .*{match}"):
            ParameterEMA(first, second, 0.9)
    for first, second in ((source, [weight]), (None, source), (weight, [weight]), ([weight], ["w"]), (3, 4)):
        with pytest.raises(TypeError, match="For 'ParameterEMA', "):
            ParameterEMA(first, second, 0.9)
    for decay, error in ((1.5, ValueError), (math.nan, ValueError), ("1", TypeError), (False, TypeError)):
        with pytest.raises(error, match="For 'ParameterEMA', 'decay'"):
            ParameterEMA(source, target, decay)
    with pytest.raises(ValueError, match="For 'ParameterEMA', 'buffer_update'"):
        ParameterEMA(source, target, 0.9, buffer_update="all")
    follow = ParameterEMA(source, target, 0.9)
    with pytest.raises(ValueError, match="For 'ParameterEMA', 'decay'"):
        follow.decay = -1


@once
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state["ema"].update(step=math.nan), "For 'EMA', 'step' must be an integer in .* but got nan"),
        (lambda state: state["ema"].update(step=-1), "For 'EMA', 'step' must be an integer in .* but got -1"),
        (lambda state: state["ema"].update(step=1.5), "For 'EMA', 'step' must be an integer in .* but got 1.5"),
        (lambda state: state["ema"].update(step=2**60), "For 'EMA', 'step' must be an integer in"),
        (lambda state: state["ema"].update(step=True), "For 'EMA', 'step' must be a number, but got True"),
        (lambda state: state["ema"].update(step="x"), "For 'EMA', 'step' must be real numbers .* but got 'x'"),
        (lambda state: state["ema"].update(step=None), "For 'EMA', 'step' must be real numbers .* but got None"),
        (lambda state: state["ema"].update(averages=None), "For 'EMA', 'state_dict' must hold as 'ema' 'averages' of"),
        (
            lambda state: state["ema"].update(averages=["bn.beta"]),
            "For 'EMA', 'state_dict' must hold as 'ema' 'averages'",
        ),
        (lambda state: state["ema"].update({5: 1}), "For 'EMA', 'state_dict' must hold as 'ema' .* but got"),
        (
            lambda state: state["ema"]["averages"].update({"bn.beta": np.array(1j)}),
            "For 'EMA', 'ema' of 'bn.beta' must be real numbers .* but got ndarray of complex128",
        ),
        (
            lambda state: state["ema"]["averages"].update({"bn.beta": torch.ones(2)}),
            r"For 'EMA', 'ema' of 'bn.beta' must be of shape \(\), but got \(2,\)",
        ),
        (
            lambda state: state["ema"]["averages"].update({"bn.gamma": torch.ones(3, 4).to_sparse()}),
            "For 'EMA', 'ema' of 'bn.gamma' must be real numbers",
        ),
        (lambda state: state.update(global_step=math.nan), "For 'SGD', 'global_step' must be an integer in"),
        (
            lambda state: state["state"][1].update(momentum_buffer=np.ones(2)),
            "For 'SGD', 'momentum_buffer' of .* of shape",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(rng, spoil, message):
    """Neither the average nor its optimizer, whose part may fit."""
    params = make_parameters(rng, shapes=FEW)
    ema = EMA(SGD(params, lr=0.1, momentum=0.9), decay=0.5)
    ema(make_gradients(rng, params))
    state, before = ema.state_dict(), bits(ema.get_parameters())
    state["param_groups"][0] |= {"lr": 0.7, "initial_lr": 0.3}
    state["state"][0]["momentum_buffer"] = np.ones((3, 4))
    state["ema"]["decay"] = 0.25
    spoil(state)
    with pytest.raises(ValueError, match=message):
        ema.load_state_dict(state)
    assert_same(bits(ema.get_parameters()), before)
    assert "initial_lr" not in ema.param_groups[0]


def test_a_state_may_be_of_tensors_of_one_element(rng):
    """As torch may save them."""
    ema = EMA(SGD(make_parameters(rng), lr=0.1), decay=0.5)
    state = ema.state_dict()
    state["ema"] |= {"step": torch.tensor([3.0]), "decay": torch.tensor([0.25])}
    ema.load_state_dict(state)
    assert (ema.state_dict()["ema"]["step"], ema.decay.asnumpy()) == (3, 0.25)
