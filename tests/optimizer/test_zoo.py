"""What MindSpore's callbacks and the trainers of its libraries read of an optimizer, with groups as they make them."""

import functools

import mindspore as ms
import numpy as np
import pytest
from mindcv.optim.optim_factory import init_group_params
from mindcv.utils.callbacks import StateMonitor
from mindcv.utils.trainer_factory import create_trainer
from mindspore import Tensor, dataset, nn, ops
from mindspore.train import Callback, LearningRateScheduler, Model, ReduceLROnPlateau, SummaryCollector

from ms_optim import EMA, adapters

STEPS = 6
RATES = {
    "number": 0.125,
    "list": [0.5, 0.25, 0.125, 0.0625],
    "schedule": nn.PolynomialDecayLR(0.5, 0.25, 4, 1.0),
}


class Net(nn.Cell):
    """Of what is decayed and what is not."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Dense(2, 4)

    def construct(self, x):
        """From (n, 2) to (n, 4)."""
        return self.fc(x)


def no_decay_groups(net):
    """As mindcv, mindyolo, mindone and mindformers split the parameters, each with its order."""
    params = net.trainable_params()
    exempt = [param for param in params if any(word in param.name for word in ("bias", "gamma", "beta"))]
    return [
        {
            "params": [param for param in params if param.name not in {other.name for other in exempt}],
            "weight_decay": 0.1,
        },
        {"params": exempt, "weight_decay": 0.0},
        {"order_params": params},
    ]


def made_by(factory, net, rate):
    """An optimizer as the factories make it, or that in its place."""
    return factory(
        params=no_decay_groups(net),
        learning_rate=rate,
        momentum=0.9,
        weight_decay=0.0,
        use_nesterov=False,
        loss_scale=1.0,
    )


stock, ours = (functools.partial(made_by, factory) for factory in (nn.Momentum, adapters.MomentumAGC))


def averaged(net, rate):
    """The same in an EMA."""
    return EMA(ours(net, rate), 0.5)


def of_the_step_before(optimizer, step):
    """A monitor that asks the schedule for the step that was taken: mindcv."""
    place = Tensor((0,), ms.int32) if optimizer.global_step < 1 else optimizer.global_step - 1
    if not optimizer.dynamic_lr:
        return optimizer.learning_rate
    source = optimizer.learning_rate
    return source[0](place)[0] if isinstance(source, nn.CellList) else source(place)[0]


def of_a_count_of_its_own(optimizer, step):
    """A trainer that counts itself, and knows groups by `is_group_lr`: mindyolo."""
    if not optimizer.dynamic_lr:
        return optimizer.learning_rate.asnumpy().item()
    source = optimizer.learning_rate[0] if optimizer.is_group_lr else optimizer.learning_rate
    return source(Tensor(step, ms.int32)).asnumpy().item()


def of_the_step_to_come(optimizer, step):
    """A logger that asks `get_lr`: mindone."""
    rate = optimizer.get_lr()
    return rate[0] if isinstance(rate, tuple) else rate


def clipped(optimizer, step):
    """One that keeps the place from being negative: mindocr."""
    if not optimizer.dynamic_lr:
        return optimizer.learning_rate
    place = ops.clip_by_value(optimizer.global_step - 1, clip_value_min=Tensor(0, ms.int32))
    return optimizer.learning_rate(place)[0]


def of_each_group(optimizer, step):
    """One that prints the rates of all groups: mindformers."""
    if optimizer.is_group_lr:
        source = optimizer.learning_rate[-1]
        return source(optimizer.global_step) if optimizer.dynamic_lr else source
    return optimizer.learning_rate(optimizer.global_step) if optimizer.dynamic_lr else optimizer.learning_rate


READERS = (of_the_step_before, of_a_count_of_its_own, of_the_step_to_come, clipped, of_each_group)


class Monitor(Callback):
    """Reads at each step what its readers do."""

    def __init__(self):
        super().__init__()
        self.read = []

    def on_train_step_end(self, run_context):
        """Find the optimizer where trainers find it."""
        told = run_context.original_args()
        optimizer = told.optimizer if told.optimizer is not None else told.train_network.optimizer
        self.read.append([float(reader(optimizer, told.cur_step_num - 1)) for reader in READERS])


def trained(make, rate, *callbacks, evaluated=False):
    """What a monitor has read of a training, and the optimizer."""
    net, monitor = Net(), Monitor()
    optimizer = make(net, rate)
    rows = np.linspace(-1, 1, 2 * STEPS, dtype=np.float32).reshape(STEPS, 2)
    data = dataset.NumpySlicesDataset((rows, np.ones((STEPS, 4), np.float32)), shuffle=False).batch(2)
    model = Model(net, nn.MSELoss(), optimizer, metrics={"mse"})
    how = dict(callbacks=[*callbacks, monitor], dataset_sink_mode=False)
    if evaluated:
        model.fit(2, data, data, valid_dataset_sink_mode=False, **how)
    else:
        model.train(2, data, **how)
    return monitor.read, optimizer


@functools.cache
def expected(kind):
    """What trainers log of a stock optimizer in GRAPH, and the optimizer; its list is as long as the training."""
    return trained(stock, RATES[kind] if kind != "list" else [*RATES[kind], 0.0625, 0.0625, 0.0625])


@pytest.mark.xdist_group("what trainers log")
@pytest.mark.parametrize("make", [ours, averaged])
@pytest.mark.parametrize("kind", RATES)
def test_what_trainers_log(make, kind, graph):
    """Is what they log of a stock optimizer; past the end of a list, where that fails, its last holds."""
    told, reference = expected(kind)
    read, optimizer = trained(make, RATES[kind])
    np.testing.assert_allclose(read, told, rtol=1e-6)
    assert (optimizer.is_group_lr, optimizer.dynamic_lr) == (reference.is_group_lr, reference.dynamic_lr)
    assert type(optimizer.learning_rate).__name__ in (type(reference.learning_rate).__name__, "Table")


@pytest.mark.parametrize("make", [ours, averaged])
def test_callbacks_of_mindspore(make, either, tmp_path):
    """They read and write the rate of all groups, which the steps that follow have; in GRAPH it is collected too."""
    read, optimizer = trained(make, 0.5, LearningRateScheduler(lambda rate, step: 0.5 / step))
    np.testing.assert_allclose([row[0] for row in read], [0.5 / (step + 1) for step in range(STEPS)], rtol=1e-6)
    np.testing.assert_allclose([group["lr"] for group in optimizer.param_groups], 0.5 / STEPS, rtol=1e-6)
    plateau = ReduceLROnPlateau("mse", factor=0.5, patience=0, mode="max", min_delta=10.0, verbose=False)
    callbacks = [plateau]
    if either == "graph":
        collected = {"collect_dataset_graph": False}
        callbacks.append(SummaryCollector(str(tmp_path), collect_freq=1, collect_specified_data=collected))
    _, optimizer = trained(make, 0.5, *callbacks, evaluated=True)
    assert optimizer.param_groups[1]["lr"] == 0.25
    assert either != "graph" or list(tmp_path.glob("*.summary.*"))


@pytest.mark.parametrize("make", [ours, averaged])
def test_a_layer_decay_of_lists(make, either):
    """Groups with a list each, as mindcv's `param_groups_layer_decay` makes them."""
    outcomes = []
    for factory in (nn.Momentum, adapters.MomentumAGC):
        net = Net()
        groups = [{"params": [param], "lr": [0.5 / (i + 1)] * 9} for i, param in enumerate(net.trainable_params())]
        optimizer = factory(groups, [0.5] * 9, 0.9, 0.0, 1.0)
        optimizer = EMA(optimizer, 0.5) if make is averaged and factory is not nn.Momentum else optimizer
        assert optimizer.dynamic_lr and optimizer.is_group_lr
        outcomes.append([of_the_step_before(optimizer, 0), of_a_count_of_its_own(optimizer, 3)])
    np.testing.assert_allclose(np.array(outcomes[1], float), np.array(outcomes[0], float), rtol=1e-6)


