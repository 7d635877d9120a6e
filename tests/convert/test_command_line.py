"""The command line: a file of torch into one of MindSpore, or back."""

import itertools
import json
import os
import subprocess
import sys
from collections import OrderedDict

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers.modules import Module, Net, assert_equal, spread, trained
from mindspore import Parameter, Tensor, nn, ops
from safetensors.torch import load_file

from ms_optim import EMA, Adafactor, AdamW, ParameterEMA, restore, save
from ms_optim.convert import load, parameter_map
from ms_optim.convert.__main__ import main, print_map
from ms_optim.groups import param_groups_weight_decay

FACTORY = "helpers.modules:Net"


@pytest.mark.parametrize("middle", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("how", ["cell", "map"])
def test_command_line(middle, how, tmp_path, capsys, monkeypatch):
    """There and back with the same bits; the table names each tensor."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    state = trained().state_dict()
    torch.save({"model": state}, tmp_path / "a.pt")
    (tmp_path / "map.json").write_text(
        json.dumps({"embed.weight": "embed.embedding_table", "line.weight": "line.weight", "act.weight": "act.w"})
    )
    extra = ["--cell", FACTORY] if how == "cell" else ["--map", str(tmp_path / "map.json")]
    assert main([str(tmp_path / "a.pt"), str(tmp_path / f"b{middle}"), "--key", "model", *extra]) == 0
    printed = capsys.readouterr().out
    assert "embed.embedding_table" in printed and "no counterpart" in printed
    assert ("(8, 8, 3) <-> (8, 8, 1, 3)" in printed) == (how == "cell")
    assert main([str(tmp_path / f"b{middle}"), str(tmp_path / "c.pth"), *extra]) == 0
    got = torch.load(tmp_path / "c.pth", weights_only=True)
    assert_equal(got, {name: value for name, value in state.items() if name != "bn.num_batches_tracked"})
    Module().load_state_dict(got)  # torch fills in the counter
    assert sorted(os.listdir(tmp_path)) == sorted(["a.pt", f"b{middle}", "c.pth", "map.json"])


def test_command_line_keeps_dtypes(tmp_path):
    """To safetensors of torch's too."""
    values = {"fc.weight": torch.randn(2, 3).bfloat16(), "fc.bias": torch.randn(2).half()}
    torch.save(values, tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.ckpt")]) == 0
    assert main([str(tmp_path / "b.ckpt"), str(tmp_path / "c.safetensors")]) == 0
    assert main([str(tmp_path / "c.safetensors"), str(tmp_path / "d.ckpt")]) == 0
    assert main([str(tmp_path / "d.ckpt"), str(tmp_path / "e.pt")]) == 0
    assert_equal(torch.load(tmp_path / "e.pt", weights_only=True), values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.pt", "b.pt"], "SOURCE and TARGET must be one file of torch"),
        (["a.pt", "b.npz"], "SOURCE and TARGET must be one file of torch"),
        (["a.safetensors", "b.safetensors"], "No such file"),
        (["none.pt", "b.ckpt"], "No such file"),
        (["a.pt", "b.ckpt"], "torch: embed.weight (20, 8), act.weight (4,) unclear"),
        (
            ["a.pt", "b.ckpt", "--key", "model"],
            "'--key' must be an entry of SOURCE that has tensors by name, one of [], but got",
        ),
        (["a.pt", "b.ckpt", "--map", "list.json"], "'--map' must be a JSON object, but got list"),
        (["a.pt", "b.ckpt", "--map", "odd.json"], "given but not there: nix"),
        (["a.pt", "b.ckpt", "--cell", "none.such:net"], "No module named 'none'"),
        (["a.pt", "b.ckpt", "--cell", ":net"], "Empty module name"),
        (["a.pt", "b.ckpt", "--cell", "mindspore.nn:ReLU"], "act.weight (4,)\nMindSpore: nothing"),
        (["a.pt", "none/b.ckpt", "--map", "map.json"], "No such file"),
    ],
)
def test_command_line_errors(arguments, message, tmp_path, capsys, monkeypatch):
    """They exit with 2, list both sides, and leave no file."""
    monkeypatch.chdir(tmp_path)
    state = {name: value for name, value in trained().state_dict().items() if name != "line.weight"}
    torch.save(state, "a.pt")
    for name, content in (
        ("list", []),
        ("odd", {"nix": "nax"}),
        ("map", {"embed.weight": "embed.embedding_table", "act.weight": "act.w"}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    before = sorted(os.listdir())
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_table(monkeypatch, capsys):
    """Is rich's on a terminal, if rich is there."""
    rows = parameter_map(nn.Dense(2, 3), {"fc.weight": (3, 2), "fc.bias": (3,)})
    for there in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda there=there: there)
        print_map(rows)
        printed = capsys.readouterr().out
        assert "fc.weight" in printed and ("┃" in printed) == there
    monkeypatch.setitem(sys.modules, "rich.console", None)
    capsys.readouterr()
    print_map(rows)
    assert capsys.readouterr().out == f"{rows}\n"


def parts():
    """A network whose layers are not called what torch calls them."""
    return nn.SequentialCell(nn.Dense(3, 4), nn.Conv1d(4, 4, 3), nn.BatchNorm3d(4))


def halves():
    """One in bfloat16."""
    return nn.Dense(3, 2, dtype=ms.bfloat16)


def test_command_line_takes_one_map_both_ways(tmp_path, monkeypatch):
    """Names of modules and what goes nowhere in it; and a network in bfloat16."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    module = spread(
        torch.nn.ModuleDict(
            {
                "first": torch.nn.Linear(3, 4),
                "norm": torch.nn.BatchNorm3d(4),
                "line": torch.nn.Conv1d(4, 4, 3, bias=False),
            }
        )
    )
    given = {"first": "0", "line.weight": "1.weight", "norm": "2", "extra": None}
    (tmp_path / "map.json").write_text(json.dumps(given))
    half = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    for state, factory, extra in (
        ({**module.state_dict(), "extra.x": torch.ones(3)}, "parts", ["--map", str(tmp_path / "map.json")]),
        (half.state_dict(), "halves", []),
    ):
        torch.save(state, tmp_path / "a.pt")
        extra += ["--cell", f"{__name__}:{factory}"]
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.ckpt"), *extra]) == 0
        assert main([str(tmp_path / "b.ckpt"), str(tmp_path / "c.pt"), *extra]) == 0
        assert_equal(
            torch.load(tmp_path / "c.pt"),
            {name: value for name, value in state.items() if "extra" not in name and "num_batches" not in name},
        )


def test_command_line_with_a_file_of_another_cell(tmp_path, monkeypatch, capsys):
    """Both sides are listed."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    save(nn.Dense(3, 3), tmp_path / "a.ckpt")
    assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "b.pt"), "--cell", f"{__name__}:halves"]) == 2
    assert "do not fit\nfile: weight (3, 3), bias (3,)\ncell: weight (2, 3), bias (2,)" in capsys.readouterr().err


