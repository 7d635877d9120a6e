"""From torch to MindSpore and back: weights, optimizers, averages, files; and what cannot be mapped."""

import contextlib
import copy
import itertools
import json
import os
import re
import subprocess
import sys
from collections import OrderedDict

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.nn.utils import no_init_parameters
from safetensors.torch import load_file, save_file

from ms_optim import EMA, LBFGS, SGD, Adafactor, AdamW, NAdam, save
from ms_optim.convert import load, parameter_map, to_mindspore, to_torch
from ms_optim.convert.__main__ import main, print_map
from parity.judge.compare import compare
from parity.sides.mindspore import MODES, set_mode
from parity.sides.trace import Recorder


class Module(torch.nn.Module):
    """One layer of each kind, and two of one shape."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.line = torch.nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4)
        self.blocks = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
        self.norm = torch.nn.LayerNorm(8)
        self.group = torch.nn.GroupNorm(2, 4)
        self.act = torch.nn.PReLU(4)
        self.scale = torch.nn.Parameter(torch.randn(8))

    def forward(self, ids):
        """From (n, 6) integers to (n, 4, 6, 8)."""
        x = self.line(self.embed(ids).transpose(1, 2)).transpose(1, 2)[:, None]
        x = self.act(self.group(self.bn(self.conv(x))))
        return self.norm(self.blocks(x) * self.scale)


class Net(nn.Cell):
    """The same in another order; with `mint.nn` where `m` is that."""

    def __init__(self, m=nn):
        super().__init__()
        own = m is nn
        self.scale = Parameter(Tensor(np.zeros(8, np.float32)), name="scale")
        self.norm = nn.LayerNorm([8], epsilon=1e-5) if own else mint.nn.LayerNorm(8)
        self.blocks = nn.SequentialCell(
            *(
                nn.Dense(8, 8) if own else mint.nn.Linear(8, 8),
                nn.ReLU(),
                nn.Dense(8, 8) if own else mint.nn.Linear(8, 8),
            )
        )
        self.act = m.PReLU(4) if own else mint.nn.PReLU(4)
        self.group = m.GroupNorm(2, 4)
        self.bn = m.BatchNorm2d(4)
        self.conv = nn.Conv2d(1, 4, 3, has_bias=True) if own else mint.nn.Conv2d(1, 4, 3, padding=1)
        self.line = nn.Conv1d(8, 8, 3) if own else mint.nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.embed = m.Embedding(20, 8)

    def construct(self, ids):
        """From (n, 6) integers to (n, 4, 6, 8)."""
        x = self.line(self.embed(ids).swapaxes(1, 2)).swapaxes(1, 2).expand_dims(1)
        x = self.act(self.group(self.bn(self.conv(x))))
        return self.norm(self.blocks(x) * self.scale)


class Mint(Net):
    """Of the layers of `mint.nn`."""

    def __init__(self):
        super().__init__(mint.nn)


def trained(seed=0):
    """A torch module whose every tensor is its own, also those that start as zeros or ones."""
    torch.manual_seed(seed)
    module = Module()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if tensor.dtype.is_floating_point else torch.tensor(7))
    return module.eval()


def assert_equal(got, expected):
    """The same names, dtypes, shapes and bits, however deep; order counts in lists only."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_equal(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor) and got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    else:
        assert got == expected


def weights(cell):
    """A copy of each Parameter."""
    return {param.name: param.asnumpy().copy() for param in cell.get_parameters()}


@pytest.fixture(autouse=True)
def graph():
    """Unless a test takes `mode`."""
    set_mode("graph")


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
        to_mindspore(net, {**values, "bias": torch.randn(3).double() / 3})
    assert all(np.array_equal(before[name], value) for name, value in weights(net).items())
    to_mindspore(net, {"weight": torch.randn(3, 2), "bias": torch.randn(3)})
    with pytest.raises(ValueError, match="bfloat16 must hold the numbers exactly, but they are float32"):
        to_torch(net, values)


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


def split(named):
    """Two groups: matrices; and the rest, with another rate."""
    named = list(named)
    return [
        {"params": [pair for pair in named if pair[1].dim() > 1]},
        {"params": [pair for pair in named if pair[1].dim() <= 1], "lr": 0.03, "weight_decay": 0.2},
    ]


