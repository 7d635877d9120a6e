"""Callbacks of `Model.train` and `Model.fit` that write files: the best averages, and what a training is stopped at."""

import math
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from mindspore import Tensor, log, nn
from mindspore.communication import GlobalComm
from mindspore.train import Callback, RunContext

from ms_optim._plain_data import encoded
from ms_optim._shards import devices, slicing_mode, total_of_devices
from ms_optim._values import as_number
from ms_optim.arguments import Choice
from ms_optim.checkpoint import save, to_be_saved
from ms_optim.ema.evaluation import Averaged, warn_of_buffers
from ms_optim.stopping import StopRequest


class EvaluateAverage(Callback):
    """Evaluate, in `Model.fit` and `Model.eval`, on the averages of an EMA; and keep the best of them in a file.

    Give it last: the callbacks before it then find the averages in the network when an evaluation ends. In `also` of
    `save` and `resume`, as ``also={"best": callback}`` , it goes on with the best so far; else the first evaluation
    after a resume writes the file. Of it and a `SaveOnStop` either may be the last.

    Args:
        ema (Union[EMA, ParameterEMA]): Whose averages.
        file (Union[None, str, PathLike]): Where the averages are saved, as the network's Parameters, when the metric is
            the best so far; ends in ".ckpt" or ".safetensors". Default: ``None`` .
        metric (Union[None, str]): The metric of the Model, or "eval_loss", that says which is best. Default: ``None`` .
        mode (str): Whether the best is the ``"max"`` or the ``"min"`` . Default: ``"max"`` .

    Raises:
        TypeError: If `ema` has no averages, or `file` is no path.
        ValueError: If only one of `file` and `metric` is given, `file` ends otherwise, or, after an evaluation, there
            is no such metric.

    Examples:
        >>> import numpy as np
        >>> from mindspore import dataset, nn
        >>> from mindspore.train import Model
        >>> from ms_optim import EMA, SGD
        >>> from ms_optim.callbacks import EvaluateAverage
        >>> data = dataset.NumpySlicesDataset((np.ones((4, 2), np.float32), np.ones((4, 3), np.float32))).batch(2)
        >>> net = nn.Dense(2, 3)
        >>> ema = EMA(SGD(net.trainable_params(), lr=0.1), decay=0.9)
        >>> callback = EvaluateAverage(ema)
        >>> model = Model(net, nn.MSELoss(), ema, metrics={"mse"})
        >>> model.fit(2, data, data, callbacks=[callback], dataset_sink_mode=False, valid_dataset_sink_mode=False)
    """

    def __init__(
        self,
        ema: Averaged,
        file: str | os.PathLike | None = None,
        metric: str | None = None,
        mode: str = "max",
    ):
        super().__init__()
        owner = "EvaluateAverage"
        if not isinstance(ema, Averaged):
            raise TypeError(f"For '{owner}', 'ema' must be an EMA or a ParameterEMA, but got {type(ema).__name__}.")
        if (file is None) != (metric is None):
            raise ValueError(f"For '{owner}', 'file' and 'metric' must go together, but got {file!r} and {metric!r}.")
        if file is not None:
            to_be_saved(owner, file)
        self.ema, self.file, self.metric = ema, file, metric
        self.mode = Choice("max", "min").check(owner, "mode", mode)
        self.best: float | None = None
        self._inside = False

    def on_eval_begin(self, run_context: RunContext) -> None:
        """Put the averages into the network."""
        warn_of_buffers("EvaluateAverage", run_context.original_args().network, self.ema.tracked)
        self.ema.swap_before_eval()
        self._inside = True

    def on_eval_end(self, run_context: RunContext) -> None:
        """Save them if they are the best, and put the parameters back."""
        if self.file is not None:
            self._keep_the_best(run_context.original_args())
        self._leave()

    def _keep_the_best(self, told):
        found = {**told.metrics, **(told.get("eval_results") or {})}
        if self.metric not in found:
            raise ValueError(f"For 'EvaluateAverage', 'metric' must be in {sorted(found)}, but got {self.metric!r}.")
        value = as_number(found[self.metric], f"For 'EvaluateAverage', {self.metric!r}", finite=False)
        if math.isnan(value):  # of a training that has diverged
            return
        if self.best is None or (value > self.best if self.mode == "max" else value < self.best):
            save(told.network, self.file)
            self.best = value

    def _leave(self):
        if self._inside:
            self._inside = False
            self.ema.swap_after_eval()

    def state_dict(self) -> dict[str, Any]:
        """Give the metric that is the best so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the metric that is the best so far.

        Raises:
            ValueError: If it is not what `state_dict` gave.
        """
        owner = "For 'EvaluateAverage'"
        if not isinstance(state_dict, Mapping) or state_dict.keys() != {"best"}:
            got = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise ValueError(f"{owner}, 'state_dict' must have 'best' alone, but got {got}.")
        best = state_dict["best"]
        self.best = None if best is None else as_number(best, f"{owner}, 'best'", finite=False)

    def __exit__(self, *error: object) -> None:
        """Put the parameters back also where an evaluation was broken off."""
        self._leave()


