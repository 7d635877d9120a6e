"""Names of state in files: those that the parameters have when it is saved, whenever the optimizer was made."""

import mindspore as ms
import numpy as np
import pytest
from helpers.modules import weights
from mindspore import nn, ops

from ms_optim import EMA, AdamW, restore, save


class Wrapper(nn.Cell):
    """What a trainer puts around a network: it gives each Parameter another name."""

    def __init__(self, net):
        super().__init__()
        self.backbone = net


class Training(nn.Cell):
    """A cell that renames the optimizer's Parameters too."""

    def __init__(self, net, optimizer):
        super().__init__()
        self.net, self.optimizer = net, optimizer


def make(wrapped, averaged=True):
    """A stepped optimizer whose network is wrapped before it, after it, or never."""
    net = nn.Dense(2, 3)
    if wrapped == "before":
        net = Wrapper(net)
    optimizer = AdamW(net.trainable_params(), lr=0.1)
    optimizer = EMA(optimizer, 0.5) if averaged else optimizer
    if wrapped == "after":
        net = Wrapper(net)
    optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))
    return optimizer


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("averaged", [False, True])
def test_a_network_that_was_wrapped_later(averaged, suffix, tmp_path, graph):
    """Its optimizer's files are those of one that was made later, both ways."""
    files = {}
    for wrapped in ("before", "after"):
        optimizer = make(wrapped, averaged)
        files[wrapped] = tmp_path / f"{wrapped}{suffix}"
        save(optimizer, files[wrapped])
        assert "exp_avg.backbone.weight" in ms.load_checkpoint(str(files[wrapped]), format=suffix[1:])
    for wrapped in ("before", "after"):
        taken = make(wrapped, averaged)
        for file in files.values():
            expected = make("never", averaged)
            assert restore(taken, file) == []
            saved = ms.load_checkpoint(str(file), format=suffix[1:])
            for slot in ("exp_avg", "exp_avg_sq", *(["ema"] if averaged else [])):
                np.testing.assert_array_equal(
                    taken.state[taken.parameters[0].name][slot].asnumpy(), saved[f"{slot}.backbone.weight"].asnumpy()
                )
            with pytest.raises(ValueError, match=r"but lacks \['bias', .*'exp_avg.bias'"):
                restore(expected, file)


def test_a_file_that_mindspore_wrote(tmp_path, graph):
    """Has the names that the state was made with, and is restored too, as files of earlier versions."""
    optimizer = make("after")
    ms.save_checkpoint(optimizer, str(tmp_path / "a.ckpt"))
    assert "exp_avg.weight" in ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    expected = weights(optimizer)
    optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))
    assert restore(optimizer, tmp_path / "a.ckpt") == []
    np.testing.assert_equal(weights(optimizer), expected)


def test_a_cell_that_renames_the_optimizer(tmp_path, graph):
    """As a child with a prefix: what it saves it restores."""
    cells = [Training(optimizer.optimizer, optimizer) for optimizer in (make("never"), make("never"))]
    save(cells[0], tmp_path / "a.safetensors")
    assert restore(cells[1], tmp_path / "a.safetensors") == []
    np.testing.assert_equal(weights(cells[1]), weights(cells[0]))
    saved = ms.load_checkpoint(str(tmp_path / "a.safetensors"), format="safetensors")
    assert [name for name in saved if name.endswith("weight")] and len(saved) > len(weights(cells[0]))