def torch_optimizer(module, kind, with_names=True):
    """With two groups, or, as torch's users mostly do, with one."""
    named = list(module.named_parameters())
    if kind == "AdamW":
        groups = (
            split(named)
            if with_names
            else [{**group, "params": [param for _, param in group["params"]]} for group in split(named)]
        )
        return torch.optim.AdamW(groups, lr=0.01, amsgrad=True)
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def our_optimizer(net, kind):
    """The same; the groups are the other way round, and in the order of our network."""
    params = net.trainable_params()
    if kind == "AdamW":
        ranks = {row.parameter: len(row.torch_shape) for row in parameter_map(net, Module().state_dict())}
        return AdamW(
            [
                {"params": [param for param in params if ranks[param.name] <= 1]},
                {"params": [param for param in params if ranks[param.name] > 1]},
                {"order_params": params},
            ],
            amsgrad=True,
        )
    return SGD(params, lr=0.5, momentum=0.9)


def gradients_for(steps, seed):
    """By torch's name; one parameter has none."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: None if name == "blocks.2.weight" else np.float32(rng.standard_normal(param.shape) * 0.1)
            for name, param in Module().named_parameters()
        }
        for _ in range(steps)
    ]


def torch_steps(module, optimizer, gradients):
    """Take them; return the trace."""
    recorder, dtype = Recorder(), module.scale.dtype
    for step in gradients:
        for name, param in module.named_parameters():
            param.grad = None if step[name] is None else torch.tensor(step[name], dtype=dtype)
        optimizer.step()
        recorder.add(
            {name: param.detach().numpy() for name, param in module.named_parameters()},
            {
                name: {slot: value.numpy() for slot, value in optimizer.state.get(param, {}).items()}
                for name, param in module.named_parameters()
            },
        )
    return recorder.trace()


def our_steps(net, optimizer, gradients):
    """Take them; return the trace by torch's names and shapes."""
    rows, recorder = {row.parameter: row for row in parameter_map(net, Module().state_dict())}, Recorder()
    for step in gradients:
        optimizer(
            tuple(
                None
                if step[rows[param.name].torch] is None
                else Tensor(step[rows[param.name].torch].reshape(param.shape))
                for param in optimizer.parameters
            )
        )
        names = [(rows[param.name], param) for param in optimizer.parameters]
        recorder.add(
            {row.torch: param.asnumpy().reshape(row.torch_shape) for row, param in names},
            {
                row.torch: {}
                if step[row.torch] is None
                else {
                    slot: value.asnumpy().reshape(row.torch_shape if value.ndim else ())
                    for slot, value in optimizer.state[param.name].items()
                }
                for row, param in names
            },
        )
    return recorder.trace()


def twin_in_float64(module, kind, state):
    """The module and the optimizer in float64, from where they are."""
    double = Module().double()
    double.load_state_dict(module.state_dict())
    optimizer = torch_optimizer(double, kind)
    state = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    return double, optimizer


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_a_run_goes_on(kind, mode):
    """10 steps in torch, then 50 in both: no further from torch in float64 than three times torch in float32.

    Groups are in another order, and so are parameters; rates differ; one parameter was never stepped.
    """
    module = trained()
    reference = torch_optimizer(module, kind)
    torch_steps(module, reference, gradients_for(10, seed=1))
    state = copy.deepcopy(reference.state_dict())
    net = Net()
    optimizer = our_optimizer(net, kind)
    optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))  # it has compiled, and has state
    to_mindspore(net, module.state_dict(), optimizer, state)
    assert_equal(to_torch(net, module.state_dict(), optimizer, optimizer_like=state)["optimizer"], state)
    initial = {name: param.detach().numpy().copy() for name, param in module.named_parameters()}
    double, exact = twin_in_float64(module, kind, state)
    rest = gradients_for(50, seed=2)
    verdict = compare(
        our_steps(net, optimizer, rest),
        torch_steps(module, reference, rest),
        torch_steps(double, exact, rest),
        initial=initial,
    )
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_our_state_goes_to_torch_and_back(kind):
    """Under torch's names, so that torch takes it; then into another network of ours, every bit."""
    net, module = Net(), trained()
    to_mindspore(net, module.state_dict())
    optimizer = our_optimizer(net, kind)
    our_steps(net, optimizer, gradients_for(3, seed=3))
    converted = to_torch(net, module.state_dict(), optimizer)
    module.load_state_dict(converted["model"])
    target = torch_optimizer(module, kind)
    if kind == "AdamW":  # whose groups are the other way round
        with pytest.raises(ValueError, match="size"):
            target.load_state_dict(converted["optimizer"])
    converted = to_torch(net, module.state_dict(), optimizer, optimizer_like=target.state_dict())
    target.load_state_dict(converted["optimizer"])
    by_name = {name: target.state.get(param, {}) for name, param in module.named_parameters()}
    assert not by_name["blocks.2.weight"] and by_name["line.weight"]
    for row in parameter_map(net, module.state_dict()):
        for slot, value in by_name.get(row.torch, {}).items():
            expected = optimizer.state[row.parameter][slot].asnumpy()
            assert value.dtype == torch.float32
            np.testing.assert_array_equal(value.numpy(), expected.reshape(value.shape))
    other = Net()
    again = our_optimizer(other, kind)
    to_mindspore(other, converted["model"], again, to_torch(net, module.state_dict(), optimizer)["optimizer"])
    assert_equal(weights(other).keys(), weights(net).keys())
    for name, value in weights(net).items():
        np.testing.assert_array_equal(weights(other)[name], value)
    for param in optimizer.get_parameters():
        if "global_step" not in param.name and (kind, param.name) != ("SGD", "optimizer.step"):  # not torch's
            np.testing.assert_array_equal(again.parameters_dict()[param.name].asnumpy(), param.asnumpy(), param.name)


