"""The network of scripts/nfnet: the published sizes, and timm's logits and gradients where timm is installed."""

import math
from dataclasses import replace
from functools import partial
from operator import attrgetter

import mindspore as ms
import numpy as np
import pytest
import torch
from _timm import twin
from helpers.published import NFNETS as PUBLISHED
from mindspore import nn, ops
from src.nfnet import ARCHITECTURES, GAINS, Activation, DropPath, NFNet

from ms_optim.convert import to_mindspore
from parity.sides.mindspore import set_mode

# In millions, as timm prints them.
PUBLISHED_BY_TIMM = {"nfnet_l0": 35.07, "nf_resnet50": 25.56}
# Of timm's own form, as small as nfnet_small.
SMALL = {
    name: replace(ARCHITECTURES[full], depths=(1, 1, 2, 1), widths=(32, 64, 96, 96), stem_width=32, **changes)
    for name, full, changes in (
        ("small_l0", "nfnet_l0", {"group_size": 8}),
        ("small_resnet", "nf_resnet50", {}),
        ("small_seresnet", "nf_seresnet50", {"attention": 0.25}),
    )
}


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_BY_TIMM])
def test_has_the_published_number_of_parameters(name):
    """To the last digit that is printed; no memory is taken for them."""
    with nn.utils.no_init_parameters():
        net = NFNet(ARCHITECTURES[name])
    count = sum(math.prod(param.shape) for param in net.get_parameters())
    digits, published = (1, PUBLISHED) if name in PUBLISHED else (2, PUBLISHED_BY_TIMM)
    assert round(count / 1e6, digits) == published[name]


@pytest.mark.parametrize(
    ("architecture", "last"),
    [(ARCHITECTURES["nfnet_small"], "skipinit_gain"), (SMALL["small_resnet"], "conv3.gain")],
    ids=["deepmind", "timm"],
)
def test_begins_as_its_shortcuts(architecture, last):
    """The last gain of a branch is 0 at first: what the branches have makes no difference."""
    net, rng = NFNet(architecture, num_classes=10, in_channels=1), np.random.default_rng(0)
    block, x = net.stages[2][1], ms.Tensor(rng.normal(size=(2, 1, 32, 32)), ms.float32)
    gain = attrgetter(last)(block)

    def with_other_weights():
        # a value that is on the device already would not reach what has compiled
        block.conv2.weight.set_data(ms.Tensor(rng.normal(size=block.conv2.weight.shape), ms.float32))
        return net(x).asnumpy()

    before = net(x).asnumpy()
    assert (with_other_weights() == before).all()
    gain.set_data(ms.Tensor(np.full(gain.shape, 0.5), ms.float32))
    assert (with_other_weights() != with_other_weights()).any()


@pytest.mark.parametrize("rate", [0.25, 0.9])
def test_paths_are_dropped_by_sample_while_training(rate):
    """Each sample is left out whole or scaled whole, so that the mean stays."""
    ms.set_seed(0)
    drop = DropPath(rate).set_train()
    x = ops.ones((4000, 3, 1, 1))
    dropped = drop(x).asnumpy()[:, :, 0, 0]
    assert (dropped == dropped[:, :1]).all()
    np.testing.assert_allclose(sorted({*dropped.ravel()}), [0, 1 / (1 - rate)], rtol=1e-6)
    # four deviations of a mean of 4,000 samples
    assert abs(dropped.mean() - 1) < 4 * (rate / (1 - rate) / 4000) ** 0.5
    assert (drop.set_train(False)(x).asnumpy() == 1).all()


