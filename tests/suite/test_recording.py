"""Trainings in MindSpore are recorded: direct calls, cells, `Model.train`; and compared with those of torch."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.sparse_tensor import RowTensorInner
from mindspore.dataset import NumpySlicesDataset
from mindspore.train import LearningRateScheduler, Model

import ms_optim
import parity
from ms_optim.convert import to_mindspore
from parity.hunt import whole
from parity.hunt.diagnosis import diagnose
from parity.hunt.parting import compare_runs
from parity.hunt.whole import Whole
from parity.runs import read

STEPS = 5
DATA = np.random.default_rng(0).normal(size=(STEPS * 6, 2, 4)).astype(np.float32)


class Torch(torch.nn.Module):
    """A convolution along a line, a normalization and a layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv1d(2, 3, 3, padding=1), torch.nn.LayerNorm([3, 4])
        self.head = torch.nn.Linear(12, 1)

    def forward(self, x):
        """Compute it."""
        return self.head(self.norm(self.conv(x)).flatten(1))


class Ours(nn.Cell):
    """The same, with MindSpore's names."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 3, 3, has_bias=True), nn.LayerNorm([3, 4], 1, 1, epsilon=1e-5)
        self.head = nn.Dense(12, 1)

    def construct(self, x):
        """Compute it."""
        return self.head(self.norm(self.conv(x)).reshape(x.shape[0], 12))


def network():
    """Ours, with the weights of torch's."""
    net = Ours()
    to_mindspore(net, Torch().state_dict())
    return net


def recorded_in_torch(folder, make, **options):
    """A training there."""
    net = Torch()
    optimizer = make(net)
    with parity.record(optimizer, folder, model=net, **options) as run:
        for batch in torch.tensor(DATA).chunk(STEPS):
            optimizer.zero_grad()
            loss = net(batch).square().mean()
            loss.backward()
            run.loss(loss)
            optimizer.step()
    return read(folder)


def backwards(params):
    """Two groups, which are in no order of the network: vectors and matrices, the last first."""
    params = [*params][::-1]
    return [
        {"params": [param for param in params if (param.ndim > 1) == matrices], "weight_decay": 0.1 * matrices}
        for matrices in (False, True)
    ]


class Square(nn.Cell):
    """A loss without labels."""

    def construct(self, x):
        """Compute it."""
        return x.square().mean()


def called(net, optimizer, run=None, data=DATA):
    """A loop that calls the optimizer."""
    step = ms.value_and_grad(nn.SequentialCell(net, Square()), None, optimizer.parameters)
    for batch in np.split(data, STEPS):
        loss, gradients = step(Tensor(batch))
        if run:
            run.loss(loss)
        optimizer(gradients)


def trained(net, optimizer, run=None, data=DATA, callbacks=()):
    """`Model.train`, which runs in a graph."""
    batches = NumpySlicesDataset((data,), shuffle=False).batch(6)
    Model(nn.SequentialCell(net, Square()), optimizer=run.optimizer if run else optimizer).train(
        1, batches, callbacks=[*callbacks, run.callback()] if run else [*callbacks], dataset_sink_mode=False
    )


WAYS = {"called": called, "trained": trained}