def test_command_line_keeps_every_dtype(tmp_path):
    """And a strided tensor, through both formats."""
    values = {
        f"x.{str(dtype)[6:]}": torch.ones((), dtype=dtype)
        for dtype in (
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.float16,
            torch.float64,
        )
    }
    values["x.strided"] = torch.randn(3, 4, 5, 6).permute(3, 0, 1, 2)
    torch.save(values, tmp_path / "a.pt")
    files = [str(tmp_path / name) for name in ("a.pt", "b.ckpt", "c.safetensors", "d.pth")]
    assert [main(pair) for pair in itertools.pairwise(files)] == [0, 0, 0]
    assert_equal(torch.load(files[-1]), values)
    assert_equal(load_file(files[-2]), values)


@pytest.mark.parametrize(
    ("value", "target"),
    [
        (torch.empty(0, 3), "b.ckpt"),
        (torch.ones(2, dtype=torch.complex64), "b.ckpt"),
        (torch.ones(2, dtype=torch.complex64), "b.safetensors"),
        (torch.ones(2).to(torch.float8_e5m2), "b.ckpt"),
    ],
)
def test_what_a_file_cannot_hold(value, target, tmp_path, capsys):
    """MindSpore would write it, and not find it."""
    torch.save({"a.x": value, "a.weight": torch.ones(2, 3, 3, 3)}, tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt"), str(tmp_path / target)]) == 2
    assert capsys.readouterr().err.startswith("convert: error: ")
    assert os.listdir(tmp_path) == ["a.pt"]


def test_command_line_as_a_module(tmp_path, monkeypatch, capsys):
    """And without torch, where a file of torch must be written."""
    torch.save({"norm.weight": torch.ones(2), "norm.bias": torch.zeros(2)}, tmp_path / "a.pt")
    files = [str(tmp_path / name) for name in ("a.pt", "b.ckpt", "c.safetensors", "d.pt")]
    done = subprocess.run(
        [sys.executable, "-m", "ms_optim.convert", *files[:2]], check=True, stdout=subprocess.PIPE, text=True
    )
    assert "norm.weight  norm.gamma  (2,)   layer\n" in done.stdout
    monkeypatch.setitem(sys.modules, "torch", None)
    assert [main(pair) for pair in itertools.pairwise(files)] == [0, 0, 2]
    assert "what is made for torch needs the package torch" in capsys.readouterr().err
    assert sorted(load(files[2])) == ["norm.bias", "norm.weight"]
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.ckpt", "c.safetensors"]


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_weights_alone_go_to_torch(suffix, tmp_path, capsys):
    """Of a checkpoint of a training: its state is left out by name; with --ema the averages are the weights."""
    net = nn.SequentialCell(nn.Conv2d(3, 4, 3, has_bias=True), nn.BatchNorm2d(4))
    optimizer = EMA(AdamW(net.trainable_params(), amsgrad=True), 0.5)
    optimizer(tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters))
    cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
    source, target = str(tmp_path / f"run{suffix}"), str(tmp_path / "run.pt")
    save(cell, source)
    assert main([source, target]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("exp_avg.0.weight", "ema.1.gamma", "learning_rate", "optimizer.beta1"))
    found = torch.load(target)
    assert sorted(found) == sorted(f"{i}.{leaf}" for i, leaves in LEAVES.items() for leaf in leaves)
    np.testing.assert_array_equal(found["0.weight"].numpy(), net[0].weight.asnumpy())
    assert main([source, target, "--ema"]) == 0
    averages = {param.name: average for param, average in zip(optimizer.tracked, optimizer.averages)}
    found = torch.load(target)
    np.testing.assert_array_equal(found["0.weight"].numpy(), averages["0.weight"].asnumpy())
    np.testing.assert_array_equal(found["1.weight"].numpy(), averages["1.gamma"].asnumpy())
    assert not np.array_equal(averages["0.weight"].asnumpy(), net[0].weight.asnumpy())


