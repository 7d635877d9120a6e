"""LBFGS against torch's: how often it evaluates the loss, where it goes, when it stops, what it keeps."""

import functools
import inspect
import pickle
import re
from typing import NamedTuple

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
import torch
from helpers.published import PUBLISHED
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.train import Model

from ms_optim import LBFGS, _host, _math
from ms_optim.lbfgs.vectors import dot, largest, sum_of_magnitudes
from parity.cases.losses import losses
from parity.sides.mindspore import MODES, set_mode

nan, inf = float("nan"), float("inf")
each_search = pytest.mark.parametrize("search", [None, "strong_wolfe"])
# Without a search, steps of length 1 leave the valley.
SEARCHES = {None: {"lr": 0.3}, "strong_wolfe": {"line_search_fn": "strong_wolfe"}}
STEPS = 8


@pytest.fixture(params=[*MODES, "compiled"])
def mode(request, monkeypatch):
    """Run the test on arrays in both modes, and compiled, as where the device is not the CPU."""
    if request.param == "compiled":
        monkeypatch.setenv(_host.SWITCH, "0")
    set_mode("graph" if request.param == "compiled" else request.param)
    return request.param


PROBLEMS = {loss.name: loss for loss in losses()}


class Loss(nn.Cell):
    """The loss of a problem."""

    def __init__(self, problem, params, dtype):
        super().__init__()
        self.loss, self.weights = problem.function, ParameterTuple(params)
        self.data = tuple(Tensor(value, dtype) for value in problem.data)

    def construct(self):
        """Compute it."""
        return self.loss(self.weights, self.data, ops)


@functools.cache
def compiled(name, mode, dtype, number=0):
    """An optimizer of a problem and its closure. `mode` is the one that is set."""
    problem = PROBLEMS[name]
    params = [Parameter(Tensor(value, dtype), name=f"p{i}") for i, value in enumerate(problem.initial.values())]
    optimizer = LBFGS(params)
    return optimizer, ms.value_and_grad(Loss(problem, params, dtype), None, optimizer.parameters)


def ours(name, mode, dtype=ms.float32, number=0, **kwargs):
    """The same, where it starts and with these arguments."""
    optimizer, closure = compiled(name, mode, dtype, number)
    for param, value in zip(optimizer.parameters, PROBLEMS[name].initial.values()):
        ops.assign(param, Tensor(value, dtype))
    optimizer.load_state_dict(LBFGS(optimizer.parameters, **kwargs).state_dict())
    return optimizer, closure


def torchs(name, dtype=torch.float32, **kwargs):
    """The optimizer of torch for a problem, and its closure."""
    problem = PROBLEMS[name]
    params = [torch.nn.Parameter(torch.tensor(value).to(dtype)) for value in problem.initial.values()]
    data = [torch.tensor(value).to(dtype) for value in problem.data]
    optimizer = torch.optim.LBFGS(params, **kwargs)

    def closure():
        optimizer.zero_grad()
        loss = problem.function(params, data, torch)
        loss.backward()
        return loss

    return optimizer, closure


class Step(NamedTuple):
    """What is known after a step: counts, the loss that it returned and all parameters as one float64 vector."""

    func_evals: int
    n_iter: int
    loss: float
    position: np.ndarray


def parameters_of(optimizer):
    """The values of all parameters, either side's, as one float64 vector."""
    params = optimizer.param_groups[0]["params"]
    return np.concatenate(
        [
            np.float64(param.detach().numpy() if isinstance(param, torch.Tensor) else param.asnumpy()).ravel()
            for param in params
        ]
    )


def state_of(optimizer):
    """The state of either side's optimizer."""
    return optimizer.state_dict()["state"][0]


def run(optimizer, closure, steps=STEPS, before=lambda optimizer, step: None):
    """What is known after each step of either side's optimizer."""
    found = []
    for step in range(steps):
        before(optimizer, step)
        loss = optimizer.step(closure)
        state = state_of(optimizer)
        found.append(Step(state["func_evals"], state["n_iter"], loss.item(), parameters_of(optimizer)))
    return found


@functools.cache
def reference(name, dtype, steps=STEPS, **kwargs):
    """What is known of torch."""
    return run(*torchs(name, dtype, **kwargs), steps)


def counts(steps):
    """How often the loss was evaluated, and the iterations, after each step."""
    return [(step.func_evals, step.n_iter) for step in steps]


def assert_in_budget(got, single, double):
    """As many evaluations, and at most ten times as far from torch's float64 as its float32 was by then, or one ulp."""
    assert counts(got) == counts(single) == counts(double)
    allowed, ulp = 0.0, np.finfo(np.float32).eps
    for ours_now, single_now, double_now in zip(got, single, double):
        truth = double_now.position
        allowed = max(allowed, np.abs(single_now.position - truth).max(), np.abs(truth).max() * ulp)
        assert np.abs(ours_now.position - truth).max() <= 10 * allowed


@each_search
@pytest.mark.parametrize("name", ["rosenbrock", "quadratic"])
def test_float64_is_torchs(name, search, graph):
    """Nothing on the way is rounded to float32."""
    kwargs = {**SEARCHES[search], "max_iter": 5}
    got, expected = run(*ours(name, graph, ms.float64, **kwargs)), reference(name, torch.float64, **kwargs)
    assert counts(got) == counts(expected)
    for ours_now, expected_now in zip(got, expected):
        np.testing.assert_allclose(ours_now.position, expected_now.position, rtol=1e-9, atol=1e-9)
        assert ours_now.loss == pytest.approx(expected_now.loss, rel=1e-9)


# Each ends a step for another reason: too many iterations or evaluations, flat at the start or later, a short way,
# little slope or gain.
LIMITS = (
    {"max_iter": 3, "max_eval": 100},
    {"max_eval": 4},
    {"tolerance_grad": 300.0},
    {"tolerance_grad": 5.0},
    {"tolerance_change": 0.05},
    {"tolerance_change": 3e-3},
)


