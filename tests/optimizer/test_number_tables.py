"""Momentum and weight decay with a number for each step, as a warm-up has them."""

import copy

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, dataset, nn
from mindspore.train import Model

from ms_optim import EMA, SGD, AdamW, MomentumAGC, RMSprop, restore, save
from parity.sides.mindspore import MODES

WARM_UP = [0.5, 0.75, 0.875]
DECAYS = [0.5, 0.25]


def params():
    """Two of one shape."""
    return [Parameter(Tensor(np.linspace(1, 2, 4, dtype=np.float32)), name=name) for name in ("a", "b")]


def make(cls=SGD, tables=True, **kwargs):
    """An optimizer whose second group has a momentum, or none, of its own."""
    first, second = params()
    momentum = {"momentum": WARM_UP if tables else WARM_UP[0]} if cls is not AdamW else {}
    decay = DECAYS if tables else DECAYS[0]
    own = {"momentum": 0.25} if momentum else {"weight_decay": 0.125}
    return cls([{"params": [first]}, {"params": [second], **own}], lr=0.25, weight_decay=decay, **momentum, **kwargs)


def by_hand(optimizer, step):
    """Set what the tables give at a step."""
    group = optimizer.param_groups[0]
    if "momentum" in group:
        group["momentum"] = WARM_UP[min(step, 2)]
    for group in optimizer.param_groups:
        if group["weight_decay"] != 0.125:
            group["weight_decay"] = DECAYS[min(step, 1)]


def gradients(step):
    """Of a step."""
    return tuple(Tensor(np.full(4, 0.25 * (step + 1 + i), np.float32)) for i in range(2))


def values(optimizer):
    """The parameters and all that a step writes, but the numbers that are set by hand."""
    kept = [*optimizer.parameters, *optimizer.state.tensors]
    return {param.name: param.asnumpy().copy() for param in kept}


@pytest.mark.parametrize(
    ("cls", "mode"),
    [
        *[(cls, mode) for cls in (SGD, MomentumAGC, RMSprop, AdamW) for mode in MODES],
        *[(cls, "composed") for cls in (SGD, AdamW)],
    ],
    indirect=["mode"],
)
def test_a_number_for_each_step(cls, mode):
    """Is what it would be if it were set before the step; the last one holds. No rule sees where a number is from."""
    taken, expected = make(cls), make(cls, tables=False)
    for step in range(5):
        by_hand(expected, step)
        for optimizer in (taken, expected):
            optimizer(gradients(step))
        np.testing.assert_equal(values(taken), values(expected))
    assert taken.param_groups[1].get("momentum", 0.25) == 0.25


def test_in_a_cell_with_data_sink(either):
    """No callback runs between its steps; an average around it has them too."""
    outcomes = []
    for tables in (True, False):
        net = nn.Dense(2, 1)
        net.weight.set_data(Tensor([[0.5, -0.5]], ms.float32))
        net.bias.set_data(Tensor([0.25], ms.float32))
        optimizer = SGD(net.trainable_params(), lr=0.1, momentum=WARM_UP if tables else 0.5, weight_decay=0.125)
        data = dataset.NumpySlicesDataset((np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)), shuffle=False)
        if tables:
            Model(net, nn.MSELoss(), EMA(optimizer, 0.5)).train(1, data.batch(1), dataset_sink_mode=True)
        else:
            gradient = ms.value_and_grad(nn.WithLossCell(net, nn.MSELoss()), None, optimizer.parameters)
            for step in range(4):
                optimizer.param_groups[0]["momentum"] = WARM_UP[min(step, 2)]
                optimizer(gradient(Tensor(np.ones((1, 2), np.float32)), Tensor(np.ones((1, 1), np.float32)))[1])
        outcomes.append(values(optimizer))
    for name, value in outcomes[0].items():
        np.testing.assert_allclose(value, outcomes[1][name], rtol=1e-6, err_msg=name)


