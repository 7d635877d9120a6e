"""Whose state each number of torch's optimizer has, where no names say it."""

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers.modules import Module, Net, assert_equal, trained
from mindspore import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from ms_optim import SGD, AdamW
from ms_optim.convert import parameter_map, to_mindspore, to_torch
from ms_optim.groups import param_groups_norm_bias, param_groups_weight_decay


def stepped(groups, seed=0, cls=torch.optim.AdamW):
    """An optimizer of torch that has stepped on what requires a gradient."""
    optimizer = cls(groups, lr=0.01)
    rng = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.rand(param.shape, generator=rng) if param.requires_grad else None
    optimizer.step()
    return optimizer


def split(module, *tests):
    """The parameters in groups, by the first test that each passes; a group of a test decays or not."""
    groups = [{"params": [], "weight_decay": 0.1 if decays else 0.0} for _, decays in tests]
    for name, param in module.named_parameters():
        if param.requires_grad:
            next(group for group, (test, _) in zip(groups, tests) if test(name, param))["params"].append(param)
    return groups


def is_vector(name, param):
    """What timm exempts from weight decay."""
    return param.ndim <= 1 or name.endswith(".bias")


def is_matrix(name, param):
    """What nanoGPT and transformers decay first, and everything else after it."""
    return not is_vector(name, param)


def is_no_norm(name, param):
    """What YOLOv5 decays."""
    return name.split(".")[0] not in ("bn", "norm", "group")


def is_rest(name, param):
    """All that is left."""
    return True


def is_bias(name, param):
    """What YOLOv5 has in its first group."""
    return name.endswith(".bias")


def assert_taken(net, module, optimizer, reference, but=()):
    """Whether each moment is that of the parameter that torch calls so."""
    named = dict(module.named_parameters())
    for row in parameter_map(net, module.state_dict()):
        if row.parameter in optimizer.state and row.torch in named and row.torch not in but:
            expected = reference.state[named[row.torch]]["exp_avg"].numpy()
            got = optimizer.state[row.parameter]["exp_avg"].asnumpy().reshape(expected.shape)
            np.testing.assert_array_equal(got, expected, err_msg=row.torch)


@pytest.mark.parametrize(
    ("tests", "recipe"),
    [
        ([(is_vector, False), (is_rest, True)], lambda net: param_groups_weight_decay(net.trainable_params(), 0.1)),
        ([(is_matrix, True), (is_rest, False)], lambda net: param_groups_weight_decay(net.trainable_params(), 0.1)),
        (
            [(is_bias, False), (is_no_norm, True), (is_rest, False)],
            lambda net: param_groups_norm_bias(net, 0.1),
        ),
    ],
    ids=["timm", "transformers", "yolov5"],
)
def test_groups_tell_the_order(tests, recipe, graph):
    """Whichever comes first: their sizes, shapes and weight decays do; and on the way back."""
    module, net = trained(), Net()
    reference = stepped(split(module, *tests))
    optimizer = AdamW(recipe(net))
    state = reference.state_dict()
    to_mindspore(net, module.state_dict(), optimizer, state)
    assert_taken(net, module, optimizer, reference)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    assert_equal(
        to_torch(net, module.state_dict(), optimizer, optimizer_like=state)["optimizer"]["state"], state["state"]
    )


def test_what_does_not_tell_is_asked_for(graph):
    """Two groups of the same shapes and decays in another order than ours, and names in alphabetic order."""
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
    net = nn.SequentialCell(*(nn.Dense(2, 2) for _ in range(3)))
    params = net.trainable_params()
    state = stepped([{"params": layer.parameters()} for layer in module]).state_dict()
    cut = [{"params": params[i : i + 2]} for i in (0, 2, 4)]
    to_mindspore(net, module.state_dict(), AdamW(cut), state)  # each in its place, as torch itself would load it
    lasts = stepped([{"params": module[:2].parameters()}, {"params": module[2].parameters()}]).state_dict()
    with pytest.raises(
        ValueError, match=r"'names' must give .* but got groups of \[4, 2\] parameters for those of \[2, 2"
    ):
        to_mindspore(net, module.state_dict(), AdamW(cut), lasts)
    cut = [{"params": params[i:j]} for i, j in ((0, 2), (2, 3), (3, 5))]
    turned = stepped(
        [{"params": [layer.bias for layer in module[:1]]}, *({"params": module[i].parameters()} for i in (1, 2))]
    )
    with pytest.raises(ValueError, match="'names' must give the torch module's parameter names"):
        to_mindspore(net, module.state_dict(), AdamW(cut), turned.state_dict())


def test_names_in_alphabetic_order_tell_nothing(graph):
    """They are those of a file of safetensors, and of no module, unless the network has that order too."""
    module = torch.nn.ModuleDict({"q": torch.nn.Linear(2, 2), "k": torch.nn.Linear(2, 2)})
    net = nn.Cell()
    net.q, net.k = nn.Dense(2, 2), nn.Dense(2, 2)
    reference = stepped(module.parameters())
    optimizer = AdamW(net.trainable_params())
    as_file = dict(sorted(module.state_dict().items()))
    with pytest.raises(
        ValueError, match=r"'names' must give .* are in alphabetic order, which is not that of the netw"
    ):
        to_mindspore(net, as_file, optimizer, reference.state_dict())
    names = [name for name, _ in module.named_parameters()]
    to_mindspore(net, as_file, optimizer, reference.state_dict(), names=names)
    assert_taken(net, module, optimizer, reference)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("whole", ["torch", "MindSpore", "both"])
