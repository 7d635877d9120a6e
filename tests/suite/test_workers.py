"""Processes that share what parity has to do."""

import signal
import subprocess
import sys

from helpers.processes import ROOT

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