def test_it_goes_on_at_its_place(tmp_path, graph):
    """From a checkpoint, a state dict, as a copy, and with one more group."""
    optimizer = make()
    for step in range(2):
        optimizer(gradients(step))
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group.current("momentum")) == (WARM_UP, DECAYS, 0.875)
    state = optimizer.state_dict()
    assert [group["momentum"] for group in state["param_groups"]] == [0.875, 0.25]
    save(optimizer, tmp_path / "a.safetensors")
    others = [make(), make(), copy.deepcopy(optimizer)]
    restore(others[0], tmp_path / "a.safetensors")
    others[1].load_state_dict(state)
    for i in range(2):
        others[1].parameters[i].set_data(optimizer.parameters[i].copy())
    for other in (optimizer, *others):
        other(gradients(2))
        np.testing.assert_equal(values(other), values(optimizer))
    optimizer.add_param_group({"params": [Parameter(Tensor(np.ones(4, np.float32)), name="c")], "momentum": WARM_UP})
    assert optimizer.param_groups[0]["momentum"] == optimizer.param_groups[2]["momentum"] == WARM_UP
    assert "[0.5, ..., 0.875]" in optimizer.describe()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentum": [0.5, -1.0]}, r"'momentum\[1\]' must be in \[0, inf\), but got -1.0"),
        ({"momentum": [0.5, "x"]}, r"'momentum\[1\]' must be a number in \[0, inf\), but got 'x'"),
        (
            {"momentum": []},
            r"'momentum' must be a number in \[0, inf\), or a list or 1-d Tensor of them, but got an empty",
        ),
        ({"momentum": np.ones((2, 2))}, "or a list or 1-d Tensor of them, but got 2 dimensions"),
        (
            {"weight_decay": nn.ExponentialDecayLR(0.1, 0.9, 4)},
            "'weight_decay' must be .*, one for each step, but got Ex",
        ),
        ({"dampening": [0.5]}, "'dampening' must be a number in"),
    ],
)
def test_what_is_no_table(given, message):
    """Is said; a schedule of MindSpore is to be listed."""
    with pytest.raises((TypeError, ValueError), match=rf"^For 'SGD', .*{message}"):
        SGD(params(), lr=0.1, **given)
    optimizer = make()
    with pytest.raises(ValueError, match=r"'momentum' of a group on a schedule must not be set, but got 0.5"):
        optimizer.param_groups[0]["momentum"] = 0.5
    with pytest.raises(TypeError, match=r"'momentum' must be a number in \[0, inf\)"):
        optimizer.param_groups[1]["momentum"] = [0.5]


def test_a_restored_table_is_what_is_told(tmp_path, graph):
    """And what copies, and the optimizer with one more group, go by."""

    def rated(rates, decays):
        one, other = (Parameter(Tensor(np.ones(4, np.float32)), name=name) for name in "ab")
        groups = [{"params": [one], "weight_decay": decays}, {"params": [other], "weight_decay": [*decays, 1.0]}]
        return SGD(groups, lr=rates)

    optimizer, twin = rated([0.125, 0.25], [0.5]), rated([1.0, 2.0], [0.0])
    save(optimizer, tmp_path / "a.safetensors")
    restore(twin, tmp_path / "a.safetensors")
    grown = copy.deepcopy(twin)
    grown.add_param_group({"params": [Parameter(Tensor(np.ones(4, np.float32)), name="c")]})
    for other in (twin, copy.deepcopy(twin), grown):
        groups = other.param_groups[:2]
        assert [group["lr"] for group in groups] == [[0.125, 0.25]] * 2
        assert [group["weight_decay"] for group in groups] == [[0.5], [0.5, 1.0]]
        assert groups[1].current("weight_decay") == 0.5 and "[0.125, ..., 0.25]" in other.describe()
        assert other.state_dict()["param_groups"][0]["weight_decay"] == 0.5
        other(gradients(0) + gradients(0)[: len(other.parameters) - 2])
        np.testing.assert_array_equal(other.parameters[0].asnumpy(), 1 - 0.125 * (0.25 + 0.5))


def test_a_restored_table_may_be_longer_than_that_of_its_group(tmp_path, graph):
    """As long as the longest of all groups; or come where a number was given."""

    def made(first, second):
        one, other = (Parameter(Tensor(np.ones(4, np.float32)), name=name) for name in "ab")
        return SGD([{"params": [one], "momentum": first}, {"params": [other], "momentum": second}], lr=0.1)

    longest, numbers = [0.5, 0.625, 0.75, 0.875], [0.1, 0.2, 0.3, 0.4]
    save(made(numbers, longest), tmp_path / "a.ckpt")
    for first in ([0.9, 0.8], 0.9):
        optimizer = made(first, longest)
        assert optimizer.param_groups[0]["momentum"] == first
        restore(optimizer, tmp_path / "a.ckpt")
        for other in (optimizer, copy.deepcopy(optimizer)):
            assert [group["momentum"] for group in other.param_groups] == [numbers, longest]
