"""Which Parameter each tensor of torch is, and what cannot be mapped."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers.modules import Net, assert_equal, spread, trained, weights
from mindspore import Parameter, Tensor, nn, ops

from ms_optim import EMA, SGD, AdamW
from ms_optim.convert import parameter_map, to_mindspore, to_torch


def renamed():
    """What torch has, some layers under other names, the last first."""
    changes = {"embed": "tokens", "conv": "stem.0", "bn": "stem.1", "norm": "final"}
    state = OrderedDict()
    for name, value in reversed(trained().state_dict().items()):
        head, dot, leaf = name.rpartition(".")
        state[f"{changes.get(head, head)}{dot}{leaf}"] = value
    return state


def test_other_names_are_found_by_structure():
    """If the shapes of a layer occur once; else the caller must say."""
    net, state, module = Net(), renamed(), trained()
    rows = to_mindspore(net, state)
    assert {row.torch.rpartition(".")[0] for row in rows if row.how == "structure"} == {
        "tokens",
        "stem.0",
        "stem.1",
        "final",
    }
    assert next(row for row in rows if row.torch == "stem.1.num_batches_tracked").how == "no counterpart"
    assert_equal(to_torch(net, module.state_dict())["model"], dict(module.state_dict()))
    assert_equal(to_torch(net, state)["model"], dict(state))
    swapped = {
        name.replace("blocks.0", "first").replace("blocks.2", "last"): value
        for name, value in module.state_dict().items()
    }
    with pytest.raises(
        ValueError,
        match=r"torch: first.weight \(8, 8\), .*last.bias \(8,\)\nMindSpore: "
        r"blocks.0.weight \(8, 8\), .*blocks.2.bias",
    ):
        to_mindspore(net, swapped)
    rows = to_mindspore(
        net, swapped, given={"first": "blocks.2", "last.weight": "blocks.0.weight", "last.bias": "blocks.0.bias"}
    )
    assert [row.parameter for row in rows if row.how == "given"] == [
        "blocks.2.weight",
        "blocks.2.bias",
        "blocks.0.weight",
        "blocks.0.bias",
    ]
    np.testing.assert_array_equal(net.blocks[2].weight.asnumpy(), swapped["first.weight"].numpy())
    np.testing.assert_array_equal(net.blocks[0].bias.asnumpy(), swapped["last.bias"].numpy())


def test_wrappers_and_tied_weights():
    """The prefix of data parallel does not count; two names of one Parameter must agree."""
    net, state = nn.SequentialCell(nn.Embedding(5, 4)), {"module.0.weight": torch.randn(5, 4)}
    assert [row.how for row in to_mindspore(net, state)] == ["name"]
    tied = {"0.weight": torch.ones(5, 4), "head.weight": torch.ones(5, 4)}
    with pytest.raises(ValueError, match=r"torch: head.weight \(5, 4\)\nMindSpore: nothing"):
        to_mindspore(net, tied)
    given = {"head.weight": "0.embedding_table"}
    to_mindspore(net, tied, given=given)
    assert_equal(to_torch(net, tied, given=given)["model"], tied)
    tied["head.weight"] = tied["head.weight"] + 1
    with pytest.raises(ValueError, match=r"'0.embedding_table' must be one value, but \['0.weight', 'head.weight'\]"):
        to_mindspore(net, tied, given=given)
    assert parameter_map(net, tied, {"head": None})[1].parameter is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("norm.bias"), r"torch: nothing\nMindSpore: norm.beta \(8,\)"),
        (lambda state: state.pop("bn.running_mean"), r"torch: bn.num_batches_tracked \(\)\nMindSpore: bn.moving_mean"),
        (lambda state: state.update({"a.b": torch.ones(2, 3)}), r"torch: a.b \(2, 3\)\nMindSpore: nothing"),
        (
            lambda state: state.update({"conv.bias": torch.ones(5)}),
            r"shapes differ: conv.bias \(5,\) in torch, conv.bias \(4,\) in MindSpore\ntorch: nothing",
        ),
        (lambda state: state.update({"line.weight": torch.ones(8, 8, 1, 3)}), r"shapes differ: line.weight"),
        (lambda state: state.update({"blocks.0.weight": torch.ones(8, 9)}), r"shapes differ: blocks.0.weight \(8, 9\)"),
    ],
)
def test_what_does_not_fit(spoil, message):
    """Both sides are listed, and nothing is written."""
    net, state = Net(), dict(trained().state_dict())
    spoil(state)
    before = weights(net)
    with pytest.raises(ValueError, match=message):
        to_mindspore(net, state)
    assert all(np.array_equal(before[name], value) for name, value in weights(net).items())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda net, state: parameter_map(3, state), TypeError, "'cell' must be a Cell, but got int"),
        (lambda net, state: parameter_map(net, [3]), TypeError, "must map names to tensors or shapes, but got list"),
        (lambda net, state: parameter_map(net, {}), TypeError, "must map names to tensors or shapes, but got dict"),
        (
            lambda net, state: parameter_map(net, {"model": state, "epoch": 3}),
            TypeError,
            r"for 'model', among \['model', ",
        ),
        (lambda net, state: parameter_map(net, state, {"nix": "norm"}), ValueError, "given, but not in torch: nix"),
        (
            lambda net, state: parameter_map(net, state, {"norm": "nix"}),
            ValueError,
            r"given, but not in MindSpore: nix.weight \(for norm.weight\)",
        ),
        (
            lambda net, state: to_mindspore(net, state, SGD(net.trainable_params(), lr=0.1)),
            TypeError,
            "'optimizer' must come with 'optimizer_state'",
        ),
        (
            lambda net, state: to_mindspore(net, state, SGD(net.trainable_params(), lr=0.1), {"state": {}}),
            TypeError,
            r"must be the state dict of an optimizer of torch, but got \['state'\]",
        ),
        (
            lambda net, state: to_mindspore(net, state, EMA(SGD(net.trainable_params(), lr=0.1)), {}),
            ValueError,
            "'ema_state' must be given if 'optimizer' is an EMA",
        ),
        (
            lambda net, state: to_torch(net, {name: value.shape for name, value in state.items()}),
            ValueError,
            "'like' must hold the value of 'bn.num_batches_tracked'",
        ),
        (
            lambda net, state: to_torch(net, {**state, "norm.bias": torch.ones(8, dtype=torch.int8)}),
            ValueError,
            "int8 must hold the numbers exactly",
        ),
    ],
)
def test_bad_arguments(call, kind, message):
    """What is wrong, and how it must be."""
    net, state = Net(), trained().state_dict()
    net.norm.beta.set_data(Tensor(np.full(8, 0.5, np.float32)))
    with pytest.raises(kind, match=message):
        call(net, state)


def test_what_torch_may_lack():
    """The ones and zeros of a norm without affine, as long as they are."""
    net = nn.SequentialCell(nn.Dense(4, 4), nn.GroupNorm(2, 4, affine=False))
    state = torch.nn.Linear(4, 4).state_dict(prefix="0.")
    to_mindspore(net, state)
    ops.assign(net[1].beta, Tensor(np.full(4, 0.5, np.float32)))
    with pytest.raises(ValueError, match=r"torch: nothing\nMindSpore: 1.beta \(4,\)$"):
        to_mindspore(net, state)
    with pytest.raises(ValueError, match=r"MindSpore: 1.gamma \(4,\), 1.beta \(4,\)$"):
        to_mindspore(nn.SequentialCell(nn.Dense(4, 4), nn.GroupNorm(2, 4)), state)


def test_a_layer_is_not_what_is_left():
    """Where one of the same shapes was found by a name that may mean another."""
    net = nn.SequentialCell(nn.Flatten(), nn.Dense(4, 4), nn.Dense(4, 4))
    state = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).state_dict()
    with pytest.raises(ValueError, match=r"torch: 0.weight \(4, 4\), 0.bias \(4,\)\nMindSpore: 2.weight"):
        to_mindspore(net, state)
    to_mindspore(net, state, given={"0": "1", "1": "2"})
    np.testing.assert_array_equal(net[1].weight.asnumpy(), state["0.weight"].numpy())


def test_a_shared_layer_must_be_given():
    """The cell has it once."""
    layer, dense = torch.nn.Linear(4, 4), nn.Dense(4, 4)
    module, net = torch.nn.Sequential(layer, torch.nn.ReLU(), layer), nn.SequentialCell(dense, nn.ReLU(), dense)
    with pytest.raises(ValueError, match=r"torch: 2.weight \(4, 4\), 2.bias \(4,\)\nMindSpore: nothing"):
        to_mindspore(net, module.state_dict())
    to_mindspore(net, module.state_dict(), given={"2": "0"})
    np.testing.assert_array_equal(dense.weight.asnumpy(), layer.weight.detach().numpy())


class Wrapped(torch.nn.Module):
    """A part of it has the name of a wrapper, and of each shape there are two."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(3, 3)
        self.weight = torch.nn.Parameter(torch.zeros(3, 3))
        self.bias = torch.nn.Parameter(torch.zeros(3))