@each_search
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_it_stops_where_torch_does(limits, search, graph):
    """Each limit ends a step; the next one goes on from there."""
    kwargs = {**SEARCHES[search], **limits}
    got = run(*ours("rosenbrock", graph, **kwargs), 3)
    assert_in_budget(got, *(reference("rosenbrock", dtype, 3, **kwargs) for dtype in (torch.float32, torch.float64)))
    assert counts(got) != counts(reference("rosenbrock", torch.float32, 3, **SEARCHES[search]))


@each_search
def test_what_requires_no_gradient_has_none(search, mode, monkeypatch):
    """As in torch, where a closure that clears the gradients leaves it without: the history moves it all the same."""
    kwargs = {**SEARCHES[search], "max_iter": 4}
    (optimizer, closure), (expected, clearing) = (
        ours("logistic", mode, ms.float64, **kwargs),
        torchs("logistic", torch.float64, **kwargs),
    )
    found = []
    for requires in (True, False, True):
        last = optimizer.parameters[-1]
        monkeypatch.setattr(last, "requires_grad", requires)
        expected.param_groups[0]["params"][-1].requires_grad_(requires)
        before = last.asnumpy().copy()
        optimizer.step(closure)
        expected.step(clearing)
        np.testing.assert_allclose(parameters_of(optimizer), parameters_of(expected), rtol=1e-9, atol=1e-12)
        found.append(np.abs(last.asnumpy() - before).max())
    assert min(found) > 0


@pytest.mark.parametrize(
    "published", PUBLISHED["LBFGS"].optim_inputs_func("cpu", torch.float32), ids=lambda given: given.desc
)
def test_published_configurations(published, graph):
    """Those of torch's own tests, where it is itself when it rounds."""
    kwargs = {
        name: value.item() if isinstance(value, torch.Tensor) else value for name, value in published.kwargs.items()
    }
    kept = {
        name: Tensor(value.numpy()) if isinstance(value, torch.Tensor) else value
        for name, value in published.kwargs.items()
    }
    got = run(*ours("logistic", graph, max_iter=4, **kept), 3)
    assert_in_budget(
        got, *(reference("logistic", dtype, 3, max_iter=4, **kwargs) for dtype in (torch.float32, torch.float64))
    )


def test_the_signature_is_torchs():
    """Names, order, defaults and kinds."""

    def parameters(cls):
        return [
            (parameter.name, parameter.default, parameter.kind)
            for parameter in inspect.signature(cls).parameters.values()
        ]

    assert parameters(LBFGS) == parameters(torch.optim.LBFGS)
    group = LBFGS([Parameter(1.0, name="p")], max_iter=6).param_groups[0]
    expected = torch.optim.LBFGS([torch.ones(())], max_iter=6).param_groups[0]
    assert {**group, "params": None} == {**expected, "params": None}


# Functions of six numbers, and their gradients, computed by NumPy for both sides alike.
SHAPES = ((2,), (), (3, 1))


def valley(x):
    """Rosenbrock's, chained."""
    rise, slope = x[1:] - x[:-1] ** 2, np.zeros_like(x)
    slope[:-1] = -400 * x[:-1] * rise - 2 * (1 - x[:-1])
    slope[1:] += 200 * rise
    return (100 * rise**2 + (1 - x[:-1]) ** 2).sum(), slope


def waves(x):
    """Many minima."""
    return (x * x).sum() / 20 + np.sin(3 * x).sum(), x / 10 + 3 * np.cos(3 * x)


def wells(x):
    """A minimum in each orthant."""
    return ((x * x - 1) ** 2).sum() + 0.1 * x.sum(), 4 * x * (x * x - 1) + 0.1


def kink(x):
    """A curvature that grows without bound."""
    return (np.abs(x) ** 1.5).sum(), 1.5 * np.sqrt(np.abs(x)) * np.sign(x)


def exponential(x):
    """A wall on one side."""
    return (np.exp(x) - 2 * x).sum(), np.exp(x) - 2


def cut(vector):
    """The parts of six numbers that are parameters."""
    return vector[:2], vector[2], vector[3:].reshape(3, 1)


def parameter(name="p", dtype=ms.float32):
    """Something to optimize."""
    return Parameter(Tensor(np.ones(3), dtype), name=name)


ONE, THREE = Tensor(1.0), Tensor(np.ones(3, np.float32))
DOUBLE = (ms.float64,) * 3


@functools.cache
def parts(mode, dtypes):
    """An optimizer of six numbers. `mode` is the one that is set."""
    return LBFGS(
        [
            Parameter(Tensor(np.zeros(shape), dtype), name=f"p{i}")
            for i, (shape, dtype) in enumerate(zip(SHAPES, dtypes))
        ]
    )


class Host:
    """A closure that calls a function of the position and of how often it was called; either side's."""

    def __init__(self, optimizer, function, absent=()):
        self.optimizer, self.function, self.absent, self.calls = optimizer, function, absent, 0

    def __call__(self):
        """The loss and its gradients; torch's are put where torch looks for them."""
        self.calls += 1
        loss, slope = self.function(parameters_of(self.optimizer), self.calls)
        params = self.optimizer.param_groups[0]["params"]
        gradients = [None if i in self.absent else part for i, part in enumerate(cut(slope))]
        if isinstance(params[0], torch.Tensor):
            for param, part in zip(params, gradients):
                param.grad = None if part is None else torch.tensor(part).to(param.dtype)
            return torch.tensor(loss)
        return Tensor(loss), tuple(
            None if part is None else Tensor(part, param.dtype) for param, part in zip(params, gradients)
        )


