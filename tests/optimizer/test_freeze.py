"""Frozen parameters stand still from the next step on, in every way of training, and nothing compiles for it."""

import copy
import functools

import mindspore as ms
import numpy as np
import pytest
from helpers import assert_compiled, assert_same, everything
from mindspore import Parameter, Tensor, log, nn, ops

from ms_optim import EMA, OPTIMIZERS, SGD, AdamW, restore, save
from ms_optim.lr_scheduler import ExponentialLR

STEPS, FROZEN = 6, (2, 3)
X = Tensor(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32))
Y = Tensor(np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32))


def network():
    """Two layers, the same each time."""
    rng = np.random.default_rng(2)
    weights = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in ((5, 4), (2, 5))]
    return nn.SequentialCell(nn.Dense(4, 5, weight_init=weights[0]), nn.Dense(5, 2, weight_init=weights[1]))


def training(way, averaged, name="AdamW", **kwargs):
    """A network, its optimizer and a function that takes a step."""
    net = network()
    optimizer = OPTIMIZERS[name](net.trainable_params(), lr=0.05, **kwargs)
    outer = EMA(optimizer, 0.5) if averaged else optimizer
    loss = nn.WithLossCell(net, nn.MSELoss())
    if way == "cell":
        cell = nn.TrainOneStepCell(loss, outer).set_train()
        return net, outer, lambda: cell(X, Y)
    gradient = ms.value_and_grad(loss, None, optimizer.parameters)
    if way == "direct":
        return net, outer, lambda: outer.step(gradient(X, Y)[1])

    @ms.jit
    def step():
        return outer.step(gradient(X, Y)[1])

    return net, outer, step


def parts(optimizer, frozen):
    """Everything that belongs to the first layer, or to the other, by name."""
    found = {}
    for param in optimizer.parameters:
        if param.name.startswith("0.") == frozen:
            found[param.name] = param.asnumpy().copy()
            slots = optimizer.state[param.name].items()
            found |= {f"{slot} of {param.name}": kept.asnumpy().copy() for slot, kept in slots if slot != "ema"}
    return found


@pytest.mark.parametrize(
    ("averaged", "mode"),
    [(False, "graph"), (True, "graph"), (True, "pynative"), (False, "composed")],
    indirect=["mode"],
)
@pytest.mark.parametrize("way", ["direct", "cell", "jit"])
def test_frozen_parameters_and_their_state_stand_still(way, averaged, mode, compilations):
    """Bit for bit, while the others move; then they go on, and no step compiles but the first."""
    net, optimizer, step = training(way, averaged)
    counts = []
    for i in range(STEPS):
        if i == FROZEN[0]:
            optimizer.freeze("0.*")
            assert [param.requires_grad for param in net.get_parameters()] == [False, False, True, True]
        if i == FROZEN[-1] + 1:
            optimizer.unfreeze(lambda param: param.name.startswith("0."))
        before = parts(optimizer, True), parts(optimizer, False)
        step()
        counts.append(len(compilations))
        after = parts(optimizer, True), parts(optimizer, False)
        if i in FROZEN:
            assert_same(after[0], before[0])
        else:
            assert all(np.any(after[0][key] != before[0][key]) for key in before[0])
        assert all(np.any(after[1][key] != before[1][key]) for key in before[1])
    assert sorted(set(optimizer.step_counts.asnumpy())) == [STEPS - len(FROZEN), STEPS]
    if way != "direct":  # value_and_grad compiles, or does not, by itself
        assert counts[-1] == counts[0]


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "Adafactor", "MomentumAGC", "Rprop"])
def test_no_nan_comes_in(name, path):
    """A frozen parameter and its state are chosen, not multiplied by zero."""
    params = [Parameter(Tensor(np.ones((2, 3), np.float32)), name=key) for key in "ab"]
    optimizer = OPTIMIZERS[name](params)
    optimizer((Tensor(np.full((2, 3), 0.5, np.float32)),) * 2)
    optimizer.freeze("a")
    before = {slot: kept.asnumpy().copy() for slot, kept in optimizer.state["a"].items()}
    value = params[0].asnumpy().copy()
    optimizer((Tensor(np.full((2, 3), np.nan, np.float32)), Tensor(np.ones((2, 3), np.float32))))
    np.testing.assert_array_equal(params[0].asnumpy(), value)
    assert_same({slot: kept.asnumpy() for slot, kept in optimizer.state["a"].items()}, before)
    assert np.isfinite(params[1].asnumpy()).all()
    assert_compiled(optimizer)


