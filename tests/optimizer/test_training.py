"""Every way in which MindSpore trains takes the steps that direct calls take, bit for bit."""

import functools

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from helpers import DENSE, SPAN, assert_same, everything, loud, numbers_of, outcome
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train import FixedLossScaleManager, LearningRateScheduler, Model

from ms_optim import EMA, SGD, AdamW, restore
from ms_optim.groups import param_groups_norm_bias

span = pytest.mark.parametrize("name", SPAN)
STEPS = 5
RATES = [0.05, 0.05, 0.3, 0.3, 0.01]
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((STEPS, 3, 4)).astype(np.float32)
LABELS = RNG.standard_normal((STEPS, 3, 2)).astype(np.float32)


class Net(nn.Cell):
    """Two layers; a frozen parameter, and names that look like those of norms and averages."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        weights = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in ((4, 4), (2, 4))]
        self.ema = nn.Dense(4, 4, weight_init=weights[0], bias_init="zeros", activation="tanh")
        self.gamma = Parameter(np.ones(4, np.float32))
        self.frozen = Parameter(np.full(4, 0.5, np.float32), requires_grad=False)
        self.head = nn.Dense(4, 2, weight_init=weights[1], bias_init="ones")

    def construct(self, inputs):
        """Gain and frozen bias between the layers."""
        return self.head(self.ema(inputs) * self.gamma + self.frozen)


def arguments(name):
    """Loud arguments that fit the names of the network."""
    kwargs = loud(DENSE[name])
    return {**kwargs, "exempt": ("head.weight",)} if "exempt" in kwargs else kwargs


def make(name, cut=nn.Cell.trainable_params, **kwargs):
    """The parts of a training: the network, its loss and the optimizer of its parameters or groups."""
    net = Net()
    return net, nn.MSELoss(), DENSE[name](cut(net), **{**arguments(name), **kwargs})


def batches():
    """What the network sees, step by step."""
    return [(Tensor(inputs), Tensor(labels)) for inputs, labels in zip(INPUTS, LABELS)]


def dataset():
    """The same, as Model.train wants it."""
    return ds.NumpySlicesDataset((INPUTS.reshape(-1, 4), LABELS.reshape(-1, 2)), shuffle=False).batch(3)


def gradient_of(net, loss, params):
    """The loss and its gradients in the order of the parameters."""

    def forward(inputs, labels):
        return loss(net(inputs), labels)

    return ms.value_and_grad(forward, None, params)


def saved(cell):
    """What `restore` takes for a Cell as it is."""
    return {key: Tensor(value) for key, value in everything(cell).items()}


@functools.cache
def differentiated(mode):
    """A network, its gradients, and what it is at first: for all direct calls in one of MindSpore's modes."""
    net = Net()
    return net, gradient_of(net, nn.MSELoss(), net.trainable_params()), saved(net)


def afresh():
    """The network of all direct calls as it is at first, and its gradients."""
    net, gradient, first = differentiated(ms.get_context("mode"))
    restore(net, first)
    return net, gradient


def change(optimizer, step):
    """Set every number that may change to its first or second value, as the step is even or odd."""
    for key, value in {**numbers_of(type(optimizer), step % 2), "lr": RATES[step]}.items():
        optimizer.param_groups[0][key] = value


@functools.cache
def called_directly(name, mode):
    """The optimizer of all direct calls in a mode, which compiles once at most, its gradients, and what it is first."""
    net, gradient = afresh()
    optimizer = DENSE[name](net.trainable_params(), **arguments(name))
    return optimizer, gradient, saved(optimizer)


@functools.cache
def direct(name, mode, rates=None, changed=False):
    """The outcome of direct calls with the gradients of `value_and_grad`. `mode` is the one that is set."""
    optimizer, gradient, first = called_directly(name, mode)
    restore(optimizer, first)
    for step, batch in enumerate(batches()):
        if changed:
            change(optimizer, step)
        if rates:
            optimizer.param_groups[0]["lr"] = rates[step]
        optimizer(gradient(*batch)[1])
    return outcome(optimizer)