def both(function, start, mode, steps=4, absent=(), dtypes=DOUBLE, before=lambda optimizer, step: None, **kwargs):
    """What is known after each step of ours and of torch's."""
    optimizer = parts(mode, dtypes)
    for param, value in zip(optimizer.parameters, cut(start)):
        ops.assign(param, Tensor(value, param.dtype))
    optimizer.load_state_dict(LBFGS(optimizer.parameters, **kwargs).state_dict())
    params = [torch.nn.Parameter(torch.tensor(param.asnumpy())) for param in optimizer.parameters]
    reference = torch.optim.LBFGS(params, **kwargs)
    with np.errstate(all="ignore"):
        return tuple(run(one, Host(one, function, absent), steps, before) for one in (optimizer, reference))


def assert_same_way(got, expected, rtol=1e-6):
    """As many evaluations, the same place."""
    assert counts(got) == counts(expected)
    for ours_now, expected_now in zip(got, expected):
        np.testing.assert_allclose(ours_now.position, expected_now.position, rtol, rtol)


def drawn(seed):
    """A function, where it starts, and arguments."""
    rng = np.random.default_rng(seed)
    search = (None, "strong_wolfe")[rng.integers(2)]
    # Without a search, torch's float64 does not find its own way again from a start that is rounded elsewhere.
    stable = (valley, kink, exponential)
    function = rng.choice((*stable, waves, wells) if search else stable)
    kwargs = {
        "lr": float(rng.choice((1e-3, 0.1, 0.5, 1.0, 2.0))),
        "max_iter": int(rng.integers(1, 15)),
        "line_search_fn": search,
        "history_size": int(rng.integers(1, 6)),
    }
    if rng.random() < 0.4:
        kwargs["max_eval"] = int(rng.integers(1, 15))
    if rng.random() < 0.3:
        kwargs["tolerance_grad"] = 10 ** rng.uniform(-4, 1)
    if rng.random() < 0.3:
        kwargs["tolerance_change"] = 10 ** rng.uniform(-6, 1)
    return function, rng.normal(size=6) * 10 ** rng.uniform(-1, 1), kwargs


def test_any_arguments(graph):
    """Random ones, in float64."""
    for seed in range(40):
        function, start, kwargs = drawn(seed)
        got, expected = both(lambda x, calls, function=function: function(x), start, graph, **kwargs)
        assert_same_way(got, expected)


# Along the first direction all slopes are exact, so that losses, slopes and lengths of steps meet every limit exactly.
AXIS = np.array([1.0, -1, 0, 0, 0, 0])
MET = {
    "max_iter": (1, 2, 3, 5),
    "max_eval": (1, 2, 4, 10),
    "lr": (0.5, 1, 2),
    "tolerance_grad": (0, 0.5, 1),
    "tolerance_change": (-3, 0, 0.5, 1, 2),
    "history_size": (1, 2, 10),
}


def dictated(seed, search):
    """Losses and gradients that only the number of calls decides, and arguments."""
    rng = np.random.default_rng(seed)
    losses = rng.choice((-1, 0, 0.5, 1 - 2e-4, 1 - 1e-5, 1, 1, 2), 100)
    slopes = rng.choice((-2, -1, -0.9, -0.5, 0, 0.5, 0.9, 1 - 1e-11, 1, 1, 2), 100)
    slopes[1], losses[1] = rng.choice((0.25, 0.5, 1)), 1
    kwargs = {name: rng.choice(values).item() for name, values in MET.items() if rng.random() < 0.5}
    if search and rng.random() < 0.1:
        kwargs["lr"] = 2e-9  # the first bracket is as long as one must be: 1e-9
    return lambda x, calls: (losses[calls], slopes[calls] * AXIS), {**kwargs, "line_search_fn": search}


@each_search
def test_limits_that_are_met_exactly(search, graph):
    """Each comparison of the step and of the search, where both sides are equal."""
    for seed in range(100):
        function, kwargs = dictated(seed, search)
        got, expected = both(function, np.zeros(6), graph, 2, **kwargs)
        assert_same_way(got, expected)


START = np.array([0.5, -0.3, 0.8, 1.2, -0.7, 0.1])
# What a function returns instead from some call on, or at that call only.
BROKEN = {
    "loss and gradient": lambda loss, slope: (nan, slope * nan),
    "gradient": lambda loss, slope: (loss, slope * nan),
    "one element": lambda loss, slope: (loss, np.where(np.arange(6) == 3, nan, slope)),
    "one element, and the others are zero": lambda loss, slope: (loss, np.where(np.arange(6) == 3, nan, 0.0)),
    "infinite loss": lambda loss, slope: (inf, slope),
    "infinite": lambda loss, slope: (inf, slope * inf),
}


@each_search
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_finite(what, search, graph):
    """From the first call on, from the fourth, or at the fourth alone: NaN spreads, and steps end, as in torch."""
    for first, last in ((1, 1000), (4, 1000), (4, 4)):

        def function(x, calls, first=first, last=last):
            return BROKEN[what](*valley(x)) if first <= calls <= last else valley(x)

        got, expected = both(function, START, graph, 2, **SEARCHES[search], max_iter=6)
        assert_same_way(got, expected)


@pytest.mark.parametrize("kind", [Tensor, np.asarray])
def test_products_are_computed_in_float64(kind, graph):
    """What float32 rounds off is all that is left of their sum."""
    one, other = np.float32([1 + 2**-12, 1]), np.float32([1 + 2**-12, -1 - 2**-11])
    product = dot(kind(one), kind(other))
    assert (product.dtype, product.item()) == (kind(one).dtype, 2**-24)


