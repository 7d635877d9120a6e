"""Files of torch and MindSpore: what is read, and what is refused."""

import argparse
import dataclasses
import datetime
import enum
import json
import os
import pathlib
import pickle
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn
from safetensors.torch import save_file
from torch.serialization import set_crc32_options

from ms_optim import restore, save
from ms_optim.convert import Unread, load
from ms_optim.convert.__main__ import main

formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Hostile:
    """What a pickle would run."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


class HostileState:
    """What a pickle would run with the state of an object."""

    mark = None

    def __init__(self):
        self.harmless = 1

    def __setstate__(self, state):
        pathlib.Path(HostileState.mark).touch()


class HostileItems(list):
    """What a pickle would run with each item."""

    def extend(self, items):
        """Leave a mark."""
        pathlib.Path(HostileState.mark).touch()


class Color(enum.Enum):
    """A choice in a configuration."""

    RED = 1


class Choice(enum.Enum):
    """The same, pickled as Python 3.11.0 does it."""

    BLUE = 2

    def __reduce_ex__(self, protocol):
        return getattr, (Choice, self.name)


@dataclasses.dataclass
class Config:
    """A configuration of one's own."""

    lr: float = 0.1


def written(state, file, zipped=True):
    """A file of torch."""
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file


@formats
def test_a_hostile_file_runs_nothing(zipped, tmp_path, capsys):
    """Its weights are read all the same, and what it tried is told."""
    mark = HostileState.mark = tmp_path / "run"
    hostile = [
        Hostile(os.system, f"touch {mark}"),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(exec, f"open({str(mark)!r}, 'w')"),
        Hostile(getattr, Hostile(__import__, "os"), "system"),
        HostileState(),
        HostileItems([1]),
        Hostile(np.load, str(mark)),
        Hostile(types.SimpleNamespace, Hostile(os.system, f"touch {mark}")),
    ]
    file = written({"weight": torch.ones(2), "x": hostile}, tmp_path / "model.pt", zipped)
    found = load(file)
    assert found["weight"].tolist() == [1, 1]
    assert [one.name for one in found["x"][:3]] == ["posix.system", "builtins.eval", "builtins.exec"]
    assert all(isinstance(one, Unread) for one in found["x"][:7])
    file = written({"weight": torch.ones(2), "x": hostile[0]}, tmp_path / "model.pt", zipped)
    assert main([str(file), str(tmp_path / "out.ckpt"), "--map", map_of(tmp_path, {"weight": "gain"})]) == 0
    assert "left out: x (posix.system)" in capsys.readouterr().out
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    ["torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict", "numpy\ndtype", "numpy\nndarray", "posix\nsystem"],
)
def test_what_names_stand_for_cannot_be_changed(name, tmp_path):
    """A pickle may set attributes of what it has; the next file is read as ever."""
    state = pickle.dumps((None, {"__defaults__": (1,), "read": 1, "value": 1}), protocol=2)[2:-1]
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02c" + name.encode() + b"\n" + state + b"b.")
    with pytest.raises(ValueError, match=r"a\.pt' must be a whole checkpoint, but got (TypeError|UnpicklingError)"):
        load(tmp_path / "a.pt")
    found = load(written({"a": torch.ones(2), "b": OrderedDict(c=np.ones(2))}, tmp_path / "a.pt"))
    assert found["a"].tolist() == found["b"]["c"].tolist() == [1, 1]


def map_of(folder, given):
    """A file of names."""
    (folder / "map.json").write_text(json.dumps(given))
    return str(folder / "map.json")