class WrappedNet(nn.Cell):
    """The same."""

    def __init__(self):
        super().__init__()
        self.module = nn.Dense(3, 3)
        self.weight = Parameter(Tensor(np.zeros((3, 3), np.float32)), name="weight")
        self.bias = Parameter(Tensor(np.zeros(3, np.float32)), name="bias")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_what_all_names_have(prefix):
    """In the weights, in the optimizer, or in both."""
    module = spread(Wrapped())
    reference = torch.optim.AdamW(module.named_parameters())
    for number, param in enumerate(module.parameters()):
        param.grad = torch.full_like(param, number)
    reference.step()
    for weights_in, names_in in ((prefix, ""), ("", prefix), (prefix, prefix)):
        values = {f"{weights_in}{name}": value for name, value in module.state_dict().items()}
        state = copy.deepcopy(reference.state_dict())
        group = state["param_groups"][0]
        group["param_names"] = [f"{names_in}{name}" for name in group["param_names"]]
        net = WrappedNet()
        optimizer = AdamW(net.trainable_params())
        rows = to_mindspore(net, values, optimizer, state)
        assert {row.torch: row.parameter for row in rows} == {
            f"{weights_in}{name}": name for name in module.state_dict()
        }
        for name, param in module.named_parameters():
            np.testing.assert_array_equal(
                optimizer.state[name]["exp_avg"].asnumpy(), reference.state[param]["exp_avg"].numpy(), name
            )
        assert_equal(to_torch(net, values, optimizer, optimizer_like=state), {"model": values, "optimizer": state})