def test_state_follows_the_name():
    """Of two of one shape, in whichever order torch's optimizer has them; without names it must be told."""
    module, net = trained(), Net()
    named = dict(module.named_parameters())
    order = sorted(named, key=lambda name: name[::-1])
    reference = torch.optim.SGD([named[name] for name in order], lr=0.1, momentum=0.9)
    torch_steps(module, reference, gradients_for(1, seed=4))
    optimizer = SGD(net.trainable_params(), lr=0.1, momentum=0.9)
    before = weights(net)
    with pytest.raises(ValueError, match=r"must be of shape"):
        to_mindspore(net, module.state_dict(), optimizer, reference.state_dict())
    assert all(np.array_equal(before[name], value) for name, value in weights(net).items())
    to_mindspore(net, module.state_dict(), optimizer, reference.state_dict(), names=order)
    for name in ("blocks.0.weight", "blocks.0.bias", "blocks.2.bias"):
        np.testing.assert_array_equal(
            optimizer.state[name]["momentum_buffer"].asnumpy(), reference.state[named[name]]["momentum_buffer"].numpy()
        )
    assert_equal(
        to_torch(net, module.state_dict(), optimizer, optimizer_like=reference.state_dict(), names=order)["optimizer"],
        reference.state_dict(),
    )
    with pytest.raises(ValueError, match="'names' must be the 16 parameters of torch's optimizer, but got 3"):
        to_mindspore(net, module.state_dict(), optimizer, reference.state_dict(), names=order[:3])
    with pytest.raises(ValueError, match=r"the same parameters, but got\ntorch: .*'nix'"):
        to_mindspore(net, module.state_dict(), optimizer, reference.state_dict(), names=["nix", *order[1:]])
    groups = torch_optimizer(module, "AdamW", with_names=False).state_dict()
    with pytest.raises(ValueError, match="'names' must give the torch module's parameter names"):
        to_mindspore(net, module.state_dict(), our_optimizer(net, "AdamW"), groups)
    with pytest.raises(ValueError, match=r"the same parameters, but got\ntorch: \['act.weight',.*'scale'\]\nMindSpore"):
        to_mindspore(
            net,
            module.state_dict(),
            SGD(net.trainable_params()[1:], lr=0.1),
            reference.state_dict(),
            names=sorted(order),
        )


def test_numbers_are_those_of_torch():
    """NAdam's product of momenta is float32 there."""
    module, net = torch.nn.Linear(2, 3), nn.Dense(2, 3)
    reference = torch.optim.NAdam(module.named_parameters())
    for _ in range(3):
        module(torch.ones(1, 2)).sum().backward()
        reference.step()
    optimizer = NAdam(net.trainable_params())
    to_mindspore(net, module.state_dict(), optimizer, reference.state_dict())
    converted = to_torch(net, module.state_dict(), optimizer)["optimizer"]
    assert_equal(converted["state"], reference.state_dict()["state"])
    assert converted["param_groups"][0]["param_names"] == ["weight", "bias"]
    torch.optim.NAdam(module.parameters()).load_state_dict(converted)