@pytest.mark.parametrize("function", [dot, sum_of_magnitudes, largest])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_arrays_are_those_of_tensors(function, dtype, graph):
    """Of more elements than are added up at once, and of what is not finite."""
    rng = np.random.default_rng(0)
    count = 2 if function is dot else 1
    for odd in (None, nan, inf, -inf):
        vectors = [rng.normal(size=20_000).astype(dtype) for _ in range(count)]
        if odd is not None:
            vectors[0][12_345] = odd
        got, expected = function(*vectors), function(*map(Tensor, vectors)).asnumpy()
        assert (got.shape, got.dtype) == ((1,), expected.dtype)
        np.testing.assert_allclose(got, expected.reshape(1), 1e-13 if dtype is np.float64 else 1e-6)


@each_search
def test_a_run_goes_on_elsewhere(search, monkeypatch, graph):
    """From arrays to tensors and back, as one that never was elsewhere."""
    kwargs = {**SEARCHES[search], "max_iter": 3, "history_size": 4}

    def moved(optimizer, step):
        monkeypatch.setenv(_host.SWITCH, str(step // 2 % 2))

    got, expected = (
        run(*ours("rosenbrock", graph, ms.float64, **kwargs), 6, before=before)
        for before in (moved, lambda optimizer, step: None)
    )
    assert_same_way(got, expected, 1e-9)


def test_where_vectors_are(monkeypatch, graph):
    """Arrays where memory may be read; Tensors elsewhere, and where sums are to be those of devices."""
    optimizer = LBFGS([parameter()])
    assert optimizer._on_host.usable()
    with monkeypatch.context() as patched:
        patched.setenv(_host.SWITCH, "0")
        assert not optimizer._on_host.usable()
    with monkeypatch.context() as patched:
        patched.setattr(_math, "sums_in_float64", False)
        assert not optimizer._on_host.usable()
    with nn.utils.no_init_parameters():
        absent = Parameter(initializer("ones", (2, 3)), name="absent")
    assert not LBFGS([absent])._on_host.usable()


def test_a_loss_that_is_nan_where_it_is_flat(graph):
    """Torch's search fails there, on its own list; ours ends."""

    def function(x, calls):
        loss, slope = exponential(x)
        return (nan, slope) if calls > 1 else (loss, slope)

    with pytest.raises(IndexError, match="list index out of range"):
        both(function, START, graph, 1, line_search_fn="strong_wolfe")
    assert np.isnan(parts(graph, DOUBLE).state["p0"]["prev_loss"])


def test_a_learning_rate_of_zero(graph):
    """Torch's search divides by zero in its second step; ours stays, as in the first, and goes on with another rate."""

    def before(optimizer, step):
        optimizer.param_groups[0]["lr"] = float(step == 2)

    def function(x, calls):
        return wells(x)

    with pytest.raises(ZeroDivisionError):
        both(function, START, graph, 2, lr=0.0, line_search_fn="strong_wolfe")
    optimizer = parts(graph, DOUBLE)
    optimizer.load_state_dict(LBFGS(optimizer.parameters, line_search_fn="strong_wolfe").state_dict())
    *still, last = run(optimizer, Host(optimizer, function), 3, before)
    assert counts(still) == [(4, 1), (8, 2)]
    assert all(np.array_equal(step.position, START) for step in still)
    assert last.loss - wells(last.position)[0] > 1


@each_search
def test_an_absent_gradient_is_zero(search, mode):
    """That parameter stands still."""
    got, expected = both(lambda x, calls: wells(x), START, mode, absent=(1,), **SEARCHES[search], max_iter=3)
    assert_same_way(got, expected)
    assert got[-1].position[2] == START[2]
    assert (got[-1].position != START).sum() == 5


@each_search
def test_dtypes_may_be_mixed(search, graph):
    """All is computed in float64 then; each parameter keeps its own."""
    dtypes = (ms.float32, ms.float64, ms.float32)
    got, expected = both(lambda x, calls: wells(x), START, graph, dtypes=dtypes, **SEARCHES[search], max_iter=3)
    assert_same_way(got, expected)
    optimizer = parts(graph, dtypes)
    assert tuple(param.dtype for param in optimizer.parameters) == dtypes
    assert state_of(optimizer)["d"].dtype == ms.float64


@each_search
def test_the_learning_rate_is_live(search, mode):
    """In the group, and where MindSpore's callbacks set it."""
    rates = (0.5, 0.1, 1.0, 0.02)

    def before(optimizer, step):
        if step % 2 and isinstance(optimizer, LBFGS):
            ops.assign(optimizer.learning_rate, Tensor(rates[step], ms.float64))
        else:
            optimizer.param_groups[0]["lr"] = rates[step]
        assert optimizer.param_groups[0]["lr"] == rates[step]

    got, expected = both(lambda x, calls: exponential(x), START, mode, before=before, **SEARCHES[search], max_iter=3)
    assert_same_way(got, expected)
    constant, _ = both(lambda x, calls: exponential(x), START, mode, **SEARCHES[search], max_iter=3)
    assert not np.allclose(got[-1].position, constant[-1].position, 1e-3)


def test_every_argument_is_live(mode):
    """A scheduler's notes may be left, and taken away."""
    others = {
        "lr": 0.25,
        "max_iter": 3,
        "max_eval": 7,
        "tolerance_grad": 0.5,
        "tolerance_change": 0.25,
        "history_size": 2,
        "line_search_fn": "strong_wolfe",
    }

    def before(optimizer, step):
        for name, value in others.items():
            optimizer.param_groups[0][name] = value

    got, expected = both(lambda x, calls: exponential(x), START, mode, before=before)
    assert_same_way(got, expected)
    group = parts(mode, DOUBLE).param_groups[0]
    group["initial_lr"] = 0.5
    assert dict(group) == {**others, "params": list(parts(mode, DOUBLE).parameters), "initial_lr": 0.5}
    del group["initial_lr"]
    assert "initial_lr" not in group


@pytest.mark.parametrize("size", [1, 5])
def test_the_history_may_change_its_length(size, graph):
    """Shorter or longer, where torch fails."""

    def before(optimizer, step):
        optimizer.param_groups[0]["history_size"] = size if step else 3

    with pytest.raises(IndexError):
        both(lambda x, calls: exponential(x), START, graph, 2, before=before, lr=0.1, max_iter=6)
    assert len(state_of(parts(graph, DOUBLE))["ro"]) == size


def translated(value, tensor):
    """A state with `tensor` of each tensor in it, of either side's."""
    if isinstance(value, (torch.Tensor, Tensor)):
        return tensor(value.numpy() if isinstance(value, torch.Tensor) else value.asnumpy())
    if isinstance(value, (list, tuple)):
        return type(value)(translated(item, tensor) for item in value)
    if isinstance(value, dict):
        return {key: translated(item, tensor) for key, item in value.items()}
    return value


def assert_alike(got, expected):
    """The same keys, kinds, shapes and dtypes, and nearly the same values."""
    if isinstance(expected, dict):
        assert list(got) == [name for name in expected if name != "al"]
        for name in got:
            assert_alike(got[name], expected[name])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            assert_alike(one, other)
    elif isinstance(expected, torch.Tensor):
        value = got.asnumpy()
        assert (value.shape, value.dtype) == (expected.numpy().shape, expected.numpy().dtype)
        np.testing.assert_allclose(value, expected.numpy(), 1e-6)
    else:
        assert isinstance(got, type(expected)) or (got, expected) == (1.0, 1)
        assert got == (pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected)


@each_search
def test_the_state_is_torchs(search, graph):
    """Before any step, after the first iteration, and when the history is full; its layout and what is in it."""
    for steps, max_iter in ((0, 5), (1, 1), (3, 5)):
        kwargs = {**SEARCHES[search], "max_iter": max_iter, "history_size": 3}
        optimizer, closure = ours("rosenbrock", graph, ms.float64, **kwargs)
        reference, torch_closure = torchs("rosenbrock", torch.float64, **kwargs)
        for _ in range(steps):
            optimizer.step(closure)
            reference.step(torch_closure)
        assert_alike(optimizer.state_dict(), reference.state_dict())
        assert [*optimizer.state] == ["p0"][:steps]
    assert len(optimizer.state["p0"]["old_dirs"]) == 3
    assert optimizer.state_bytes == (2 + 2 * 3) * 2 * 8 + 3 * 8


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
@each_search
def test_a_run_of_torch_continues(search, kind, graph):
    """As torch itself does from its state, in float32; a key that torch computes in is no state."""
    kwargs = {**SEARCHES[search], "max_iter": 4}
    start, closure = torchs("logistic", **kwargs)
    run(start, closure, 2)
    saved, values = start.state_dict(), [param.detach() for param in start.param_groups[0]["params"]]
    expected = []
    for dtype in (torch.float32, torch.float64):
        reference, torch_closure = torchs("logistic", dtype)
        reference.load_state_dict(translated(saved, torch.tensor))
        for param, value in zip(reference.param_groups[0]["params"], values):
            param.data.copy_(value)
        expected.append(run(reference, torch_closure, 3))
    double, _ = ours("logistic", graph, ms.float64)
    double.load_state_dict(translated(reference.state_dict(), kind))
    assert_alike(double.state_dict(), reference.state_dict())
    optimizer, ours_closure = ours("logistic", graph)
    for param, value in zip(optimizer.parameters, values):
        ops.assign(param, Tensor(value.numpy()))
    assert "al" in saved["state"][0]
    optimizer.load_state_dict(translated(saved, kind))
    assert_alike(optimizer.state_dict(), saved)
    assert_in_budget(run(optimizer, ours_closure, 3), *expected)


@each_search
def test_a_run_continues_in_torch(search, graph):
    """In float64: the state is all that torch needs."""
    kwargs = {**SEARCHES[search], "max_iter": 4}
    optimizer, closure = ours("logistic", graph, ms.float64, **kwargs)
    run(optimizer, closure, 2)
    reference, torch_closure = torchs("logistic", torch.float64)
    reference.load_state_dict(translated(optimizer.state_dict(), torch.tensor))
    for param, ours_param in zip(reference.param_groups[0]["params"], optimizer.parameters):
        param.data.copy_(torch.tensor(ours_param.asnumpy()))
    assert_same_way(run(optimizer, closure, 3), run(reference, torch_closure, 3), 1e-9)


@each_search
def test_resumed_is_uninterrupted(search, mode):
    """Bit for bit, into an optimizer that went on and into another; what was saved stays what it was."""
    kwargs = {**SEARCHES[search], "max_iter": 3, "history_size": 4}
    optimizer, closure = ours("rosenbrock", mode, **kwargs)
    run(optimizer, closure, 2)
    saved = optimizer.state_dict()
    stored, values = pickle.dumps(saved), [param.asnumpy().copy() for param in optimizer.parameters]
    expected = run(optimizer, closure, 2)
    final = pickle.dumps(translated(optimizer.state_dict(), np.copy))
    for kept, number in ((saved, 0), (pickle.loads(stored), 1)):
        resumed, closure = ours("rosenbrock", mode, number=number)
        for param, value in zip(resumed.parameters, values):
            ops.assign(param, Tensor(value))
        resumed.load_state_dict(kept)
        got = run(resumed, closure, 2)
        assert counts(got) == counts(expected)
        assert all(np.array_equal(one.position, other.position) for one, other in zip(got, expected))
        assert pickle.dumps(translated(resumed.state_dict(), np.copy)) == final


@each_search
def test_a_closure_that_raises(search, mode):
    """Nothing of the step is kept but where the parameters were moved to."""

    def function(x, calls):
        if calls == 4:
            raise InterruptedError
        return valley(x)

    got, _ = both(lambda x, calls: valley(x), START, mode, 1, **SEARCHES[search], max_iter=6)
    optimizer = parts(mode, DOUBLE)
    before = pickle.dumps(translated(optimizer.state_dict(), np.copy))
    with pytest.raises(InterruptedError):
        optimizer.step(Host(optimizer, function))
    assert pickle.dumps(translated(optimizer.state_dict(), np.copy)) == before
    optimizer.step(Host(optimizer, lambda x, calls: valley(x)))
    assert state_of(optimizer)["func_evals"] > got[-1].func_evals


def test_a_gradient_that_is_the_parameter(mode):
    """It changes when the parameter is written, and must not change what is remembered of it."""
    param = Parameter(Tensor(np.arange(1.0, 7.0), ms.float64), name="p")  # as many numbers as above: the same graphs
    optimizer = LBFGS([param], lr=0.1, max_iter=3)
    reference = torch.nn.Parameter(torch.arange(1.0, 7.0, dtype=torch.float64))
    torch_optimizer = torch.optim.LBFGS([reference], lr=0.1, max_iter=3)

    def closure():
        reference.grad = reference.detach().clone()
        return (reference.detach() ** 2).sum() / 2

    for _ in range(3):
        optimizer.step(lambda: ((param * param).sum() / 2, (param,)))
        torch_optimizer.step(closure)
    np.testing.assert_allclose(param.asnumpy(), reference.detach().numpy(), 1e-12)


def test_a_loss_of_any_kind_of_number():
    """What the first call returned is returned."""
    for loss in (Tensor(2.0), Tensor([2.0]), 2.0, np.float32(2.0)):
        optimizer = LBFGS([parameter()], max_iter=1)
        assert optimizer.step(lambda loss=loss: (loss, (THREE,))) is loss
        assert optimizer.state["p"]["prev_loss"] == 2.0


def test_many_parameters(graph):
    """As many as a large network has, in the order that is asked for."""
    params = [Parameter(Tensor(np.full((2, 3), i), ms.float64), name=f"p{i}") for i in range(200)]
    optimizer = LBFGS([{"params": params}, {"order_params": params[::-1]}], max_iter=3)
    assert [param.name for param in optimizer.param_groups[0]["params"]] == [f"p{i}" for i in reversed(range(200))]
    optimizer.step(lambda: (sum((param**2).sum() for param in optimizer.parameters) / 2, tuple(optimizer.parameters)))
    d = optimizer.state["p199"]["d"].asnumpy()
    np.testing.assert_allclose(d, np.repeat(np.arange(199, -1, -1), 6) * d[0] / 199, 1e-8, 1e-8)
    for i, param in enumerate(params):
        np.testing.assert_allclose(param.asnumpy(), 0, atol=1e-8, err_msg=str(i))


def test_mindspore_sees_an_optimizer(tmp_path):
    """Its Parameters: what is optimized and the learning rate, each once; a Cell around it collects them too."""
    net = nn.Dense(2, 1)
    optimizer = LBFGS(net.trainable_params(), lr=0.5)
    names = {"weight", "bias", "learning_rate", "global_step"}
    assert {param.name for param in optimizer.get_parameters()} == names
    assert len(list(optimizer.get_parameters())) == len(names)
    assert optimizer.get_lr().asnumpy() == 0.5
    ms.save_checkpoint(optimizer, str(tmp_path / "o.ckpt"))
    assert ms.load_checkpoint(str(tmp_path / "o.ckpt")).keys() == names
    assert "optimizer.learning_rate" in nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer).state_dict()


REFUSED = re.escape("For 'LBFGS', a step must be optimizer.step(closure)")


def test_gradients_are_refused(mode):
    """However they come: the message says what to do, and nothing has moved."""

    def network():
        net = nn.Dense(2, 1)
        return net, LBFGS(net.trainable_params())

    x, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)

    def call(net, optimizer):
        optimizer(tuple(ops.ones_like(param) for param in optimizer.parameters))

    def cell(net, optimizer):
        nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer).set_train()(Tensor(x), Tensor(y))

    def train(net, optimizer, sink=False):
        data = ds.NumpySlicesDataset((x, y), shuffle=False).batch(2)
        Model(net, nn.MSELoss(), optimizer).train(1, data, dataset_sink_mode=sink)

    for way in (call, cell, train, functools.partial(train, sink=True)):
        net, optimizer = network()
        assert isinstance(optimizer, nn.Optimizer)
        before = [param.asnumpy().copy() for param in optimizer.parameters]
        with pytest.raises(TypeError, match=REFUSED):
            way(net, optimizer)
        assert all(np.array_equal(param.asnumpy(), value) for param, value in zip(optimizer.parameters, before))