@pytest.mark.parametrize("options", [{"elements": 5}, {"every": 2}])
def test_parts_of_runs_are_alike_in_both(options, graph, tmp_path):
    """The same elements and steps, in torch's shapes; a rule that is another parts by its steps too."""
    first = recorded_in_torch(tmp_path / "torch", lambda net: torch.optim.AdamW(net.conv.parameters(), 0.01), **options)
    for folder, (make, equal) in {"right": (ms_optim.AdamW, True), "wrong": (nn.AdamWeightDecay, False)}.items():
        net = network()
        optimizer = make(net.conv.trainable_params(), 0.01)
        with parity.record(optimizer, tmp_path / folder, model=net, **options) as run:
            called(net, optimizer, run)
        second = read(tmp_path / folder)
        assert run.steps == len(first.steps) == len(second.steps) == (3 if "every" in options else STEPS)
        assert {name: value.shape for name, value in second.initial.items()} == {
            name: value.shape for name, value in first.initial.items()
        }
        found = compare_runs(first, second)
        assert found.equal is equal, str(found)
    assert found.finding.whose == "optimizer" and found.finding.step == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_port_that_is_right_does_not_part(way, either, tmp_path):
    """Names and shapes are torch's; the weights have the bits that they have where nothing is recorded."""
    first = recorded_in_torch(tmp_path / "torch", lambda net: torch.optim.AdamW(backwards(net.parameters()), lr=0.01))
    net = network()
    optimizer = ms_optim.AdamW(backwards(net.trainable_params()), lr=0.01)
    with parity.record(optimizer, tmp_path / "mindspore", model=net) as run:
        WAYS[way](net, optimizer, run)
    assert run.steps == STEPS and run.seconds > 0 and type(optimizer) is ms_optim.AdamW
    second = read(tmp_path / "mindspore")
    of_network = {name: tuple(param.shape) for name, param in Torch().named_parameters()}
    for found in (first, second):
        assert [(name, value.shape) for name, value in found.initial.items()] == [*of_network.items()]
    assert {*second.steps[0].state["conv.weight"]} == {"step", "exp_avg", "exp_avg_sq"}
    assert second.steps[0].state["conv.weight"]["exp_avg"].shape == (3, 2, 3)
    assert len({step.gradients["head.weight"].tobytes() for step in second.steps}) == STEPS
    assert all(np.isfinite(step.loss) for step in second.steps)
    found = compare_runs(first, second)
    assert found.equal and 0 < found.drift[-1] < 1e-4, str(found)
    assert diagnose(second).is_right
    other = network()
    WAYS[way](other, ms_optim.AdamW(backwards(other.trainable_params()), lr=0.01))
    for mine, its in zip(net.trainable_params(), other.trainable_params()):
        assert np.array_equal(mine.asnumpy(), its.asnumpy())


@pytest.mark.parametrize("way", WAYS)
def test_a_port_with_mindsporess_optimizer_parts_by_it(way, graph, tmp_path):
    """At the first step, and what it does is named: of two parameters, and with betas that float32 has, one mistake."""
    first = recorded_in_torch(
        tmp_path / "torch", lambda net: torch.optim.Adam(net.norm.parameters(), lr=0.02, betas=(0.5, 0.75), eps=1e-3)
    )
    net = network()
    optimizer = nn.Adam(net.norm.trainable_params(), 0.02, 0.5, 0.75, 1e-3)
    told = {"betas": [0.5, 0.75], "eps": 1e-3} if way == "called" else {}  # as in the first run, if it is not said
    with parity.record(optimizer, tmp_path / "mindspore", model=net, arguments=told) as run:
        WAYS[way](net, optimizer, run)
    second = read(tmp_path / "mindspore")
    assert second.steps[1].groups == [{"lr": pytest.approx(0.02), **told}]
    found = compare_runs(first, second).finding
    assert found.whose == "optimizer", str(found)
    assert "eps before the bias correction" in found.text
    assert second.header["names"]["norm.weight"].endswith("norm.gamma")


