"""What the tests share."""

import gc

import pytest
import torch
from mindspore._c_expression import GraphExecutor_, JitExecutor_

from ms_optim import OPTIMIZERS, _native
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


def _enter(mode, monkeypatch):
    """Set a mode, in the syntax that all backends compile; "composed" is GRAPH without native kernels.

    PYNATIVE without kernels compiles what GRAPH does; the parity suite compares it too.
    """
    if mode == "composed":
        monkeypatch.setattr(_native, "library", lambda: None)
        set_mode("graph")
    else:
        set_mode(mode)
    return mode


@pytest.fixture(params=[*MODES, "composed"])
def mode(request, monkeypatch):
    """Run the test in both modes, and without native kernels."""
    return _enter(request.param, monkeypatch)


@pytest.fixture(params=["graph", "composed"])
def path(request, monkeypatch):
    """Run the test by the native kernel and by the rule itself: for what a rule could get wrong."""
    return _enter(request.param, monkeypatch)


@pytest.fixture(params=MODES)
def either(request, monkeypatch):
    """Run the test in both modes: for what no rule could get wrong."""
    return _enter(request.param, monkeypatch)


@pytest.fixture
def graph(monkeypatch):
    """Run the test in GRAPH."""
    return _enter("graph", monkeypatch)


def pytest_collection_modifyitems(items):
    """Give the tests of one optimizer to one process, which compiles each of its graphs once."""
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if name in OPTIMIZERS:
            item.add_marker(pytest.mark.xdist_group(name))


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
