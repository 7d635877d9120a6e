"""Processes that take parts of what another has to do, and end with it however it ends."""

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator


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


# After so many seconds a signal comes again that came while MindSpore compiled.
SOON = 0.05


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """A block of the main thread that Ctrl-C ends as any other, although MindSpore compiles in it.

    From its first compilation on MindSpore 2.10 takes SIGINT for itself and sends SIGTERM to the process instead, which
    would end it without a word. What is given raises `KeyboardInterrupt` if one came and something has swallowed it.
    """
    again = list[threading.Timer]()

    def interrupt(frame):
        if not _compiles(frame):
            raise KeyboardInterrupt
        again.append(threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGTERM)))
        again[-1].start()  # MindSpore would say at length where it was stopped

    with _heard(signal.SIGTERM, interrupt) as check:
        try:
            yield check
        finally:
            for timer in again:
                timer.cancel()
                timer.join()


def deferred() -> contextlib.AbstractContextManager[Callable[[], None]]:
    """A block of the main thread that Ctrl-C ends where what is given is called, and nowhere else.

    A `KeyboardInterrupt` between any two operations may leave a lock of a pool taken, and a signal that is given to
    another thread wakes up none that waits without an end.
    """
    return _heard(signal.SIGINT, lambda frame: None)


@contextlib.contextmanager
def _heard(number, act):
    """A block in which a signal acts on what runs; what is given raises `KeyboardInterrupt` if one came."""
    came = threading.Event()

    def hear(_, frame):
        came.set()
        act(frame)

    def check():
        if came.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which no signal comes to
        yield check
        return
    before = signal.signal(number, hear)
    try:
        yield check
    finally:
        signal.signal(number, before)


def _compiles(frame):
    """Whether MindSpore is compiling."""
    while frame is not None:
        if frame.f_code.co_name == "compile" and frame.f_globals.get("__name__", "").startswith("mindspore."):
            return True
        frame = frame.f_back
    return False


def _end_with(parent):
    parent.join()
    os._exit(1)