def test_set_by_hand_it_is_taken_over(either):
    """At a direct call, at a step of a scheduler, and when a checkpoint is saved."""
    net, optimizer, step = training("direct", False)
    step()
    net[0].weight.requires_grad = False
    step()
    assert optimizer.trainable.asnumpy().tolist() == [False, True, True, True]
    net[1].bias.requires_grad = False
    ExponentialLR(optimizer, 0.9).step()
    assert optimizer.trainable.asnumpy().tolist() == [False, True, True, False]


@pytest.fixture
def told(monkeypatch):
    """What is warned of."""
    found = []
    monkeypatch.setattr("ms_optim._freezing.log.warning", found.append)
    return found


def test_a_cell_that_has_compiled_follows_where_the_host_is_asked(graph, told, tmp_path):
    """The scheduler of an epoch asks, and so does `save`; there is nothing to warn of."""
    net, optimizer, step = training("cell", False)
    scheduler = ExponentialLR(optimizer, 0.9)
    step()
    for param, ask in ((net[0].weight, scheduler.step), (net[0].bias, lambda: save(optimizer, tmp_path / "a.ckpt"))):
        param.requires_grad = False
        ask()
        before = param.asnumpy().copy()
        step()
        np.testing.assert_array_equal(param.asnumpy(), before)
    assert (net[1].weight.asnumpy() != network()[1].weight.asnumpy()).all()
    assert not told


def test_a_cell_that_compiles_warns_of_what_it_cannot_see(graph, told):
    """By name, with what to do; and not where the host has been asked."""
    net, optimizer, step = training("cell", False)
    net[0].weight.requires_grad = False
    step()
    assert len(told) == 1
    assert "For 'AdamW', 'requires_grad' of ['0.weight'] was set by hand" in told[0] and "call 'freeze'" in told[0]
    optimizer.follow_requires_grad()
    before = net[0].weight.asnumpy().copy()
    step()
    np.testing.assert_array_equal(net[0].weight.asnumpy(), before)


@pytest.mark.parametrize("averaged", [False, True])
def test_what_is_frozen_is_saved(averaged, graph, tmp_path):
    """A run that is taken up goes on as it would have, and `requires_grad` is what it was.

    By a state dict in a new cell, then from files in the same cell, which has compiled and gone on.
    """
    _, optimizer, step = training("cell", averaged)
    step()
    optimizer.freeze("0.*")
    step()
    state, values = optimizer.state_dict(), [Tensor(param.asnumpy()) for param in optimizer.parameters]
    assert state["frozen"] == [0, 1]
    optimizer.unfreeze("0.*")
    moving = optimizer.state_dict()
    optimizer.freeze("0.*")
    files = [tmp_path / f"run{suffix}" for suffix in (".ckpt", ".safetensors")]
    for file in files:
        save(optimizer, file)
    for _ in range(2):
        step()
    net, resumed, again = training("cell", averaged)

    def take_up_state_dict():
        for param, value in zip(resumed.parameters, values):
            ops.assign(param, value)
        resumed.load_state_dict(state)

    for take_up in (take_up_state_dict, *(functools.partial(restore, resumed, file) for file in files)):
        take_up()
        assert [param.requires_grad for param in net.get_parameters()] == [False, False, True, True]
        for _ in range(2):
            again()
        assert_same(everything(resumed), everything(optimizer))
        resumed.unfreeze("0.*")
        again()
        assert all(np.any(param.asnumpy() != value.asnumpy()) for param, value in zip(resumed.parameters, values))
    resumed.freeze("*")
    resumed.load_state_dict(moving)
    assert all(param.requires_grad for param in net.get_parameters())
    del moving["frozen"]  # as torch's has none, which says nothing of it
    resumed.freeze("0.*")
    resumed.load_state_dict(moving)
    assert [param.requires_grad for param in net.get_parameters()] == [False, False, True, True]