@pytest.mark.parametrize("buffers", [False, True])
def test_averages(buffers):
    """Of AveragedModel there and back; of timm by the module's names; a buffer that is not averaged must be equal."""
    module, net = trained(), Net()
    reference = torch_optimizer(module, "SGD")
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=buffers
    )
    for gradients in gradients_for(3, seed=5):
        torch_steps(module, reference, [gradients])
        module.bn.running_mean += 1
        average.update_parameters(module)
    tracked = [param for param in net.get_parameters() if not param.requires_grad]
    ema = EMA(our_optimizer(net, "SGD"), decay=0.9, schedule="averaged_model", buffers=tracked if buffers else ())
    to_mindspore(net, module.state_dict(), ema, reference.state_dict(), ema_state=average.state_dict())
    assert ema.state_dict()["ema"]["step"] == 3
    converted = to_torch(net, module.state_dict(), ema, optimizer_like=reference.state_dict())
    assert_equal(converted["optimizer"], reference.state_dict())
    expected = dict(average.state_dict())
    expected["module.bn.num_batches_tracked"] = module.bn.num_batches_tracked  # the other has been averaged, too
    assert_equal(converted["ema"], expected)
    gradients = gradients_for(1, seed=6)
    torch_steps(module, reference, gradients)
    average.update_parameters(module)
    our_steps(net, ema, gradients)
    for row in parameter_map(net, module.state_dict()):
        if row.parameter in ema.state:
            expected = average.state_dict()[f"module.{row.torch}"].numpy()
            np.testing.assert_allclose(
                ema.state[row.parameter]["ema"].asnumpy().reshape(expected.shape), expected, rtol=1e-6, atol=1e-7
            )
    timm = dict(average.module.state_dict())
    with pytest.raises(ValueError, match="'ema_step' must say how many steps the EMA has seen"):
        to_mindspore(net, module.state_dict(), ema, reference.state_dict(), ema_state=timm)
    to_mindspore(net, module.state_dict(), ema, ema_state=timm, ema_step=9)
    assert ema.state_dict()["ema"]["step"] == 9
    module.bn.running_mean += 1
    if not buffers:
        with pytest.raises(ValueError, match=r"must average 'bn[.]moving_mean' too, by its 'buffers'"):
            to_mindspore(net, module.state_dict(), ema, ema_state=timm, ema_step=9)
    del timm["conv.bias"]
    with pytest.raises(ValueError, match=r"ema_state: \[\]\nstate_dict: \['conv.bias'\]"):
        to_mindspore(net, module.state_dict(), ema, ema_state=timm, ema_step=9)


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


FIRST = {"params": [0, 1], "lr": 0.1, "param_names": ["weight", "bias"]}


@pytest.mark.parametrize(
    ("given", "state", "ema", "message"),
    [
        ({"bias": [1]}, None, None, "'bias' must be a tensor of shape (1,), but got list"),
        ({"bias": (1,)}, None, None, "'bias' must be a tensor of shape (1,), but got tuple"),
        ({"bias": ["a"]}, None, None, "must map names to tensors or shapes, but got list for 'bias'"),
        ({3: torch.ones(1)}, None, None, "must map names to tensors or shapes, but got Size for 3"),
        ({None: torch.ones(1)}, None, None, "must map names to tensors or shapes, but got Size for None"),
        ({(1, 2): (3,)}, None, None, "must map names to tensors or shapes, but got tuple for (1, 2)"),
        ({"bias": np.array(["a"])}, None, None, "'bias' must be real numbers in a dense tensor"),
        ({"bias": np.array([None])}, None, None, "'bias' must be real numbers in a dense tensor"),
        ({"bias": torch.ones(1).to_sparse()}, None, None, "'bias' must be real numbers in a dense tensor"),
        *(
            ({}, state, None, "'optimizer_state' must be the state dict of an optimizer of torch")
            for state in (
                3,
                {"state": None, "param_groups": [FIRST]},
                {"state": {}, "param_groups": None},
                {"state": {}, "param_groups": [0]},
                {"state": {}, "param_groups": [{**FIRST, "params": None}]},
                {"state": {}, "param_groups": [{**FIRST, "param_names": None}]},
                {"state": {0: None}, "param_groups": [FIRST]},
                {"state": {0: torch.ones(1)}, "param_groups": [FIRST]},
            )
        ),
        (
            {},
            {"state": {0: {"momentum_buffer": np.array("x")}}, "param_groups": [FIRST]},
            None,
            "'momentum_buffer of weight' must be real numbers in a dense tensor",
        ),
        ({}, None, [1], "'ema_state' must be a mapping of averages by name, but got list"),
        ({}, None, {"n_averaged": 1, 3: torch.ones(1)}, "must map names to tensors or shapes, but got Size for 3"),
        (
            {},
            None,
            {"n_averaged": 1, "weight": [1, 1], "bias": torch.ones(1)},
            "'weight' must be a tensor of shape (1, 1)",
        ),
    ],
)
def test_what_is_no_state(given, state, ema, message):
    """Is refused by name, and nothing changes."""
    net = nn.Dense(1, 1)
    optimizer = SGD(net.trainable_params(), lr=0.5, momentum=0.9)
    optimizer = optimizer if ema is None else EMA(optimizer, decay=0.5)
    before = weights_of(net, optimizer)
    with pytest.raises((TypeError, ValueError), match=f"^For '.*{re.escape(message)}"):
        to_mindspore(
            net,
            {"weight": torch.ones(1, 1), "bias": torch.ones(1), **given},
            None if state is None and ema is None else optimizer,
            state,
            ema_state=ema,
        )
    assert_equal(weights_of(net, optimizer), before)


