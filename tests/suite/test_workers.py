"""Processes that share what parity has to do."""

import os
import signal
import subprocess
import sys

import pytest
from helpers.processes import ROOT

from parity.workers import deferred

KILLED = """
import multiprocessing, os, signal, time
from parity.workers import start_worker

def work():
    start_worker()
    print("works", flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(100)

if __name__ == "__main__":
    worker = multiprocessing.get_context("spawn").Process(target=work)
    worker.start()
    worker.join()
"""


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    """Although that is killed and says nothing; both hold the pipe, which ends with the last of them."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=50, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and done.stdout == "works\n"


def test_ctrl_c_ends_where_it_is_asked_for():
    """And nowhere before; afterwards it does what it did."""
    before, reached = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), deferred() as check:
        check()
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after the signal")
        check()
    assert reached and signal.getsignal(signal.SIGINT) == before
