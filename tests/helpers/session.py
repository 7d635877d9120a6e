"""What the tests share, in each process that runs some: a plugin of pytest."""

import copy
import gc
import inspect
from types import SimpleNamespace

import pytest
import torch
from mindspore._c_expression import GraphExecutor_, JitExecutor_

from helpers import CELLS, COMPOSED, SPAN
from helpers.forked import Forks
from helpers.graphs import api
from helpers.processes import install
from ms_optim import OPTIMIZERS, _compiled, _host, _native
from ms_optim._values import write
from parity.sides.mindspore import MODES, set_mode, structure

# The tests run in as many processes as there are cores.
torch.set_num_threads(1)

_finished = []


# MindSpore would collect garbage, and so look through all that is loaded, whenever it compiles; and so would Python
# often, while it does.
api.gc = SimpleNamespace(collect=lambda: None)
gc.set_threshold(20_000, 20, 20)


def _once(read):
    """Read the source of a function once: MindSpore does so whenever it compiles it."""
    known = {}

    def get(what):
        code = getattr(what, "__code__", None)
        if code is None:
            return read(what)
        key = code.co_filename, code
        if key not in known:
            known[key] = read(what)
        return known[key]

    return get


inspect.getsourcelines = _once(inspect.getsourcelines)


def pytest_runtest_logfinish(nodeid):
    """Collect the garbage of the tests now and then, and of what had been left by those before, more seldom."""
    _finished.append(nodeid)
    if len(_finished) % 20 == 1:
        if len(_finished) % 400 == 1:
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


def _name_groups(items):
    """Write the group of each test behind its name, where pytest-xdist looks for it.

    pytest-xdist 3.8 does so too, but before all groups are given, and in an attribute that pytest 9.2 no longer reads.
    """
    for item in items:
        groups = sorted({mark.args[0] for mark in item.iter_markers("xdist_group")})
        if groups and "@" not in item.nodeid.rpartition("]")[2]:
            name = f"{item.nodeid}@{'_'.join(groups)}"
            if hasattr(item, "_id"):
                item._id = type(item._id).parse(name)
            else:
                item._nodeid = name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Give the tests of one optimizer to one process, which compiles each of its graphs once.

    What runs without kernels compiles for seconds, so that it is left out where there is no kernel anyway. Where it is
    marked as generic, which no rule could get wrong, it runs on that of COMPOSED only; in GRAPH on all that have
    kernels or are of SPAN, in PYNATIVE on those that are both. If it compiles a training for each,
    `generic(compiles=True)`, it runs on those of CELLS and on that of COMPOSED.
    """
    for item in list(items):
        if "forks" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("processes"))
        params = getattr(getattr(item, "callspec", None), "params", {})
        name = params.get("name")
        if name not in OPTIMIZERS:
            continue
        how, generic = (
            next((params[key] for key in ("mode", "path", "either") if key in params), None),
            item.get_closest_marker("generic"),
        )
        update = getattr(OPTIMIZERS[name], "update", None)
        is_composed = not update or _native.obstacle(name, update)
        compiles = generic and generic.kwargs.get("compiles")
        if (how == "composed" and is_composed) or (
            generic
            and name
            not in {
                "composed": COMPOSED,
                "pynative": COMPOSED if compiles else () if is_composed else SPAN,
                "graph": CELLS if compiles else SPAN if is_composed else OPTIMIZERS,
            }.get(how, OPTIMIZERS)
        ):
            items.remove(item)
            config.hook.pytest_deselected(items=[item])
            continue
        item.add_marker(pytest.mark.xdist_group(name))
    # What takes longest comes first, so that at the end no process waits for another.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if getattr(config.option, "loadgroup", False):
        _name_groups(items)


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


STEP = _compiled.step


class Twins:
    """Optimizers that have compiled, to take the steps of others that differ from them in numbers only.

    A compilation takes longer than the steps of a test. What a graph holds besides Parameters is told by `constants`.
    """

    KEPT = 24

    def __init__(self):
        self._known = {}

    def step(self, optimizer, gradients, pieces=None):
        """Take a compiled step by the graph of a twin; if there is none, a copy of the optimizer becomes it."""
        key = structure(optimizer)
        if key is None or pieces is not None:
            return STEP(optimizer, gradients, pieces)
        # MindSpore itself runs in one mode what it has compiled in the other.
        key = (*key[1:], *((param.shape, param.dtype) for param in self._buffers(optimizer)))
        twin = self._known.pop(key, None) or copy.deepcopy(optimizer)
        self._known[key] = twin
        if len(self._known) > self.KEPT:
            del self._known[next(iter(self._known))]
        pairs = list(zip(self._read(twin), self._read(optimizer), strict=True))
        for of_twin, param in pairs:
            self._copy(of_twin, param)
        done = STEP(twin, gradients)
        for of_twin, param in pairs:
            self._copy(param, of_twin)
        return done

    def _read(self, optimizer):
        """All that a step reads and writes."""
        return [*optimizer.get_parameters(), *self._buffers(optimizer)]

    def _buffers(self, optimizer):
        """What is averaged besides: it belongs to a network."""
        return getattr(optimizer, "tracked", ())

    def _copy(self, param, value):
        """Write a Parameter, whatever the test has switched off."""
        if not _host.copy_memory(param, value):
            write(param, value)


TWINS = Twins()


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Runs programs of Python; what asks for it is in one group, to import the frameworks once."""
    return Forks(tmp_path_factory.mktemp("forks"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with what a wheel of this clone installs; what asks for it is in one group, to build it once."""
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def own_graph():
    """Let each optimizer compile graphs of its own: for what is about that."""


@pytest.fixture(autouse=True)
def shared_graphs(request, monkeypatch):
    """Compile a structure once for all tests of a process, but for those that are about compilation."""
    if not {"compilations", "own_graph"} & {*request.fixturenames}:
        monkeypatch.setattr(_compiled, "step", TWINS.step)
