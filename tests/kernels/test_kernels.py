"""The native kernels: their bits against torch's, at every size, instruction set, dtype and number of threads."""

import ctypes
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from helpers import kernels, loud
from mindspore import Parameter, Tensor

from ms_optim import OPTIMIZERS, SGD, Adam, AdamW, MomentumAGC, _native
from parity.cases import CASES
from parity.judge.compare import compare, compare_exactly
from parity.references import SGDAGC
from parity.sides import mindspore as mindspore_side
from parity.sides import torch as torch_side
from parity.sides.mindspore import set_mode

pytestmark = pytest.mark.skipif(_native.library() is None, reason="the library was installed without a C++ compiler")
CPU = Path("/proc/cpuinfo")
FUSES = CPU.exists() and "avx2" in CPU.read_text()
fuses = pytest.mark.skipif(not FUSES, reason="torch's bits are known where it has AVX2")
NATIVE = [name for name in OPTIMIZERS if name not in ("Adafactor", "EMA", "Muon")]
DTYPES = [np.float32, np.float64]
# Everything about a vector of 4, 8 or 16 elements, and about torch's loops over several; then odd ones.
SIZES = (*range(1, 71), 127, 1001, 4099)
CHUNK = 16384


class Native:
    """An optimizer's kernel, called without MindSpore, on parameters that are numpy arrays."""

    def __init__(self, cls, params, library=None, **kwargs):
        self.optimizer = cls(
            [Parameter(Tensor(param.astype(np.float32)), name=f"p{i}") for i, param in enumerate(params)],
            **{**kwargs, "fused": True},
        )
        self.library, self.params = library or _native.library(), [param.copy() for param in params]
        self.slots = [
            [None if kept is None else kept.asnumpy().astype(param.dtype) for kept in row]
            for param, row in zip(params, self.optimizer.slot_table)
        ]
        self.scalar_state = [torch.zeros(len(params), dtype=torch.float64) for _ in self.optimizer.scalar_state]
        self.hyper = [
            torch.tensor(vector.asnumpy()[self.optimizer.group_of]) for vector in self.optimizer.hyperparameters
        ]
        self.lr = torch.tensor(
            [self.optimizer.param_groups[i]["lr"] for i in self.optimizer.group_of], dtype=torch.float64
        )
        self.steps = torch.zeros(len(params), dtype=torch.float64)
        self.rule = self.optimizer.update.__name__

    def inputs(self, grads):
        """What the kernel is given for the next step."""
        present = np.array([grad is not None for grad in grads])
        self.steps = self.steps + torch.tensor(present)
        columns = (self.steps, *self.scalar_state, self.lr, *self.hyper)
        # Powers of few elements are those of the C library, as in torch's optimizers; of many they are not.
        few = [self.optimizer.scalars(*(column[at] for column in columns)) for at in torch.arange(len(grads)).split(7)]
        numbers = [torch.cat(column) for column in zip(*few)]
        self.scalar_state = [new.where(torch.tensor(present), old) for new, old in zip(numbers, self.scalar_state)]
        rows = torch.stack([*numbers[len(self.scalar_state) :], torch.ones(len(grads), dtype=torch.float64)], 1).numpy()
        return [
            rows,
            present,
            self.optimizer.layout.asnumpy(),
            *self.params,
            *(np.zeros(1, np.float32) if grad is None else grad for grad in grads),
            *(kept for row in self.slots for kept in row if kept is not None),
        ]

    def step(self, grads):
        """Take a step in place."""
        assert kernels.call(self.library, self.rule, self.inputs(grads)) == 0

    def outcome(self):
        """Parameters and slots by name, each kind in one array."""
        columns = {
            slot.name: [row[i] for row in self.slots if row[i] is not None]
            for i, slot in enumerate(self.optimizer.tensor_slots)
        }
        return {
            name: np.concatenate([part.ravel() for part in column])
            for name, column in {"parameter": self.params, **columns}.items()
            if column
        }


class Torch:
    """The optimizer of the same name of torch."""

    def __init__(self, cls, params, fused, **kwargs):
        self.params = [torch.nn.Parameter(torch.tensor(param)) for param in params]
        self.optimizer = getattr(torch.optim, cls.__name__)(
            [{"params": [param]} for param in self.params], **kwargs, **{"fused" if fused else "foreach": fused}
        )

    def step(self, grads):
        """Take a step."""
        for param, grad in zip(self.params, grads):
            param.grad = None if grad is None else torch.tensor(grad)
        self.optimizer.step()

    def outcome(self):
        """Parameters and slots by name, each kind in one array."""
        states = [self.optimizer.state[param] for param in self.params]
        names = [
            name
            for name, value in states[0].items()
            if name != "step" and value is not None and value.shape == self.params[0].shape
        ]
        columns = {"parameter": self.params, **{name: [state[name] for state in states] for name in names}}
        return {
            name: torch.cat([part.detach().flatten() for part in column]).numpy() for name, column in columns.items()
        }


