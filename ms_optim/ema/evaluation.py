"""Evaluation on averages: in the place of the parameters for a while, in a copy, or in `Model.fit`."""

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mindspore import Parameter, Tensor, log, nn
from mindspore.train import Callback, RunContext

from ms_optim._values import as_number, write
from ms_optim.arguments import FLOATS, Choice
from ms_optim.checkpoint import FORMATS, save


def put(params: Sequence[Parameter], values: Sequence[Tensor]) -> None:
    """Write values, in the dtypes of the Parameters."""
    for param, value in zip(params, values):
        write(param, value if value.dtype == param.dtype else value.astype(param.dtype))


@contextlib.contextmanager
def in_place(params: Sequence[Parameter], values: Sequence[Parameter]) -> Iterator[None]:
    """Let Parameters have other values until the block is left, also by an exception; this takes one copy of them."""
    kept = [param.copy() for param in params]
    try:
        put(params, values)
        yield
    finally:
        for param, value in zip(params, kept):
            write(param, value)


class Swapping:
    """Two calls in the place of a block, as trainers of MindSpore's libraries make them around an evaluation."""

    _block: Any = None

    def average_parameters(self) -> contextlib.AbstractContextManager[None]:
        """Put the averages into the network until the block is left."""
        raise NotImplementedError

    def swap_before_eval(self) -> None:
        """Enter `average_parameters`.

        Raises:
            RuntimeError: If it has been entered.
        """
        block = self.average_parameters()
        block.__enter__()
        object.__setattr__(self, "_block", block)

    def swap_after_eval(self) -> None:
        """Leave `average_parameters`.

        Raises:
            RuntimeError: If `swap_before_eval` was not called before.
        """
        block = self._block
        if block is None:
            raise RuntimeError(
                f"For '{type(self).__name__}', 'swap_before_eval' must be called before 'swap_after_eval', but was not."
            )
        object.__setattr__(self, "_block", None)
        block.__exit__(None, None, None)


def averaged_copy(owner: str, network: nn.Cell, params: Sequence[Parameter], averages: Sequence[Parameter]) -> nn.Cell:
    """A copy of a network with the averages of those Parameters that it has, which are told by their names."""
    if not isinstance(network, nn.Cell):
        raise TypeError(f"For '{owner}', 'network' must be a Cell, but got {type(network).__name__}.")
    by_name = {param.name: average for param, average in zip(params, averages)}
    warn_of_buffers(owner, network, params)
    made = copy.deepcopy(network)
    inside = [param for param in made.get_parameters() if param.name in by_name]
    if not inside:
        raise ValueError(
            f"For '{owner}', 'network' must have Parameters that are averaged, but got "
            f"{[param.name for param in made.get_parameters()]}."
        )
    put(inside, [by_name[param.name] for param in inside])
    return made


def warn_of_buffers(owner: str, network: nn.Cell, params: Sequence[Parameter]) -> None:
    """Name what a network has beside its averages that is not averaged with them, as statistics of batch norms."""
    known = {param.name for param in params}
    left = [
        param.name
        for param in network.get_parameters()
        if not param.requires_grad and param.dtype in FLOATS and param.name not in known
    ]
    if left:
        log.warning(
            f"For '{owner}', {left} are not averaged: the averages are evaluated with what the training has now. "
            "'buffers' of the EMA takes them."
        )


class EvaluateAverage(Callback):
    """Evaluate, in `Model.fit` and `Model.eval`, on the averages of an EMA; and keep the best of them in a file.

    Give it last: the callbacks before it then find the averages in the network when an evaluation ends.

    Args:
        ema (Union[EMA, ParameterEMA]): Whose averages.
        file (Union[None, str, PathLike]): Where the averages are saved, as the network's Parameters, when the metric is
            the best so far; ends in ".ckpt" or ".safetensors". Default: ``None`` .
        metric (Union[None, str]): The metric of the Model, or "eval_loss", that says which is best. Default: ``None`` .
        mode (str): Whether the best is the ``"max"`` or the ``"min"`` . Default: ``"max"`` .

    Raises:
        TypeError: If `ema` has no averages.
        ValueError: If only one of `file` and `metric` is given, `file` ends otherwise, or, after an evaluation, there
            is no such metric.

    Examples:
        >>> import numpy as np
        >>> from mindspore import dataset, nn
        >>> from mindspore.train import Model
        >>> from ms_optim import EMA, SGD
        >>> from ms_optim.ema import EvaluateAverage
        >>> data = dataset.NumpySlicesDataset((np.ones((4, 2), np.float32), np.ones((4, 3), np.float32))).batch(2)
        >>> net = nn.Dense(2, 3)
        >>> ema = EMA(SGD(net.trainable_params(), lr=0.1), decay=0.9)
        >>> callback = EvaluateAverage(ema)
        >>> model = Model(net, nn.MSELoss(), ema, metrics={"mse"})
        >>> model.fit(2, data, data, callbacks=[callback], dataset_sink_mode=False, valid_dataset_sink_mode=False)
    """

    def __init__(
        self,
        ema: Swapping,
        file: str | os.PathLike | None = None,
        metric: str | None = None,
        mode: str = "max",
    ):
        super().__init__()
        owner = "EvaluateAverage"
        if not isinstance(ema, Swapping):
            raise TypeError(f"For '{owner}', 'ema' must be an EMA or a ParameterEMA, but got {type(ema).__name__}.")
        if (file is None) != (metric is None):
            raise ValueError(f"For '{owner}', 'file' and 'metric' must go together, but got {file!r} and {metric!r}.")
        if file is not None and Path(file).suffix not in FORMATS:
            raise ValueError(f"For '{owner}', 'file' must end in one of {FORMATS}, but got {str(file)!r}.")
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
        value = as_number(found[self.metric], f"For 'EvaluateAverage', {self.metric!r}")
        if self.best is None or (value > self.best if self.mode == "max" else value < self.best):
            save(told.network, self.file)
            self.best = value

    def _leave(self):
        if self._inside:
            self._inside = False
            self.ema.swap_after_eval()

    def __exit__(self, *error: object) -> None:
        """Put the parameters back also where an evaluation was broken off."""
        self._leave()
