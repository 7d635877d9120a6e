"""The real networks: the same on both sides, what they are said to be, and the same from run to run."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import ms_optim
from parity.cases import networks
from parity.cases.networks import MODELS, initial_weights
from parity.sides import mindspore_networks, torch_networks

STEPS = 3


def train(module, name, steps=STEPS, callback=None, **kwargs):
    """Train with AdamW on one of the sides."""
    optimizer = ms_optim.AdamW if module is mindspore_networks else torch.optim.AdamW
    return module.train(name, lambda params: optimizer(params, lr=2e-3), steps, callback, **kwargs)


def watch(module, name, **kwargs):
    """A run, and what its callback saw at each step."""
    seen = []
    return train(module, name, STEPS, lambda *now: seen.append(now), **kwargs), seen


def error(ours, truth):
    """The largest error of any tensor, relative to its largest element."""
    return max(np.abs(ours[name] - truth[name]).max() / np.abs(truth[name]).max() for name in truth)


def equal(one, other):
    """Whether two runs left the same bits."""
    return (one.losses, one.accuracy) == (other.losses, other.accuracy) and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )


def check_seen(run, seen):
    """Each step in turn, each with weights of its own, the last with those of the run."""
    assert [step for step, _, _ in seen] == list(range(STEPS))
    assert all(np.array_equal(seen[-1][1][key], run.weights[key]) for key in run.weights)
    assert not np.array_equal(seen[0][1]["head.weight"], seen[1][1]["head.weight"])


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_alike(name):
    """Names, order, shapes, dtype and values, on both sides as drawn; among them every rank that is clipped apart."""
    drawn = initial_weights(name)
    torchs = {key: param.detach().numpy() for key, param in torch_networks.parameters(name).items()}
    ours = mindspore_networks.Network(name).weights
    assert list(ours) == [param.name for param in ours.values()] == list(torchs) == list(drawn)
    for key, value in drawn.items():
        assert value.dtype == torchs[key].dtype == ours[key].asnumpy().dtype == np.float32
        assert np.array_equal(value, torchs[key]) and np.array_equal(value, ours[key].asnumpy())
    assert 20_000 < sum(value.size for value in drawn.values()) < 60_000
    assert {value.ndim for value in drawn.values()} == {"nfnet": {0, 1, 2, 4}, "transformer": {1, 2}}[name]


@pytest.mark.parametrize(("name", "either"), [("nfnet", "graph"), ("transformer", "pynative")], indirect=["either"])
def test_sides_agree(either, name, monkeypatch):
    """To float32 rounding: the first gradients, none of them zero by symmetry, and the losses of the first steps.

    MindSpore repeats itself bit for bit; the callback gets copies of the weights after each step. One block of each
    kind and one layer have all that there is to agree on.
    """
    monkeypatch.setattr(networks, "BLOCKS", networks.BLOCKS[:2])
    monkeypatch.setattr(networks, "LAYERS", networks.LAYERS[:1])
    truth, seen = watch(torch_networks, name, dtype="float64")
    _, _, oracle = seen[0]
    assert all(grad.dtype == np.float64 and np.abs(grad).max() > 1e-4 for grad in oracle.values())
    for module in (torch_networks, mindspore_networks):
        run, seen = watch(module, name)
        _, _, gradients = seen[0]
        assert list(gradients) == list(oracle)
        assert error(gradients, oracle) < 1e-5
        np.testing.assert_allclose(run.losses, truth.losses, rtol=1e-6)
    check_seen(run, seen)
    assert equal(run, train(mindspore_networks, name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_repeats_itself(name, dtype):
    """Bit for bit, as above; the caller's threads and default dtype do not matter and stay."""
    run, seen = watch(torch_networks, name, dtype=dtype)
    check_seen(run, seen)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        assert equal(run, train(torch_networks, name, dtype=dtype))
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (2, torch.float64)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_gradients_lead_where_training_did(name):
    """Fed to a new optimizer, one step after the other, in one thread as in training."""
    gradients, run = torch_networks.record(name, lambda params: torch.optim.SGD(params, 0.1, 0.9), STEPS)
    params = torch_networks.parameters(name)
    optimizer = torch.optim.SGD(params.values(), 0.1, 0.9)
    for step in gradients:
        for key, param in params.items():
            param.grad = torch.tensor(step[key])
        optimizer.step()
    assert len(gradients) == STEPS
    assert all(np.array_equal(run.weights[key], param.detach().numpy()) for key, param in params.items())


