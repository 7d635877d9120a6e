"""Threads, those of the kernels and those that call them, and processes that fork."""

import ctypes
import multiprocessing
import os
import threading

import numpy as np
import pytest
from helpers import kernels
from helpers.native import Native, assert_bits, needs_library, run, some_params

from ms_optim import AdamW, MomentumAGC, _native

pytestmark = needs_library


def test_any_number_of_threads_gives_the_same_bits(copy_of_library):
    """One, those of the machine, and more than there are jobs."""
    one, many = copy_of_library(threads=1), copy_of_library(threads=64)
    params = some_params()
    for cls in (AdamW, MomentumAGC):
        expected = run(cls, one, params)
        for library in (many, _native.library()):
            assert_bits(run(cls, library, params), expected)


@pytest.mark.parametrize(("given", "count"), [(None, 0), ("3", 3), ("2,4", 2), ("", 0), ("all", 0)])
def test_as_many_as_the_process_was_given(given, count, monkeypatch, copy_of_library):
    """MindSpore writes another number beside Python, for libraries in C; no more than there are cores."""
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert _native.threads() == count
    written = os.environ.get("OMP_NUM_THREADS")
    libc = ctypes.CDLL(None)
    libc.setenv(b"OMP_NUM_THREADS", b"1", 1)
    before = len(os.listdir("/proc/self/task"))
    copy_of_library(threads=_native.threads())
    more, cores = len(os.listdir("/proc/self/task")) - before, len(os.sched_getaffinity(0))
    if written is None:
        libc.unsetenv(b"OMP_NUM_THREADS")
    assert more == min(count or cores, cores) - 1


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
