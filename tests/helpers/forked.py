"""Programs of Python that are forked from one process, which has imported both frameworks: that takes seconds."""

import atexit
import gc
import itertools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from helpers.processes import ENVIRONMENT, free_port, short_sleeps

FORKS = multiprocessing.get_context("forkserver")
MSRUN = Path(__file__).with_name("forked_msrun.py")
LIMIT = 240  # seconds


class Program:
    """A program: its stdout, which ends when no process has it, and its stderr, a file."""

    def __init__(self, folder, command, environ, stderr):
        ours, theirs = FORKS.Pipe(duplex=False)
        self._command, self._stderr = command, stderr
        self._process = FORKS.Process(target=_begin, args=(folder, command, environ, theirs, stderr))
        self._process.start()
        self.stdout = os.fdopen(os.dup(ours.fileno()))
        ours.close()
        theirs.close()

    def send_signal(self, number):
        """Send a signal to the program, not to what it has started."""
        os.kill(self._process.pid, number)

    def ended(self):
        """What it has said from here on and how it ended, once no process of it is left."""
        limit = threading.Timer(LIMIT, os.killpg, (self._process.pid, signal.SIGKILL))
        limit.start()
        with self.stdout:
            said = self.stdout.read()
        self._process.join()
        limit.cancel()
        return subprocess.CompletedProcess(self._command, self._process.exitcode, said, self._stderr.read_text())


class Forks:
    """The process that programs are forked from; they wait for each other as `short_sleeps` says."""

    def __init__(self, folder):
        self._folder, self._count = folder, itertools.count()
        forkserver.set_forkserver_preload(["mindspore", "torch"])
        with patch.dict(os.environ, ENVIRONMENT, LD_PRELOAD=short_sleeps(folder)):
            forkserver.ensure_running()

    def started(self, folder, *command, **environ):
        """A program that runs in a folder: a file and its arguments."""
        stderr = self._folder / f"{next(self._count)}.txt"
        return Program(folder, tuple(map(str, command)), {**ENVIRONMENT, **environ}, stderr)

    def launched(self, folder, program, *arguments, count=2):
        """What several workers of msrun have printed, each a text."""
        options = [
            f"--worker_num={count}",
            f"--local_worker_num={count}",
            "--join=True",
            f"--master_port={free_port()}",
        ]
        done = self.started(folder, MSRUN, *options, f"--log_dir={folder}", program, *arguments).ended()
        said = [path.read_text() for path in sorted(folder.glob("worker_*.log"))]
        assert done.returncode == 0, "\n".join([done.stdout, *said])
        return said

    def run(self, folder, *command, **environ):
        """What a program said that ended well."""
        done = self.started(folder, *command, **environ).ended()
        assert done.returncode == 0, done.stderr
        return done.stdout


def _begin(folder, command, environ, stdout, stderr):
    os.setsid()
    gc.freeze()  # MindSpore collects garbage, and so looks through all that is loaded, whenever it compiles
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    sys.exit(ran(*command))


def ran(program, *arguments):
    """Run a program as Python would; its exit status."""
    sys.argv, sys.path[0] = [program, *arguments], str(Path(program).parent)
    status = 0
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status