@pytest.mark.parametrize("how", ["state", "copy", "group"])
def test_what_was_frozen_by_hand_stays_so(how):
    """Though no step has seen it yet."""
    net = network()
    optimizer = AdamW(net.trainable_params(), lr=0.05)
    net[0].weight.requires_grad = False
    if how == "state":
        optimizer.load_state_dict(optimizer.state_dict())
    elif how == "group":
        optimizer.add_param_group({"params": [Parameter(Tensor(np.ones(2, np.float32)), name="more")]})
    made = copy.deepcopy(optimizer) if how == "copy" else optimizer
    moves = [param.requires_grad for param in made.parameters]
    assert moves[:4] == [False, True, True, True] and made.trainable.asnumpy().tolist() == moves


@pytest.mark.parametrize("how", ["state", "file"])
def test_loading_says_what_moves_again(how, monkeypatch, tmp_path):
    """As a backbone that was frozen before, where the state is of a training of all."""
    told, before = [], AdamW(network().trainable_params())
    save(before, tmp_path / "a.ckpt")
    monkeypatch.setattr(log, "warning", told.append)
    net = network()
    net[0].weight.requires_grad = False
    optimizer = AdamW(net.get_parameters())

    def load():
        if how == "state":
            optimizer.load_state_dict(before.state_dict())
        else:
            restore(optimizer, tmp_path / "a.ckpt")

    load()
    assert told == ["For 'AdamW', ['0.weight'] move again, as they did in the state."]
    load()
    assert len(told) == 1 and net[0].weight.requires_grad


def test_frozen_from_the_start_and_given_all_the_same(mode):
    """An optimizer that is given a frozen backbone trains it once it is unfrozen."""
    net = network()
    for param in net[0].get_parameters():
        param.requires_grad = False
    optimizer = SGD(net.get_parameters(), lr=0.1)
    cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer).set_train()
    before = net[0].weight.asnumpy().copy()
    cell(X, Y)
    np.testing.assert_array_equal(net[0].weight.asnumpy(), before)
    optimizer.unfreeze("0.*")
    cell(X, Y)
    assert np.any(net[0].weight.asnumpy() != before)


@pytest.mark.parametrize(
    ("which", "kind", "message"),
    [
        ("backbone.*", ValueError, r"each pattern of 'which' must match one of \['0.weight'.*, but got 'backbone"),
        (("0.*", "x"), ValueError, "each pattern of 'which' must match one of .* but got 'x'"),
        (1, TypeError, "'which' must be name patterns or a function of a Parameter, but got 1"),
        (lambda param: 1, TypeError, "'which' must return a bool, but got 1 for '0.weight'"),
    ],
)
def test_what_makes_no_choice_raises(which, kind, message):
    """And nothing is frozen."""
    optimizer = AdamW(network().get_parameters())
    for method in (optimizer.freeze, optimizer.unfreeze):
        with pytest.raises(kind, match=message):
            method(which)
    assert optimizer.trainable.asnumpy().all()


@pytest.mark.parametrize("how", ["freeze", "unfreeze"])
def test_what_was_set_by_hand_before_stays(how, either):
    """Where others are frozen."""
    net = network()
    net[1].bias.requires_grad = how == "freeze"
    optimizer = SGD(net.get_parameters(), lr=0.05)
    net[0].weight.requires_grad = False
    getattr(optimizer, how)("1.bias")
    assert [param.requires_grad for param in net.get_parameters()] == [False, True, True, how == "unfreeze"]
    assert optimizer.trainable.asnumpy().tolist() == [False, True, True, how == "unfreeze"]
