"""A training that is stopped, and taken up with all that its loop had."""

import os
import random
import runpy
import signal
import sys
import threading
import time
from collections import Counter

import mindspore as ms
import numpy as np
import pytest
from helpers.modules import weights
from mindspore import Tensor, dataset, log, nn, ops
from mindspore.train import Callback, Model

from ms_optim import EMA, LBFGS, SGD, AdamW, RandomState, StopRequest, callbacks, restore, resume, save
from ms_optim.callbacks import SaveOnStop
from ms_optim.convert import load
from ms_optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    ReduceLROnPlateau,
    SchedulerCallback,
    SequentialLR,
    StepLR,
)


@pytest.fixture(params=[".ckpt", ".safetensors"])
def file(request, tmp_path, graph):
    """A file of each format."""
    return tmp_path / f"last{request.param}"


def make():
    """A network's optimizer, stepped never."""
    net = nn.Dense(2, 3, weight_init="ones", bias_init="zeros")
    return AdamW(net.trainable_params(), lr=0.1)


def step(optimizer):
    """Take one on ones."""
    optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))


PLAIN = {
    "epoch": 3,
    "best": 0.1 + 0.2,
    "none": None,
    "flags": [True, False],
    "pair": (1, "two", [3.0]),
    "nan": float("inf"),
    "counts": {30: 1, "a": {"b": []}},
    "array": np.arange(6, dtype=np.uint32).reshape(2, 3),
    "number": np.float32(0.5),
    "empty": np.zeros((2, 0), np.int16),
}


def test_plain_data_comes_back(file):
    """As it was: text and integers as keys, tuples, arrays of any dtype, every bit of a number."""
    optimizer = make()
    save(optimizer, file, {**PLAIN, "tensor": Tensor([[1, 2]], ms.float16), "half": Tensor([1.5], ms.bfloat16)})
    found = resume(optimizer, file)
    assert list(found) == [*PLAIN, "tensor", "half"]
    for name, value in PLAIN.items():
        np.testing.assert_equal(found[name], value)
        assert type(found[name]) is type(value) or name == "number"
    assert (found["tensor"].dtype, found["half"].dtype, found["tensor"].shape) == (ms.float16, ms.bfloat16, (1, 2))
    assert found["half"].float().asnumpy().tolist() == [1.5]
    assert restore(optimizer, file) == []
    assert {name for name in load(file) if name.startswith("ms_optim.also")}
    save(optimizer, file)
    assert resume(optimizer, file) == {}
    ms.load_checkpoint(str(file), format=file.suffix[1:])


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: StepLR(optimizer, 2, 0.5),
        lambda optimizer: MultiStepLR(optimizer, [1, 1, 4]),
        lambda optimizer: ReduceLROnPlateau(optimizer, patience=1),
        lambda optimizer: SequentialLR(optimizer, [StepLR(optimizer, 1), CosineAnnealingLR(optimizer, 5)], [3]),
    ],
)
def test_a_loop_is_taken_up(schedule, file):
    """Its scheduler, its average, its random numbers, its best metric: bits of a loop that was not stopped."""
    loops = []
    for _ in range(2):
        ema = EMA(make(), 0.5)
        loops.append((ema, {"scheduler": schedule(ema), "random": RandomState()}))

    def epoch(loop):
        ema, also = loop
        drawn = (random.random(), np.random.rand())
        for param in ema.parameters:
            ops.assign(param, param + drawn[0] * drawn[1])
        step(ema)
        also["scheduler"].step(*([drawn[0]] if isinstance(also["scheduler"], ReduceLROnPlateau) else []))
        return drawn

    random.seed(3)
    np.random.seed(4)
    for _ in range(2):
        epoch(loops[0])
    save(loops[0][0], file, {**loops[0][1], "epoch": 2})
    expected = [epoch(loops[0]) for _ in range(3)]
    random.seed(5)
    np.random.seed(6)
    assert resume(loops[1][0], file, loops[1][1]) == {"epoch": 2}
    assert [epoch(loops[1]) for _ in range(3)] == expected
    np.testing.assert_equal(weights(loops[1][0]), weights(loops[0][0]))
    np.testing.assert_equal(loops[1][1]["scheduler"].state_dict(), loops[0][1]["scheduler"].state_dict())
    states = resume(loops[1][0], file)
    assert states.keys() == {"scheduler", "random", "epoch"}
    assert isinstance(states["scheduler"].get("milestones", Counter()), (dict, Counter))


