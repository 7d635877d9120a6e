"""States of optimizers and averages from torch to MindSpore and back."""

import contextlib
import copy
import functools
import re

import numpy as np
import pytest
import torch
from helpers.modules import Module, Net, assert_equal, spread, trained, weights
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.nn.utils import no_init_parameters

from ms_optim import EMA, LBFGS, OPTIMIZERS, SGD, Adafactor, AdamW, NAdam
from ms_optim._host import SWITCH
from ms_optim.convert import parameter_map, to_mindspore, to_torch
from parity.judge.compare import compare
from parity.sides.mindspore import set_mode
from parity.sides.trace import Recorder


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


REST = gradients_for(50, seed=2)


@functools.cache
def of_torch(kind):
    """Weights and state after 10 steps in torch, and the traces of 50 more in float32 and float64."""
    module = trained()
    reference = torch_optimizer(module, kind)
    torch_steps(module, reference, gradients_for(10, seed=1))
    stopped = copy.deepcopy((module.state_dict(), reference.state_dict()))
    double, exact = twin_in_float64(module, kind, stopped[1])
    return *stopped, torch_steps(module, reference, REST), torch_steps(double, exact, REST)


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
@pytest.mark.parametrize("way", ["graph", "pynative", "compiled"])
def test_a_run_goes_on(kind, way, monkeypatch):
    """10 steps in torch, then 50 in both: no further from torch in float64 than three times torch in float32.

    Groups are in another order, and so are parameters; rates differ; one parameter was never stepped.
    """
    set_mode("pynative" if way == "pynative" else "graph")
    monkeypatch.setenv(SWITCH, "0" if way == "compiled" else "1")
    values, state, single, double = of_torch(kind)
    net = Net()
    optimizer = our_optimizer(net, kind)
    optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))  # it may have compiled, and has state
    to_mindspore(net, values, optimizer, state)
    assert_equal(to_torch(net, values, optimizer, optimizer_like=state)["optimizer"], state)
    initial = {name: values[name].numpy().copy() for name, _ in Module().named_parameters()}
    verdict = compare(our_steps(net, optimizer, REST), single, double, initial=initial)
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
    with pytest.raises(ValueError, match="'names' must give the torch module's parameter names"):
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
    with pytest.raises(ValueError, match=r"the same parameters, but got\ntorch: \['act.weight',.*'scale'\]\nMindSpore"):
        to_mindspore(
            net,
            module.state_dict(),
            SGD(net.trainable_params()[1:], lr=0.1),
            reference.state_dict(),
            names=sorted(order),
        )


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if hasattr(torch.optim, name) and name != "LBFGS"])
def test_what_torch_keeps_comes_back_as_it_was(name):
    """A number as a number, a tensor as a tensor of its dtype."""
    module, net = torch.nn.Linear(2, 3, bias=name != "Muon"), nn.Dense(2, 3, has_bias=name != "Muon")
    theirs, ours = getattr(torch.optim, name)(module.parameters()), OPTIMIZERS[name](net.trainable_params())
    for param in module.parameters():
        param.grad = torch.ones_like(param).to_sparse() if name == "SparseAdam" else torch.ones_like(param)
    theirs.step()
    to_mindspore(net, module.state_dict(), ours, theirs.state_dict())
    converted = to_torch(net, module.state_dict(), ours, optimizer_like=theirs.state_dict())["optimizer"]
    assert_equal(converted["state"], theirs.state_dict()["state"])


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