@formats
def test_what_lies_beside_the_tensors_is_plain_data(zipped, tmp_path):
    """As the checkpoints of training scripts have it."""
    beside = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/x/y"), inner=argparse.Namespace(a=[1])),
        "best": np.float64(91.25),
        "count": np.int64(3),
        "array": np.arange(6).reshape(2, 3).T,
        "words": np.array(["a", "bc"]),
        "when": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "where": pathlib.Path("/a/b"),
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, {"k": [1]}),
        "counted": Counter("aab"),
        "space": types.SimpleNamespace(z=torch.ones(2)),
        "kinds": {1, 2},
        "complex": 1j,
        "raw": b"\x00\xff",
        "size": torch.Size([2, 3]),
        "color": Color.RED,
        "choice": Choice.BLUE,
        "config": Config(0.3),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "complexes": torch.ones(2, dtype=torch.complex64),
    }
    found = load(written({"model": {"w": torch.arange(6.0).view(2, 3).T}, **beside}, tmp_path / "a.pth.tar", zipped))
    np.testing.assert_array_equal(found["model"]["w"], np.arange(6.0).reshape(2, 3).T)
    assert found["args"] == {"lr": 0.1, "out": "/x/y", "inner": {"a": [1]}}
    assert (found["best"], found["count"], found["where"]) == (91.25, 3, "/a/b")
    assert isinstance(found["best"], float) and found["when"] == beside["when"]
    np.testing.assert_array_equal(found["array"], beside["array"])
    assert found["words"].tolist() == ["a", "bc"]
    assert (found["ordered"], found["default"], found["counted"]) == ({"a": 1}, {"k": [1]}, {"a": 2, "b": 1})
    assert found["space"]["z"].tolist() == [1, 1]
    assert (found["kinds"], found["complex"], found["raw"], found["size"]) == ({1, 2}, 1j, b"\x00\xff", (2, 3))
    unread = {name: found[name].name for name in ("color", "choice", "config", "dtype", "device")}
    assert unread == {
        "color": f"{__name__}.Color",
        "choice": f"{__name__}.Choice",
        "config": f"{__name__}.Config",
        "dtype": "torch.float32",
        "device": "torch.device",
    }
    assert found["config"].given == [{"lr": 0.3}]
    assert found["complexes"].tolist() == [1, 1]


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]


@formats
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_of_torch(dtype, zipped, tmp_path):
    """Of each dtype; views, transposed, expanded and empty ones, without an axis, and Parameters."""
    whole = torch.randint(0, 2, (4, 6)).to(dtype)
    tensors = {
        "whole": whole,
        "view": whole[1:3, 2:],
        "turned": whole.T,
        "wide": whole[:1, :1].expand(3, 2),
        "none": torch.empty((0, 3), dtype=dtype),
        "one": whole[0, 0],
    }
    if dtype.is_floating_point:
        tensors["param"] = torch.nn.Parameter(whole[2])
    found = load(written(tensors, tmp_path / "a.bin", zipped))
    for name, tensor in tensors.items():
        mine = found[name]
        assert mine.dtype == (np.float32 if dtype == torch.bfloat16 else np.dtype(str(dtype).rpartition(".")[2])), name
        assert mine.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(mine.astype(np.float64), tensor.detach().to(torch.float64).numpy())


@formats
def test_a_pickled_module_is_its_state_dict(zipped, tmp_path):
    """As files of ultralytics have it, in half; what is not saved in a state dict is not in it."""
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2, bias=False))
    module[2].register_buffer("scratch", torch.ones(2), persistent=False)
    module = module.half()
    found = load(written({"model": module, "ema": None, "epoch": -1}, tmp_path / "best.pt", zipped))
    expected = module.state_dict()
    assert list(found["model"]) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found["model"][name], value.numpy(), strict=True)


def test_what_occurs_twice_is_one(tmp_path):
    """Tied weights, and containers; a nest of them takes no time that grows with its depth's power."""
    tied, nest = torch.ones(2), [1]
    for _ in range(60):
        nest = [nest, nest]
    found = load(written({"a": tied, "b": tied, "nest": nest}, tmp_path / "a.pt"))
    assert np.shares_memory(found["a"], found["b"])


def test_no_torch_is_needed(tmp_path, monkeypatch):
    """Nor imported."""
    file = written({"a": torch.ones(2), "args": argparse.Namespace(a=1)}, tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert load(file)["a"].tolist() == [1, 1]


def test_checksums_that_torch_was_told_to_leave_out(tmp_path):
    """Are no damage."""
    set_crc32_options(False)
    try:
        file = written({"a": torch.ones(2)}, tmp_path / "a.pt")
    finally:
        set_crc32_options(True)
    assert load(file)["a"].tolist() == [1, 1]


def test_loads_each_kind_of_file_whatever_its_name_ends_in(tmp_path):
    """As arrays; bfloat16 as float32 with the same numbers. A Lightning file ends as those of MindSpore."""
    values = {"a": torch.randn(3).bfloat16(), "b": torch.arange(3), "c": torch.randn(()).double()}
    state = {"model": OrderedDict(values), "epoch": 3, "rest": [values["a"], (1, "x")]}
    save_file(values, tmp_path / "a.safetensors")
    ms.save_checkpoint(
        [
            {"name": "a", "data": Tensor(values["a"].float().numpy(), ms.bfloat16)},
            {"name": "b", "data": Tensor(values["b"].numpy())},
        ],
        str(tmp_path / "a.ckpt"),
    )
    for name in ("a.pth", "a.pth.tar", "last.ckpt", "pytorch_model.bin", "checkpoint"):
        found = load(written(state, tmp_path / "torch" if name == "checkpoint" else tmp_path / f"of_torch_{name}"))
        assert found["epoch"] == 3 and found["rest"][1] == (1, "x") and type(found["model"]) is dict
    for name, other in (("a.safetensors", "s.bin"), ("a.ckpt", "m.pt")):
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
    for kept in (found["model"], *(load(tmp_path / name) for name in ("a.safetensors", "a.ckpt", "s.bin", "m.pt"))):
        assert kept["a"].dtype == np.float32 and kept["b"].dtype == np.int64
        for name in kept:
            np.testing.assert_array_equal(kept[name], values[name].to(torch.float64).numpy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK", "must be a whole checkpoint, but it is none of torch, MindSpore or safetensors: it begins with b'PK'"),
        (b"", "it begins with b''"),
        (b"\x0a\xff", "must be a whole checkpoint, but got"),
        (b"12345678x", "it begins with b'12345678'"),
    ],
)
def test_what_is_no_checkpoint(content, message, tmp_path):
    """Is named, and how it begins."""
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"For 'load', '.*bad.pt' {message}|{message}"):
        load(tmp_path / "bad.pt")