def test_a_history_that_no_checkpoint_has(file):
    """That of LBFGS, whose state dict has it."""
    nets = [nn.Dense(2, 1, weight_init="ones", bias_init="zeros") for _ in range(2)]
    made = []
    for net in nets:
        optimizer = LBFGS(net.trainable_params(), max_iter=2)
        gradient = ms.value_and_grad(nn.WithLossCell(net, nn.MSELoss()), None, optimizer.parameters)
        x, y = Tensor([[1.0, 2.0], [3.0, -1.0]], ms.float32), Tensor([[0.5], [-0.5]], ms.float32)
        made.append((optimizer, lambda gradient=gradient, x=x, y=y: gradient(x, y)))
    made[0][0].step(made[0][1])
    save(made[0][0], file, {"optimizer": made[0][0]})
    assert resume(made[1][0], file, {"optimizer": made[1][0]}) == {}
    for optimizer, closure in made:
        optimizer.step(closure)
    np.testing.assert_equal(weights(nets[1]), weights(nets[0]))


def test_what_does_not_fit_changes_nothing(file):
    """Neither the cell nor what is beside it."""
    optimizer = make()
    schedule = StepLR(optimizer, 2)
    step(optimizer)
    schedule.step()
    save(optimizer, file, {"scheduler": schedule, "epoch": 3})
    other = SGD(nn.Dense(2, 3).trainable_params(), lr=0.5)
    theirs, states = StepLR(other, 2), RandomState()
    before = weights(other), theirs.state_dict(), random.getstate()
    for also, message in (
        ({"scheduler": theirs}, "must be of SGD, as the optimizer is, but that of AdamW was saved"),
        (
            {"scheduler": theirs, "random": states},
            r"must have a state for each in 'also', but has none for \['random'\]",
        ),
        ({"epoch": theirs}, r"but has none for \['epoch'\], and \['scheduler', 'epoch'\]"),
        ({"scheduler": CosineAnnealingLR(other, 3)}, "For 'CosineAnnealingLR', 'state_dict' must have the keys"),
        ({"scheduler": states}, "For 'RandomState', 'state_dict' must have 'python', 'numpy' and 'mindspore'"),
    ):
        with pytest.raises(ValueError, match=message):
            resume(other, file, also)
        np.testing.assert_equal((weights(other), theirs.state_dict(), random.getstate()), before)
    with pytest.raises(TypeError, match="For 'resume', 'file' must be a str or a PathLike, but got None"):
        resume(optimizer, None)
    with pytest.raises(TypeError, match=r"what is in 'also' must have 'load_state_dict', but got {'epoch': 'int'}"):
        resume(optimizer, file, {"epoch": 3})
    for also, message in (
        (3, "'also' must map names to values, but got 3"),
        ({1: 2}, "'also' must map names to values"),
        ({"a": {"b": [object()]}}, r"'a.b\[0\]' of 'also' must be plain data, or have a state dict, but got object"),
        ({"a": np.array(["x"])}, "'a' of 'also' must be real numbers"),
    ):
        content = file.read_bytes()
        with pytest.raises((TypeError, ValueError), match=f"^For 'save', {message}"):
            save(optimizer, file, also)
        assert file.read_bytes() == content


