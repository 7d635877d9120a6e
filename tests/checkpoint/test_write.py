"""Writing into Parameters: with and without a buffer, of every dtype, beside steps that have compiled."""

import copy

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

from ms_optim import SGD, AdamW, restore, save
from ms_optim._values import write
from parity.sides.mindspore import MODES

# What these are about is not how a rule is run.
both_modes = pytest.mark.parametrize("mode", MODES, indirect=True)
DTYPES = (ms.float16, ms.bfloat16, ms.float32, ms.float64, ms.bool_, ms.int8, ms.uint64, ms.complex64)


def lazily(make):
    """What it makes, with Parameters that have no buffer yet."""
    with no_init_parameters():
        made = make()
    assert all(param.has_init for param in made.get_parameters())
    return made


def numbers(tensor):
    """The elements, bfloat16 as float32."""
    return tensor.float().asnumpy() if tensor.dtype == ms.bfloat16 else tensor.asnumpy()


class Holder(nn.Cell):
    """One Parameter, full of ones."""

    def __init__(self, dtype=ms.float32):
        super().__init__()
        self.held = Parameter(initializer("ones", (2, 3), dtype), name="held")

    @ms.jit
    def construct(self):
        """Read the Parameter in a graph."""
        return self.held * 2


@both_modes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lazy", [False, True])
def test_every_dtype(dtype, lazy, mode):
    """The Parameter holds the values in a buffer of its own."""
    param = (lazily if lazy else lambda make: make())(lambda: Holder(dtype)).held
    first, second = (Tensor(np.full((2, 3), value), dtype) for value in (0, 1))
    write(param, first)
    assert not param.has_init and not numbers(param).any()
    assert param.name == "held" and param.requires_grad
    write(param, second)
    assert numbers(param).all() and not numbers(first).any()


@pytest.mark.parametrize("copied", [lambda param: param.clone(), copy.deepcopy], ids=["clone", "deepcopy"])
def test_a_copy_holds_what_was_written(copied):
    """Not what the Parameter would have been initialized to."""
    param = lazily(Holder).held
    write(param, Tensor(np.full((2, 3), 5, np.float32)))
    np.testing.assert_array_equal(copied(param).asnumpy(), np.full((2, 3), 5, np.float32))


def test_four_bits():
    """No operator on CPU writes these."""
    for kind in (Parameter, Tensor):
        param = Parameter(Tensor(np.ones((2, 3), np.int8), ms.qint4x2))
        value = kind(Tensor(np.full((2, 3), 5, np.int8), ms.qint4x2))
        write(param, value)
        assert (param.asnumpy() == 5).all()


@both_modes
@pytest.mark.parametrize("dtype", [ms.float32, ms.float64], ids=str)
def test_a_graph_that_has_compiled_sees_it(dtype, mode):
    """It reads the buffer that it was compiled with."""
    cell = Holder(dtype)
    cell()
    for size in (3, 7):
        write(cell.held, Tensor(np.full((2, 3), size), dtype))
        assert (cell().asnumpy() == 2 * size).all()


def values_of(cell):
    """A copy of every Parameter, by name."""
    return {param.name: numbers(param).copy() for param in cell.get_parameters()}


def trained(net, optimizer):
    """The Parameters after two steps."""
    step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
    for _ in range(2):
        step(Tensor(np.eye(2, 3, dtype=np.float32)), Tensor(np.ones((2, 4), np.float32)))
    return values_of(optimizer)


def network():
    """With parameters and buffers of all kinds of initial values."""
    return nn.SequentialCell(nn.Dense(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [(lambda params: SGD(params, lr=0.1, momentum=0.9), "pynative"), (AdamW, "graph")],
    ids=["SGD", "AdamW"],
    indirect=["mode"],
)
def test_a_network_without_buffers_is_restored_and_trained(optimizer, tmp_path, mode):
    """To the same bits as one that was initialized before, whether its optimizer was made before or after."""
    first = network()
    save(first, tmp_path / "net.ckpt")
    before = values_of(first)
    expected = trained(first, optimizer(first.trainable_params()))
    for early in (False, True):
        net = lazily(network)
        made = optimizer(net.trainable_params()) if early else None
        assert restore(net, tmp_path / "net.ckpt") == []
        np.testing.assert_equal(values_of(net), before)
        got = trained(net, made or optimizer(net.trainable_params()))
        np.testing.assert_equal(got, expected)


@both_modes
def test_a_state_without_buffers_is_restored(tmp_path, mode):
    """An optimizer made under `no_init_parameters` goes on from what another has saved."""
    first, grads = nn.Dense(3, 4), (Tensor(np.ones((4, 3), np.float32)), Tensor(np.ones(4, np.float32)))
    optimizer = AdamW(first.trainable_params(), lr=0.1)
    optimizer(grads)
    save(optimizer, tmp_path / "all.ckpt")
    with no_init_parameters():
        second = AdamW(nn.Dense(3, 4).trainable_params(), lr=0.1)
    assert restore(second, tmp_path / "all.ckpt") == []
    for each in (optimizer, second):
        each(grads)
    np.testing.assert_equal(values_of(second), values_of(optimizer))