@pytest.mark.parametrize(
    ("name", "approximate", "function"),
    [
        ("gelu", False, torch.nn.functional.gelu),
        ("gelu", True, partial(torch.nn.functional.gelu, approximate="tanh")),
        ("relu", False, torch.nn.functional.relu),
        ("silu", False, torch.nn.functional.silu),
    ],
    ids=["gelu", "tanh", "relu", "silu"],
)
def test_activation_is_torchs(name, approximate, function):
    """Each to float32, where one form of GELU is off by 5e-4 from the other; and the gain makes the variance 1.

    As nearly as DeepMind drew it: the gains of GELU and ReLU make a difference of 1.5 % there. The slope is torch's
    too, from which it is off where MindSpore's tanh is taken.
    """
    x = np.linspace(-8, 8, 4001)
    expected = function(torch.tensor(x)).numpy() * GAINS[name]
    computed = Activation(name, GAINS[name], approximate)(ms.Tensor(x, ms.float32)).asnumpy()
    np.testing.assert_allclose(computed, expected, rtol=0, atol=2e-6)
    given = torch.tensor(x, requires_grad=True)
    function(given).sum().backward()
    slope = ms.grad(Activation(name, 1.0, approximate))(ms.Tensor(x, ms.float32)).asnumpy()
    np.testing.assert_allclose(slope, given.grad.numpy(), rtol=0, atol=5e-6)
    share = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    mean = (expected * share).sum()
    assert ((expected - mean) ** 2 * share).sum() == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize(
    ("changed", "arguments", "words"),
    [
        ({}, {"dropout": 1.0}, r"For 'NFNet', 'dropout' must be in \[0, 1\), but got 1.0"),
        ({}, {"drop_path": -0.1}, r"For 'NFNet', 'drop_path' must be in \[0, 1\), but got -0.1"),
        ({"group_size": 128}, {}, "For 'NFNet', 'widths' must be at least 2 times the 'group_size' 128, but got"),
        ({"ratio": 0.25}, {}, "For 'NFNet', 'widths' must be at least 4 times the 'group_size' 16, but got"),
        ({"activation": "tanh"}, {}, "For 'NFNet', 'activation' must be one of .*'gelu'.*, but got 'tanh'"),
        ({"stem": "7x7"}, {}, r"For 'NFNet', 'stem' must be one of \['deep', 'pooled'\], but got '7x7'"),
        (
            {"activation": "relu"},
            {"approximate": True},
            "For 'NFNet', 'approximate' must be False where the activation is 'relu', but got True",
        ),
    ],
)
def test_what_cannot_be_is_named(changed, arguments, words):
    """Argument, value and what is allowed."""
    with pytest.raises(ValueError, match=words):
        NFNet(replace(ARCHITECTURES["nfnet_small"], **changed), **arguments)


@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize(
    ("name", "size", "channels", "batches"),
    [
        ("nfnet_small", 32, 1, 8),
        # images of 18, 9 and 5 pixels in the stages: the last of a row is a mean of fewer
        ("nfnet_small", 72, 3, 4),
        *((name, 32, 1, 8) for name in SMALL),
        ("small_resnet", 72, 3, 4),
        *(pytest.param(name, 64, 3, 1, marks=pytest.mark.slow) for name in ("nfnet_f0", "nf_resnet50", "nfnet_l0")),
    ],
)
def test_logits_and_gradients_are_those_of_timm(timm, mode, name, size, channels, batches):
    """Of every parameter, within 3 times torch's own float32 error; in evaluation and, without dropout, training.

    The error of a single number is luck: skip gains are judged together, and over several batches.
    """
    set_mode(mode)
    batch, classes, rng = (2 if size == 64 else 8), 10, np.random.default_rng(1)
    architecture = {**ARCHITECTURES, **SMALL}[name]
    network = twin(timm, architecture, channels, classes)
    net = NFNet(architecture, classes, channels, dropout=0.0)
    rows = to_mindspore(net, network.state_dict())
    assert all(row.torch == row.parameter for row in rows)
    shapes = (batch, channels, size, size), (batch, classes)
    given = [[rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(batches)]

    def of_torch(dtype):
        network.to(dtype)
        for x, factors in given:
            network.zero_grad()
            logits = network(torch.tensor(x, dtype=dtype))
            (logits * torch.tensor(factors, dtype=dtype)).sum().backward()
            gradients = {name: param.grad.double().numpy() for name, param in network.named_parameters()}
            yield {"logits": logits.detach().double().numpy(), **gradients}

    float32, truth = list(of_torch(torch.float32)), list(of_torch(torch.float64))

    def forward(x, factors):
        logits = net(x)
        return (logits * factors).sum(), logits

    step = ms.value_and_grad(forward, None, net.trainable_params(), has_aux=True)
    step = ms.jit(step) if mode == "graph" else step
    allowed, names = errors(float32, truth), [param.name for param in net.trainable_params()]
    for train in (False, True):
        net.set_train(train)
        computed = []
        for arrays in given:
            (_, logits), gradients = step(*map(ms.Tensor, arrays))
            tensors = {"logits": logits, **dict(zip(names, gradients))}
            computed.append({name: value.asnumpy().astype(np.float64) for name, value in tensors.items()})
        found = errors(computed, truth)
        ratios = {name: found[name] / allowed[name] for name in found}
        assert max(ratios.values()) <= 3, sorted(ratios.items(), key=lambda item: -item[1])[:5]


def errors(computed, truth):
    """The root of the sum of squared errors, of each tensor in all batches."""
    squares = {}
    for of_batch, true in zip(computed, truth):
        for name, value in true.items():
            told = "skipinit_gain" if name.endswith("skipinit_gain") else name
            squares[told] = squares.get(told, 0) + np.square(of_batch[name] - value).sum()
    return {name: total**0.5 for name, total in squares.items()}