WRONG = [
    ({"lr": -1.0}, ValueError, "'lr' must be in [0, inf), but got -1.0."),
    ({"lr": [0.1]}, TypeError, "'lr' must be a number in [0, inf), but got [0.1]."),
    ({"lr": nan}, ValueError, "'lr' must be in [0, inf), but got nan."),
    ({"max_iter": 0}, ValueError, "'max_iter' must be in [1, inf), but got 0."),
    ({"max_iter": 2.5}, TypeError, "'max_iter' must be an int in [1, inf), but got 2.5."),
    ({"max_iter": True}, TypeError, "'max_iter' must be an int in [1, inf), but got True."),
    ({"max_eval": 0}, ValueError, "'max_eval' must be in [1, inf), but got 0."),
    ({"history_size": 0}, ValueError, "'history_size' must be in [1, inf), but got 0."),
    ({"tolerance_grad": "no"}, TypeError, "'tolerance_grad' must be a number in (-inf, inf), but got 'no'."),
    ({"tolerance_change": nan}, ValueError, "'tolerance_change' must be in (-inf, inf), but got nan."),
    (
        {"line_search_fn": "armijo"},
        ValueError,
        "'line_search_fn' must be one of (None, 'strong_wolfe'), but got 'armijo'.",
    ),
    ({"line_search_fn": True}, TypeError, "'line_search_fn' must be one of (None, 'strong_wolfe'), but got True."),
]