def draw(rng, step, dtype, sizes=SIZES):
    """A gradient for each size, of a magnitude that changes, and for a while of all magnitudes."""
    size = np.array([1.0, 1e-12, 1e6, np.nan][step // 6 % 4])
    total = sum(sizes)
    grads = rng.standard_normal(total) * (10.0 ** rng.uniform(-8, 2, total) if np.isnan(size) else size)
    return np.split(grads.astype(dtype), np.cumsum(sizes)[:-1])


def assert_bits(got, expected, message=""):
    """The same names, and the same bits but for which NaN it is."""
    assert got.keys() == expected.keys(), message
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=f"{name} {message}", strict=True)
        np.testing.assert_array_equal(
            np.signbit(got[name][~np.isnan(value)]),
            np.signbit(value[~np.isnan(value)]),
            err_msg=f"sign of {name} {message}",
        )


@pytest.fixture
def exact_roots(monkeypatch):
    """Round the square roots of torch's tensors correctly: its own, of vectors, sometimes are an ulp off."""

    def root(x):
        return torch.from_numpy(np.sqrt(x.detach().numpy()))

    monkeypatch.setattr(torch.Tensor, "sqrt", root)
    monkeypatch.setattr(torch.Tensor, "sqrt_", lambda x: x.copy_(root(x)))


# What torch has a fused form of, its every branch; betas on both sides of lerp's middle.
ADAM = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.99999), "eps": 1e-3},
    {"lr": 0.01, "betas": (0.0, 0.5), "eps": 1e-6, "weight_decay": 0.7},
    {"lr": 0.1, "betas": (0.999, 0.9), "eps": 1e-12, "weight_decay": 0.3, "maximize": True},
    {"lr": 0.02, "betas": (0.45, 0.3), "eps": 1e-4, "weight_decay": 0.5, "amsgrad": True},
)
FUSED = {
    "SGD": tuple(case.kwargs for case in CASES["SGD"] if not case.groups),
    "Adam": (*ADAM, {"lr": 0.03, "weight_decay": 0.6, "decoupled_weight_decay": True}),
    "AdamW": (ADAM[0], ADAM[3]),
    # 1 + step * lr_decay is exact, for torch's compiler fuses it: that shows in float64.
    "Adagrad": (
        {},
        {"lr": 0.1, "lr_decay": 0.25, "initial_accumulator_value": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"lr": 0.5, "lr_decay": 2.0**-7, "eps": 1e-2, "weight_decay": 0.1, "maximize": True},
    ),
}


