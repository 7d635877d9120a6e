"""Threads, those of the kernels and those that call them, and processes that fork."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import kernels
from helpers.native import Native, assert_bits, needs_library, run, some_params
from helpers.processes import ENVIRONMENT

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


TOLD = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1"}


@pytest.mark.parametrize(
    ("told", "workers"),
    [
        ({}, 2),
        ({"MS_WORKER_NUM": "64"}, 64),
        ({"MS_SCHED_HOST": "::1"}, 2),
        ({"MS_SCHED_HOST": "10.0.0.1"}, 1),
        ({"MS_SCHED_HOST": ""}, 1),
        ({"MS_WORKER_NUM": "1"}, 1),
        ({"MS_WORKER_NUM": ""}, 1),
        ({"MS_ROLE": "MS_SCHED"}, 1),
        ({"OMP_NUM_THREADS": "3"}, None),
    ],
    ids=str,
)
def test_workers_of_one_machine_share_its_cores(told, workers, monkeypatch):
    """As msrun tells them; where OMP_NUM_THREADS says how many, it is so many."""
    for name in ("OMP_NUM_THREADS", *TOLD):
        monkeypatch.delenv(name, raising=False)
    assert (_native.workers_here(), _native.threads()) == (1, 0)
    for name, value in (TOLD | told).items():
        monkeypatch.setenv(name, value)
    if workers is None:
        assert _native.threads() == 3
        return
    assert _native.workers_here() == workers
    cores = len(os.sched_getaffinity(0))
    assert _native.threads() == (max(cores // workers, 1) if workers > 1 else 0)


# As msrun: MindSpore, once imported, sets what a process that is started then gets.
MSRUN = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).setenv(b"OMP_NUM_THREADS", b"64", 0)
if sys.argv[1] == "bound":
    bind = lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
else:
    bind = None
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[2]], preexec_fn=bind))
"""
WORKER = """
from ms_optim import _native
_native.kernels_for("AdamW")
print(_native.threads())
"""


@pytest.mark.parametrize(
    ("given", "name", "how", "before", "expected"),
    [
        (None, "msrun", "free", "", "share"),
        ("5", "msrun", "free", "", "5"),
        (None, "msrun", "free", "import os; os.environ['OMP_NUM_THREADS'] = '7'", "7"),
        (None, "msrun", "bound", "", "64"),  # of which there is one core
        (None, "another", "free", "", "64"),
    ],
)
def test_threads_of_a_worker(given, name, how, before, expected, tmp_path):
    """What msrun was given, or what the worker sets, is what was said; what MindSpore sets in msrun is not."""
    cores = len(os.sched_getaffinity(0))
    if how == "bound" and cores == 1:
        pytest.skip("there is one core")
    (tmp_path / name).write_text(MSRUN)
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "OMP_NUM_THREADS"} | TOLD
    environment |= {} if given is None else {"OMP_NUM_THREADS": given}
    command = [sys.executable, tmp_path / name, how, before + WORKER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(max(cores // 2, 1)) if expected == "share" else expected]


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