def test_a_request_to_stop():
    """Is one while the block runs, and of the main thread; twice is at once."""
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest(signal.SIGUSR1) as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop
    assert signal.getsignal(signal.SIGUSR1) == before and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    raised = []

    def enter():
        try:
            StopRequest().__enter__()
        except ValueError as error:
            raised.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert raised and raised[0].startswith("For 'StopRequest', the block must be entered in the main thread")


def test_a_signal_that_cannot_be_caught():
    """Is named, and the others are as before."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for odd in (signal.SIGKILL, "x"):
        with pytest.raises(ValueError, match=r"^For 'StopRequest', 'signals' must be such as can be caught, but got"):
            StopRequest(odd).__enter__()
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_that_is_given_twice():
    """Is as before afterwards, though the block is entered twice too."""
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest(signal.SIGTERM, signal.SIGTERM)
    with request, request:
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_cannot_be_saved_is_said_before_the_training(tmp_path):
    """And not when there is no time left."""
    optimizer = SGD(nn.Dense(2, 3).trainable_params())
    for args, message in (
        ((3, "a.ckpt"), "'cell' must be a Cell, but got int"),
        ((optimizer, 12345), "'file' must be a str or a PathLike, but got 12345"),
        ((optimizer, "a.npz"), r"'file' must end in one of \('.ckpt', '.safetensors'\), but got 'a.npz'"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^For 'SaveOnStop', {message}"):
            SaveOnStop(*args)
    before = signal.getsignal(signal.SIGTERM)
    for callback, message in (
        (SaveOnStop(optimizer, tmp_path / "none" / "a.ckpt"), "the folder of 'file' must be there, but got"),
        (SaveOnStop(optimizer, tmp_path / "a.ckpt", {"x": object()}), "'x' of 'also' must be plain data"),
    ):
        with pytest.raises((TypeError, FileNotFoundError), match=f"^For 'SaveOnStop', {message}"):
            callback.on_train_begin(None)
        assert signal.getsignal(signal.SIGTERM) == before


def test_numbers_of_numpy_are_numbers(tmp_path):
    """As metrics are."""
    optimizer = SGD(nn.Dense(2, 3).trainable_params())
    save(optimizer, tmp_path / "a.ckpt", {"best": np.float64(0.75), "done": np.bool_(True), "count": np.int32(3)})
    told = resume(optimizer, tmp_path / "a.ckpt")
    assert told == {"best": 0.75, "done": True, "count": 3}
    assert [type(value) for value in told.values()] == [float, bool, int]


class Failing(Callback):
    """Raise in a method."""

    def __init__(self, method):
        super().__init__()
        setattr(self, method, self.fail)

    def fail(self, run_context):
        """Raise, where SIGTERM does not end the process."""
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        raise KeyError


class AskToStop(Callback):
    """Ask this process to stop, when a method is called for the so-many-th time."""

    def __init__(self, method, call):
        super().__init__()
        self.left = call
        setattr(self, method, self.ask)

    def ask(self, run_context):
        """Send SIGTERM, if it does not end the process."""
        self.left -= 1
        if not self.left:
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGTERM)


def batches(first=0):
    """An epoch of four, or what is left of it."""
    rows = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)[2 * first :]
    return dataset.NumpySlicesDataset((rows, rows @ np.ones((2, 3), np.float32)), shuffle=False).batch(2)


@pytest.mark.parametrize(("by", "step"), [("epoch", 3), ("epoch", 4), ("step", 3), ("step", 4)])
def test_a_scheduler_is_at_the_step_that_is_saved(by, step, graph, tmp_path):
    """In the midst of an epoch and after its last step: bits of a training that was not stopped."""
    file, found = tmp_path / "last.safetensors", []

    def begin():
        net = nn.Dense(2, 3, weight_init="ones", bias_init="zeros")
        optimizer = AdamW(net.trainable_params(), lr=0.1)
        return Model(net, nn.MSELoss(), optimizer), optimizer, ExponentialLR(optimizer, 0.5)

    for stops in (False, True):
        model, optimizer, scheduler = begin()
        schedule = SchedulerCallback(scheduler, by)
        stop = SaveOnStop(optimizer, file, {"scheduler": scheduler})
        callbacks = [AskToStop("on_train_step_begin", step), schedule, stop] if stops else [schedule]
        model.train(3, batches(), callbacks=callbacks)
        if stops:
            model, optimizer, scheduler = begin()
            assert resume(optimizer, file, {"scheduler": scheduler}) == {"epoch": 1, "step": step}
            schedule = SchedulerCallback(scheduler, by)
            if step < 4:
                model.train(1, batches(step), callbacks=[schedule])
            model.train(3, batches(), callbacks=[schedule], initial_epoch=1)
        found.append((weights(optimizer), optimizer.state_dict()["param_groups"], scheduler.state_dict()))
    np.testing.assert_equal(found[1], found[0])


@pytest.mark.parametrize(
    ("method", "call", "first", "told"),
    [
        ("on_train_step_begin", 5, True, {"epoch": 2, "step": 5}),
        ("on_eval_end", 1, True, {"epoch": 1, "step": 4}),
        ("on_train_epoch_end", 1, False, {"epoch": 2, "step": 5}),
        ("on_eval_end", 2, True, {"epoch": 2, "step": 8}),
        ("on_train_epoch_end", 2, False, {"epoch": 2, "step": 8}),
        ("on_train_end", 1, True, {"epoch": 2, "step": 8}),
    ],
)
def test_a_request_at_any_time(method, call, first, told, graph, tmp_path):
    """Of a training with evaluations stops it, after the last step too, and nothing listens afterwards."""
    before, file = signal.getsignal(signal.SIGTERM), tmp_path / "last.safetensors"
    net = nn.Dense(2, 3)
    optimizer = AdamW(net.trainable_params())
    stop = SaveOnStop(optimizer, file)
    model = Model(net, nn.MSELoss(), optimizer, metrics={"mse"})
    callbacks = [AskToStop(method, call), stop]
    model.fit(2, batches(), batches(), callbacks=callbacks if first else callbacks[::-1])
    assert stop.stopped and resume(optimizer, file) == told
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_file_that_another_process_writes(graph):
    """The training ends all the same, and `also` is not asked for."""
    net = nn.Dense(2, 3)
    optimizer = AdamW(net.trainable_params())
    stop = SaveOnStop(optimizer, None, lambda: 1 / 0)
    Model(net, nn.MSELoss(), optimizer).train(2, batches(), callbacks=[AskToStop("on_train_step_begin", 3), stop])
    assert stop.stopped and optimizer.step_counts.asnumpy().tolist() == [3, 3]


def test_processes_that_cannot_agree_are_warned(monkeypatch, tmp_path):
    """A sum over them would be of slices."""
    told = []
    monkeypatch.setattr(callbacks, "devices", lambda: 8)
    monkeypatch.setattr(callbacks, "slicing_mode", lambda: "semi_auto_parallel")
    monkeypatch.setattr(log, "warning", told.append)
    stop = SaveOnStop(SGD(nn.Dense(2, 3).trainable_params()), tmp_path / "a.ckpt")
    stop.on_train_begin(None)
    stop.__exit__(ValueError)
    (line,) = told
    assert line.startswith("For 'SaveOnStop', processes cannot agree on a step in 'semi_auto_parallel'")


@pytest.mark.parametrize("method", ["on_train_step_end", "on_eval_step_end"])
def test_after_an_error_nothing_listens(method, graph, tmp_path):
    """Neither of a training nor of an evaluation in it."""
    before = signal.getsignal(signal.SIGTERM)
    net = nn.Dense(2, 3)
    optimizer = AdamW(net.trainable_params())
    model = Model(net, nn.MSELoss(), optimizer, metrics={"mse"})
    callbacks = [Failing(method), SaveOnStop(optimizer, tmp_path / "last.safetensors")]
    with pytest.raises(KeyError):
        model.fit(1, batches(), batches(), callbacks=callbacks)
    assert signal.getsignal(signal.SIGTERM) == before


TRAINING = """
import sys
import mindspore as ms
import numpy as np
from mindspore import dataset, nn
from mindspore.train import Callback, Model
from ms_optim import EMA, AdamW, resume
from ms_optim.callbacks import SaveOnStop

