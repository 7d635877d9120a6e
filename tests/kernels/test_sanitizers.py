"""The kernels under the sanitizers of the compiler."""

import os
import pickle
import subprocess
import sys

import numpy as np
from helpers import kernels
from helpers.native import NATIVE, UNITS, VECTORS, Native, arguments, needs_compiler, needs_library, some_params

from ms_optim import OPTIMIZERS, Adam, MomentumAGC

pytestmark = needs_library


@needs_compiler
def test_sanitizers_find_nothing(tmp_path, copy_of_library):
    """In steps, averages, functions of vectors and what is refused; and the bits do not hang on the optimization."""
    flags = ("-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    library = kernels.build(tmp_path / "sanitized.so", *flags)
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    rng = np.random.default_rng(0)
    units = [rng.standard_normal(shape).astype(np.float32) for shape in UNITS]
    runs = [(name, params) for name in NATIVE for params in (some_params(), units[:1])]
    natives = [Native(OPTIMIZERS[name], params, **arguments(name)) for name, params in runs]
    natives += [Native(MomentumAGC, units, unit=unit, clipping=0.1) for unit in ("output", "squeezed")]
    calls = [
        (native.rule, native.inputs([None if i == 3 else np.ones_like(param) for i, param in enumerate(native.params)]))
        for native in natives
    ]
    params = [np.ones(40, np.float32), np.ones(9, np.float32)]
    bad = Native(Adam, params).inputs(params)
    calls += [("adam", spoil(bad)) for spoil in kernels.BAD.values()]
    for copied in (0, 1):
        layout = np.full(len(units), copied, np.int32)
        calls += [
            ("average", [np.array(0.3), np.array(True), layout, *(unit.astype(dtype) for unit in units), *units])
            for dtype in (np.float16, np.float32, np.float64)
        ]
    pairs = [(np.ones(size, dtype), np.ones(size, dtype)) for size in VECTORS for dtype in (np.float32, np.float64)]
    calls += [(function, pair) for function in ("dot", "add_scaled") for pair in pairs]
    paths = [tmp_path / "calls", tmp_path / "outcomes"]
    paths[0].write_bytes(pickle.dumps(calls))
    subprocess.run(
        [sys.executable, kernels.__file__, library, *paths],
        check=True,
        env={**os.environ, "LD_PRELOAD": found.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"},
    )
    plain = kernels.replay(copy_of_library(MS_OPTIM_SIMD="0"), calls)
    for got, expected in zip(pickle.loads(paths[1].read_bytes()), plain, strict=True):
        assert got[0] == expected[0]
        for one, other in zip(got[1], expected[1], strict=True):
            np.testing.assert_array_equal(one, other)