class SaveOnStop(Callback):
    """Save, in `Model.train` and `Model.fit`, when the process is asked to stop, and end the training after that step.

    The file is as `ms_optim.save` writes it; with what is in `also` it has "epoch" and "step", which are those of the
    step that was taken last. `stopped` says afterwards whether it was so. With data sink the next step is the end of
    what is sunk.

    Give it last: what the callbacks before it change after a step, as `SchedulerCallback` does, is then in the file. If
    the stop is at the last step of an epoch, it saves after the step, and again after the end of the epoch.

    Of several processes, each of which needs one, all end after the same step, whichever was asked: they add up a
    number after each. Where MindSpore slices tensors they do not, and all are to be asked at once; a warning says so.

    Args:
        cell (nn.Cell): What is saved, such as the optimizer or an EMA, with the parameters and the state.
        file (Union[None, str, PathLike]): As for `save`; None where another process writes it.
        also (Union[None, Mapping[str, Any], Callable]): As for `save`, or a function without arguments that returns it
            when it is needed. Default: ``None`` .
        signals (tuple[signal.Signals]): As for `StopRequest`. Default: ``()`` .

    Raises:
        TypeError: If `cell` is not a Cell or `file` no path, or, when a training begins, if `also` cannot be saved.
        ValueError: If `file` ends otherwise than for `save`, or, when a training begins, if that is in another thread
            than the main one, or a signal cannot be caught.
        FileNotFoundError: When a training begins, if the folder of `file` is not there.

    Examples:
        >>> from mindspore import nn
        >>> from ms_optim import SGD
        >>> from ms_optim.callbacks import SaveOnStop
        >>> optimizer = SGD(nn.Dense(2, 3).trainable_params(), lr=0.1)
        >>> callback = SaveOnStop(optimizer, "last.safetensors")  # one of the callbacks of `Model.train`
        >>> callback.stopped
        False
    """

    def __init__(
        self,
        cell: nn.Cell,
        file: str | os.PathLike | None,
        also: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        signals: tuple[signal.Signals, ...] = (),
    ):
        super().__init__()
        if not isinstance(cell, nn.Cell):
            raise TypeError(f"For 'SaveOnStop', 'cell' must be a Cell, but got {type(cell).__name__}.")
        if file is not None:
            to_be_saved("SaveOnStop", file)
        self.cell, self.file, self.also = cell, file, also
        self.stopped = False
        self._request = StopRequest(*signals)
        self._total: _Total | None = None

    def on_train_begin(self, run_context: RunContext) -> None:
        """Listen, once it is known that what is asked for can be saved."""
        if self.file is not None and not to_be_saved("SaveOnStop", self.file).absolute().parent.is_dir():
            raise FileNotFoundError(f"For 'SaveOnStop', the folder of 'file' must be there, but got '{self.file}'.")
        if self.also is not None and not callable(self.also):
            encoded("SaveOnStop", self.also)
        self.stopped = False
        self._total = _Total() if devices() > 1 and not slicing_mode() else None
        if devices() > 1 and self._total is None:
            log.warning(
                f"For 'SaveOnStop', processes cannot agree on a step in {slicing_mode()!r}: one that is asked to stop "
                "ends alone, and the others wait for it, unless all are asked."
            )
        self._request.__enter__()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Save and end, if that was asked for."""
        if not self.stopped and self._is_asked():
            self._save(run_context)

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        """Save after a whole epoch, again too, with what its end has changed; and end."""
        told = run_context.original_args()
        if told.cur_step_num % told.batch_num == 0 and (self.stopped or self._is_asked()):
            self._save(run_context)

    def _is_asked(self):
        """Whether this process was, or another of those that take the steps with it."""
        asked = bool(self._request)
        return asked if self._total is None else bool(self._total(Tensor(float(asked))).asnumpy())

    def _save(self, run_context):
        self.stopped = True
        told = run_context.original_args()
        if self.file is not None:
            also = self.also() if callable(self.also) else self.also
            save(self.cell, self.file, {"epoch": told.cur_epoch_num, "step": told.cur_step_num, **(also or {})})
        run_context.request_stop()

    def on_train_end(self, run_context: RunContext) -> None:
        """Listen no more, and save if that was asked for since the last step."""
        self._request.__exit__()  # first: what is asked for from here on is not lost
        if not self.stopped and self._is_asked():
            self._save(run_context)

    def __exit__(self, *error: object) -> None:
        """Nor after an error; `Model.fit` leaves its callbacks after each evaluation too."""
        if any(error):
            self._request.__exit__()


class _Total(nn.Cell):
    """The sum of a number over all processes."""

    def construct(self, number):
        return total_of_devices(number, GlobalComm.WORLD_COMM_GROUP)