def assert_steps_equal(cls, kwargs, dtype, fused, steps):
    """The kernel and torch, from the same parameters on the same gradients."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    native, reference = Native(cls, params, **kwargs), Torch(cls, params, fused, **kwargs)
    for step in range(steps):
        grads = draw(rng, step, dtype)
        native.step(grads)
        reference.step(grads)
        if step % 10 in (0, 9):
            assert_bits(native.outcome(), reference.outcome(), f"at step {step}")


@fuses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "kwargs"), [(name, kwargs) for name, grid in FUSED.items() for kwargs in grid])
def test_the_bits_are_those_of_torch_fused(name, kwargs, dtype, exact_roots):
    """Of parameters and slots, in a hundred steps."""
    assert_steps_equal(OPTIMIZERS[name], kwargs, dtype, True, 100)


@fuses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [(name, case.kwargs) for name in NATIVE if name not in (*FUSED, "MomentumAGC") for case in CASES[name]],
)
def test_the_bits_are_those_of_torch_but_for_its_roots(name, kwargs, dtype, exact_roots):
    """Of the optimizers without a fused form; torch keeps mu_product, eta and mu in float32 unless told otherwise."""
    with torch_side.default_dtype(torch.float64):
        assert_steps_equal(OPTIMIZERS[name], kwargs, dtype, False, 30)


@fuses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.0, 1e-5, 0.1, 0.49999, 0.5, 0.7, 1.0])
def test_an_average_has_the_bits_of_lerp(weight, dtype):
    """On both sides of the middle, and through infinities."""
    rng = np.random.default_rng(0)
    means = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    expected = [torch.tensor(mean) for mean in means]
    for step in range(20):
        values = draw(rng, step, dtype)
        values[-1][3], values[-2][5], values[30][7] = np.inf, np.nan, -0.0
        kernels.call(
            _native.library(),
            "average",
            [np.array(weight), np.array(True), np.zeros(len(SIZES), np.int32), *means, *values],
        )
        torch._foreach_lerp_(expected, [torch.tensor(value) for value in values], weight)
        assert_bits({"mean": np.concatenate(means)}, {"mean": torch.cat(expected).numpy()})


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-42, 3e38, -1.5, 1e-20, 1e-30]


@fuses
@pytest.mark.parametrize("name", [name for name in NATIVE if name != "MomentumAGC"])
@pytest.mark.parametrize("kwargs", [{}, {"weight_decay": 0.1, "maximize": True}], ids=str)
def test_special_values_are_torchs_and_the_callers_floats_come_back(name, kwargs, exact_roots):
    """Each with each; the caller flushes denormal numbers, as MindSpore does, and the kernel does not."""
    if name == "Rprop":
        kwargs = {key: value for key, value in kwargs.items() if key != "weight_decay"}
    param, grad = (np.float32(axis).ravel() for axis in np.meshgrid(SPECIAL, SPECIAL))
    with torch_side.default_dtype(torch.float64), np.errstate(all="ignore"):
        native = Native(OPTIMIZERS[name], [param], **kwargs)
        reference = Torch(OPTIMIZERS[name], [param], name in FUSED, **kwargs)
        for step, grads in enumerate([grad, grad[::-1].copy(), grad]):
            inputs = native.inputs([grads])
            torch.set_flush_denormal(True)
            code = kernels.call(native.library, native.rule, inputs)
            flushed = np.float32([1e-40]) * np.float32(2)
            torch.set_flush_denormal(False)
            assert code == 0
            assert flushed[0] == 0
            reference.step([grads])
            assert_bits(native.outcome(), reference.outcome(), f"at step {step}")


@fuses
@pytest.mark.parametrize(
    ("name", "kwargs"), [("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {"amsgrad": True}), ("Adagrad", {})]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_chunks(name, kwargs, dtype, exact_roots):
    """Where one thread's share ends and the next one's begins."""
    rng = np.random.default_rng(0)
    sizes = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK + 7, 70001]
    params = [rng.standard_normal(size).astype(dtype) for size in sizes]
    native, reference = Native(OPTIMIZERS[name], params, **kwargs), Torch(OPTIMIZERS[name], params, True, **kwargs)
    for step in range(3):
        grads = draw(rng, step, dtype, sizes)
        native.step(grads)
        reference.step(grads)
    assert_bits(native.outcome(), reference.outcome())


@fuses
@pytest.mark.parametrize(
    ("name", "kwargs"), [("SGD", {"momentum": 0.9, "dampening": 0.5}), ("AdamW", {}), ("Adagrad", {"lr_decay": 0.5})]
)
def test_an_absent_parameter_stands_still(name, kwargs, exact_roots):
    """And so do its slots and its step; the others go on."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    native, reference = Native(OPTIMIZERS[name], params, **kwargs), Torch(OPTIMIZERS[name], params, True, **kwargs)
    for step in range(6):
        grads = [grad if step == 5 or rng.random() < 0.5 else None for grad in draw(rng, step, np.float32)]
        rows = [[param, *(kept for kept in row if kept is not None)] for param, row in zip(native.params, native.slots)]
        before = [[array.copy() for array in row] for row in rows]
        native.step(grads)
        reference.step(grads)
        for grad, now, then in zip(grads, rows, before):
            assert grad is not None or all(map(np.array_equal, now, then))
    assert_bits(native.outcome(), reference.outcome())