def weights_of(*cells):
    """What each of their Parameters holds."""
    return [{name: value.tolist() for name, value in weights(cell).items()} for cell in cells]


def test_adafactor_of_a_line():
    """It divides the last two axes of the weight, which `nn.Conv1d` has otherwise."""
    module, net, same = torch.nn.Conv1d(2, 3, 4), nn.Conv1d(2, 3, 4, has_bias=True), mint.nn.Conv1d(2, 3, 4)
    reference = torch.optim.Adafactor(module.parameters())
    module(torch.randn(1, 2, 9)).sum().backward()
    reference.step()
    optimizer = Adafactor(net.trainable_params())
    before = weights_of(net, optimizer)
    with pytest.raises(
        ValueError,
        match=r"'row_var of weight' must have the shape of its parameter, \(3, 2, 4\), bec"
        r".* \(3, 2, 1, 4\) on the other side, but got \(3, 2, 1\): .*mint.nn.Conv1d",
    ):
        to_mindspore(net, module.state_dict(), optimizer, reference.state_dict())
    assert weights_of(net, optimizer) == before
    optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))
    with pytest.raises(ValueError, match=r"'row_var of weight' must have the shape of its parameter, \(3, 2, 1, 4\)"):
        to_torch(net, module.state_dict(), optimizer)
    optimizer = Adafactor(same.trainable_params())
    to_mindspore(same, module.state_dict(), optimizer, reference.state_dict())
    assert_equal(to_torch(same, module.state_dict(), optimizer)["optimizer"]["state"], reference.state_dict()["state"])


FACTORY = f"{__name__}:Net"


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
        (["a.safetensors", "b.safetensors"], "SOURCE and TARGET must be one file of torch"),
        (["none.pt", "b.ckpt"], "No such file"),
        (["a.pt", "b.ckpt"], "torch: embed.weight (20, 8), act.weight (4,) unclear"),
        (["a.pt", "b.ckpt", "--key", "model"], "'--key' must be an entry of SOURCE that is a mapping"),
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


def spread(module, seed=0):
    """The module, in evaluation, with a number of its own in each place."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.dtype.is_floating_point:
                value.copy_(torch.rand(value.shape) + 0.3)
    return module.eval()


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
@pytest.mark.parametrize("mode", MODES)
def test_layers_compute_the_same(theirs, ours, shapes, mode):
    """By name, and back with the same bits."""
    set_mode(mode)
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


class TiedModule(torch.nn.Module):
    """Its last layer has the weight of its first, and that of the one between has the same shape."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(4, 4)
        self.fc = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        """From (n,) integers to (n, 4)."""
        return self.head(self.fc(self.embed(ids)))


class TiedNet(nn.Cell):
    """The same, with the head or without."""

    def __init__(self, head):
        super().__init__()
        self.embed = nn.Embedding(4, 4)
        self.fc = nn.Dense(4, 4)
        if head:
            self.head = nn.Dense(4, 4, has_bias=False)
            self.head.weight = self.embed.embedding_table


