"""Compiled steps that are taken in several graphs have the bits of those in one, and their graphs are no more."""

import numpy as np
import pytest
from helpers import DENSE, assert_same, everything, loud, make_grads, make_params
from mindspore import Parameter, Tensor

from ms_optim import EMA, SGD, Lion, _host, _pieces
from parity.cases import CASES
from parity.cases.problems import synthetic
from parity.judge.compare import compare_bits
from parity.sides import mindspore as mindspore_side

PART = slice(1, 6)  # of what is tested elsewhere, all that `exempt` is about; a piece between two others


@pytest.fixture
def small(monkeypatch):
    """A function that makes something, with at most two parameters in a graph."""

    def make(function):
        with monkeypatch.context() as patched:
            patched.setattr(_pieces, "PIECE", 2)
            return function()

    return make


@pytest.mark.parametrize(
    ("name", "fused", "averaged"), [("SGD", None, True), ("MomentumAGC", None, False), ("AdamW", False, True)]
)
def test_has_the_bits_of_one_graph(name, fused, averaged, graph, small, monkeypatch):
    """By a kernel and without, with absent gradients, which are in one piece only, and where something is frozen."""
    monkeypatch.setenv(_host.SWITCH, "0")

    def make():
        optimizer = DENSE[name](make_params(name)[PART], **{**loud(DENSE[name]), "fused": fused, "loss_scale": 4.0})
        return EMA(optimizer, 0.9) if averaged else optimizer

    whole, parted = make(), small(make)
    assert not whole.parted and parted.parted
    for step, grads in enumerate(make_grads(name, 3)):
        grads = [None if step == 1 and i == 3 else grad for i, grad in enumerate(grads[PART])]
        for optimizer in (whole, parted):
            optimizer(tuple(grads))
            if step == 1:
                optimizer.freeze(optimizer.parameters[0].name)
    assert_same(everything(parted), everything(whole))


@pytest.mark.usefixtures("own_graph")
@pytest.mark.parametrize("fused", [None, False])
def test_a_gradient_that_is_a_parameter_of_another_piece(fused, graph, small, monkeypatch):
    """Is read before that is written."""
    monkeypatch.setenv(_host.SWITCH, "0")

    def make():
        return SGD([Parameter(Tensor(np.full(3, i + 1, np.float32)), name=f"p{i}") for i in range(4)], 0.1, fused=fused)

    whole, parted = make(), small(make)
    assert parted.parted
    for optimizer in (whole, parted):
        first, *_, last = optimizer.parameters
        copied = optimizer is whole
        ones = Tensor(np.ones(3, np.float32))
        optimizer((last.copy() if copied else last, ones, ones, first.copy() if copied else first))
    assert_same(everything(parted), everything(whole))


def test_sparse_gradients(graph, small):
    """Each piece has its own."""
    case = CASES["SparseAdam"][-1]
    problem = synthetic().part(["fc.weight", "huge.gamma", "late.bias"]).fitting(case)
    build = mindspore_side.factory(case)
    whole = mindspore_side.Session(build, problem.initial, "graph", anew=True)
    parted = small(lambda: mindspore_side.Session(build, problem.initial, "graph", anew=True))
    assert not whole.optimizer.parted and parted.optimizer.parted
    assert compare_bits(parted.steps(problem.gradients), whole.steps(problem.gradients)).passed


def test_a_graph_is_compiled_for_what_has_changed(graph, small, compilations):
    """Numbers once, and of a new pattern of absent gradients those of the pieces that it is in."""
    optimizer = small(lambda: Lion(make_params("Lion")[PART]))
    grads = make_grads("Lion", 1)[0][PART]
    pieces = -(-len(grads) // 2)
    optimizer(grads)
    assert len(compilations) == 1 + pieces
    optimizer(grads)
    assert len(compilations) == 1 + pieces
    optimizer((None, *grads[1:]))
    assert len(compilations) == 2 + pieces + 1


def test_a_step_of_its_own_is_one_graph(small):
    """A subclass that changes `construct` is not taken apart."""

    class Own(Lion):
        def construct(self, gradients, present=None):
            """Turn round."""
            return super().construct(gradients, present)

    assert small(lambda: Own(make_params("Lion"))).parted == []
    assert small(lambda: Lion(make_params("Lion"))).parted