def jitted(net, loss, optimizer):
    """One compiled step of the user's."""
    gradient = gradient_of(net, loss, optimizer.parameters)

    @ms.jit
    def step(inputs, labels):
        value, grads = gradient(inputs, labels)
        optimizer(grads)
        return value

    return step


def spoil(optimizer):
    """Change every Parameter of an optimizer."""
    for param in optimizer.get_parameters():
        ops.assign(param, param.logical_not() if param.dtype == ms.bool_ else param + 7)


@pytest.mark.generic(compiles=True)
@span
def test_jit_around_value_and_grad_and_the_optimizer(name, mode, compilations):
    """Numbers that are set between steps reach it, what is restored does, and nothing compiles again.

    `load_param_into_net` would not reach the step; every Parameter, whatever it is now, goes on from the saved.
    """
    net, loss, optimizer = make(name)
    step, compiled = jitted(net, loss, optimizer), []
    for i, batch in enumerate(batches()):
        if i == 2:
            before = everything(optimizer)
        change(optimizer, i)
        step(*batch)
        compiled.append(len(compilations))
    assert 0 < compiled[0] == compiled[-1]
    assert_same(outcome(optimizer), direct(name, mode, changed=True))
    spoil(optimizer)
    assert all(np.all(value != before[key]) for key, value in everything(optimizer).items())
    assert restore(optimizer, {key: Tensor(value) for key, value in before.items()}) == []
    assert_same(everything(optimizer), before)
    compilations.clear()
    for i, batch in list(enumerate(batches()))[2:]:
        change(optimizer, i)
        step(*batch)
    assert compilations == []
    assert_same(outcome(optimizer), direct(name, mode, changed=True))


@pytest.mark.parametrize("name", ["AdamW"])
def test_restore_a_list_of_learning_rates(name, either):
    """It goes on at its place in a step that has compiled."""
    net, loss, optimizer = make(name, lr=RATES)
    step = jitted(net, loss, optimizer)
    for i, batch in enumerate(batches()):
        if i == 2:
            before = saved(optimizer)
        step(*batch)
    spoil(optimizer)
    assert restore(optimizer, before) == []
    for batch in batches()[2:]:
        step(*batch)
    assert_same(outcome(optimizer), direct(name, either, tuple(RATES)))


def model_of(net, loss, optimizer):
    """A Model under a loss scale that the manager leaves to the optimizer."""
    manager = FixedLossScaleManager(1024.0, drop_overflow_update=False)
    return Model(net, loss, optimizer, loss_scale_manager=manager)


@pytest.mark.generic(compiles=True)
@span
def test_train_one_step_cell_and_model_train(name, mode, compilations):
    """Scaled up by `sens` and down by `loss_scale`: one graph takes numbers that are set between steps.

    A Model feeds it batch by batch; MindSpore's scheduler sets the next step's rate, as a float32, and so do the direct
    calls here.
    """
    net, loss, optimizer = make(name, loss_scale=1024.0)
    model = model_of(net, loss, optimizer)
    cell, first, compiled = model.train_network, saved(optimizer), []
    assert type(cell) is nn.TrainOneStepCell
    for i, batch in enumerate(batches()):
        change(optimizer, i)
        cell(*batch)
        compiled.append(len(compilations))
    compiles = mode != "pynative" or optimizer.why_compiled
    assert compiled[0] == compiled[-1] and bool(compiled[0]) == bool(compiles)
    assert_same(outcome(optimizer), direct(name, mode, changed=True))
    scheduler = LearningRateScheduler(lambda lr, step: RATES[min(step, STEPS - 1)])
    rates = (*RATES[:2], *(float(np.float32(rate)) for rate in RATES[2:]))
    for callbacks, expected in (([], direct(name, mode)), ([scheduler], direct(name, mode, rates))):
        assert restore(optimizer, first) == []
        compilations.clear()
        model.train(1, dataset(), callbacks=callbacks, dataset_sink_mode=False)
        assert compilations == []
        assert_same(outcome(optimizer), expected)


@pytest.mark.parametrize("name", ["AdamW"])
def test_model_train_that_sinks_its_data(name, either):
    """Fed by a queue."""
    net, loss, optimizer = make(name, loss_scale=1024.0)
    model_of(net, loss, optimizer).train(1, dataset(), dataset_sink_mode=True)
    assert_same(outcome(optimizer), direct(name, either))