def test_mindcv_itself(graph, tmp_path):
    """Its trainer and its monitor."""
    net = Net()
    params = init_group_params(net.trainable_params(), 1e-4, "norm_and_bias", {})
    optimizer = EMA(adapters.MomentumAGC(params=params, learning_rate=[0.1] * 9, momentum=0.9, weight_decay=0.0), 0.9)
    trainer = create_trainer(
        net,
        nn.CrossEntropyLoss(),
        optimizer,
        metrics={"acc": nn.Accuracy()},
        amp_level="O0",
        amp_cast_list="",
        loss_scale_type="fixed",
        loss_scale=1.0,
        drop_overflow_update=False,
        ema=False,
        ema_decay=0.99,
        clip_grad=False,
        clip_value=1.0,
        gradient_accumulation_steps=1,
    )
    data = dataset.NumpySlicesDataset((np.ones((8, 2), np.float32), np.zeros(8, np.int32)), ["x", "y"]).batch(2)
    monitor = StateMonitor(
        trainer,
        model_name="net",
        model_ema=False,
        last_epoch=0,
        dataset_sink_mode=False,
        dataset_val=data,
        metric_name=["acc"],
        val_interval=1,
        ckpt_save_dir=str(tmp_path),
        ckpt_save_interval=1,
        summary_dir=str(tmp_path / "summary"),
        log_interval=1,
        rank_id=None,
        device_num=1,
    )
    trainer.train(2, data, callbacks=[monitor], dataset_sink_mode=False)
    assert int(optimizer.global_step.asnumpy()[0]) == 8
    assert any(file.suffix == ".ckpt" for file in tmp_path.iterdir())
