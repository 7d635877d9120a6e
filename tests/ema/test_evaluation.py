"""Evaluation on the average: in trainers' two calls, in a copy, and in `Model.fit`."""

import copy
import pickle

import mindspore as ms
import numpy as np
import pytest
from helpers.modules import weights
from mindspore import Parameter, Tensor, dataset, log, nn, ops
from mindspore.train import Callback, Model

from ms_optim import EMA, LBFGS, SGD, ParameterEMA, restore, resume, save
from ms_optim._host import SWITCH
from ms_optim.callbacks import EvaluateAverage


def make(norm=False):
    """A network with its numbers, which are its own."""
    net = nn.SequentialCell(nn.Dense(2, 3), nn.BatchNorm1d(3)) if norm else nn.SequentialCell(nn.Dense(2, 3))
    net[0].weight.set_data(Tensor(np.arange(6, dtype=np.float32).reshape(3, 2) / 8))
    net[0].bias.set_data(Tensor(np.zeros(3, np.float32)))
    return net


def averaged(net, kind, **kwargs):
    """What averages it, and a step."""
    inner = SGD(net.trainable_params(), lr=0.5)
    ema = EMA(inner, 0.5, **kwargs) if kind is EMA else ParameterEMA.of(net, 0.5)

    def step():
        (ema if kind is EMA else inner)(tuple(ops.ones_like(param) for param in inner.parameters))
        assert ema.ema_update() is True

    return ema, step


@pytest.mark.parametrize("kind", [EMA, ParameterEMA])
def test_two_calls_around_an_evaluation(kind, either):
    """As mindone's and mindocr's trainers make them; the parameters come back, the averages too."""
    net = make()
    ema, step = averaged(net, kind)
    begin = net[0].bias.asnumpy().copy()
    step()
    live = weights(net)
    with pytest.raises(RuntimeError, match="'swap_before_eval' must be called before 'swap_after_eval'"):
        ema.swap_after_eval()
    ema.swap_before_eval()
    np.testing.assert_array_equal(net[0].bias.asnumpy(), (begin + live["0.bias"]) / 2)
    with pytest.raises(RuntimeError, match="inside 'average_parameters'"):
        ema.swap_before_eval()
    ema.swap_after_eval()
    np.testing.assert_equal(weights(net), live)
    step()
    ema.swap_before_eval()
    np.testing.assert_array_equal(net[0].bias.asnumpy(), ((begin + live["0.bias"]) / 2 + live["0.bias"] - 0.5) / 2)
    ema.swap_after_eval()


class Wrapper(nn.TrainOneStepCell):
    """A trainer's step, with the average that it is given."""

    def __init__(self, network, optimizer, ema):
        super().__init__(network, optimizer)
        self.ema = ema

    def construct(self, *inputs):
        """The loss, the step, the average."""
        loss = super().construct(*inputs)
        return ops.depend(loss, self.ema.ema_update())


@pytest.mark.parametrize("kind", [EMA, ParameterEMA])
def test_in_a_trainers_graph(kind, either):
    """Once a step, whichever makes it."""
    net = make()
    inner = SGD(net.trainable_params(), lr=0.5)
    ema = EMA(inner, 0.5) if kind is EMA else ParameterEMA.of(net, 0.5)
    step = Wrapper(nn.WithLossCell(net, nn.MSELoss()), ema if kind is EMA else inner, ema)
    expected = net[0].bias.asnumpy().copy()
    for _ in range(3):
        step(ops.ones((4, 2)), ops.zeros((4, 3)))
        expected = (expected + net[0].bias.asnumpy()) / 2
    averages = {param.name: param.asnumpy() for param in (ema.averages if kind is EMA else ema.target)}
    np.testing.assert_array_equal(averages["ema.0.bias"], expected)


