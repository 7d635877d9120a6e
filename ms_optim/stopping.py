"""Stopping a training when the process is asked to: after a step."""

import os
import signal
import threading
from typing import Any


class StopRequest:
    """Whether the process was asked to stop, while a block runs: by SIGTERM, as SLURM sends it, or by Ctrl-C.

    MindSpore makes a SIGTERM of a Ctrl-C, which ends the process without a KeyboardInterrupt; here it is a request, and
    the step that runs is finished. What is asked for twice is done at once, as without this. Of several processes each
    knows of its own requests alone: one that leaves a loop would let the others wait, unless they agree on it.

    Args:
        *signals (signal.Signals): Further ones, such as ``signal.SIGUSR1`` , which SLURM can send some time before the
            end.

    Raises:
        ValueError: When the block is entered, if that is in another thread than the main one, or a signal cannot be
            caught.

    Examples:
        >>> from ms_optim import StopRequest
        >>> with StopRequest() as stop:
        ...     for step in range(3):
        ...         pass  # take it
        ...         if stop:
        ...             break  # after a `save`
    """

    def __init__(self, *signals: signal.Signals):
        self._signals = (signal.SIGTERM, signal.SIGINT, *signals)
        self._before: dict[int, Any] = {}
        self._requested = False

    def __bool__(self) -> bool:
        """Whether it was."""
        return self._requested

    def __enter__(self) -> "StopRequest":
        self._requested = False
        for number in self._signals:
            if number in self._before:
                continue
            try:
                self._before[number] = signal.signal(number, self._request)
            except (OSError, TypeError, ValueError) as error:
                self.__exit__()
                if threading.current_thread() is threading.main_thread():
                    raise ValueError(
                        f"For 'StopRequest', 'signals' must be such as can be caught, but got {number!r}: {error}."
                    ) from None
                raise ValueError(
                    f"For 'StopRequest', the block must be entered in the main thread, but {error}."
                ) from None
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before = {}

    def _request(self, number, frame):
        if self._requested:
            self.__exit__()
            os.kill(os.getpid(), number)
        self._requested = True