@pytest.mark.parametrize(("kwargs", "kind", "message"), WRONG, ids=lambda value: str(value) if value else "")
def test_wrong_arguments(kwargs, kind, message):
    """In the constructor, in a group, set later and loaded; nothing changes."""
    param, told = parameter(), "^" + re.escape(f"For 'LBFGS', {message}") + "$"
    with pytest.raises(kind, match=told):
        LBFGS([param], **kwargs)
    with pytest.raises(kind, match=told):
        LBFGS([{"params": [param], **kwargs}])
    optimizer = LBFGS([param])
    before = dict(optimizer.param_groups[0])
    ((name, value),) = kwargs.items()
    with pytest.raises(kind, match=told):
        optimizer.param_groups[0][name] = value
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"history_size": 3, name: value}
    with pytest.raises(kind, match=told):
        optimizer.load_state_dict(saved)
    assert dict(optimizer.param_groups[0]) == before


GROUP = LBFGS([parameter()]).state_dict()["param_groups"][0]
VECTOR, NUMBER = np.ones(3), np.ones(())
KEPT = {
    "func_evals": 2,
    "n_iter": 1,
    "d": VECTOR,
    "t": 0.5,
    "old_dirs": [],
    "old_stps": [],
    "ro": [],
    "H_diag": 1,
    "prev_flat_grad": VECTOR,
    "prev_loss": 1.0,
}
STATES = [
    (
        3,
        ValueError,
        "'state_dict' must have the keys 'state' and 'param_groups', as that of torch.optim has, but got int.",
    ),
    (
        {"state": {}},
        ValueError,
        "'state_dict' must have the keys 'state' and 'param_groups', as that of torch.optim has, but got ['state'].",
    ),
    (
        {"state": {}, "param_groups": [GROUP, {**GROUP, "params": [1]}]},
        ValueError,
        "'state_dict' must have one group of 1 parameters, but got groups of [1, 1].",
    ),
    (
        {"state": {}, "param_groups": [{**GROUP, "params": [0, 1]}]},
        ValueError,
        "'state_dict' must have one group of 1 parameters, but got groups of [2].",
    ),
    (
        {"state": {}, "param_groups": [{**GROUP, "momentum": 0.9}]},
        ValueError,
        "the keys of the group must be ['history_size', 'line_search_fn', 'lr', 'max_eval', 'max_iter', "
        "'tolerance_change', 'tolerance_grad'], but [] are missing and ['momentum'] are unknown.",
    ),
    (
        {"state": {1: KEPT}, "param_groups": [GROUP]},
        ValueError,
        "'state_dict' must have state of parameter 0 only, but got [1].",
    ),
    (
        {"state": {0: {"func_evals": 1, "n_iter": 0, "d": VECTOR}}, "param_groups": [GROUP]},
        ValueError,
        "the keys of the state must be ['func_evals', 'n_iter'], but [] are missing and ['d'] are unknown.",
    ),
    (
        {"state": {0: {**KEPT, "step": 1}}, "param_groups": [GROUP]},
        ValueError,
        f"the keys of the state must be {sorted(KEPT)}, but [] are missing and ['step'] are unknown.",
    ),
    ({"state": None, "param_groups": [GROUP]}, ValueError, "'state' must be a dict of dicts, but got None."),
    ({"state": {0: 3}, "param_groups": [GROUP]}, ValueError, "'state' must be a dict of dicts, but got {0: 3}."),
    (
        {"state": {0: {**KEPT, "n_iter": nan}}, "param_groups": [GROUP]},
        ValueError,
        "'n_iter' of the state must be an integer in [0, 2**31), but got nan.",
    ),
    (
        {"state": {0: {**KEPT, "old_dirs": VECTOR}}, "param_groups": [GROUP]},
        ValueError,
        "'old_dirs' of the state must be a list, but got ndarray.",
    ),
    *[
        (
            {"state": {0: {**KEPT, name: value}}, "param_groups": [GROUP]},
            ValueError,
            f"'{name}' of the state must be real numbers in a dense tensor or array, but got {kind}.",
        )
        for value, kind in ((np.ones(3) * 1j, "ndarray of complex128"), (None, "None"), ("x", "'x'"))
        for name in KEPT
        if name not in ("old_dirs", "old_stps", "ro")
    ],
    (
        {"state": {}, "param_groups": [{**GROUP, "max_lr": "x"}]},
        ValueError,
        "'max_lr' must be real numbers in a dense tensor or array, but got 'x'.",
    ),
    (
        {"state": {0: {**KEPT, "d": 3}}, "param_groups": [GROUP]},
        ValueError,
        "'d' of the state must be of shape (3,), but got ().",
    ),
    (
        {"state": {0: {**KEPT, "d": np.ones(4)}}, "param_groups": [GROUP]},
        ValueError,
        "'d' of the state must be of shape (3,), but got (4,).",
    ),
    (
        {"state": {0: {**KEPT, "old_dirs": [VECTOR, NUMBER]}}, "param_groups": [GROUP]},
        ValueError,
        "'old_dirs' of the state must be of shape (3,), but got ().",
    ),
    (
        {"state": {0: {**KEPT, "t": VECTOR}}, "param_groups": [GROUP]},
        ValueError,
        "'t' of the state must be of shape (), but got (3,).",
    ),
    (
        {"state": {0: {**KEPT, "ro": [NUMBER]}}, "param_groups": [GROUP]},
        ValueError,
        "'old_dirs', 'old_stps' and 'ro' of the state must be of one length, but got [0, 0, 1].",
    ),
]