def test_a_frozen_backbone_has_no_state(whole, named, graph):
    """One side has it in its optimizer and the other has not; or both."""
    frozen = ["embed.weight", "line.weight"]
    module, net = trained(), Net()
    for name in frozen:
        module.get_parameter(name).requires_grad = False
    net.embed.embedding_table.requires_grad = net.line.weight.requires_grad = False
    pairs = [(name, param) for name, param in module.named_parameters() if whole != "MindSpore" or param.requires_grad]
    reference = stepped(pairs if named else [param for _, param in pairs])
    inside = net.trainable_params()
    if whole != "torch":
        inside += [net.embed.embedding_table, net.line.weight]
    optimizer = AdamW(inside)
    state = reference.state_dict()
    to_mindspore(net, module.state_dict(), optimizer, state)
    assert_taken(net, module, optimizer, reference, but=frozen)
    for name in ("embed.embedding_table", "line.weight") if whole != "torch" else ():
        assert not optimizer.state[name]["exp_avg"].asnumpy().any()
    back = to_torch(net, module.state_dict(), optimizer, optimizer_like=state)["optimizer"]
    assert_equal(back["state"], state["state"])
    assert back["param_groups"][0]["params"] == state["param_groups"][0]["params"]
    module.get_parameter("embed.weight").requires_grad = True
    if whole == "torch":  # a state that nothing here takes
        with pytest.raises(ValueError, match=r"'names' must give|must hold the same parameters"):
            state = stepped(pairs if named else [param for _, param in pairs]).state_dict()
            to_mindspore(net, module.state_dict(), optimizer, state)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_states_by_name(prefix, graph):
    """As FSDP and `get_optimizer_state_dict` leave them: by names of torch, also of a wrapped module."""
    module, net = trained(), Net()
    reference = stepped(module.parameters())
    names = [prefix + name for name, _ in module.named_parameters()]
    state = reference.state_dict()
    given = {
        "state": {names[number]: kept for number, kept in state["state"].items()},
        "param_groups": [{**group, "params": names[::-1]} for group in state["param_groups"]],
    }
    optimizer = AdamW(net.trainable_params())
    to_mindspore(net, module.state_dict(), optimizer, given)
    assert_taken(net, module, optimizer, reference)
    back = to_torch(net, module.state_dict(), optimizer, optimizer_like=given)["optimizer"]
    assert_equal(back["state"], dict(sorted(given["state"].items())))


@pytest.mark.parametrize("same", [False, True])
def test_flattened_states(same, graph):
    """As `get_optimizer_state_dict` gives them: a key for each value, and no groups, which arguments tell."""
    module, net = trained(), Net()
    values = [*module.parameters()]
    reference = stepped([{"params": values[:2]}, {"params": values[2:], "lr": 0.01 if same else 0.1}])
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    given = get_optimizer_state_dict(module, reference, options=options)
    assert all(key.startswith(("state.", "param_groups.")) for key in given)
    first = ("scale", "embed.embedding_table")  # as in torch
    parted = [
        [param for param in net.trainable_params() if (param.name in first) == wanted] for wanted in (True, False)
    ]
    optimizer = AdamW([{"params": parted[0]}, {"params": parted[1], "lr": 0.5}])
    to_mindspore(net, module.state_dict(), optimizer, given)
    assert_taken(net, module, optimizer, reference)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01 if same else 0.1]
    given["state.other.weight.exp_avg"] = given["param_groups.other.weight.lr"] = torch.ones(())
    with pytest.raises(ValueError, match="the groups of both optimizers must hold the same parameters"):
        to_mindspore(net, module.state_dict(), optimizer, given)


def test_states_have_the_dtype_of_the_slots(graph):
    """Where the parameters are float16 and the state is float32 nothing is rounded."""
    module, net = trained(), Net()
    reference = stepped(module.parameters())
    for value in module.state_dict().values():
        value.copy_(value.half())
    for param in net.get_parameters():
        param.set_dtype(ms.float16)
    optimizer = AdamW(net.trainable_params(), state_dtype=ms.float32, master_weights=True)
    to_mindspore(net, module.state_dict(), optimizer, reference.state_dict())
    expected = {name: reference.state[param]["exp_avg_sq"].numpy() for name, param in module.named_parameters()}
    got = {kept.asnumpy().tobytes() for kept in optimizer.exp_avg_sq}
    assert {kept.dtype for kept in optimizer.exp_avg_sq} == {ms.float32}
    assert {value.tobytes() for value in expected.values()} == got


def test_a_part_of_a_file(graph):
    """The query encoder of MoCo, whose optimizer has the momentum encoder too, which has no state."""
    module = torch.nn.Module()
    module.encoder_q, module.encoder_k = trained(), trained(1)
    module.encoder_k.requires_grad_(False)
    reference = stepped(module.parameters(), cls=torch.optim.Adam)
    net = Net()
    for named in (False, True):
        optimizer, state = AdamW(net.trainable_params()), reference.state_dict()
        if named:
            state["param_groups"][0]["param_names"] = [name for name, _ in module.named_parameters()]
        to_mindspore(net, module.state_dict(), optimizer, state, given={"encoder_q": ""})
        assert_taken(net, module.encoder_q, optimizer, reference)


def test_parameters_of_another_network():
    """Are named."""
    net = Net()
    state = torch.optim.SGD(Module().parameters(), lr=0.1).state_dict()
    with pytest.raises(
        ValueError, match=r"^For 'to_mindspore', 'optimizer' must have Parameters of 'cell', but got \['w'"
    ):
        other = nn.Dense(2, 2)
        other.weight.name, other.bias.name = "w", "b"
        to_mindspore(net, Module().state_dict(), SGD(other.trainable_params(), lr=0.1), state)
