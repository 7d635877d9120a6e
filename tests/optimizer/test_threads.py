"""Steps that are taken in several threads at once, and what a forked process has of their lock."""

import os
import threading

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from ms_optim import SGD, AdamW, _compiled
from ms_optim._host import SWITCH

STEPS = 30
SHAPES = ((3, 4), (5,))


def make(cls, **kwargs):
    """An optimizer of two tensors, and a gradient for each."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    params = [Parameter(Tensor(value), name=f"w{i}") for i, value in enumerate(values)]
    return cls(params, lr=0.01, **kwargs), tuple(Tensor(np.sin(value)) for value in values)


def adamw():
    """By the kernel, where there is one."""
    return make(AdamW)


def sgd():
    """By operators."""
    return make(SGD, momentum=0.9, fused=False)


def several(optimizer, gradients, steps=STEPS):
    """Take steps on the same gradients."""
    for _ in range(steps):
        optimizer(gradients)


def kept(optimizer):
    """The bits of the parameters and of the state."""
    return {param.name: param.asnumpy().tobytes() for param in [*optimizer.parameters, *optimizer.get_parameters()]}


def at_once(*runs):
    """Run each in a thread of its own, all from one moment on; what one raises is raised here."""
    barrier, raised = threading.Barrier(len(runs)), []

    def work(run):
        try:
            barrier.wait()
            several(*run)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def two_optimizers():
    """Two threads with an optimizer each."""
    runs, alone = (adamw(), sgd()), (adamw(), sgd())
    at_once(*runs)
    for run, (optimizer, gradients) in zip(runs, alone):
        several(optimizer, gradients)
        assert kept(run[0]) == kept(optimizer)


def one_optimizer():
    """Two threads with one optimizer: as the gradients are the same, so is each order of the steps."""
    run, (optimizer, gradients) = adamw(), adamw()
    at_once(run, run)
    several(optimizer, gradients, 2 * STEPS)
    assert run[0].step_counts.asnumpy().tolist() == [2 * STEPS] * 2
    assert kept(run[0]) == kept(optimizer)


def several_optimizers():
    """Four threads that compile nothing, two of them with one optimizer, and another that computes gradients."""
    shared = adamw()
    runs, alone = (shared, shared, adamw(), make(SGD)), (adamw(), make(SGD))

    class Busy:
        """Something else for MindSpore to do."""

        def __call__(self, gradients):
            ms.ops.exp(gradients[0] * 0.5).asnumpy()

    at_once(*runs, (Busy(), shared[1]))
    for run, (optimizer, gradients) in zip(runs[2:], alone):
        several(optimizer, gradients)
        assert kept(run[0]) == kept(optimizer)
    assert shared[0].step_counts.asnumpy().tolist() == [2 * STEPS] * 2


def fork():
    """A child that goes on by itself, whose parent holds the lock of the optimizer in another thread."""
    run, (optimizer, gradients) = adamw(), adamw()
    several(*run, 3)
    held, release = threading.Event(), threading.Event()

    def hold():
        with run[0].stepper.launch.lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    several(optimizer, gradients, 6)
    child = os.fork()
    if child == 0:
        several(*run, 3)
        os._exit(kept(run[0]) != kept(optimizer))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()
    thread.join()
    several(*run, 3)
    assert kept(run[0]) == kept(optimizer)


RUNS = {
    "GRAPH_MODE": ["fork:1", "one_optimizer:1"],
    "PYNATIVE_MODE": ["two_optimizers:0", "two_optimizers:1", "one_optimizer:0", "several_optimizers:1"],
}


def test_threads(forks, tmp_path):
    """Neither hang nor crash, and the bits of steps that are taken one after another, compiled (0) and direct (1)."""
    forks.run(tmp_path, __file__)


def test_a_forked_child_has_a_lock_of_its_own():
    """That of its parent may be held by a thread that the child does not have.

    MindSpore itself runs no compiled step in the child of a process that has run some: those of `mindspore.nn` hang.
    """
    held, release = threading.Event(), threading.Event()

    def hold():
        with _compiled._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(not _compiled._lock.acquire(blocking=False))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    free = _compiled._lock.acquire(blocking=False)
    release.set()
    thread.join()
    assert (status, free) == (0, False)


if __name__ == "__main__":
    for mode, runs in RUNS.items():
        ms.set_context(mode=getattr(ms, mode))
        for run in runs:
            print(mode, run, flush=True)
            name, os.environ[SWITCH] = run.split(":")
            globals()[name]()