LEAVES = {0: ("weight", "bias"), 1: ("weight", "bias", "running_mean", "running_var")}


def test_averages_that_are_not_there(tmp_path, capsys):
    """Nor in a file of torch."""
    save(nn.Dense(2, 3), tmp_path / "a.ckpt")
    torch.save({"norm.weight": torch.ones(2), "norm.bias": torch.zeros(2)}, tmp_path / "b.pt")
    for source, target, said in (("a.ckpt", "c.pt", "it has none"), ("b.pt", "c.ckpt", "SOURCE is of torch")):
        assert main([str(tmp_path / source), str(tmp_path / target), "--ema"]) == 2
        assert said in capsys.readouterr().err


def test_stock_optimizers_state_is_left_out(tmp_path, capsys):
    """As trainers of MindSpore save it; a layer that is called as a kind of state is a layer."""
    net = nn.SequentialCell(OrderedDict(moments=nn.Dense(2, 3), fc=nn.Dense(3, 3)))
    for optimizer in (nn.Momentum(net.trainable_params(), 0.1, 0.9), nn.AdamWeightDecay(net.trainable_params())):
        ms.save_checkpoint(nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer), str(tmp_path / "a.ckpt"))
        assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "a.pt")]) == 0
        names = ["fc.bias", "fc.weight", "moments.bias", "moments.weight"]
        assert sorted(torch.load(tmp_path / "a.pt")) == names


def two_groups(net):
    """An AdamW as a recipe has it."""
    return AdamW(param_groups_weight_decay(net.trainable_params(), 0.1), amsgrad=True)


def averaged(net):
    """The same in an EMA."""
    return EMA(two_groups(net), 0.5, schedule="averaged_model")


