"""A scheduler in `Model.train`."""

import math

from mindspore.train import Callback, RunContext

from ms_optim._values import as_array
from ms_optim.arguments import Choice
from ms_optim.lr_scheduler.base import LRScheduler, follow_requires_grad
from ms_optim.lr_scheduler.plateau import ReduceLROnPlateau


class SchedulerCallback(Callback):
    """Step a scheduler in `Model.train`, after every step or every epoch.

    ReduceLROnPlateau gets the mean of the losses since its last step; with data sink the last one of the epoch. A
    `requires_grad` that was set by hand takes effect at the step that comes.

    Args:
        scheduler (LRScheduler): Of the optimizer that is trained with.
        by (str): ``"step"`` or ``"epoch"`` .

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `by` is neither, or is ``"step"`` where data sink hides the steps from the host, or a step's loss
            is not real numbers.
        RuntimeError: If a ReduceLROnPlateau is to be stepped after an epoch in which no step told its loss.

    Note:
        In data parallel training each process sees the loss of its own data, so that ReduceLROnPlateau may reduce in
        one and not in another: step it yourself there, with what all of them see.

    Examples:
        >>> import numpy as np
        >>> from mindspore import dataset, nn
        >>> from mindspore.train import Model
        >>> from ms_optim import SGD
        >>> from ms_optim.lr_scheduler import ExponentialLR, SchedulerCallback
        >>> data = dataset.NumpySlicesDataset((np.ones((4, 2), np.float32), np.ones((4, 3), np.float32))).batch(2)
        >>> net = nn.Dense(2, 3)
        >>> optimizer = SGD(net.trainable_params(), lr=0.5)
        >>> callback = SchedulerCallback(ExponentialLR(optimizer, gamma=0.5), by="epoch")
        >>> Model(net, nn.MSELoss(), optimizer).train(2, data, callbacks=[callback], dataset_sink_mode=False)
        >>> optimizer.param_groups[0]["lr"]
        0.125
    """

    def __init__(self, scheduler: LRScheduler, by: str):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"For 'SchedulerCallback', 'scheduler' must be a scheduler of ms_optim.lr_scheduler, but "
                f"got {type(scheduler).__name__}."
            )
        self.scheduler = scheduler
        self.by = Choice("step", "epoch").check("SchedulerCallback", "by", by)
        self._losses: list[float] = []

    def on_train_begin(self, run_context: RunContext) -> None:
        """Refuse steps that the host does not see."""
        arguments = run_context.original_args()
        if self.by == "step" and arguments.dataset_sink_mode and arguments.sink_size != 1:
            raise ValueError(
                "For 'SchedulerCallback', 'by' must be 'epoch' with data sink of more than one step, but "
                "got 'step': set dataset_sink_mode to False, or give the optimizer lr=table(...)."
            )
        self._losses = []

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """Let the optimizer take over which parameters are frozen."""
        follow_requires_grad(self.scheduler.optimizer)

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Keep the loss if it is the metric, and step the scheduler if it goes by step."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            outputs = run_context.original_args().net_outputs
            loss = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
            self._losses.append(float(as_array(loss, "For 'SchedulerCallback', the loss").mean()))
        if self.by == "step":
            self._step()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        """Step the scheduler if it goes by epoch."""
        if self.by == "epoch":
            self._step()

    def _step(self):
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if not self._losses:
                raise RuntimeError(
                    "For 'SchedulerCallback', a ReduceLROnPlateau must be stepped after a step of training, whose loss "
                    "is its metric, but there was none since it was stepped last."
                )
            self.scheduler.step(math.fsum(self._losses) / len(self._losses))
            self._losses = []
        else:
            self.scheduler.step()
