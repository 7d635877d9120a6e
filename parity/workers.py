"""Processes that take parts of what another has to do, and end with it however it ends."""

import gc
import multiprocessing
import os
import signal
import threading


def start() -> None:
    """Take what is loaded out of the collector, which MindSpore calls whenever it compiles."""
    gc.freeze()


def start_worker() -> None:
    """Begin a process of a pool: what is to be said of Ctrl-C, the one that started it says.

    A worker waits for what comes next, or computes on, where that one was killed: nobody else ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    start()


def _end_with(parent):
    parent.join()
    os._exit(1)
