"""This process, and programs in several others."""

import gc
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    "OMP_NUM_THREADS": "1",
}


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launched(folder, program, *arguments, count=2):
    """What several workers of msrun have printed, each a text."""
    options = [f"--worker_num={count}", f"--local_worker_num={count}", "--join=True", f"--master_port={free_port()}"]
    done = subprocess.run(
        [sys.executable, "-m", "mindspore.parallel.cluster.run", *options, f"--log_dir={folder}", program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=ENVIRONMENT,
    )
    said = [path.read_text() for path in sorted(folder.glob("worker_*.log"))]
    assert done.returncode == 0, "\n".join([done.stdout, *said])
    return said


def program(folder, *command):
    """Run a program, of which there are the arguments of Python."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()


def resident():
    """The memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
