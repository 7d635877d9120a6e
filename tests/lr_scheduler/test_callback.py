"""A scheduler in `Model.train`, stepped by step and by epoch."""

import math
from types import SimpleNamespace

import mindspore.dataset as ds
import numpy as np
import pytest
from helpers.schedules import LRS, TORCH, build, host_driven, our_optimizer, stand_in, torch_optimizer
from mindspore import Tensor, nn
from mindspore.train import Callback, Model

from ms_optim import SGD, lr_scheduler
from ms_optim.lr_scheduler import ReduceLROnPlateau, SchedulerCallback, StepLR, table
from parity.sides.mindspore import set_mode

# torch's: of a scheduler that is stepped before its optimizer, and of a step to a given epoch.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


RNG = np.random.default_rng(2)
INPUTS, LABELS = RNG.standard_normal((6, 3)).astype(np.float32), RNG.standard_normal((6, 2)).astype(np.float32)


class Recorder(Callback):
    """Record the learning rates of several optimizers, and the loss of each step."""

    def __init__(self, optimizers):
        self.optimizers, self.lrs, self.losses = optimizers, [[] for _ in optimizers], []

    def on_train_step_begin(self, run_context):
        """Record the learning rates."""
        for lrs, optimizer in zip(self.lrs, self.optimizers):
            lrs.append(optimizer.param_groups[0]["lr"])

    def on_train_step_end(self, run_context):
        """Record the loss."""
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))


def trained(make=lambda optimizer: [], lr=0.1, **kwargs):
    """Train for eight epochs of three batches, under the callbacks that `make` gives; give what was recorded."""
    dense = nn.Dense(3, 2, weight_init="ones", bias_init="zeros")
    optimizer = SGD(dense.trainable_params(), lr=lr, momentum=0.9)
    callbacks = make(optimizer)
    recorder = Recorder([callback.scheduler.optimizer for callback in callbacks])
    data = ds.NumpySlicesDataset((INPUTS, LABELS), shuffle=False).batch(2)
    Model(dense, nn.MSELoss(), optimizer).train(8, data, callbacks=[recorder, *callbacks], **kwargs)
    return recorder


def step_end(callback, outputs):
    """Tell a callback that a step has ended with these outputs."""
    arguments = SimpleNamespace(net_outputs=outputs)
    callback.on_train_step_end(SimpleNamespace(original_args=lambda: arguments))


FADING = ("ExponentialLR", dict(gamma=0.7))
CYCLE = ("OneCycleLR", dict(max_lr=0.3, total_steps=8))
PLATEAU = ("ReduceLROnPlateau", dict(factor=0.5, patience=1, threshold=0.05))


@pytest.mark.parametrize(("syntax", "sink"), [("graph", False), ("pynative", True)])
def test_callback(syntax, sink):
    """Each step, or each epoch, takes the next learning rate; with the losses that the table gives in the graph.

    The metric is the mean of the epoch's losses, or the loss of the step. On CPU data sink is none.
    """
    set_mode(syntax)
    callbacks = []

    def make(optimizer):
        callbacks.append(SchedulerCallback(build(lr_scheduler, optimizer, FADING), "step"))
        for case, by in ((CYCLE, "epoch"), (PLATEAU, "step"), (PLATEAU, "epoch")):
            callbacks.append(SchedulerCallback(build(lr_scheduler, stand_in(lrs=LRS[:1]), case), by))
        return callbacks

    recorder = trained(make, dataset_sink_mode=sink)
    assert recorder.lrs[0] == host_driven(FADING, 24)
    assert recorder.lrs[1] == [lr for lr in host_driven(CYCLE, 8) for _ in range(3)]
    losses = recorder.losses
    for i, steps in ((2, 1), (3, 3)):
        optimizer = torch_optimizer(lrs=LRS[:1])
        expected, lrs = build(TORCH, optimizer, PLATEAU), []
        for at in range(0, 24, steps):
            lrs += [optimizer.param_groups[0]["lr"]] * steps
            expected.step(math.fsum(losses[at : at + steps]) / steps)
        assert recorder.lrs[i] == lrs
        assert len(set(lrs)) > 1
        assert callbacks[i].scheduler.state_dict() == expected.state_dict()
    lrs = table(lambda optimizer: build(lr_scheduler, optimizer, FADING), LRS[0], 24)
    assert losses == trained(lr=lrs, dataset_sink_mode=sink).losses