@pytest.mark.parametrize("kind", [EMA, ParameterEMA])
def test_a_copy_to_deploy(kind, graph, monkeypatch):
    """Has the averages under the network's names; the network trains on; what is not averaged is named."""
    said = []
    monkeypatch.setattr(log, "warning", lambda message, *args: said.append(message))
    net = make(norm=True)
    ema, step = averaged(net, kind)
    net(ops.ones((4, 2)))  # it has compiled
    step()
    net[1].moving_mean.set_data(Tensor(np.full(3, 7, np.float32)))
    made = ema.averaged_copy(net)
    live = weights(net)
    assert [param.name for param in made.get_parameters()] == [param.name for param in net.get_parameters()]
    np.testing.assert_array_equal(made[0].bias.asnumpy(), (live["0.bias"] + live["0.bias"] + 0.5) / 2)
    if kind is EMA:
        assert len(said) == 1 and "['1.moving_mean', '1.moving_variance'] are not averaged" in said[0]
        np.testing.assert_array_equal(made[1].moving_mean.asnumpy(), 7)
    else:  # which averages all
        assert not said
    before = weights(made)
    step()
    np.testing.assert_equal(weights(made), before)
    made(ops.ones((4, 2)))
    with pytest.raises(ValueError, match="'network' must have Parameters that are averaged, but got"):
        ema.averaged_copy(nn.Dense(2, 3))
    with pytest.raises(TypeError, match="'network' must be a Cell, but got int"):
        ema.averaged_copy(3)


def test_a_half_has_an_average_in_float32(either):
    """Which moves where a half would not; integers are copied."""
    net = nn.Cell()
    net.weight = Parameter(Tensor(np.ones(4), ms.float16), name="weight")
    net.count = Parameter(Tensor(np.array([3], np.int32)), name="count", requires_grad=False)
    ema = ParameterEMA.of(net, 0.9999)
    net.weight.set_data(Tensor(np.full(4, 1.001), ms.float16))
    net.count.set_data(Tensor(np.array([5], np.int32)))
    ema()
    assert [param.dtype for param in ema.target] == [ms.float32, ms.int32]
    assert 0 < ema.target[0].asnumpy()[0] - 1 < 1e-5 and ema.target[1].asnumpy()[0] == 5
    with ema.average_parameters():
        assert net.weight.asnumpy()[0] == 1
    assert ParameterEMA.of(net, 0.5, buffer_update="skip").source == (net.weight,)
    ema.copy()
    assert ema.target[0].asnumpy()[0] == np.float32(np.float16(1.001))


class Seen(Callback):
    """What a callback of the user's finds in the network when an evaluation ends."""

    def __init__(self, net):
        super().__init__()
        self.net, self.found = net, []

    def on_eval_end(self, run_context):
        """Keep the bias."""
        self.found.append(self.net[0].bias.asnumpy().copy())


def fit(net, ema, callbacks, epochs=3, model=None):
    """Train, and evaluate after each epoch; a Model that has compiled may be given."""
    data = dataset.NumpySlicesDataset((np.ones((4, 2), np.float32), np.zeros((4, 3), np.float32)), shuffle=False).batch(
        2
    )
    model = model or Model(net, nn.MSELoss(), ema, metrics={"mse"})
    model.fit(epochs, data, data, callbacks=callbacks, dataset_sink_mode=False, valid_dataset_sink_mode=False)
    return model, data


def test_model_fit(either, tmp_path):
    """Evaluates on the averages, saves the best of them, and trains on from the parameters."""
    nets = [make(), make()]
    emas = [EMA(SGD(net.trainable_params(), lr=0.25), 0.75) for net in nets]
    fit(nets[0], emas[0], [])
    seen, callback = Seen(nets[1]), EvaluateAverage(emas[1], tmp_path / "best.safetensors", "mse", "min")
    model, data = fit(nets[1], emas[1], [seen, callback])
    np.testing.assert_equal(weights(nets[1]), weights(nets[0]))
    np.testing.assert_equal(weights(emas[1]), weights(emas[0]))
    average = emas[1].averages[1].asnumpy()
    np.testing.assert_array_equal(seen.found[-1], average)
    assert not np.array_equal(average, nets[1][0].bias.asnumpy())
    best = make()
    restore(best, tmp_path / "best.safetensors")
    np.testing.assert_array_equal(best[0].bias.asnumpy(), average)  # the loss falls
    assert callback.best == model.eval(data, callbacks=[EvaluateAverage(emas[1])])["mse"]
    with emas[1].average_parameters():
        assert callback.best == model.eval(data)["mse"]
    assert model.eval(data)["mse"] != callback.best


