"""Where averages begin: at parameters as they are, also if these are initialized, or loaded, after they are made."""

import copy
import pickle

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters

from ms_optim import EMA, LBFGS, SGD, Adafactor, AdamW, Muon, ParameterEMA, save

SHAPE = (3, 4)
ONES = Tensor(np.ones(SHAPE, np.float32))


class Net(nn.Cell):
    """A weight that is drawn at random."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(initializer("normal", SHAPE, ms.float32), name="weight")

    def construct(self, x):
        """A loss whose gradient is x."""
        return (x * self.weight).sum()


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("cell", [False, True])
def test_an_average_of_what_is_not_initialized_yet(cell, inside, loaded, either):
    """It begins at what the network has when the first step is taken, and not at numbers of its own."""

    def make():
        return EMA(SGD(net.trainable_params(), lr=0.5), 0.5)

    with no_init_parameters():
        net = Net()
        ema = make() if inside else None
    ema = ema or make()
    if loaded:
        ms.load_param_into_net(net, {"weight": Parameter(ONES * 2, name="weight")})
    else:
        net.init_parameters_data()
    before = net.weight.asnumpy().copy()
    if cell:
        nn.TrainOneStepCell(net, ema).set_train()(ONES)
    else:
        ema((ONES,))
    assert before.all() and (not loaded or (before == 2).all())
    np.testing.assert_array_equal(net.weight.asnumpy(), before - np.float32(0.5))
    np.testing.assert_allclose(ema.averages[0].asnumpy(), before - 0.25, rtol=1e-6)


def test_a_copy_between_networks_that_are_not_initialized_yet(either):
    """A hard update initializes the source, and the target has its values."""
    with no_init_parameters():
        net, target = nn.Dense(2, 3), nn.Dense(2, 3)
    target.update_parameters_name("target.")
    follow = ParameterEMA(net, target, 0.5)
    follow.copy()
    follow()
    for param, other in zip(net.get_parameters(), target.get_parameters()):
        np.testing.assert_array_equal(other.asnumpy(), param.asnumpy())
    assert net.weight.asnumpy().any()


def lazy(loaded=True):
    """A network that is made without values, and given some since."""
    with no_init_parameters():
        net = Net()
    if loaded:
        load(net)
    return net


def load(net):
    """Give a network its values, as from a checkpoint."""
    ms.load_param_into_net(net, {"weight": Parameter(ONES * 2, name="weight")})


def averaging(net):
    """An EMA that has a network."""
    return EMA(SGD(net.trainable_params(), lr=0.5), 0.5)


@pytest.mark.parametrize("make", [averaging, ParameterEMA.of])
@pytest.mark.parametrize("loaded", ["before", "after"])
@pytest.mark.parametrize("use", ["average_parameters", "swap", "copy_to", "averaged_copy"])
def test_an_evaluation_before_the_first_step(use, loaded, make, either):
    """The averages are the weights then, and these are what they were after it."""
    net = lazy(loaded == "before")
    ema = make(net)
    if loaded == "after":
        load(net)
    if use == "average_parameters":
        with ema.average_parameters():
            assert (net.weight.asnumpy() == 2).all()
    elif use == "swap":
        ema.swap_before_eval()
        assert (net.weight.asnumpy() == 2).all()
        ema.swap_after_eval()
    elif use == "copy_to":
        ema.copy_to()
    else:
        assert (ema.averaged_copy(net).weight.asnumpy() == 2).all()
    assert (net.weight.asnumpy() == 2).all()
    assert (ema.averages[0].asnumpy() == 2).all()


LOOKS = {
    "a state dict": lambda ema, net, folder: ema.state_dict(),
    "a block": lambda ema, net, folder: (ema.swap_before_eval(), ema.swap_after_eval()),
    "a copy": lambda ema, net, folder: copy.deepcopy(ema),
    "a pickle": lambda ema, net, folder: pickle.dumps(ema),
    "a copy of the network": lambda ema, net, folder: ema.averaged_copy(net),
    "the network": lambda ema, net, folder: ema.copy_to(),
    "a file": lambda ema, net, folder: save(ema, folder / "ema.safetensors"),
}


@pytest.mark.parametrize("make", [averaging, ParameterEMA.of])
@pytest.mark.parametrize("look", LOOKS)
def test_an_average_does_not_begin_by_being_looked_at(look, make, tmp_path, either):
    """The network has other values after that; what was seen is what it had then."""
    net = lazy(False)
    ema = make(net)
    LOOKS[look](ema, net, tmp_path)
    drawn = net.weight.asnumpy().copy()
    if look == "a file":
        saved = ms.load_checkpoint(str(tmp_path / "ema.safetensors"), format="safetensors")
        (average,) = (value for name, value in saved.items() if name.startswith("ema.weight"))
        np.testing.assert_array_equal(average.asnumpy(), drawn)
    load(net)
    ema((ONES,)) if make is averaging else ema()
    np.testing.assert_allclose(ema.averages[0].asnumpy(), 1.75 if make is averaging else 2.0)
    assert drawn.any() and not (drawn == 2).any()


@pytest.mark.parametrize("make", [averaging, ParameterEMA.of])
def test_an_evaluation_of_what_has_no_values_yet(make, either):
    """The network draws them, and keeps them."""
    net = lazy(False)
    ema = make(net)
    with ema.average_parameters():
        drawn = net.weight.asnumpy().copy()
    assert drawn.all()
    np.testing.assert_array_equal(net.weight.asnumpy(), drawn)
    np.testing.assert_array_equal(ema.averages[0].asnumpy(), drawn)


def test_a_hard_update_from_what_was_loaded(either):
    """Into what has no values yet."""
    target = lazy(False)
    target.update_parameters_name("target.")
    ParameterEMA(lazy(), target, 0.5).copy()
    assert (target.weight.asnumpy() == 2).all()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
@pytest.mark.parametrize(
    "make", [averaging, *(lambda net, cls=cls: cls(net.trainable_params()) for cls in (AdamW, LBFGS))]
)
def test_copies_of_what_was_loaded(make, how):
    """They have its values: MindSpore draws a copy anew of a Parameter that was made without any."""
    made = how(make(lazy()))
    assert all((kept.asnumpy() == 2).all() for kept in (*made.parameters, *getattr(made, "averages", ())))


def half(value=1.0, name="weight"):
    """A bfloat16 Parameter."""
    return Parameter(Tensor(np.full(SHAPE, value, np.float32), ms.bfloat16), name=name)


def test_averages_of_bfloat16(either):
    """Steps, swaps, copies and states, on CPU, where few operators have it."""
    ema = EMA(AdamW([half()], lr=0.1), 0.5)
    ema((Tensor(np.ones(SHAPE, np.float32), ms.bfloat16),))
    live, mean = (kept[0].float().asnumpy() for kept in (ema.parameters, ema.averages))
    rounded = ema.averages[0].astype(ms.bfloat16).float().asnumpy()
    assert (live < mean).all() and (mean < 1).all()
    with ema.average_parameters():
        np.testing.assert_array_equal(ema.parameters[0].float().asnumpy(), rounded)
    np.testing.assert_array_equal(ema.parameters[0].float().asnumpy(), live)
    ema.load_state_dict(ema.state_dict())
    ema.copy_to()
    np.testing.assert_array_equal(ema.parameters[0].float().asnumpy(), rounded)
    follow = ParameterEMA([half(1.0)], [half(0.0, "target")], 0.5)
    follow()
    assert (follow.target[0].float().asnumpy() == 0.5).all()
    follow.copy()
    assert (follow.target[0].float().asnumpy() == 1.0).all()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: AdamW([half()], fused=False), "fused is False"),
        (lambda: Muon([half()]), "the rule 'muon' has no kernel"),
        (lambda: Adafactor([half()]), "the rule 'adafactor' has no kernel"),
    ],
)
def test_bfloat16_is_refused_where_cpu_has_no_operators_for_it(make, reason):
    """At construction, by name."""
    with pytest.raises(
        TypeError, match=rf"'params' must not be bfloat16 on CPU .* because {reason}, but got \['weight'"
    ):
        make()


def test_a_step_that_takes_a_closure_is_refused():
    """It would train, and the average stand still."""
    with pytest.raises(
        TypeError, match="For 'EMA', 'optimizer' must take gradients, but got LBFGS, whose step takes a"
    ):
        EMA(LBFGS([Parameter(ONES, name="weight")]))


def test_a_group_that_is_added_to_the_optimizer_ends_its_average(either, tmp_path):
    """The next step says so; a new average follows both."""
    optimizer = SGD([Parameter(ONES, name="a")], lr=0.5)
    ema = EMA(optimizer, 0.5)
    ema((ONES,))
    optimizer.add_param_group({"params": [Parameter(ONES, name="b")]})
    for step in (ema, ema.step):
        with pytest.raises(
            RuntimeError, match="For 'EMA', the optimizer must have the parameters that it had, but a gr"
        ):
            step((ONES,))
    saving, loading = lambda: save(ema, tmp_path / "ema.ckpt"), lambda: ema.load_state_dict({})
    for what in (ema.state_dict, loading, saving, lambda: ema.average_parameters().__enter__()):
        with pytest.raises(RuntimeError, match="but a group was added to it: make a new EMA around it"):
            what()
    EMA(optimizer, 0.5)((ONES, ONES))
    assert [param.asnumpy()[0, 0] for param in optimizer.parameters] == [0.0, 0.5]


def test_step_is_a_call(either):
    """By the name that torch's users write; it averages."""
    one, other = (EMA(SGD([Parameter(ONES, name="a")], lr=0.5), 0.5) for _ in range(2))
    one((ONES,))
    other.step((ONES,))
    for kept, expected in zip(other.get_parameters(), one.get_parameters(), strict=True):
        np.testing.assert_array_equal(kept.asnumpy(), expected.asnumpy())
    assert (one.averages[0].asnumpy() == 0.75).all()


