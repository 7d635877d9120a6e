"""MindSpore's msrun, given what msrun is, with processes that are forked from it instead of started anew.

The scripts of scripts/nfnet are tested with msrun as it is.
"""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

from mindspore.parallel.cluster import run
from mindspore.parallel.cluster.process_entity import _api

from helpers.forked import ran


class Forked:
    """As a `subprocess.Popen` of Python, of which msrun asks no more than this."""

    def __init__(self, command, preexec_fn=None, stdout=None, stderr=None):
        self.returncode = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                if preexec_fn:
                    preexec_fn()
                for stream in (1, 2):
                    os.dup2(stdout.fileno(), stream)
                program = next(i for i, word in enumerate(command[1:], 1) if not word.startswith("-"))
                status = ran(*command[program:])
            finally:  # else it would go on as msrun
                os._exit(status)

    def poll(self):
        """How the process has ended; None if it has not."""
        return self._waited(os.WNOHANG)

    def wait(self):
        """How it has ended, once it has."""
        return self._waited(0)

    def _waited(self, how):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self):
        """End it."""
        os.kill(self.pid, signal.SIGKILL)


def started(command, **options):
    """A process: msrun starts programs of Python, and `tail` of what they print."""
    return (Forked if command[0] == "python" else subprocess.Popen)(command, **options)


if __name__ == "__main__":
    _api.subprocess = SimpleNamespace(Popen=started, STDOUT=subprocess.STDOUT)
    run.main()