def test_a_part_that_is_compiled():
    """Has its wrapper inside the names."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    module[1] = torch.compile(module[1])
    net = nn.SequentialCell(nn.Dense(3, 3), nn.Dense(3, 3))
    rows = to_mindspore(net, module.state_dict())
    assert [(row.torch, row.parameter, row.how) for row in rows][2] == ("1._orig_mod.weight", "1.weight", "name")
    assert_equal(to_torch(net, module.state_dict())["model"], dict(module.state_dict()))


def test_what_is_given_goes_first():
    """Before the name; then two for one Parameter must be equal, and none may be without one."""
    net = nn.SequentialCell(nn.Dense(4, 4), nn.Dense(4, 4))
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    state = module.state_dict()
    with pytest.raises(ValueError, match=r"torch: nothing\nMindSpore: 0.weight \(4, 4\), 0.bias \(4,\)"):
        to_mindspore(net, state, given={"0": "1"})
    rows = to_mindspore(net, state, given={"0": "1", "1": "0", "1.bias": "0.bias"})
    assert [row.parameter for row in rows] == ["1.weight", "1.bias", "0.weight", "0.bias"]
    optimizer = SGD(net.trainable_params(), lr=0.1, momentum=0.9)
    reference = torch.optim.SGD(module.named_parameters(), lr=0.1, momentum=0.9).state_dict()
    reference["state"] = {
        place: {"momentum_buffer": torch.full_like(value, place)} for place, value in enumerate(state.values())
    }
    to_mindspore(net, state, optimizer, reference, names=["1.weight", "1.bias", "0.weight", "0.bias"])
    assert [optimizer.state[f"{name}.bias"]["momentum_buffer"].asnumpy()[0] for name in "01"] == [3, 1]


def encoder(prefix=""):
    """A network, and the names and shapes that torch has of it behind a prefix."""
    net = nn.SequentialCell(nn.Conv2d(3, 4, 3, has_bias=True), nn.BatchNorm2d(4), nn.Dense(4, 4), nn.Dense(4, 4))
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,)}
    shapes |= {f"1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"1.num_batches_tracked": ()}
    shapes |= {f"{i}.{leaf}": shape for i in (2, 3) for leaf, shape in (("weight", (4, 4)), ("bias", (4,)))}
    return net, {f"{prefix}{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "prefix", ["model.", "backbone.", "_orig_mod.", "module.model.", "model.module.", "teacher.backbone._orig_mod."]
)
def test_what_stands_before_all_names_does_not_count(prefix):
    """On either side."""
    net, shapes = encoder(prefix)
    assert {row.how for row in parameter_map(net, shapes)} == {"name", "no counterpart"}
    outer = nn.SequentialCell(OrderedDict(net=net))
    _, bare = encoder()
    for names in (shapes, bare):
        assert {row.how for row in parameter_map(outer, names)} == {"name", "no counterpart"}


def test_a_part_of_a_file_is_asked_for():
    """Of several networks in a file, as those of contrastive learning, one; the place "" is the cell."""
    net, _ = encoder()
    shapes = {name: shape for part in ("q", "k") for name, shape in encoder(f"module.encoder_{part}.")[1].items()}
    shapes["module.queue"] = (4, 16)
    rows = parameter_map(net, shapes, {"module.encoder_q": ""})
    taken = {row.torch: row.parameter for row in rows if row.how == "given" and row.parameter}
    assert taken["module.encoder_q.2.weight"] == "2.weight" and len(taken) == 10
    assert {row.how for row in rows if "encoder_k" in row.torch or "queue" in row.torch} == {"not asked for"}
    with pytest.raises(ValueError, match=r"given, but not in torch: module\.encoder_x"):
        parameter_map(net, shapes, {"module.encoder_x": ""})
    outer = nn.SequentialCell(OrderedDict(left=net, right=encoder()[0]))
    rows = parameter_map(outer, shapes, {"module.encoder_q": "left", "module.encoder_k": "right", "module.queue": None})
    assert {row.how for row in rows} == {"given", "no counterpart"}