def test_only_the_best_is_kept(graph, tmp_path):
    """A metric that falls, where the largest is asked for: the first."""
    net = make()
    ema = EMA(SGD(net.trainable_params(), lr=0.25), 0.75)
    callback = EvaluateAverage(ema, tmp_path / "best.ckpt", "eval_loss", "max")
    model, _ = fit(net, ema, [callback], epochs=1)
    first, content = callback.best, (tmp_path / "best.ckpt").read_bytes()
    fit(net, ema, [callback], 2, model)
    assert callback.best == first and (tmp_path / "best.ckpt").read_bytes() == content


def test_the_best_is_known_after_a_resume(graph, tmp_path):
    """Where it was saved beside; what is worse is not kept."""
    net = make()
    ema = EMA(SGD(net.trainable_params(), lr=0.25), 0.75)
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    callback, resumed = (EvaluateAverage(ema, best, "mse", "max") for _ in range(2))
    save(ema, last, {"best": resumed})
    resume(ema, last, {"best": resumed})
    assert resumed.best is None
    model, _ = fit(net, ema, [callback], epochs=1)
    content = best.read_bytes()
    save(ema, last, {"best": callback})
    resume(ema, last, {"best": resumed})
    fit(net, ema, [resumed], 2, model)
    assert resumed.best == callback.best is not None and best.read_bytes() == content
    for state, message in (
        (3, "'state_dict' must have 'best' alone, but got int"),
        ({"best": 1.0, "mode": "max"}, r"'state_dict' must have 'best' alone, but got \['best', 'mode'\]"),
        ({"best": "high"}, "'best' must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^For 'EvaluateAverage', {message}"):
            resumed.load_state_dict(state)
        assert resumed.best == callback.best


class Broken(Callback):
    """An evaluation that is broken off."""

    def on_eval_step_end(self, run_context):
        """Raise."""
        raise KeyboardInterrupt


def test_what_is_broken_off_leaves_the_parameters(graph):
    """Not the averages."""
    net = make()
    ema = EMA(SGD(net.trainable_params(), lr=0.25), 0.75)
    model = Model(net, nn.MSELoss(), ema, metrics={"mse"})
    for callbacks in ([EvaluateAverage(ema), Broken()], [Broken(), EvaluateAverage(ema)]):
        with pytest.raises(KeyboardInterrupt):
            fit(net, ema, callbacks, model=model)
        assert not ema.swapped
        assert not np.array_equal(net[0].bias.asnumpy(), ema.averages[1].asnumpy())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ema": 3}, "'ema' must be an EMA or a ParameterEMA, but got int"),
        ({"file": "a.ckpt"}, "'file' and 'metric' must go together, but got 'a.ckpt' and None"),
        ({"file": "a.pt", "metric": "acc"}, "'file' must end in one of"),
        ({"file": 3, "metric": "acc"}, "'file' must be a str or a PathLike, but got 3"),
        ({"mode": "best"}, "'mode' must be one of"),
    ],
)
def test_bad_arguments(kwargs, message):
    """Are named; so is a metric that there is not, and a network that is none."""
    net = make()
    ema = EMA(SGD(net.trainable_params(), lr=0.25), 0.75)
    with pytest.raises((TypeError, ValueError), match=f"^For 'EvaluateAverage', {message}"):
        EvaluateAverage(**{"ema": ema, **kwargs})
    with pytest.raises(TypeError, match="'network' must be a Cell, but got int"):
        ParameterEMA.of(3)