def test_packed_buffers_are_refused():
    """Nothing computes with 4-bit integers."""
    packed = Parameter(Tensor(np.zeros(4, np.int8), ms.qint4x2), name="packed", requires_grad=False)
    with pytest.raises(TypeError, match="For 'EMA', 'buffers' must be floats, integers or bools, but got"):
        EMA(SGD([Parameter(ONES, name="a")]), buffers=[packed])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.5), lambda p: EMA(SGD(p, lr=0.5), 0.5), LBFGS])
def test_copies_of_what_has_no_memory_yet(make, copied, either):
    """They have its values, in memory of their own."""
    with no_init_parameters():
        net = Net()
    optimizer = make(net.trainable_params())
    (other,) = copied(optimizer).parameters
    (param,) = optimizer.parameters
    before = param.asnumpy().copy()
    assert before.any() and np.array_equal(other.asnumpy(), before)
    ops.assign(param, ONES)
    assert np.array_equal(other.asnumpy(), before)


def test_copies_of_averages_of_what_has_no_memory_yet(either):
    """And a network with the averages, to be deployed: none moves with the training."""
    with no_init_parameters():
        net = Net()
    follower, optimizer = ParameterEMA.of(net, 0.5), EMA(SGD(net.trainable_params(), lr=0.5), 0.5)
    other, deployed = copy.deepcopy(follower), optimizer.averaged_copy(net)
    before = net.weight.asnumpy().copy()
    optimizer((ONES,))
    for kept in (other.source[0], other.target[0], deployed.weight):
        assert np.array_equal(kept.asnumpy(), before)
    assert not np.array_equal(net.weight.asnumpy(), before)