@pytest.mark.parametrize(("state_dict", "kind", "message"), STATES, ids=[message for *_, message in STATES])
def test_wrong_states(state_dict, kind, message):
    """What is missing, unknown or of another size is named, and nothing changes."""
    optimizer = LBFGS([parameter()], lr=0.5)
    optimizer.load_state_dict({"state": {0: KEPT}, "param_groups": [{**GROUP, "initial_lr": 2.0}]})
    before = optimizer.state_dict()
    with pytest.raises(kind, match="^" + re.escape(f"For 'LBFGS', {message}") + "$"):
        optimizer.load_state_dict(state_dict)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] == [{**GROUP, "initial_lr": 2.0}]
    assert after["state"][0].keys() == before["state"][0].keys()


def test_what_torch_holds_is_read():
    """Tensors that require a gradient, bfloat16, and a learning rate of one element; notes are Python's numbers."""
    optimizer = LBFGS([parameter()])
    vector, one = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16, requires_grad=True), torch.tensor([0.25])
    optimizer.load_state_dict(
        {
            "state": {0: {**KEPT, "d": vector, "n_iter": one * 4, "prev_loss": one[0]}},
            "param_groups": [{**GROUP, "lr": one, "initial_lr": one}],
        }
    )
    state, group = optimizer.state["p"], optimizer.param_groups[0]
    assert state["d"].asnumpy().tolist() == [1.0, 2.0, 3.0]
    assert (state["n_iter"], state["prev_loss"], group["lr"], group["initial_lr"]) == (1, 0.25, 0.25, 0.25)
    assert {type(state["n_iter"]), type(group["initial_lr"])} == {int, float}


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["p", "q"], True),
        (["p", "other"], True),
        (["one", "other"], True),
        (["q", "p"], False),
        (["other", "p"], False),
    ],
)
def test_vectors_are_in_the_order_of_the_parameters(names, fits):
    """A name that a parameter here has tells whether it is torch's too; other names tell nothing."""
    optimizer = LBFGS([parameter(), parameter("q")])
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"param_names": names, "lr": 0.5}
    if fits:
        optimizer.load_state_dict(saved)
    else:
        with pytest.raises(ValueError, match=r"'LBFGS', 'param_names' must be in the order of \['p', 'q'\], but got"):
            optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == (0.5 if fits else 1)