def test_a_metric_that_there_is_not(graph, tmp_path):
    """Is an error that lists those that there are, and leaves the parameters."""
    net = make()
    ema = EMA(SGD(net.trainable_params(), lr=0.25), 0.75)
    with pytest.raises(ValueError, match=r"'metric' must be in \['eval_loss', 'mse'\], but got 'acc'"):
        fit(net, ema, [EvaluateAverage(ema, tmp_path / "a.ckpt", "acc")])
    assert not ema.swapped and not list(tmp_path.iterdir())


def test_its_averages_are_saved_with_it(either, tmp_path):
    """Those that it made itself; by MindSpore too, and by a cell that holds it."""
    net = make()
    ema, step = averaged(net, ParameterEMA)
    step()
    kept = [average.asnumpy().copy() for average in ema.averages]
    save(nn.CellList([net, ema], auto_prefix=False), tmp_path / "a.safetensors")
    ms.save_checkpoint(ema, str(tmp_path / "b.ckpt"))
    assert sorted(ms.load_checkpoint(str(tmp_path / "b.ckpt"))) == ["decay.ema.0.weight", "ema.0.bias", "ema.0.weight"]
    step()
    assert not np.array_equal(ema.averages[0].asnumpy(), kept[0])
    assert restore(nn.CellList([net, ema], auto_prefix=False), tmp_path / "a.safetensors") == []
    np.testing.assert_equal([average.asnumpy() for average in ema.averages], kept)


