"""This process, and programs in several others."""

import gc
import os
import resource
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHORT_SLEEPS = Path(__file__).with_name("short_sleeps.c")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    "OMP_NUM_THREADS": "1",
    # workers of msrun would wait for each other for seconds
    "MS_RETRY_INTERVAL_LOWER": "1",
    "MS_RETRY_INTERVAL_UPPER": "1",
}


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def short_sleeps(folder):
    """A library to be loaded before those of processes that wait for each other, for which they need not long."""
    library = folder / "short_sleeps.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SHORT_SLEEPS], check=True)
    return str(library)


def install(folder, compiler=True):
    """Build a wheel of the sources, without what has been built beside them, and unpack it into a folder; give that.

    The compiler is given each option of setup.py, but at last one not to optimize, which takes it most of its time.
    """
    clone, site, quick = folder / "clone", folder / "site", folder / "quick"
    quick.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    quick.chmod(0o755)
    for package in ("ms_optim", "parity"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", clone)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= dict.fromkeys(("CC", "CXX"), str(quick) if compiler else "false")
    subprocess.run([*command, "--wheel-dir", folder, clone], check=True, env=environ)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def resident():
    """The memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