file, mode, stops = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "stops"
ms.set_context(mode=mode)
rows = np.linspace(-1, 1, 400, dtype=np.float32).reshape(200, 2)
data = dataset.NumpySlicesDataset((rows, rows[:, :1] * 3), shuffle=False).batch(1)
net = nn.Dense(2, 1, weight_init="ones", bias_init="zeros")
ema = EMA(AdamW(net.trainable_params(), lr=0.01), 0.9)


class Slow(Callback):
    def on_train_step_end(self, run_context):
        import time

        print(run_context.original_args().cur_step_num, flush=True)
        time.sleep(0.05 if stops else 0)
        if not stops and run_context.original_args().cur_step_num == int(sys.argv[4]):
            run_context.request_stop()


callback = SaveOnStop(ema, file, lambda: {"note": "here"})
Model(net, nn.MSELoss(), ema).train(1, data, callbacks=[Slow(), callback], dataset_sink_mode=False)
if stops:
    assert callback.stopped
    told = resume(ema, file)
    print("told", told["epoch"], told["step"], told["note"], int(ema.global_step.asnumpy()[0]), flush=True)
print("bits", [param.asnumpy().tolist() for param in net.get_parameters()], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "mode"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGINT, 1)])
def test_a_process_that_is_told_to_stop(sent, mode, forks, tmp_path, monkeypatch, capsys):
    """Ends after a step with rc 0, and its file holds that step: as a training that was not told, at the same step."""
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    file = str(tmp_path / "last.safetensors")
    process = forks.started(tmp_path, script, file, mode, "stops")
    while (line := process.stdout.readline().strip()) != "5":
        assert line, process.ended().stderr
    time.sleep(0.02)
    process.send_signal(sent)
    done = process.ended()
    out = done.stdout
    assert done.returncode == 0, done.stderr
    told = next(line for line in out.splitlines() if line.startswith("told")).split()
    assert told[1] == "1" and told[3] == "here" and told[2] == told[4] and 5 <= int(told[2]) < 60
    monkeypatch.setattr(sys, "argv", [str(script), file, str(mode), "runs", told[2]])
    runpy.run_path(str(script))
    assert out.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1]


