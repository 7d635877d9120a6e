"""Checkpoints where MindSpore slices tensors: as many files as devices, and whole ones are cut."""

import mindspore as ms
import numpy as np
import pytest
from helpers import everything
from mindspore import Parameter, Tensor, context

from ms_optim import SGD, restore, save

WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)
# As MindSpore says it of a weight whose rows are on two devices: the devices, which of their axes cuts which of the
# tensor, the slice, and what is of no account here.
BY_ROWS = ([2], [0, -1], [2, 6], 0, True, "", 0)


@pytest.fixture
def on_device():
    """A function that makes this one of two devices, each of which has two of four rows."""

    def enter(rank, devices=2):
        context.reset_auto_parallel_context()
        context.set_auto_parallel_context(parallel_mode="semi_auto_parallel", device_num=devices, global_rank=rank)

    yield enter
    context.reset_auto_parallel_context()


def made(values, rank=None):
    """An optimizer with a weight; of a rank, one that has compiled there."""
    weight = Parameter(Tensor(values if rank is None else values[2 * rank : 2 * rank + 2]), name="weight")
    optimizer = SGD([weight], momentum=0.9, fused=False)
    if rank is not None:
        for param in (weight, *optimizer.momentum_buffer):
            param.sliced = True
        optimizer.parameter_layout_dict = dict.fromkeys(("weight", "momentum_buffer.weight"), BY_ROWS)
    return optimizer


def test_each_device_has_a_file(on_device, tmp_path):
    """No rank writes over the slices of another, and each gets its own again, to the bit."""
    file = tmp_path / "step.safetensors"
    for rank in (0, 1):
        on_device(rank)
        save(made(WHOLE, rank), file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.rank_0.safetensors", "step.rank_1.safetensors"]
    for rank in (0, 1):
        on_device(rank)
        optimizer = made(WHOLE + 1, rank)
        assert restore(optimizer, file) == []
        np.testing.assert_array_equal(optimizer.parameters[0].asnumpy(), WHOLE[2 * rank : 2 * rank + 2])


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_whole_checkpoint_is_cut(on_device, tmp_path, suffix):
    """That of one device, or merged, is for any layout; before a compilation it is taken whole."""
    whole = made(WHOLE)
    ms.ops.assign(whole.momentum_buffer[0], Tensor(WHOLE * 2))
    save(whole, tmp_path / f"step{suffix}")
    for rank in (0, 1):
        on_device(rank)
        optimizer = made(WHOLE + 1, rank)
        assert restore(optimizer, tmp_path / f"step{suffix}") == []
        rows = slice(2 * rank, 2 * rank + 2)
        np.testing.assert_array_equal(optimizer.parameters[0].asnumpy(), WHOLE[rows])
        np.testing.assert_array_equal(optimizer.momentum_buffer[0].asnumpy(), WHOLE[rows] * 2)
        early = made(WHOLE + 1)
        assert restore(early, tmp_path / f"step{suffix}") == []
        np.testing.assert_array_equal(early.parameters[0].asnumpy(), WHOLE)


def test_slices_of_another_device_are_refused(on_device, tmp_path):
    """As those of another number of devices are, and slices before a compilation; nothing is written."""
    on_device(0)
    save(made(WHOLE, 0), tmp_path / "step.ckpt")
    other = tmp_path / "step.rank_0.ckpt"
    optimizer = made(WHOLE + 1, 1)
    before = everything(optimizer)
    for rank, devices, message in [
        (1, 2, "must be of rank 1 of 2, or whole, but got those of rank 0 of 2"),
        (0, 4, "must be of rank 0 of 4, or whole, but got those of rank 0 of 2"),
    ]:
        on_device(rank, devices)
        with pytest.raises(ValueError, match=f"For 'restore', 'parameters' {message}"):
            restore(optimizer, other)
    on_device(0)
    with pytest.raises(ValueError, match=r"'cell' must have been compiled .* \['weight', 'momentum_buffer.weight'\]"):
        restore(made(WHOLE + 1), other)
    for name, value in everything(optimizer).items():
        np.testing.assert_array_equal(value, before[name])