def test_wrong_keys_of_the_group():
    """Only arguments and a scheduler's notes may be set, only notes deleted."""
    group = LBFGS([parameter()]).param_groups[0]
    for name in ("momentum", "params"):
        with pytest.raises(KeyError, match=f"For 'LBFGS', what can be set in a group must be in .* got '{name}'"):
            group[name] = 1
    with pytest.raises(KeyError, match=r"For 'LBFGS', what can be deleted from a group must be in .* got 'lr'"):
        del group["lr"]


PARAMS = [
    (
        lambda: [{"params": [parameter()]}, {"params": [parameter("q")]}],
        ValueError,
        "'params' must be one group, but got 2.",
    ),
    (lambda: [parameter(dtype=ms.float16)], TypeError, "the dtype of 'p' must be Float32 or Float64, but got Float16."),
    (
        lambda: [{"params": [parameter()], "weight_decay": 0.1}],
        ValueError,
        "the keys of a group must be in ['params', 'lr', 'max_iter', 'max_eval', 'tolerance_grad', 'tolerance_change', "
        "'history_size', 'line_search_fn'], but got ['weight_decay'].",
    ),
]


@pytest.mark.parametrize(("params", "kind", "message"), PARAMS, ids=[message for *_, message in PARAMS])
def test_wrong_parameters(params, kind, message):
    """One group, of one or two dtypes."""
    with pytest.raises(kind, match="^" + re.escape(f"For 'LBFGS', {message}") + "$"):
        LBFGS(params())


CLOSURES = [
    (ONE, TypeError, "'closure' must be a function that returns a loss and its gradients, but got Tensor."),
    (lambda: ONE, TypeError, "'closure' must return a loss and its gradients, but got Tensor."),
    (lambda: (ONE, (THREE,), ONE), TypeError, "'closure' must return a loss and its gradients, but got a tuple of 3."),
    (lambda: (THREE, (THREE,)), TypeError, "'closure' must return a loss that is one number, but got shape (3,)."),
    (lambda: ((ONE, ONE), (THREE,)), TypeError, "'closure' must return a loss that is one number, but got tuple."),
    (lambda: (ONE, THREE), TypeError, "'gradients' must be a tuple of float Tensors or None, but got Tensor."),
    (lambda: (ONE, (THREE, THREE)), ValueError, "'gradients' must hold 1 entries, one for each parameter, but got 2."),
    (
        lambda: (ONE, (ONE,)),
        ValueError,
        "'gradients' must have the shapes of the parameters, but got () for 'p' of shape (3,).",
    ),
]


@pytest.mark.parametrize(("closure", "kind", "message"), CLOSURES, ids=[message for *_, message in CLOSURES])
def test_wrong_closures(closure, kind, message):
    """The message says what it must return."""
    optimizer = LBFGS([parameter()])
    with pytest.raises(kind, match="^" + re.escape(f"For 'LBFGS', {message}") + "$"):
        optimizer.step(closure)
    assert optimizer.state == {}


def test_what_cannot_be_set_raises():
    """Arguments as attributes, and the state, of which what is told is a copy."""
    optimizer = LBFGS([Parameter(Tensor([1.0, 2.0], ms.float32), name="w")])
    for name in ("lr", "history_size", "max_iter", "learning_rate"):
        with pytest.raises(
            AttributeError, match=rf"^For 'LBFGS', '{name}' must be set in a group, as param_groups\[0\]"
        ):
            setattr(optimizer, name, 1)
    with pytest.raises(
        AttributeError, match=r"^For 'LBFGS', 'state' must be loaded with 'load_state_dict', but was set"
    ):
        optimizer.state = {}
    with pytest.raises(TypeError):
        optimizer.state["w"] = {}