def test_state_that_is_in_no_parameters_is_missed(tmp_path, monkeypatch):
    """That of LBFGS, unless it is in `also`; resumed from there it goes on to the bit."""
    told = []
    monkeypatch.setattr(log, "warning", told.append)
    net = nn.Dense(2, 1)
    optimizer = LBFGS(net.trainable_params(), lr=0.5, max_iter=2)

    def loss(x):
        return (net(x) ** 2).mean()

    gradient = ms.value_and_grad(loss, None, optimizer.parameters)
    x = Tensor(np.arange(6).reshape(3, 2), ms.float32)
    save(optimizer, tmp_path / "a.safetensors")
    assert told == []  # there is no state yet
    optimizer.step(lambda: gradient(x))
    save(optimizer, tmp_path / "a.safetensors")
    assert ["the state of LBFGS is not saved" in one for one in told] == [True]
    save(net, tmp_path / "b.safetensors", {"lbfgs": optimizer})
    save(optimizer, tmp_path / "c.safetensors", {"lbfgs": optimizer})
    assert len(told) == 1
    losses = [float(optimizer.step(lambda: gradient(x))) for _ in range(3)]
    resume(net, tmp_path / "b.safetensors", {"lbfgs": optimizer})
    assert [float(optimizer.step(lambda: gradient(x))) for _ in range(3)] == losses