@pytest.mark.parametrize("layout", ["beside", "lightning", "in an EMA"])
def test_the_state_of_an_optimizer_goes_along(layout, tmp_path, monkeypatch, capsys):
    """From what a training of torch has saved to one of ours, which goes on, and back."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    module = trained()
    reference = torch.optim.AdamW(
        [
            {"params": [param for _, param in module.named_parameters() if (param.ndim > 1) == decays]}
            for decays in (1, 0)
        ],
        amsgrad=True,
    )
    for param in module.parameters():
        param.grad = torch.rand(param.shape)
    reference.step()
    entries = (module.state_dict(), reference.state_dict())
    if layout == "lightning":
        torch.save({"state_dict": entries[0], "optimizer_states": [entries[1]], "epoch": 3}, tmp_path / "a.pt")
    else:
        torch.save({"model": entries[0], "optimizer": entries[1], "epoch": 3}, tmp_path / "a.pt")
    forward = ["--cell", FACTORY, "--optimizer", f"{__name__}:two_groups"]
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), *forward]) == 0
    printed = capsys.readouterr().out
    assert "left out: epoch (int)" in printed
    net = Net()
    optimizer = two_groups(net)
    restore(nn.CellList([net, optimizer], auto_prefix=False), tmp_path / "b.safetensors")
    moment = reference.state[module.conv.weight]["max_exp_avg_sq"].numpy()
    np.testing.assert_array_equal(optimizer.state["conv.weight"]["max_exp_avg_sq"].asnumpy(), moment)
    if layout == "in an EMA":
        ema = EMA(optimizer, 0.5, schedule="averaged_model")
        save(nn.CellList([net, ema], auto_prefix=False), tmp_path / "b.safetensors")
        forward[-1] = f"{__name__}:averaged"
    like = ["--like", str(tmp_path / "a.pt")]
    assert main([str(tmp_path / "b.safetensors"), str(tmp_path / "c.pt"), *forward, *like]) == 0
    got = torch.load(tmp_path / "c.pt", weights_only=True)
    assert got.keys() == {"model", "optimizer"} | ({"ema"} if layout == "in an EMA" else set())
    assert_equal(got["optimizer"]["state"], entries[1]["state"])
    assert_equal(got["model"], dict(entries[0]))
    assert got["optimizer"]["param_groups"][0]["params"] == entries[1]["param_groups"][0]["params"]
    if layout == "in an EMA":
        assert_equal({name: got["ema"][f"module.{name}"] for name in entries[0]}, dict(entries[0]))
    assert main([str(tmp_path / "b.safetensors"), str(tmp_path / "d.pt"), *forward]) == 0
    alone = torch.load(tmp_path / "d.pt", weights_only=True)["optimizer"]
    numbers = {
        name: number for group in alone["param_groups"] for name, number in zip(group["param_names"], group["params"])
    }
    for name, param in module.named_parameters():
        assert_equal(alone["state"][numbers[name]], reference.state[param])
    weights_alone = [str(tmp_path / "b.safetensors"), str(tmp_path / "e.pt"), "--cell", FACTORY, *like]
    assert main(weights_alone) == 0
    assert_equal(torch.load(tmp_path / "e.pt", weights_only=True), dict(entries[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.pt", "b.ckpt", "--optimizer", "x:y"], "'--optimizer' must be given with '--cell'"),
        (
            ["a.pt", "b.ckpt", "--key", "model"],
            "SOURCE must have one entry that is the state of an optimizer, but got []",
        ),
        (["c.ckpt", "d.pt", "--ema"], "'--ema' must not be given with '--optimizer'"),
        (
            ["c.ckpt", "d.safetensors"],
            "'TARGET' must end in one of ['.pt', '.pth', '.bin'] where a state goes along, but",
        ),
        (
            ["a.pt", "b.ckpt", "--like", "a.pt"],
            "'--like' must be given for a checkpoint of MindSpore, and with '--cell'",
        ),
        (["c.ckpt", "d.pt"], "'parameters' must hold a value for each Parameter, but lacks ['exp_avg.act.w'"),
    ],
)
def test_what_no_optimizer_can_take(arguments, message, tmp_path, monkeypatch, capsys):
    """Is an error that names it, and leaves no file."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    monkeypatch.chdir(tmp_path)
    torch.save({"model": trained().state_dict()}, "a.pt")
    ms.save_checkpoint(Net(), "c.ckpt")
    if "--optimizer" not in arguments:
        arguments = [*arguments, "--cell", FACTORY, "--optimizer", f"{__name__}:two_groups"]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["a.pt", "c.ckpt"]


def adafactor(net):
    """State of other shapes than the parameters have."""
    return Adafactor(net.trainable_params())


def rates(net):
    """A group with a learning rate of its own."""
    one, *others = net.trainable_params()
    return AdamW([{"params": [one]}, {"params": others, "lr": 0.1}])


def masters(net):
    """A float32 copy of halves."""
    for param in net.get_parameters():
        param.set_dtype(ms.float16)
    return AdamW(net.trainable_params(), master_weights=True)


