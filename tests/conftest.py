"""What the tests share."""

import gc

import pytest
import torch
from mindspore._c_expression import GraphExecutor_, JitExecutor_

from ms_optim import _native
from parity.sides.mindspore import MODES, set_mode

# The tests run in as many processes as there are cores.
torch.set_num_threads(1)

_finished = []


def pytest_runtest_logfinish(nodeid):
    """Take what is left of the tests so far out of the collector, which MindSpore calls whenever it compiles.

    What the tests leave in caches, and what is loaded, would be looked through each time.
    """
    _finished.append(nodeid)
    if len(_finished) % 20 == 1:
        gc.unfreeze()
        gc.collect()
        gc.freeze()


@pytest.fixture(params=[*MODES, "composed"])
def mode(request, monkeypatch):
    """Run the test in both modes, and in GRAPH without native kernels, in the syntax that all backends compile.

    PYNATIVE without kernels compiles what GRAPH does; the parity suite compares it too.
    """
    if request.param == "composed":
        monkeypatch.setattr(_native, "library", lambda: None)
        set_mode("graph")
    else:
        set_mode(request.param)
    return request.param


@pytest.fixture
def compilations(monkeypatch):
    """A list that grows by one with each graph that MindSpore compiles, whoever asks for it."""
    counted = []

    def counting(compile_graph):
        def count(self, *args):
            counted.append(args[0])
            return compile_graph(self, *args)

        return count

    for executor in (GraphExecutor_, JitExecutor_):
        monkeypatch.setattr(executor, "compile", counting(executor.compile))
    return counted