@pytest.fixture
def copy_of_library(tmp_path, monkeypatch):
    """A function that loads the library once more, which reads its environment at its first step."""

    def load(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.so"
        path.write_bytes(_native.library().read_bytes())
        Native(SGD, [np.ones(2 * CHUNK, np.float32)], path).step([np.ones(2 * CHUNK, np.float32)])
        return path

    return load


def run(cls, library, params, steps=4, **kwargs):
    """What the kernel of a library makes of parameters."""
    rng = np.random.default_rng(1)
    native = Native(cls, params, library, **kwargs)
    for step in range(steps):
        drawn = draw(rng, 3 * step, np.float64, [param.size for param in params])
        with np.errstate(over="ignore"):
            native.step([grad.astype(param.dtype).reshape(param.shape) for grad, param in zip(drawn, params)])
    return native.outcome()


def arguments(name):
    """Arguments that all show, and for no parameter in particular."""
    return {key: value for key, value in loud(OPTIMIZERS[name]).items() if key != "exempt"}


# Those of all kinds: the shapes that clipping tells apart, of each type, and more than one thread takes.
def some_params():
    """Parameters of every dtype, from one element to more than a chunk."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(dtype)
        for dtype in (np.float32, np.float64, np.float16)
        for shape in [(), (17,), (6, 5, 3), (5, 3, 3, 3), (2, CHUNK + 5), (2 * CHUNK + 999,)]
    ]


def test_every_instruction_set_gives_the_same_bits(copy_of_library):
    """AVX-512 and AVX2 do; without a fused multiply-add a step is off by what that rounds."""
    best, avx2, plain = (copy_of_library(MS_OPTIM_SIMD=level) for level in "210")
    params = some_params()
    for name in NATIVE:
        expected, got = (run(OPTIMIZERS[name], library, params, **arguments(name)) for library in (best, avx2))
        assert_bits(got, expected, name)
    got, expected = (run(SGD, library, params, **arguments("SGD"))["parameter"] for library in (plain, best))
    assert (got != expected).any() == FUSES


@pytest.mark.parametrize("name", [name for name in NATIVE if name != "MomentumAGC"])
def test_without_fused_multiply_adds_it_is_as_exact_as_torch(name, copy_of_library):
    """Judged by the error of torch's own float32, as in the parity suite."""
    plain = copy_of_library(MS_OPTIM_SIMD="0")
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    kwargs = {"lr": 0.05, "weight_decay": 0.1} if name != "Rprop" else {}
    with torch_side.default_dtype(torch.float64):
        runs = [
            Native(OPTIMIZERS[name], params, plain, **kwargs),
            Torch(OPTIMIZERS[name], params, name in FUSED, **kwargs),
            Torch(OPTIMIZERS[name], [param.astype(np.float64) for param in params], name in FUSED, **kwargs),
        ]
        traces = [{}, {}, {}]
        for _ in range(20):
            grads = draw(rng, 0, np.float32)
            for each, trace, dtype in zip(runs, traces, (np.float32, np.float32, np.float64)):
                each.step([grad.astype(dtype) for grad in grads])
                for kind, value in each.outcome().items():
                    trace.setdefault((kind, "all"), []).append(value)
    verdict = compare(*traces, initial={"all": np.concatenate(params)})
    assert verdict.passed, str(verdict)


def test_any_number_of_threads_gives_the_same_bits(copy_of_library):
    """One, those of the machine, and more than there are jobs."""
    one, many = copy_of_library(OMP_NUM_THREADS="1"), copy_of_library(OMP_NUM_THREADS="64")
    params = some_params()
    for cls in (AdamW, MomentumAGC):
        expected = run(cls, one, params)
        for library in (many, _native.library()):
            assert_bits(run(cls, library, params), expected)


def test_a_forked_child_can_take_a_step():
    """It has none of the threads of its parent, which has taken one."""
    params = some_params()
    expected = run(AdamW, None, params, steps=1)
    context = multiprocessing.get_context("fork")
    got = context.Queue()
    native = Native(AdamW, params)
    grads = [np.ones_like(param) for param in params]
    inputs = native.inputs(grads)
    child = context.Process(target=lambda: got.put(kernels.replay(native.library, [(native.rule, inputs)])))
    child.start()
    ((code, arrays),) = got.get(timeout=60)
    child.join(60)
    assert (code, child.exitcode) == (0, 0)
    assert kernels.call(native.library, native.rule, inputs) == 0
    for mine, its in zip(inputs, arrays, strict=True):
        np.testing.assert_array_equal(its, mine)
    assert_bits(run(AdamW, None, params, steps=1), expected)


def test_threads_of_python_may_take_steps_at_once():
    """Each of its own optimizer."""
    params = some_params()
    expected, got = run(AdamW, None, params, steps=10), {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: run(AdamW, None, params, steps=10)})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i in range(4):
        assert_bits(got[i], expected)