class Momentum(nn.Cell):
    """A network and one that follows it, as MoCo has them."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Dense(2, 3), nn.Dense(2, 3)
        self.key.update_parameters_name("target.")
        self.follow = ParameterEMA(self.query, self.key, 0.5)


def test_what_holds_one_is_copied(either):
    """The copy's network is followed by the copy's; so is one that it makes beside the network."""
    cell = Momentum()
    made = copy.deepcopy(cell)
    assert made.follow.source[0] is made.query.weight and made.follow.target[1] is made.key.bias
    made.query.bias.set_data(Tensor(np.full(3, 2.0, np.float32)))
    made.follow()
    np.testing.assert_allclose(made.key.bias.asnumpy(), 1 + cell.key.bias.asnumpy() / 2, rtol=1e-6)
    net = make(norm=True)
    ema = ParameterEMA.of(net, 0.5, buffer_update="copy")
    for twin in (copy.deepcopy(ema), pickle.loads(pickle.dumps(ema))):
        assert [param.name for param in twin.get_parameters()] == [param.name for param in ema.get_parameters()]
        assert twin.source[0] is not ema.source[0] and twin.copied == ema.copied and any(twin.copied)
        twin.source[0].set_data(twin.source[0] + 2)
        twin.ema_update()
        np.testing.assert_allclose(twin.target[0].asnumpy(), ema.target[0].asnumpy() + 1, rtol=1e-6)


@pytest.mark.parametrize("kind", [EMA, ParameterEMA])
def test_no_optimizer_takes_averages_for_weights(kind, either, tmp_path):
    """Of the same parameters, whoever has put the averages there; the network alone is saved."""
    net = make()
    ema, step = averaged(net, kind)
    others = SGD(net.trainable_params()), LBFGS(net.trainable_params()), ParameterEMA.of(net), Momentum().follow
    grads = tuple(ops.ones_like(param) for param in others[0].parameters)
    state = others[0].state_dict()
    with ema.average_parameters():
        for refused in (
            lambda: others[0](grads),
            lambda: others[0].load_state_dict(state),
            lambda: copy.deepcopy(others[0]),
            lambda: others[1].step(lambda: (Tensor(0.0), grads)),
        ):
            with pytest.raises(RuntimeError, match="inside 'average_parameters'"):
                refused()
        for saved in (*others[:2], *([ema] if kind is EMA else [])):
            with pytest.raises(RuntimeError, match="'cell' must not hold an optimizer or an EMA inside"):
                save(saved, tmp_path / "a.ckpt")
        with others[2].average_parameters():  # of another, which is inside
            with pytest.raises(RuntimeError, match="'copy' has no effect inside 'average_parameters'"):
                others[2].copy()
            with pytest.raises(RuntimeError, match="no update can be made inside 'average_parameters'"):
                others[2]()
        others[2].copy()  # what is there now, as a teacher
        np.testing.assert_array_equal(others[2].averages[0].asnumpy(), others[2].tracked[0].asnumpy())
        save(net, tmp_path / "a.ckpt")
        others[3]()  # of another network
    others[0](grads)
    step()


def test_a_compiled_step_inside_is_told(graph, monkeypatch):
    """Of an optimizer that the average does not know."""
    told, net = [], make()
    monkeypatch.setattr(log, "warning", told.append)
    ema = ParameterEMA.of(net, 0.5)
    cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), SGD(net.trainable_params(), lr=0.5))
    batch = Tensor(np.ones((4, 2), np.float32)), Tensor(np.zeros((4, 3), np.float32))
    before = weights(net)
    with ema.average_parameters():
        pass
    assert not told
    with ema.average_parameters():
        cell(*batch)
    assert len(told) == 1 and "['0.bias', '0.weight'] were changed inside 'average_parameters'" in told[0]
    np.testing.assert_equal(weights(net), before)


def test_a_metric_that_is_nan_is_not_the_best(graph, tmp_path):
    """Nor does it end the training."""

    class Told(dict):
        __getattr__ = dict.__getitem__

    net = make()
    callback = EvaluateAverage(ParameterEMA.of(net), tmp_path / "best.ckpt", "mse", "min")
    for value, best in ((np.nan, None), (np.inf, np.inf), (2.0, 2.0), (np.nan, 2.0)):
        callback._keep_the_best(Told(metrics={"mse": value}, network=net))
        assert callback.best == best


def test_a_source_of_another_shape_is_named(either):
    """Though it has as many elements."""
    source, target = (Parameter(Tensor(np.ones(4, np.float32)), name=name) for name in "ab")
    follow = ParameterEMA([source], [target], 0.5)
    follow()
    for shape in ((2, 2), (5,)):
        source.set_data(Tensor(np.ones(shape, np.float32)), slice_shape=True)
        with pytest.raises(ValueError, match=r"the average of 'a', of Float32 and shape .*, must be of its shape"):
            follow()


def test_a_source_that_gets_other_memory(either):
    """Is read where it lies now: moved, turned where it lay and back, cast, and moved back."""
    source, target = (Parameter(Tensor(np.zeros((3, 3), np.float32)), name=name) for name in "ab")
    follow, expected = ParameterEMA([source], [target], 0.5), np.zeros((3, 3))
    values = [Tensor(np.arange(9).reshape(3, 3) + shift, ms.float32) for shift in (1, 64)]
    for change in (
        lambda: source.set_data(values[0]),
        lambda: source.set_data(source.T),
        lambda: source.set_data(source.T),
        lambda: None,
        lambda: source.set_data(values[1]),
        lambda: source.set_dtype(ms.float16),
        lambda: ops.assign(source, values[0].half()),
        lambda: source.set_dtype(ms.float32),
    ):
        change()
        follow()
        expected = (expected + source.asnumpy()) / 2
        np.testing.assert_array_equal(target.asnumpy(), expected)


@pytest.mark.parametrize("kind", [EMA, ParameterEMA])
@pytest.mark.parametrize("other", [np.ones((3, 2), np.float16), np.ones((1, 2), np.float32)])
def test_a_compiled_average_reads_what_it_was_compiled_for(kind, other, either, monkeypatch):
    """What was cast or cut since is refused: its memory is read as it was."""
    monkeypatch.setenv(SWITCH, "0")
    net = make()
    ema = EMA(nn.SGD(net.trainable_params(), 0.0), 0.5) if kind is EMA else ParameterEMA.of(net, 0.5)

    def step():
        grads = tuple(Tensor(np.zeros(param.shape, np.float32)) for param in net.trainable_params())
        ema(*[grads] * (kind is EMA))

    step()
    (param,) = (param for param in ema.tracked if param.name == "0.weight")
    param.set_data(Tensor(np.ones((3, 2), np.float32)))
    step()
    before = [average.asnumpy() for average in ema.averages]
    if other.dtype == np.float16:
        param.set_dtype(ms.float16)
    else:
        param.set_data(Tensor(other), slice_shape=True)
    with pytest.raises(TypeError, match=r"that they had when a step was compiled, but \['0.weight'\] have others"):
        step()
    np.testing.assert_equal([average.asnumpy() for average in ema.averages], before)


def test_hooks_are_refused():
    """None would run."""
    net = make()
    for cell in (SGD(net.trainable_params()), EMA(SGD(net.trainable_params()))):
        for name in ("register_forward_hook", "register_forward_pre_hook"):
            with pytest.raises(TypeError, match=f"^For '{type(cell).__name__}', no hook can be registered"):
                getattr(cell, name)(print)


class Holding(nn.Cell):
    """A network that holds an average of a part of itself."""

    def __init__(self):
        super().__init__()
        self.body = make(norm=True)
        self.average = ParameterEMA.of(self.body, 0.5, buffer_update="skip")

    def construct(self, x):
        """The part."""
        return self.body(x)


def test_a_network_that_holds_its_average(graph, tmp_path, monkeypatch):
    """Is saved where that is evaluated, is copied with its names, and what counts the averages is no buffer."""
    told, net = [], Holding()
    monkeypatch.setattr(log, "warning", told.append)
    names = [param.name for param in net.get_parameters()]
    with net.average.average_parameters():
        save(net, tmp_path / "best.ckpt")
        with pytest.raises(RuntimeError, match="For 'restore', 'cell' must not hold"):
            restore(net, tmp_path / "best.ckpt")
    twin = copy.deepcopy(net)
    assert [param.name for param in twin.get_parameters()] == names
    assert restore(twin, tmp_path / "best.ckpt") == []
    assert twin.average.source[0] is twin.body[0].weight
    EMA(SGD(net.trainable_params()), 0.5).averaged_copy(net)
    (line,) = told
    assert "body.1.moving_mean" in line and "average." not in line


def test_files_without_these_averages(graph, tmp_path, monkeypatch):
    """As older versions wrote them: the averages begin as the weights of the file, and that is said."""
    told, net = [], make()
    monkeypatch.setattr(log, "warning", told.append)
    optimizer = SGD(net.trainable_params(), lr=0.5)
    optimizer(tuple(map(ops.ones_like, optimizer.parameters)))
    cell = nn.CellList([optimizer, ParameterEMA.of(net)], auto_prefix=False)
    save(cell, tmp_path / "new.ckpt")
    saved = ms.load_checkpoint(str(tmp_path / "new.ckpt"))
    saved = {name: value for name, value in saved.items() if not name.startswith(("ema.", "ms_optim."))}
    expected = weights(net)
    optimizer(tuple(map(ops.ones_like, optimizer.parameters)))
    cell[1]()
    assert restore(cell, saved) == []
    for param, average in zip(cell[1].source, cell[1].averages):
        np.testing.assert_array_equal(average.asnumpy(), expected[param.name])
    assert told == ["For 'ParameterEMA', the file has no averages, as older ones have not: they begin as the weights."]


def test_blocks_that_cross_are_refused(graph):
    """The one that was entered first would put its averages back for good."""
    net = make()
    first, second = ParameterEMA.of(net, 0.5), ParameterEMA.of(net, 0.75)
    other = ParameterEMA.of(make())
    first.swap_before_eval()
    second.swap_before_eval()
    other.swap_before_eval()
    with pytest.raises(RuntimeError, match="the block of averages that was entered last must be left first"):
        first.swap_after_eval()
    for average in (second, first, other):
        average.swap_after_eval()
    assert not any(average.swapped for average in (first, second, other))