def test_callback_refuses_steps_that_it_does_not_see():
    """A CPU has no data sink, so the arguments are what an accelerator's would be."""
    callback = SchedulerCallback(StepLR(stand_in(), 3), "step")
    for mode, size, refused in ((True, 10, True), (True, -1, True), (True, 1, False), (False, -1, False)):
        context = SimpleNamespace(
            original_args=lambda mode=mode, size=size: SimpleNamespace(dataset_sink_mode=mode, sink_size=size)
        )
        SchedulerCallback(callback.scheduler, "epoch").on_train_begin(context)
        if refused:
            with pytest.raises(ValueError, match=r"^For 'SchedulerCallback', 'by' must be 'epoch' with data sink"):
                callback.on_train_begin(context)
        else:
            callback.on_train_begin(context)


def test_callback_takes_the_loss_of_a_scaled_step():
    """Which comes first of three; the mean, where it has a shape."""
    scheduler = ReduceLROnPlateau(stand_in())
    callback = SchedulerCallback(scheduler, "epoch")
    for loss in (1.0, 2.0):
        step_end(callback, (Tensor(np.array([loss, loss + 2])), Tensor(False), Tensor(1024.0)))
    callback.on_train_epoch_end(None)
    assert (scheduler.best, scheduler.last_epoch) == (2.5, 1)


def test_callback_of_a_plateau_needs_a_loss():
    """An epoch without a step since the last one has no metric, and a loss that is no number is none."""
    scheduler = ReduceLROnPlateau(stand_in())
    callback = SchedulerCallback(scheduler, "epoch")
    message = r"^For 'SchedulerCallback', a ReduceLROnPlateau must be stepped after .*, but there was none"
    for epochs in range(2):
        with pytest.raises(RuntimeError, match=message):
            callback.on_train_epoch_end(None)
        assert scheduler.last_epoch == epochs
        step_end(callback, Tensor(2.0))
        callback.on_train_epoch_end(None)
    assert (scheduler.best, scheduler.last_epoch) == (2.0, 2)
    for loss in (None, "low"):
        with pytest.raises(ValueError, match=r"^For 'SchedulerCallback', the loss must be real numbers"):
            step_end(callback, (loss, Tensor(False)))


def test_callback_by_epoch_needs_no_step():
    """Of a scheduler without a metric: each epoch that ends is one."""
    optimizer = stand_in()
    callback = SchedulerCallback(StepLR(optimizer, 1, 0.5), "epoch")
    callback.on_train_epoch_end(None)
    assert [group["lr"] for group in optimizer.param_groups] == [lr * 0.5 for lr in LRS]


@pytest.mark.parametrize("scheduler", ["epoch", StepLR, stand_in(), None])
def test_callback_takes_a_scheduler(scheduler):
    """Neither the word for when it is stepped, nor a class, nor the optimizer."""
    with pytest.raises(TypeError, match=r"^For 'SchedulerCallback', 'scheduler' must be a scheduler .*, but got "):
        SchedulerCallback(scheduler, "epoch")


def test_callback_lets_the_optimizer_follow_requires_grad():
    """Before each step, whenever the scheduler is stepped."""
    optimizer = our_optimizer()
    callback = SchedulerCallback(StepLR(optimizer, 3), "epoch")
    optimizer.parameters[1].requires_grad = False
    assert optimizer.trainable.asnumpy().tolist() == [True, True]
    callback.on_train_step_begin(None)
    assert optimizer.trainable.asnumpy().tolist() == [True, False]