@pytest.mark.parametrize("name", MODELS)
def test_torch_learns(name):
    """To more than 95 % of digits it has not seen, within the 200 steps of a free-running comparison."""
    run = train(torch_networks, name, 200)
    assert run.accuracy > 0.95
    assert len(run.losses) == 200


def test_digits():
    """All are used once, in every class, as they are."""
    (x, y), (held_x, held_y) = networks.digits()
    assert (x.shape, held_x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert len(np.unique(np.concatenate([x, held_x]).reshape(1797, -1), axis=0)) == 1797
    assert (x.dtype, y.dtype, x.min(), x.max()) == (np.float32, np.int32, -1, 1)
    assert set(y) == set(held_y) == set(range(10))


def test_batches():
    """Each epoch uses an image at most once, in an order of its own, the same for one seed."""
    drawn = networks.batches(30, 64)
    assert [x.shape for x, _ in drawn] == [(64, 1, 8, 8)] * 30
    epochs = [np.concatenate([x.reshape(64, -1) for x, _ in drawn[start : start + 22]]) for start in (0, 22)]
    assert len(np.unique(epochs[0], axis=0)) == 22 * 64
    assert not np.array_equal(epochs[0][:64], epochs[1][:64])
    again, other = networks.batches(2, 64), networks.batches(2, 64, seed=1)
    assert np.array_equal(drawn[1][0], again[1][0]) and np.array_equal(drawn[1][1], again[1][1])
    assert not np.array_equal(drawn[0][0], other[0][0])


def test_the_convolution_is_that_of_timm():
    """`ScaledStdConv2d` standardises by batch normalisation over the fan-in; its eps is per element of the fan-in."""
    torch.manual_seed(0)
    weight, gain, bias, x = (
        torch.randn(shape, dtype=torch.float64) for shape in ((6, 4, 3, 3), (6, 1, 1, 1), (6,), (2, 4, 8, 8))
    )
    fan_in = weight[0].numel()
    standard = functional.batch_norm(
        weight.reshape(1, 6, -1),
        None,
        None,
        weight=gain.flatten() * fan_in**-0.5,
        training=True,
        eps=networks.STANDARDIZE_EPS / fan_in,
    ).reshape_as(weight)
    ours = networks.scaled_conv({"c.weight": weight, "c.gain": gain, "c.bias": bias}, "c", x, 1, torch)
    torch.testing.assert_close(ours, functional.conv2d(x, standard, bias, padding=1), rtol=1e-12, atol=1e-12)


def test_the_activation_keeps_unit_variance():
    """As normalizer-free networks need it to."""
    x = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert networks.scaled_gelu(x, torch).var().item() == pytest.approx(1, abs=5e-3)
    torch.testing.assert_close(networks.gelu(x, torch), functional.gelu(x))


def test_the_layers_are_those_of_torch():
    """`TransformerEncoderLayer`, pre-norm, with our weights under their own names."""
    rng = np.random.default_rng(0)
    weights = {
        key: torch.tensor(value + 0.1 * rng.standard_normal(value.shape))
        for key, value in initial_weights("transformer").items()
    }
    layers = []
    for name in networks.LAYERS:
        layer = nn.TransformerEncoderLayer(
            networks.WIDTH,
            networks.HEADS,
            networks.HIDDEN,
            0.0,
            "gelu",
            batch_first=True,
            norm_first=True,
            dtype=torch.float64,
        )
        state = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(name)}
        nothing = torch.zeros(3 * networks.WIDTH, dtype=torch.float64)
        layer.load_state_dict(state | {"self_attn.in_proj_bias": nothing})
        layers.append(layer)
    x = torch.tensor(rng.standard_normal((2, 1, 8, 8)))
    tokens = functional.linear(x[:, 0], weights["embed.weight"], weights["embed.bias"]) + weights["position"]
    hidden = functional.layer_norm(
        nn.Sequential(*layers)(tokens), (networks.WIDTH,), weights["norm.weight"], weights["norm.bias"]
    )
    expected = functional.linear(hidden.mean(1), weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(networks.transformer(weights, x, torch), expected, rtol=1e-12, atol=1e-12)
