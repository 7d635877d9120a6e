"""States that other programs leave of torch's optimizers: as torch takes them, or with what to do about them."""

import copy
import json

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor

from ms_optim import EMA, SGD, Adam, AdamW

SHAPES = {"weight": (3, 2), "bias": (3,)}


@pytest.fixture(autouse=True)
def in_graph(graph):
    """Run all of it in GRAPH: no rule is in question."""


def ours(cls=AdamW, split=True, **kwargs):
    """An optimizer of ours over a weight and a bias, in groups of their own."""
    params = [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in SHAPES.items()]
    return cls([{"params": [param]} for param in params] if split else params, **kwargs)


def theirs(cls=torch.optim.AdamW, split=True, steps=2, **kwargs):
    """One of torch, stepped."""
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES.values()]
    optimizer = cls([{"params": [param]} for param in params] if split else params, **kwargs)
    for step in range(steps):
        for param in params:
            param.grad = torch.full_like(param, 0.5 + step)
        optimizer.step()
    return optimizer


def assert_taken(optimizer, state):
    """Whether each slot of ours is what the state holds, by the place of its parameter."""
    for place, slots in enumerate(optimizer.state.values()):
        for slot, kept in slots.items():
            np.testing.assert_array_equal(kept.asnumpy(), np.array(state[place][slot]), err_msg=slot)


def with_keys(state, keys):
    """The state dict with other keys for the numbers, in the state and in the groups."""
    return {
        "state": {keys[number]: kept for number, kept in state["state"].items()},
        "param_groups": [
            {**group, "params": [keys[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


def as_json(state):
    """What is left of a state dict that went through JSON: lists, and text for keys."""
    return json.loads(json.dumps(state, default=lambda tensor: tensor.tolist()))


def test_keys_of_text():
    """Digits, as JSON makes them of the keys of a dict, or of the groups' too, are places."""
    state = theirs().state_dict()
    for given in (as_json(state), with_keys(state, "01"), with_keys(as_json(with_keys(state, "01")), {"0": 0, "1": 1})):
        optimizer = ours()
        optimizer.load_state_dict(given)
        assert_taken(optimizer, state["state"])


def test_keys_that_are_names():
    """As FSDP leaves them: they say which parameter is meant, whatever the order of the groups."""
    state = theirs(lr=0.25).state_dict()
    state["param_groups"][1]["lr"] = 0.5
    given = with_keys(state, ["weight", "bias"])
    given["param_groups"].reverse()
    optimizer = ours()
    optimizer.load_state_dict(given)
    assert_taken(optimizer, state["state"])
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]
    with pytest.raises(ValueError, match=r"must be places or the names \[\['weight', 'bias'\]\], but got \[\['bias'\]"):
        ours(split=False).load_state_dict(given)


def test_the_state_of_adam_is_one_of_adamw():
    """As in torch, whose AdamW stays one; not the other way round, where Adam would become AdamW."""
    state = theirs(torch.optim.Adam, weight_decay=0.125).state_dict()
    optimizer = ours()
    optimizer.load_state_dict(state)
    assert_taken(optimizer, state["state"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.125] * 2
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    torch_taker = theirs()
    torch_taker.load_state_dict(state)
    assert torch_taker.param_groups[0]["decoupled_weight_decay"] is True
    message = (
        "'decoupled_weight_decay' of group 0 must be False .* but got True: make an optimizer with decoupled_w.*=True"
    )
    with pytest.raises(ValueError, match=message):
        ours(Adam).load_state_dict(theirs().state_dict())


def test_what_a_flag_has_left():
    """The maximum of amsgrad, after it was switched off, is dropped; where it is on, the optimizer must be so too."""
    reference = theirs(amsgrad=True)
    for group in reference.param_groups:
        group["amsgrad"] = False
    state = reference.state_dict()
    assert "max_exp_avg_sq" in state["state"][0]
    optimizer = ours()
    optimizer.load_state_dict(state)
    assert_taken(optimizer, state["state"])
    with pytest.raises(ValueError, match=r"'amsgrad' of group 0 must be False .*: make an optimizer with amsgrad=True"):
        ours().load_state_dict(theirs(amsgrad=True).state_dict())
    with pytest.raises(ValueError, match=r"'momentum' must stay zero or stay nonzero, .*: make .* with momentum=0.5"):
        ours(SGD, lr=0.1).load_state_dict(theirs(torch.optim.SGD, lr=0.1, momentum=0.5).state_dict())


def fused_adam():
    """The state dict of apex's FusedAdam, and of DeepSpeed's: it counts in its groups; and what torch's holds."""
    state = theirs(weight_decay=0.125).state_dict()
    given = copy.deepcopy(state)
    for kept in given["state"].values():
        del kept["step"]
    known = ("lr", "betas", "eps", "weight_decay", "params")
    given["param_groups"] = [
        {**{name: group[name] for name in known}, "bias_correction": True, "step": 2} for group in given["param_groups"]
    ]
    return given, state


def test_steps_of_a_group():
    """Are those of each of its parameters that has state, and no key of the user's."""
    given, state = fused_adam()
    optimizer = ours()
    optimizer.load_state_dict(given)
    assert_taken(optimizer, state["state"])
    assert optimizer.state_dict()["global_step"] == 2
    assert "step" not in optimizer.param_groups[0]
    del given["state"][1]
    optimizer.load_state_dict(given)
    assert [int(slots["step"].asnumpy()) for slots in optimizer.state.values()] == [2, 0]
    for name in ("bias_correction", "correct_bias"):  # of transformers' AdamW
        given["param_groups"][1][name] = False
        with pytest.raises(ValueError, match=f"'{name}' of group 1 must be True, because no optimizer here leaves"):
            optimizer.load_state_dict(given)
        given["param_groups"][1][name] = True


def test_an_average_around_it():
    """Takes the same."""
    ema = EMA(ours(), decay=0.5)
    given, state = fused_adam()
    averages = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    ema.load_state_dict({**given, "ema": {"averages": averages, "decay": 0.5, "step": 2}})
    assert_taken(ema.optimizer, state["state"])
    assert not ema.averages[0].asnumpy().any()
    assert ms.get_context("mode") == ms.GRAPH_MODE