def test_a_schedule_that_steps_late_is_named(graph, tmp_path):
    """A list of rates in torch that ours has moved by one."""

    def between(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    net = Torch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = between(optimizer)
    with parity.record(optimizer, tmp_path / "torch", model=net):
        for batch in torch.tensor(DATA).chunk(STEPS):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
            schedule.step()
    net = network()
    optimizer = ms_optim.SGD(net.trainable_params(), lr=[0.1, *(0.1 * 0.5**step for step in range(STEPS))])
    with parity.record(optimizer, tmp_path / "mindspore", model=net):
        called(net, optimizer)
    found = compare_runs(read(tmp_path / "torch"), read(tmp_path / "mindspore")).finding
    assert (found.step, found.whose) == (1, "numbers")
    assert "the second has the learning rates of one step before" in found.text


@pytest.mark.parametrize("way", WAYS)
def test_a_list_of_rates_may_end_with_the_training(way, graph, tmp_path):
    """MindSpore's optimizers read beyond the last of a list; each group may have a list of its own."""
    rates, net = [0.5, 0.25, 0.125, 0.0625, 1.0], network()
    first, *others = net.trainable_params()
    groups = [{"params": [first], "lr": rates}, {"params": others}]
    for folder, params in {"one": [first, *others], "groups": groups}.items():
        optimizer = nn.Momentum(params, rates, 0.5)
        with parity.record(optimizer, tmp_path / folder, model=net) as run:
            WAYS[way](net, optimizer, run)
        assert [step.groups for step in read(tmp_path / folder).steps] == [[{"lr": rate}] for rate in rates]


@pytest.mark.parametrize("make", [nn.SGD, ms_optim.SGD])
def test_a_rate_is_set_in_what_is_recorded(make, graph, tmp_path):
    """Callbacks of `Model.train` find the optimizer's own rate, and its Parameters as they are in a checkpoint."""
    net, other = network(), network()
    optimizer, plain = make(net.trainable_params(), 0.5), make(other.trainable_params(), 0.5)
    halved = [LearningRateScheduler(lambda rate, step: rate / 2)]
    with parity.record(optimizer, tmp_path / "run", model=net) as run:
        trained(net, optimizer, run, callbacks=halved)
        kept = {param.name for param in run.optimizer.get_parameters()}
    trained(other, plain, callbacks=halved)
    assert kept == {param.name for param in plain.get_parameters()}
    rates = [step.groups[0]["lr"] for step in read(tmp_path / "run").steps]
    assert rates == [0.5**step for step in range(1, STEPS + 1)]
    for mine, its in zip(optimizer.get_parameters(), plain.get_parameters(), strict=True):
        assert mine.name == its.name and np.array_equal(mine.asnumpy(), its.asnumpy())


class Careful(nn.TrainOneStepCell):
    """A training cell that takes no step on gradients that are not finite, and halves its loss scale then."""

    def __init__(self, network, optimizer):
        super().__init__(network, optimizer)
        self.scale_sense = Parameter(Tensor(8.0, ms.float32), name="scale_sense", requires_grad=False)

    def construct(self, x):
        """Train on a batch."""
        loss, scale = self.network(x), self.scale_sense + 0.0
        grads = self.grad(self.network, self.weights)(x, ops.ones_like(loss) * scale)
        if ops.isfinite(grads[0]).all():
            self.optimizer((grads[0] / scale, grads[1] / scale))
        else:
            ops.assign(self.scale_sense, scale / 2)
        return loss


def test_a_step_that_a_loss_scale_skips_is_none(graph, tmp_path):
    """In a training cell, whose loss scale is noted; and what is changed between direct calls is said."""
    net = nn.Dense(3, 1)
    optimizer = ms_optim.AdamW(net.trainable_params(), lr=0.01)
    batches = np.repeat(np.array([[1.0], [np.inf], [2.0], [np.nan], [np.inf]], np.float32), 3, 1)
    with parity.record(optimizer, tmp_path / "cell") as run:
        cell = Careful(nn.SequentialCell(net, Square()), run.optimizer)
        run.note(origin="a cell")
        Model(cell).train(1, NumpySlicesDataset((batches,), shuffle=False).batch(1), [run.callback()], False)
    assert run.steps == 2
    run = read(tmp_path / "cell")
    assert run.steps[1].groups[0]["lr"] == pytest.approx(0.01)
    assert [*run.initial] == ["weight", "bias"]
    assert [step.notes for step in run.steps] == [
        {"loss_scale": 8.0, "origin": "a cell"},
        {"skipped": 1, "loss_scale": 4.0},
    ]
    assert run.header["after"] == {"skipped": 2}
    weight = Parameter(np.ones(3, np.float32), name="w")
    optimizer = ms_optim.SGD([weight], lr=0.5, momentum=0.9)
    with parity.record(optimizer, tmp_path / "run", first=3) as run:
        for step in range(4):
            optimizer((Tensor(np.ones(3, np.float32)),) if step != 1 else (None,))
            if step == 1:
                weight.set_data(Tensor(np.zeros(3, np.float32)))
    run = read(tmp_path / "run")
    assert [[*step.before] for step in run.steps] == [[], [], ["w"]]
    assert [[*step.gradients] for step in run.steps] == [["w"], [], ["w"]]
    assert diagnose(run).is_right


def test_an_average_is_recorded_with_its_optimizer(graph, tmp_path, monkeypatch):
    """Its state beside that of the optimizer inside, whose run it is; both are followed, and mistakes of it named."""
    rng = np.random.default_rng(0)
    steps = [(Tensor(np.float32(rng.standard_normal((1, 3)))), Tensor(np.ones(1, np.float32))) for _ in range(6)]
    told = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
    for name in ("AdamW", "AdamWeightDecay"):
        net = nn.Dense(3, 1)
        params = net.trainable_params()
        inner = nn.AdamWeightDecay(params, 0.01) if name != "AdamW" else ms_optim.AdamW(params, 0.01, **told)
        ema = ms_optim.EMA(inner, decay=0.5, schedule="timm", update_after_step=1)
        ema.decay = 0.9
        with parity.record(ema, tmp_path / name, model=net, arguments={"lr": 0.01, **told}) as run:
            for gradients in steps:
                ema(gradients)
        run = read(tmp_path / name)
        assert run.header["optimizer"] == name and len(run.steps) == len(steps)
        assert "ema" in run.steps[1].state["weight"]
        kept = {"decay": 0.9, "schedule": "timm", "update_after_step": 1}
        assert kept.items() <= run.header["average"].items()
        found = diagnose(run, optimizer="AdamW")
        assert found.is_right == (name == "AdamW"), str(found)
    assert "no bias correction of the first moment" in str(found)
    run = read(tmp_path / "AdamW")
    once = Whole(run, "AdamW").follow().ratio
    monkeypatch.setattr(whole, "RATIO", 0.0)  # what rounding may do otherwise is tried
    assert 0 < Whole(run, "AdamW").follow().ratio <= once


def test_sparse_gradients_are_recorded_of_direct_calls(either, tmp_path):
    """The optimizer of the block refuses them, and absent ones, in a graph and outside."""
    pair = Tensor([0, 2]), Tensor(np.ones((2, 3), np.float32))
    optimizer = ms_optim.SparseAdam([Parameter(np.ones((3, 3), np.float32), name="w")], lr=0.1)
    with parity.record(optimizer, tmp_path / "run") as run:
        taking = run.optimizer

        @ms.jit
        def step(indices, values):
            return taking(((indices, values),))

        for refused in (lambda: step(*pair), lambda: run.optimizer((pair,)), lambda: run.optimizer((None,))):
            with pytest.raises(TypeError, match="'gradients' must be dense Tensors where the 'optimizer' of"):
                refused()
        optimizer((pair,))
        optimizer((None,))
        indices, values = pair
        others = [*pair], (*pair, (3, 3)), RowTensorInner(indices, values, (3, 3))
        for other in others:
            optimizer((other,))
    first, second, *more = read(tmp_path / "run").steps
    for step in (first, *more):
        assert [part.tolist() for part in step.gradients["w"]] == [[0, 2], [[1.0] * 3] * 2]
    assert not second.gradients and len(more) == 3


def test_sparse_gradients_of_elements_are_refused(graph, tmp_path):
    """Files have rows."""
    optimizer = ms_optim.SparseAdam([Parameter(np.ones((3, 3), np.float32), name="w")], lr=0.1)
    elements = Tensor([[0, 1], [2, 2]]), Tensor(np.ones(2, np.float32))
    with (
        parity.record(optimizer, tmp_path / "run"),
        pytest.raises(ValueError, match="sparse gradients must be of rows, but got 2 sparse axes for 'w'"),
    ):
        optimizer((elements,))


def test_what_cannot_be_recorded(graph, tmp_path):
    """Wrong arguments, another network, steps that were not told apart."""
    net = nn.Dense(3, 1)
    optimizer = ms_optim.SGD(net.trainable_params(), lr=0.1)
    with pytest.raises(TypeError, match=r"'optimizer' must be a torch.optim.Optimizer or .*, but got int"):
        parity.record(1, tmp_path / "a")
    with pytest.raises(TypeError, match="'optimizer' must take gradients, but got LBFGS"):
        parity.record(ms_optim.LBFGS(net.trainable_params()), tmp_path / "a")
    with pytest.raises(ValueError, match="'first' must be an int of at least 1 or None, but got 0"):
        parity.record(optimizer, tmp_path / "b", first=0)
    with pytest.raises(TypeError, match="'model' must be a Cell or None, but got Linear"):
        parity.record(optimizer, tmp_path / "c", model=torch.nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"'model' must have all parameters of the optimizer, .* \['bias', 'weight'\]"):
        parity.record(optimizer, tmp_path / "d", model=nn.ReLU())
    with (
        pytest.warns(UserWarning, match="no step was recorded: steps in a graph must be taken by the 'optimizer' of"),
        parity.record(optimizer, tmp_path / "none"),
    ):
        pass
    gradients = Tensor(np.ones((1, 3), np.float32)), Tensor(np.ones(1, np.float32))
    with parity.record(optimizer, tmp_path / "e") as run:
        run.optimizer(gradients)
        run.optimizer(gradients)
        with pytest.raises(ValueError, match="'taken' must be called after each step, but got 2 since the last"):
            run.taken()
    with pytest.raises(FileExistsError, match="'folder' must not hold a run"):
        parity.record(optimizer, tmp_path / "e")