@pytest.mark.parametrize("make", [adafactor, rates, masters])
def test_what_is_of_the_optimizer_is_no_weight(make, tmp_path):
    """Nor are the averages beside a network, and what counts for them."""
    net = nn.Dense(4, 3)
    optimizer = make(net)
    follower = ParameterEMA.of(net)
    optimizer(tuple(Tensor(np.ones(param.shape), param.dtype) for param in optimizer.parameters))
    save(nn.CellList([optimizer, follower], auto_prefix=False), tmp_path / "a.ckpt")
    assert main([str(tmp_path / "a.ckpt"), str(tmp_path / "a.pt")]) == 0
    assert sorted(torch.load(tmp_path / "a.pt")) == ["bias", "weight"]


class Holding(nn.Cell):
    """A network that holds an average of a part of itself, but for its buffers."""

    def __init__(self):
        super().__init__()
        self.net = nn.SequentialCell(nn.Dense(2, 3), nn.BatchNorm1d(3))
        self.ema = ParameterEMA.of(self.net, buffer_update="skip")


class Rate(nn.Cell):
    """A layer with one number."""

    def __init__(self):
        super().__init__()
        self.rate = Parameter(Tensor(0.5, ms.float32))


class Called(nn.Cell):
    """Layers that are called as state is, beside a weight of their own."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones((3, 3), np.float32)))
        self.linear, self.moment, self.decay = nn.Dense(3, 3), nn.Dense(3, 3), Rate()


def test_averages_that_a_network_holds_are_no_weights(tmp_path):
    """Wherever they are in it; `--ema` takes them."""
    net = Holding()
    ops.assign(net.ema.averages[0], Tensor(np.full((3, 2), 5.0, np.float32)))
    save(net, tmp_path / "a.ckpt")
    source, target = str(tmp_path / "a.ckpt"), str(tmp_path / "a.pt")
    assert main([source, target]) == 0
    names = ["net.0.bias", "net.0.weight", "net.1.bias", "net.1.running_mean", "net.1.running_var", "net.1.weight"]
    assert sorted(torch.load(target)) == names
    assert main([source, target, "--ema"]) == 0
    found = torch.load(target)
    assert sorted(found) == names and found["net.0.weight"].eq(5).all()


def test_layers_that_are_called_as_state_is(tmp_path, monkeypatch):
    """Are layers, in a file without a training, and by `--cell` in any."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    net, target = Called(), str(tmp_path / "a.pt")
    names = ["decay.rate", "linear.bias", "linear.weight", "moment.bias", "moment.weight", "weight"]
    save(net, tmp_path / "a.ckpt")
    assert main([str(tmp_path / "a.ckpt"), target]) == 0
    assert sorted(torch.load(target)) == names
    for optimizer in (nn.Momentum(net.trainable_params(), 0.1, 0.9), AdamW(net.trainable_params())):
        cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
        ms.save_checkpoint(cell, str(tmp_path / "b.ckpt"))
        assert main([str(tmp_path / "b.ckpt"), target, "--cell", "test_command_line:Called"]) == 0
        assert sorted(torch.load(target)) == names


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("nothing", "'--cell' must make a Cell, but made None"),
        ("raising", "'--cell' must make a Cell, but raised KeyError: 'x'"),
    ],
)
def test_a_factory_that_makes_no_cell(made, message, tmp_path, monkeypatch, capsys):
    """Is named."""
    monkeypatch.setattr(sys, "path", [os.path.dirname(__file__), *sys.path])
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "a.pt")
    argv = [str(tmp_path / "a.pt"), str(tmp_path / "a.ckpt")]
    assert main([*argv, "--cell", f"test_command_line:{made}"]) == 2
    assert message in capsys.readouterr().err
    (tmp_path / "map.json").write_text(json.dumps({"weight": ""}))
    assert main([*argv, "--map", str(tmp_path / "map.json")]) == 2
    assert "'--map' must map names to names or null, but got '' for 'weight'" in capsys.readouterr().err


def nothing():
    """Make nothing."""


def raising():
    """Raise."""
    return {}["x"]


def test_slices_are_no_weights(tmp_path, capsys):
    """What is cut over devices is to be merged first."""
    save(nn.Dense(2, 3), tmp_path / "a.safetensors")
    entries = {**load(tmp_path / "a.safetensors"), "ms_optim.slices": np.zeros(2, np.uint8)}
    ms.save_checkpoint(
        [{"name": name, "data": Tensor(value)} for name, value in entries.items()], str(tmp_path / "b.ckpt")
    )
    assert main([str(tmp_path / "b.ckpt"), str(tmp_path / "a.pt")]) == 2
    assert "the file must hold whole tensors, but those of this one are slices" in capsys.readouterr().err
