"""Checkpoints: whole whenever the process is killed, and continued from bit for bit."""

import os
import signal
import subprocess
import sys
import time

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

import ms_optim
from ms_optim import EMA, AdamW, restore, save

SAVE_FOR_EVER = """
import sys
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from ms_optim import save

class Net(nn.Cell):
    def __init__(self, number):
        super().__init__()
        self.weights = ms.ParameterTuple([Parameter(Tensor(np.full(300_000, number, np.float32)), name=f"w{i}")
                                          for i in range(4)])

number = 0
while True:
    save(Net(number), sys.argv[1])
    print(number, flush=True)
    number += 1
"""


def make():
    """An optimizer in an average, whose parameters are not what they start as elsewhere."""
    params = [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in (("a", (2, 3)), ("b", ()))]
    return EMA(AdamW(params, lr=0.1, amsgrad=True), decay=0.5)


def step(optimizer, size=1.0):
    """Take one."""
    optimizer(tuple(Tensor(np.full(param.shape, size, np.float32)) for param in optimizer.parameters))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("compiled", [False, True])
def test_goes_on_bit_for_bit(tmp_path, suffix, compiled, mode):
    """From a file, in a freshly built optimizer and in one that has compiled."""
    first, second = make(), make()
    step(first)
    first.param_groups[0]["lr"] = 0.3
    save(first, tmp_path / f"state.{suffix}")
    step(first, -0.3)
    if compiled:
        step(second, 7.0)
    assert restore(second, tmp_path / f"state.{suffix}") == []
    step(second, -0.3)
    for one, other in zip(first.get_parameters(), second.get_parameters(), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy(), err_msg=one.name)
    assert os.listdir(tmp_path) == [f"state.{suffix}"]


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_process_that_is_killed_leaves_a_whole_checkpoint(tmp_path, suffix):
    """At whatever moment: the file is one that was saved, and all of it."""
    file = tmp_path / f"state.{suffix}"
    for delay in np.random.default_rng(0).uniform(0, 0.1, 4):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, file], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        last = max(map(int, process.communicate()[0].split()), default=0)
        kept = ms.load_checkpoint(str(file), format=suffix)
        values = {number for param in kept.values() for number in np.unique(param.asnumpy())}
        assert sorted(kept) == ["w0", "w1", "w2", "w3"]
        assert len(values) == 1 and values <= {last, last + 1}


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    """Also no file that is half written."""
    optimizer = make()
    save(optimizer, tmp_path / "state.ckpt")
    before = (tmp_path / "state.ckpt").read_bytes()

    def fail(what, file, **kwargs):
        with open(file, "wb") as stream:
            stream.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(ms, "save_checkpoint", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save(optimizer, tmp_path / "state.ckpt")
    assert (tmp_path / "state.ckpt").read_bytes() == before
    assert os.listdir(tmp_path) == ["state.ckpt"]


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (({}, "state.ckpt"), TypeError, "For 'save', 'cell' must be a Cell, but got dict"),
    ((nn.Dense(2, 2), "state.pt"), ValueError, r"'file' must end in one of \('.ckpt', '.safetensors'\), but got "),
    ((nn.Dense(2, 2), "state"), ValueError, "'file' must end in one of"),
])
def test_save_refuses(arguments, error, message):
    """What it cannot save, and what is no checkpoint."""
    with pytest.raises(error, match=message):
        save(*arguments)


def test_restore_refuses_another_file():
    """By its name."""
    with pytest.raises(ValueError, match="For 'restore', a file must end in one of"):
        ms_optim.restore(nn.Dense(2, 2), "state.pt")


def test_restores_bfloat16(tmp_path):
    """For which MindSpore's assign has no kernel on CPU."""
    first, second = (nn.Dense(2, 3, dtype=ms.bfloat16, weight_init=kind) for kind in ("normal", "zeros"))
    save(first, tmp_path / "net.ckpt")
    assert restore(second, tmp_path / "net.ckpt") == []
    np.testing.assert_array_equal(second.weight.float().asnumpy(), first.weight.float().asnumpy())
