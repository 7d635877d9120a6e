"""Weights from torch to MindSpore and back, bit for bit; what would be rounded is told."""

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers.modules import Mint, Module, Net, assert_equal, spread, trained, weights
from mindspore import Tensor, nn

from ms_optim.convert import to_mindspore, to_torch
from parity.sides.mindspore import MODES, set_mode


@pytest.mark.parametrize("mode", MODES)
def test_forward_is_equal(mode):
    """Of the weights of torch in a network that has compiled, and back with the same bits."""
    set_mode(mode)
    module, net = trained(), Net().set_train(False)
    ids = np.random.default_rng(0).integers(0, 20, (2, 6))

    @ms.jit
    def compiled(ids):
        return net(ids)

    compiled(Tensor(ids, ms.int32))
    rows = to_mindspore(net, module.state_dict())
    expected = module(torch.tensor(ids)).detach().numpy()
    for forward in (net, compiled):
        np.testing.assert_allclose(forward(Tensor(ids, ms.int32)).asnumpy(), expected, rtol=1e-5, atol=1e-5)
    assert {row.how for row in rows} == {"name", "no counterpart"}
    by_name = {row.torch: row for row in rows}
    assert (by_name["bn.num_batches_tracked"].parameter, by_name["bn.num_batches_tracked"].how) == (
        None,
        "no counterpart",
    )
    assert by_name["line.weight"].cells()[2] == "(8, 8, 3) <-> (8, 8, 1, 3)"
    assert list(by_name) == list(module.state_dict())
    converted = to_torch(net, module.state_dict())["model"]
    assert_equal(converted, dict(module.state_dict()))
    Module().load_state_dict(converted)


def test_mint_has_the_names_of_torch():
    """The counter of batch normalization too; the layers do not run on CPU."""
    module, net = trained(), Mint()
    rows = to_mindspore(net, module.state_dict())
    assert all((row.how, row.parameter, row.shape) == ("name", row.torch, row.torch_shape) for row in rows)
    assert net.bn.num_batches_tracked.asnumpy() == 7
    assert_equal(to_torch(net, module.state_dict())["model"], dict(module.state_dict()))


def test_bfloat16_and_what_would_be_rounded():
    """Is exact; and anything that is not is told."""
    net = nn.Dense(2, 3)
    values = {"weight": torch.randn(3, 2).bfloat16(), "bias": torch.randn(3).bfloat16()}
    to_mindspore(net, values)
    assert_equal(to_torch(net, values)["model"], values)
    before = weights(net)
    with pytest.raises(ValueError, match="Float32 must hold the numbers of 'bias' exactly, but they are float64"):
        to_mindspore(net, {**values, "bias": torch.full((3,), 1 / 3, dtype=torch.float64)})
    assert all(np.array_equal(before[name], value) for name, value in weights(net).items())
    to_mindspore(net, {"weight": torch.randn(3, 2), "bias": torch.randn(3)})
    with pytest.raises(ValueError, match="bfloat16 must hold the numbers exactly, but they are float32"):
        to_torch(net, values)


@pytest.mark.parametrize(
    "value",
    [torch.tensor([2**53 + 1]), torch.tensor([2**63 - 1]), torch.tensor([2**24 + 1]), np.array([2**64 - 1], np.uint64)],
)
def test_integers_that_would_be_rounded(value):
    """Though NumPy calls them equal to the float that they would become."""
    net = nn.Dense(1, 1)
    to_mindspore(net, {"weight": torch.tensor([[2**24 + 2]]), "bias": torch.tensor([2**60])})
    assert (net.weight.asnumpy().item(), net.bias.asnumpy().item()) == (2**24 + 2, 2**60)
    with pytest.raises(ValueError, match="Float32 must hold the numbers of 'bias' exactly"):
        to_mindspore(net, {"weight": torch.ones(1, 1), "bias": value})


@pytest.mark.parametrize(
    ("theirs", "ours", "shapes"),
    [
        (
            lambda: torch.nn.Conv1d(4, 6, 3, groups=2),
            lambda: nn.Conv1d(4, 6, 3, pad_mode="valid", group=2, has_bias=True),
            [(2, 4, 7)],
        ),
        (
            lambda: torch.nn.ConvTranspose1d(4, 6, 3),
            lambda: nn.Conv1dTranspose(4, 6, 3, pad_mode="valid", has_bias=True),
            [(2, 4, 7)],
        ),
        (
            lambda: torch.nn.ConvTranspose2d(4, 6, 3, groups=2),
            lambda: nn.Conv2dTranspose(4, 6, 3, pad_mode="valid", group=2, has_bias=True),
            [(2, 4, 5, 5)],
        ),
        (
            lambda: torch.nn.Conv2d(4, 4, 3, groups=4),
            lambda: nn.Conv2d(4, 4, 3, pad_mode="valid", group=4, has_bias=True),
            [(2, 4, 5, 5)],
        ),
        (lambda: torch.nn.BatchNorm2d(4, affine=False), lambda: nn.BatchNorm2d(4, affine=False), [(2, 4, 5, 5)]),
        (lambda: torch.nn.BatchNorm3d(4, affine=False), lambda: nn.BatchNorm3d(4, affine=False), [(2, 4, 3, 3, 3)]),
        (lambda: torch.nn.BatchNorm3d(4), lambda: nn.BatchNorm3d(4), [(2, 4, 3, 3, 3)]),
        (lambda: torch.nn.Embedding(5, 3, padding_idx=0), lambda: nn.Embedding(5, 3, padding_idx=0), [(4, 2)]),
        (
            lambda: torch.nn.MultiheadAttention(8, 2, batch_first=True),
            lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            [(2, 3, 8)] * 3,
        ),
        (
            lambda: torch.nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=6, add_bias_kv=True),
            lambda: nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=6, add_bias_kv=True),
            [(2, 3, 8), (2, 3, 4), (2, 3, 6)],
        ),
    ],
)
def test_layers_compute_the_same(theirs, ours, shapes):
    """By name, and back with the same bits."""
    set_mode("pynative")
    module, net = spread(theirs()), ours().set_train(False)
    rows = to_mindspore(net, module.state_dict())
    assert {row.how for row in rows} <= {"name", "no counterpart"}
    rng = np.random.default_rng(0)
    inputs = [
        np.float32(rng.standard_normal(shape)) if "Embedding" not in type(net).__name__ else rng.integers(0, 5, shape)
        for shape in shapes
    ]
    expected, got = module(*map(torch.tensor, inputs)), net(*map(Tensor, inputs))
    expected, got = (each[0] if isinstance(each, tuple) else each for each in (expected, got))
    np.testing.assert_allclose(got.asnumpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert_equal(to_torch(net, module.state_dict())["model"], dict(module.state_dict()))


def test_a_network_in_bfloat16(mode):
    """Takes the numbers, also when it has compiled."""
    net, module = nn.Dense(3, 2, dtype=ms.bfloat16), torch.nn.Linear(3, 2, dtype=torch.bfloat16)

    @ms.jit
    def compiled():
        return net.weight.astype(ms.float32)

    compiled()
    to_mindspore(net, module.state_dict())
    np.testing.assert_array_equal(compiled().asnumpy(), module.weight.detach().float().numpy())
    assert_equal(to_torch(net, module.state_dict())["model"], dict(module.state_dict()))
    with pytest.raises(ValueError, match="BFloat16 must hold the numbers of 'weight' exactly"):
        to_mindspore(net, {name: value.float() / 3 for name, value in module.state_dict().items()})