def sanitizers(tmp_path):
    """The library built to stop at what it must not do, and what to load before it; None without the compiler."""
    path = tmp_path / "sanitized.so"
    source = Path(__file__).parents[2] / "ms_optim" / "kernels" / "kernels.cpp"
    try:
        subprocess.run(
            [
                "g++",
                "-std=c++17",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-O0",
                "-ffp-contract=off",
                "-shared",
                "-fPIC",
                "-pthread",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=all",
                source,
                "-o",
                path,
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        found = subprocess.run(["g++", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return path, found.stdout.strip()


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
    """In steps of every rule, in averages and in what is refused; and the bits do not hang on the optimization."""
    built = sanitizers(tmp_path)
    if built is None:
        pytest.skip("there is no g++")
    rng = np.random.default_rng(0)
    units = [rng.standard_normal(shape).astype(np.float32) for shape in UNITS]
    runs = [(name, params) for name in NATIVE for params in (some_params(), units[:1])]
    natives = [Native(OPTIMIZERS[name], params, **arguments(name)) for name, params in runs]
    natives += [Native(MomentumAGC, units, unit=unit, clipping=0.1) for unit in ("output", "squeezed")]
    calls = [
        (native.rule, native.inputs([None if i == 3 else np.ones_like(param) for i, param in enumerate(native.params)]))
        for native in natives
    ]
    bad = Native(Adam, BAD_PARAMS).inputs(BAD_PARAMS)
    calls += [("adam", spoil(bad)) for spoil in BAD.values()]
    for copied in (0, 1):
        layout = np.full(len(units), copied, np.int32)
        calls += [
            ("average", [np.array(0.3), np.array(True), layout, *(unit.astype(dtype) for unit in units), *units])
            for dtype in (np.float16, np.float32, np.float64)
        ]
    paths = [tmp_path / "calls", tmp_path / "outcomes"]
    paths[0].write_bytes(pickle.dumps(calls))
    subprocess.run(
        [sys.executable, kernels.__file__, built[0], *paths],
        check=True,
        env={**os.environ, "LD_PRELOAD": built[1], "ASAN_OPTIONS": "detect_leaks=0"},
    )
    for got, expected in zip(
        pickle.loads(paths[1].read_bytes()), kernels.replay(_native.library(), calls), strict=True
    ):
        assert got[0] == expected[0]
        for one, other in zip(got[1], expected[1], strict=True):
            np.testing.assert_array_equal(one, other)


def convert(values, dtype):
    """The values as the kernels convert them: a copied average is one of another dtype."""
    result = np.zeros(values.shape, dtype)
    assert (
        kernels.call(
            _native.library(), "average", [np.array(0.5), np.array(True), np.ones(1, np.int32), result, values]
        )
        == 0
    )
    return result


def test_halves_convert_as_in_numpy(copy_of_library):
    """Each of them to float32 and back, and floats to the nearest, ties to even."""
    halves = np.arange(65536).astype(np.uint16).view(np.float16)
    floats = halves.astype(np.float32)
    assert_bits({"float32": convert(halves, np.float32)}, {"float32": floats})
    assert_bits({"float16": convert(floats, np.float16)}, {"float16": halves})
    finite = np.sort(floats[np.isfinite(floats)])
    middles = (finite[1:] + finite[:-1]) / 2
    middles = np.concatenate([middles, np.float32([65520.0, -65520.0, 1e30, 2.0**-25, -(2.0**-25), 1e-40])])
    drawn = np.random.default_rng(0).integers(0, 2**32, 300_000, np.uint32).view(np.float32)
    beside = [np.nextafter(middles, np.float32(side)) for side in (np.inf, -np.inf)]
    for values in (middles, *beside, drawn):
        with np.errstate(all="ignore"):
            assert_bits({"float16": convert(values, np.float16)}, {"float16": values.astype(np.float16)})


@pytest.mark.parametrize("name", NATIVE)
def test_float16_is_computed_in_float32_and_rounded_once(name):
    """Parameters and slots, or a gradient alone; what dtypes the others in a call have is of no matter."""
    rng = np.random.default_rng(0)
    halves = [np.float16(rng.standard_normal(shape)) for shape in ((8,), (1096,), (4, 24), (4, 8, 3))]
    grads = [np.float16(rng.standard_normal(half.shape)) for half in halves]
    singles, doubles = ([param.astype(dtype) for param in halves] for dtype in DTYPES)
    kwargs = arguments(name)
    single, double = (Native(OPTIMIZERS[name], params, **kwargs) for params in (singles, doubles))
    single.step([grad.astype(np.float32) for grad in grads])
    double.step([grad.astype(np.float64) for grad in grads])
    mixed = Native(OPTIMIZERS[name], [*halves, *singles, *doubles, *singles], **kwargs)
    mixed.step([*grads, *grads, *grads, *(grad.astype(np.float64) for grad in grads)])
    expected = [*(param.astype(np.float16) for param in single.params), *single.params, *double.params, *single.params]
    slots = [
        *([kept if kept is None else kept.astype(np.float16) for kept in row] for row in single.slots),
        *single.slots,
        *double.slots,
        *single.slots,
    ]
    for got, value, states, kept in zip(mixed.params, expected, mixed.slots, slots, strict=True):
        for one, other in zip([got, *states], [value, *kept], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other, strict=True)


@fuses
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_bfloat16_has_the_bits_of_torch(mode):
    """MindSpore's own operators on CPU have no bfloat16."""
    set_mode(mode)
    rng = np.random.default_rng(0)
    kwargs = {"lr": 0.03, "weight_decay": 0.6, "amsgrad": True, "fused": True}
    values = [torch.tensor(rng.standard_normal(shape)).bfloat16() for shape in ((), (7,), (40, 33))]
    ours = AdamW([Parameter(as_bfloat16(value), name=f"p{i}") for i, value in enumerate(values)], **kwargs)
    params = [torch.nn.Parameter(value) for value in values]
    reference = torch.optim.AdamW(params, **kwargs)
    for _ in range(20):
        grads = [torch.tensor(rng.standard_normal(value.shape)).bfloat16() for value in values]
        ours(tuple(map(as_bfloat16, grads)))
        for param, grad in zip(params, grads):
            param.grad = grad
        reference.step()
    for param, expected in zip(ours.parameters, params):
        np.testing.assert_array_equal(param.float().asnumpy(), expected.detach().float().numpy())
        for slot, state in ours.state[param.name].items():
            kept = reference.state[expected][slot]
            np.testing.assert_array_equal(state.float().asnumpy(), kept.float().numpy(), err_msg=slot)


def as_bfloat16(value):
    """A tensor of torch in MindSpore."""
    return Tensor(value.float().numpy(), ms.bfloat16)


@pytest.mark.parametrize("name", NATIVE)
def test_bfloat16_is_computed_in_float32_and_rounded_once(name):
    """Unlike in torch 2.13, whose fused SGD leaves bfloat16 parameters of 64 elements where they are."""
    set_mode("graph")
    rng = np.random.default_rng(0)
    value, grad = (torch.tensor(rng.standard_normal((40, 33))).bfloat16() for _ in range(2))
    half, single = (
        OPTIMIZERS[name](
            [Parameter(as_bfloat16(value).astype(dtype), name="weight")], **arguments(name) | {"fused": True}
        )
        for dtype in (ms.bfloat16, ms.float32)
    )
    half((as_bfloat16(grad),))
    single((as_bfloat16(grad),))
    for got, expected in (
        (half.parameters[0], single.parameters[0]),
        *((half.state["weight"][slot], state) for slot, state in single.state["weight"].items()),
    ):
        np.testing.assert_array_equal(
            got.float().asnumpy(),
            torch.tensor(expected.float().asnumpy()).to(torch.bfloat16).float().numpy()
            if got.dtype == ms.bfloat16
            else expected.float().asnumpy(),
        )


def test_bfloat16_converts_as_in_torch():
    """Each of them to float32, and floats to the nearest, ties to even."""
    set_mode("graph")
    every = torch.arange(65536).to(torch.uint16).view(torch.bfloat16)
    beside = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    floats = ((torch.arange(65536) << 16)[:, None] | beside).flatten().to(torch.uint32).view(torch.float32)
    wide, narrow = (
        SGD([Parameter(Tensor(np.zeros(size), dtype), name=f"p{size}")], lr=1.0, maximize=True, fused=True)
        for size, dtype in ((65536, ms.float32), (floats.numel(), ms.bfloat16))
    )
    wide((Tensor(every.float().numpy()).astype(ms.bfloat16),))
    np.testing.assert_array_equal(wide.parameters[0].asnumpy(), every.float().numpy())
    narrow((Tensor(floats.numpy()),))
    np.testing.assert_array_equal(narrow.parameters[0].float().asnumpy(), floats.bfloat16().float().numpy())


# A unit of every kind: of one element, shorter than a vector, of a thread, of several, and every so-many-th element.
UNITS = [
    (),
    (1,),
    (5,),
    (70000,),
    (3, 4),
    (300, 3),
    (3, 1),
    (1, 40000),
    (2, 32769),
    (2, 2 * CHUNK),
    (3, 5, 7),
    (2, 9000, 5),
    (1, 6, 1),
    (4, 3, 1),
    (4, 3, 3, 3),
    (4, 1, 1, 1),
    (1, 2, 150, 150),
    (2, 3, 1, 2, 2),
]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"unit": "output", "clipping": 0.1, "clip_eps": 0.5, "weight_decay": 0.1, "dampening": 0.3},
        {"unit": "squeezed", "clipping": 0.1, "nesterov": True, "exempt": ("p1", "p*3")},
        {"unit": "squeezed", "clipping": 0.9, "momentum": 0.0, "maximize": True, "weight_decay": 0.1},
        {"unit": "output", "clipping": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_units_are_clipped_as_in_the_reference(kwargs, dtype):
    """Some of them and others not, in steps of all magnitudes; float32 is judged by the reference's own error."""
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.standard_normal(shape), np.float32) for shape in UNITS]
    native = Native(MomentumAGC, [param.astype(dtype) for param in params], lr=0.1, **kwargs)
    references = [
        SGDAGC(
            [(f"p{i}", torch.nn.Parameter(torch.tensor(param, dtype=precision))) for i, param in enumerate(params)],
            lr=0.1,
            **kwargs,
        )
        for precision in (torch.float32, torch.float64)
    ]
    traces = [{}, {}, {}]
    for _ in range(4):
        sizes = rng.choice([0.01, 0.3, 100.0], len(params))
        drawn = [np.asarray(size * rng.standard_normal(shape), np.float32) for size, shape in zip(sizes, UNITS)]
        native.step([grad.astype(dtype) for grad in drawn])
        keep(traces[0], enumerate(native.params), "parameter")
        keep(traces[0], ((i, row[0]) for i, row in enumerate(native.slots)), "momentum_buffer")
        for reference, trace in zip(references, traces[1:]):
            members = reference.param_groups[0]["params"]
            for param, grad in zip(members, drawn):
                param.grad = torch.tensor(grad, dtype=param.dtype)
            reference.step()
            keep(trace, ((i, param.detach().numpy()) for i, param in enumerate(members)), "parameter")
            keep(trace, ((i, momentum_of(reference, param)) for i, param in enumerate(members)), "momentum_buffer")
    initial = {i: param for i, param in enumerate(params)}
    if dtype == np.float64:
        verdict = compare_exactly(traces[0], traces[2], initial=initial)
    else:
        verdict = compare(*traces, ratio=1.5, initial=initial)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("shape", [(2, 8), (3, 1001), (2, 40000)])
def test_a_clipped_gradient_is_rounded_once(shape):
    """The clipping is a float32 as in the composed path, the norms and the factor are float64."""
    rng = np.random.default_rng(0)
    param, grad = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    native = Native(MomentumAGC, [param], clipping=0.1)
    native.step([grad])
    norms = [np.sqrt(np.square(x.astype(np.float64)).sum(1, keepdims=True)) for x in (param, grad)]
    clipped = (grad * (norms[0] * np.float64(np.float32(0.1)) / norms[1])).astype(np.float32)
    np.testing.assert_array_equal(native.slots[0][0], clipped)


def momentum_of(reference, param):
    """The buffer of a parameter of torch, if it has one."""
    buffer = reference.state[param].get("momentum_buffer")
    return None if buffer is None else buffer.numpy()


def keep(trace, arrays, kind):
    """Add a copy of each array that there is to a trace."""
    for name, array in arrays:
        if array is not None:
            trace.setdefault((kind, name), []).append(array.copy())


@pytest.mark.parametrize("unit", ["output", "squeezed"])
def test_units_are_clipped_as_in_the_composed_path(unit):
    """In float64, where both are exact."""
    rng = np.random.default_rng(0)
    set_mode("graph")
    shapes = [shape for shape in UNITS if np.prod(shape) < 5000 or shape in ((70000,), (2, 9000, 5))]
    grads = [
        [Tensor(np.asarray(scale * rng.standard_normal(shape))) for shape in shapes] for scale in (0.02, 1.0, 30.0)
    ]
    values = [np.asarray(rng.standard_normal(shape)) for shape in shapes]
    optimizers = [
        MomentumAGC(
            [Parameter(Tensor(value), name=f"p{i}") for i, value in enumerate(values)],
            lr=0.1,
            clipping=0.05,
            weight_decay=0.1,
            unit=unit,
            exempt="p4",
            fused=fused,
        )
        for fused in (True, False)
    ]
    for step in grads:
        for optimizer in optimizers:
            optimizer(tuple(step))
    native, composed = (
        [param.asnumpy() for param in (*optimizer.parameters, *optimizer.momentum_buffer)] for optimizer in optimizers
    )
    for one, other in zip(native, composed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def change(at, value):
    """A function that replaces one input."""

    def apply(arrays):
        return [*arrays[:at], value(arrays[at]) if callable(value) else value, *arrays[at + 1 :]]

    return apply


# The inputs of Adam of two parameters: numbers, present, layout, 2 parameters, 2 gradients, 4 slots.
BAD = {
    "a slot of another dtype": change(8, lambda slot: slot.astype(np.float64)),
    "a slot of another size": change(10, lambda slot: slot[1:].copy()),
    "a gradient of another size": change(6, lambda grad: grad[1:].copy()),
    "an integer gradient": change(5, lambda grad: grad.astype(np.int32)),
    "a gradient of float8": change(5, lambda grad: grad.astype(np.int8)),
    "a parameter of integers": change(4, lambda param: param.astype(np.int64)),
    "a number too few": change(0, lambda numbers: numbers[:, 1:].copy()),
    "a row too many": change(0, lambda numbers: np.concatenate([numbers, numbers])),
    "a row too few": change(0, lambda numbers: numbers[:1].copy()),
    "numbers in a vector": change(0, lambda numbers: numbers.ravel()),
    "a layout of one parameter": change(2, lambda layout: layout[:1].copy()),
    "presence of one parameter": change(1, lambda present: present[:1].copy()),
    "a slot that is not there": change(2, lambda layout: np.ones_like(layout)),
    "a slot that is not meant": change(2, lambda layout: layout * 0),
    "no slots": lambda arrays: arrays[:7],
    "no gradients": lambda arrays: arrays[:5],
    "one slot too many": lambda arrays: [*arrays, arrays[-1].copy()],
    "numbers alone": lambda arrays: arrays[:3],
    "nothing": lambda arrays: [],
}


BAD_PARAMS = [np.ones(40, np.float32), np.ones(9, np.float32)]


@pytest.mark.parametrize("bad", BAD)
def test_bad_inputs_are_refused_before_anything_is_written(bad):
    """With a code, which MindSpore raises for."""
    arrays = BAD[bad]([array.copy() for array in Native(Adam, BAD_PARAMS).inputs(BAD_PARAMS)])
    before = [array.copy() for array in arrays]
    assert kernels.call(_native.library(), "adam", arrays) != 0
    for array, value in zip(arrays, before):
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize(
    "values",
    [
        [np.ones(3, np.int32), np.ones(4, np.float32)],
        [np.ones(4, np.int32), np.ones(4, np.int8)],
        [np.ones(4, np.int32)],
        [],
    ],
)
def test_bad_averages_are_refused_before_anything_is_written(values):
    """A first one that is copied is not, if the second cannot be averaged."""
    means = [np.zeros(4, np.int32), np.zeros(4, np.float32)]
    copied = np.array([1, 0], np.int32)
    assert kernels.call(_native.library(), "average", [np.array(0.5), np.array(True), copied, *means, *values]) != 0
    assert not np.concatenate(means).any()


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]
)
def test_a_copied_average_is_a_copy(dtype):
    """Of any dtype, at no weight at all, and when it is due."""
    value, mean = np.arange(-3, 90).astype(dtype), np.zeros(93, dtype)
    for due in (False, True):
        assert (
            kernels.call(
                _native.library(), "average", [np.array(0.0), np.array(due), np.ones(1, np.int32), mean, value]
            )
            == 0
        )
        np.testing.assert_array_equal(mean, value * due if dtype != np.bool_ else value & due)


def test_a_copy_into_another_dtype_comes_from_anywhere():
    """Not by interpolation, which makes NaN of an infinite average."""
    values = np.float16([1, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(convert(values, np.float64), values.astype(np.float64), strict=True)
    mean = np.float32([np.inf, np.nan])
    kernels.call(
        _native.library(), "average", [np.array(0.5), np.array(True), np.ones(1, np.int32), mean, np.float16([2, 3])]
    )
    assert mean.tolist() == [2, 3]


@fuses
@pytest.mark.parametrize("mode", mindspore_side.MODES)
def test_the_bits_are_torchs_through_the_optimizer(mode, exact_roots):
    """In both modes, denormal numbers among them; GRAPH flushes them everywhere else.

    In float64 the numbers of a step show a power of MindSpore, which is an ulp off in vectors.
    """
    set_mode(mode)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(n).astype(dtype) for dtype in DTYPES for n in (1, 7, 300)]
    values.append(np.float32(rng.standard_normal(99) * 1e-39))
    kwargs = dict(lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    ours = AdamW([Parameter(Tensor(value), name=f"p{i}") for i, value in enumerate(values)], fused=True, **kwargs)
    reference = Torch(AdamW, values, True, **kwargs)
    for _ in range(30):
        grads = [
            (rng.standard_normal(value.shape) * (1e-38 if i == len(values) - 1 else 1)).astype(value.dtype)
            for i, value in enumerate(values)
        ]
        ours(tuple(map(Tensor, grads)))
        reference.step(grads)
    for param, expected in zip(ours.parameters, reference.params):
        if param.dtype == ms.float64:
            np.testing.assert_allclose(param.asnumpy(), expected.detach().numpy(), rtol=1e-13)
        else:
            np.testing.assert_array_equal(param.asnumpy(), expected.detach().numpy())
        for slot in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_array_equal(
                ours.state[param.name][slot].asnumpy(), reference.optimizer.state[expected][slot].numpy()
            )


def make(name, fused, dtype=ms.float32):
    """An optimizer of one matrix."""
    return OPTIMIZERS[name]([Parameter(Tensor(np.ones((2, 3)), dtype), name="weight")], fused=fused)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "EMA"])
def test_which_path_runs_is_told(name, monkeypatch):
    """The kernel where there is one, and where there is none a reason if one is asked for."""
    assert not make(name, False).fused
    assert make(name, None).fused == (name in NATIVE)
    if name in NATIVE:
        assert make(name, True).fused
        assert make(name, None, ms.bfloat16).fused
        monkeypatch.setattr(_native, "library", lambda: None)
        assert not make(name, None).fused
        with pytest.raises(ValueError, match=r"because the library was installed without a C\+\+ compiler"):
            make(name, True)
    else:
        with pytest.raises(ValueError, match=f"because the rule '{name.lower()}' has no kernel, but got True"):
            make(name, True)


def test_a_rule_of_ones_own_has_no_kernel():
    """Though it has the name of one that has."""

    def sgd(param, grad, slots, lr, momentum, take, weight_decay, nesterov, maximize):
        """Go nowhere."""
        return param, slots

    class Mine(SGD):
        update = sgd

    params = [Parameter(Tensor(np.ones(3, np.float32)), name="weight")]
    assert not Mine(params).fused
    with pytest.raises(ValueError, match="is not one of the library's"):
        Mine(params, fused=True)


def test_every_function_of_the_library_is_a_rule():
    """And every rule with a kernel is one of them."""
    library = ctypes.CDLL(str(_native.library()))
    assert [name for name in OPTIMIZERS if hasattr(library, OPTIMIZERS[name].update.__name__)] == NATIVE