@pytest.mark.generic(compiles=True)
@pytest.mark.parametrize("name", ["AdamW", "MomentumAGC"])
def test_groups_in_a_train_cell(name, mode):
    """The cell takes the gradients in the order of the groups, direct calls take them in that of the network."""

    def cut(net):
        return param_groups_norm_bias(net, 0.7, bias_lr=[0.3, 0.1])

    cell_net, cell_loss, cell_optimizer = make(name, lambda net: cut(net)[:-1])
    cell = nn.TrainOneStepCell(nn.WithLossCell(cell_net, cell_loss), cell_optimizer).set_train()
    net, gradient = afresh()
    optimizer = DENSE[name](cut(net), **arguments(name))
    order = [param.name for param in net.trainable_params()]
    assert [param.name for param in optimizer.parameters] == order
    assert [param.name for param in cell_optimizer.parameters] != order
    for batch in batches():
        optimizer(gradient(*batch)[1])
        cell(*batch)
    assert_same(outcome(cell_optimizer), outcome(optimizer))


@span
@pytest.mark.parametrize("value", [None, 1.0, "x", np.zeros(4, np.float32)], ids=repr)
def test_restore_refuses_what_is_no_tensor(name, value):
    """And names the parameter; nothing has been written."""
    optimizer = make(name)[-1]
    before = everything(optimizer)
    other = {key: Tensor(kept + 1) for key, kept in before.items()}
    message = f"For 'restore', 'head.weight' must be a Tensor, but got {type(value).__name__}"
    with pytest.raises(TypeError, match=f"^{message}"):
        restore(optimizer, {**other, "head.weight": value})
    assert_same(everything(optimizer), before)


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("cls", [AdamW, SGD])
def test_a_network_cast_after_its_optimizer_was_made(cls, compiled, mode):
    """Is refused by name, and what to do is said: a step that has compiled would write what was there before."""
    net = nn.Dense(2, 3)
    optimizer = cls(net.trainable_params(), lr=0.1)
    gradients = tuple(ops.ones_like(param) for param in optimizer.parameters)
    if compiled:
        optimizer(gradients)
    for param in net.trainable_params():
        param.set_dtype(ms.float16)
    before = net.weight.asnumpy().copy()
    for taken in (optimizer, EMA(optimizer, 0.5)):
        with pytest.raises(TypeError, match="after a cast of the network an optimizer must be made anew"):
            taken(gradients)
    np.testing.assert_array_equal(net.weight.asnumpy(), before)


@pytest.mark.parametrize("fused", [None, False])
def test_a_parameter_of_another_shape(fused, mode):
    """Its state has the one that it had."""
    net = nn.Dense(2, 3)
    optimizer = AdamW(net.trainable_params(), fused=fused)
    net.bias.set_data(Tensor(np.ones(5, np.float32)), slice_shape=True)
    for taken in (optimizer, EMA(optimizer, 0.5)):
        with pytest.raises(ValueError, match=r"^For '(AdamW|EMA)', .*'bias'.* an optimizer must be made anew"):
            taken(tuple(ops.ones_like(param) for param in optimizer.parameters))


def test_two_optimizers_in_one_jit(mode):
    """As of a GAN: bits of two apart, once their Parameters have different names."""

    def take(together):
        nets = [nn.Dense(2, 2, weight_init="ones", has_bias=False) for _ in range(2)]
        for net, name in zip(nets, ("first.", "second.")):
            net.update_parameters_name(name)
        first, second = (AdamW(net.trainable_params(), lr=lr) for net, lr in zip(nets, (0.1, 0.2)))
        second.update_parameters_name("second.")
        of_first, of_second = (net.weight for net in nets)

        def step(x):
            first((of_first * x,))
            second((of_second * of_first * x,))

        step = ms.jit(step) if together else step
        for size in (1.0, -0.5, 2.0):
            step(ops.full((2, 2), size))
        return [param.asnumpy() for optimizer in (first, second) for param in optimizer.get_parameters()]

    np.testing.assert_equal(take(True), take(False))
