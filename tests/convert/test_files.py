"""Files of torch and MindSpore: what is read, and what is refused."""

import os
from collections import OrderedDict

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.torch import save_file

from ms_optim.convert import load
from ms_optim.convert.__main__ import main


class Hostile:
    """What a pickle would run."""

    def __reduce__(self):
        return os.system, (f"touch {Hostile.mark}",)


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_a_hostile_file_runs_nothing(protocol, tmp_path, capsys):
    """It is told what it tried."""
    Hostile.mark = tmp_path / "run"
    file = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2), "x": Hostile()}, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(
        ValueError,
        match=r"must hold only tensors, numbers and containers, and nothing else in it was "
        r"run, but got: .*system",
    ):
        load(file)
    assert main([str(file), str(tmp_path / "out.ckpt")]) == 2
    assert "nothing else in it was run" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model.pt"]
    torch.load(file, weights_only=False)
    assert Hostile.mark.exists()


def test_loads_each_kind_of_file(tmp_path):
    """As arrays; bfloat16 as float32 with the same numbers."""
    values = {"a": torch.randn(3).bfloat16(), "b": torch.arange(3), "c": torch.randn(()).double()}
    torch.save({"model": OrderedDict(values), "epoch": 3, "rest": [values["a"], (1, "x")]}, tmp_path / "a.pth")
    save_file(values, tmp_path / "a.safetensors")
    ms.save_checkpoint(
        [
            {"name": "a", "data": Tensor(values["a"].float().numpy(), ms.bfloat16)},
            {"name": "b", "data": Tensor(values["b"].numpy())},
        ],
        str(tmp_path / "a.ckpt"),
    )
    found = load(tmp_path / "a.pth")
    assert found["epoch"] == 3 and found["rest"][1] == (1, "x") and type(found["model"]) is dict
    for kept in (found["model"], load(tmp_path / "a.safetensors"), load(tmp_path / "a.ckpt")):
        assert kept["a"].dtype == np.float32 and kept["b"].dtype == np.int64
        for name in kept:
            np.testing.assert_array_equal(kept[name], values[name].to(torch.float64).numpy())
    for name, content in (("bad.pt", b"PK"), ("bad.ckpt", b"\x01\x02"), ("bad.safetensors", b"12345678x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"For 'load', '.*bad"):
            load(tmp_path / name)
    torch.save(torch.ones(2), tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="must hold a mapping by name, but got Tensor"):
        load(tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="must end in one of"):
        load(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.ckpt")


def holding_itself():
    """A dict that has no end."""
    state = {"model": {}}
    state["model"]["again"] = state
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model": {"a": [torch.eye(2).to_sparse()]}}, "'model.a.0.' must be real numbers .* got Tensor"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "'a' must be real numbers in a dense tensor"),
        ({"a": torch.ones(2, device="meta")}, "'a' must be real numbers in a dense tensor"),
        (holding_itself(), "recursion"),
    ],
)
def test_tensors_that_are_no_arrays(state, message, tmp_path):
    """And containers without an end: the file and the entry are named."""
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"^For 'load', '.*a.pt' must hold only dense tensors, .*{message}"):
        load(tmp_path / "a.pt")