@pytest.mark.parametrize("head", [True, False])
def test_state_of_tied_weights(head):
    """Is that of the first name: the order of torch's parameters is that in which they first occur."""
    module, net = spread(TiedModule()), TiedNet(head)
    reference = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    (module(torch.arange(4)) ** 2).mean().backward()
    reference.step()
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    ema = EMA(SGD(net.trainable_params(), lr=0.1, momentum=0.9), decay=0.9, schedule="averaged_model")
    given = None if head else {"head.weight": "embed.embedding_table"}
    to_mindspore(net, module.state_dict(), ema, reference.state_dict(), ema_state=average.state_dict(), given=given)
    for name, param in (("embed.embedding_table", module.embed.weight), ("fc.weight", module.fc.weight)):
        np.testing.assert_array_equal(
            ema.state[name]["momentum_buffer"].asnumpy(), reference.state[param]["momentum_buffer"].numpy(), name
        )
    converted = to_torch(net, module.state_dict(), ema, optimizer_like=reference.state_dict(), given=given)
    assert_equal(
        converted,
        {"model": dict(module.state_dict()), "optimizer": reference.state_dict(), "ema": dict(average.state_dict())},
    )
    own = to_torch(net, module.state_dict(), ema, given=given)["optimizer"]
    assert own["param_groups"][0]["param_names"] == ["embed.weight", "fc.weight", "fc.bias"]
    assert_equal(own["state"], reference.state_dict()["state"])


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


def test_a_network_without_buffers_trains_on(mode):
    """Made under `no_init_parameters`, with its optimizer before or after the conversion, to the same bits."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    begun = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(4, 3)).sum().backward()
    begun.step()
    grads = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones(2, np.float32))
    outcomes = []
    for lazy in (False, True):
        for early in (False, True):
            with no_init_parameters() if lazy else contextlib.nullcontext():
                net = nn.Dense(3, 2)
                optimizer = AdamW(net.trainable_params()) if early else None
            assert net.weight.has_init == lazy
            optimizer = optimizer or AdamW(net.trainable_params())
            to_mindspore(net, module.state_dict(), optimizer, begun.state_dict())
            np.testing.assert_array_equal(net.weight.asnumpy(), module.weight.detach().numpy())
            optimizer(grads)
            outcomes.append(weights(optimizer))
    for outcome in outcomes[1:]:
        np.testing.assert_equal(outcome, outcomes[0])


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


@pytest.mark.parametrize("make", [LBFGS, nn.Adam, lambda params: EMA(nn.Adam(params)), lambda params: 3])
def test_other_optimizers(make):
    """Have no state for each parameter in torch's layout."""
    net, module = nn.Dense(3, 2), torch.nn.Linear(3, 2)
    optimizer = make(net.trainable_params())
    averages = {"ema_state": module.state_dict(), "ema_step": 1} if isinstance(optimizer, EMA) else {}
    with pytest.raises(TypeError, match="For 'to_mindspore', 'optimizer' must be one of ms_optim"):
        to_mindspore(
            net, module.state_dict(), optimizer, torch.optim.Adam(module.parameters()).state_dict(), **averages
        )
    with pytest.raises(TypeError, match="For 'to_torch', 'optimizer' must be one of ms_optim"):
        to_torch(net, module.state_dict(), optimizer)
    with pytest.raises(TypeError, match="'optimizer_like' must be the state dict of an optimizer of torch, but got"):
        to_torch(net, module.state_dict(), SGD(net.trainable_params(), lr=0.1), optimizer_like={})
    with pytest.raises(ValueError, match="the groups of both optimizers must hold the same parameters"):
        to_torch(net, module.state_dict(), SGD([Parameter(Tensor([1.0]), name="other")], lr=0.1))


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
    """And without torch, where a file of torch must be read or written."""
    torch.save({"norm.weight": torch.ones(2), "norm.bias": torch.zeros(2)}, tmp_path / "a.pt")
    files = [str(tmp_path / name) for name in ("a.pt", "b.ckpt", "c.safetensors", "d.pt")]
    done = subprocess.run(
        [sys.executable, "-m", "ms_optim.convert", *files[:2]], check=True, stdout=subprocess.PIPE, text=True
    )
    assert "norm.weight  norm.gamma  (2,)   layer\n" in done.stdout
    monkeypatch.setitem(sys.modules, "torch", None)
    assert [main(pair) for pair in itertools.pairwise(files)] == [2, 0, 2]
    assert "files and tensors of torch need the package torch" in capsys.readouterr().err
    assert sorted(load(files[2])) == ["norm.bias", "norm.weight"]
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.ckpt", "c.safetensors"]