def test_what_is_no_file_is_named():
    """As by `save` and `resume`."""
    with pytest.raises(TypeError, match="For 'load', 'file' must be a str or a PathLike, but got 5"):
        load(5)


def test_files_of_torch_that_are_none_or_damaged(tmp_path):
    """Cut off or changed anywhere, they are refused by name, or hold what they held."""
    file = written({"a": torch.arange(5.0)}, tmp_path / "a.pt")
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 40):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.pt"):
            load(file)
    for place in rng.integers(0, len(whole), 200):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        file.write_bytes(changed)
        try:
            found = load(file)
        except ValueError as error:
            assert "a.pt" in str(error)
        else:
            assert found["a"].tolist() == [0, 1, 2, 3, 4]
    written(torch.ones(2), tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="must hold a mapping by name, but got ndarray"):
        load(tmp_path / "bare.pt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.ckpt")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="a module of TorchScript"):
        load(tmp_path / "script.pt")


def test_containers_and_objects_that_hold_themselves(tmp_path):
    """As a module that its parts know; they do so here."""
    state, config = {"model": {"w": torch.ones(2)}}, argparse.Namespace()
    state["model"]["again"] = state
    config.itself = [config]
    module = torch.nn.Linear(2, 1)
    module.inner = torch.nn.Linear(1, 1)
    module.inner.outer = module
    found = load(written({**state, "config": config, "odd": Odd(), "net": module}, tmp_path / "a.pt"))
    assert found["model"]["again"]["model"] is found["model"] and found["model"]["w"].tolist() == [1, 1]
    assert found["config"]["itself"][0] is found["config"]
    assert found["odd"].given[-1]["itself"] is found["odd"]
    assert list(found["net"]) == ["weight", "bias", "inner.weight", "inner.bias"]


class Odd:
    """An object of a class of one's own that knows itself."""

    def __init__(self):
        self.itself = self


def test_arrays_of_objects_are_not_read(tmp_path):
    """Nor numbers with names; what else there is, is."""
    odd = np.array([Hostile(os.system, "false"), 1], object)
    named = np.zeros(2, [("a", "f4"), ("b", "i4")])
    found = load(written({"a": torch.ones(2), "odd": odd, "named": named, "one": named[0]}, tmp_path / "a.pt"))
    assert found["a"].tolist() == [1, 1]
    assert [found[name].name for name in ("odd", "named", "one")] == ["numpy.ndarray", "numpy.ndarray", "numpy.generic"]


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.eye(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.ones(2).to(torch.float8_e4m3fn), "torch.Tensor of torch.float8_e4m3fn"),
        (torch.ones(2, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "torch._utils._rebuild_qtensor"),
    ],
)
def test_tensors_that_are_no_arrays_are_not_read(tensor, name, tmp_path):
    """The others are."""
    found = load(written({"a": tensor, "b": torch.ones(2)}, tmp_path / "a.pt"))
    assert found["a"].name == name and found["a"].is_tensor and found["b"].tolist() == [1, 1]


def test_restore_reads_by_the_first_bytes_too(tmp_path):
    """And says whose a file is that it cannot use."""
    net, file = nn.Dense(2, 3), tmp_path / "a.ckpt"
    save(net, tmp_path / "a.safetensors")
    file.write_bytes((tmp_path / "a.safetensors").read_bytes())
    expected = net.weight.asnumpy().copy()
    net.weight.set_data(net.weight + 1)
    assert restore(net, file) == []
    np.testing.assert_array_equal(net.weight.asnumpy(), expected)
    with pytest.raises(ValueError, match="must be a checkpoint of MindSpore, but it is of torch"):
        restore(net, written({"a": torch.ones(2)}, file))
