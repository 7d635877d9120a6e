"""Trainings of several processes, of which one is asked to stop: where each of them ends, as JSON.

For each there is when the last process is asked, by a method of a callback and how often that has been called.
"""

import json
import os
import signal

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback, Model

from ms_optim import SGD
from ms_optim.callbacks import SaveOnStop

ASKED = {"step": ("on_train_step_end", 2), "epoch": ("on_train_epoch_end", 1), "end": ("on_train_end", 1)}
EPOCHS, BATCHES = 2, 3


class Ask(Callback):
    """Asks this process to stop at one call of a method."""

    def __init__(self, method, call):
        super().__init__()
        self.steps = self.calls = 0
        self.method, self.call = method, call

    def on_train_step_end(self, run_context):
        """Count."""
        self.steps += 1
        self._called("on_train_step_end")

    def on_train_epoch_end(self, run_context):
        """Nothing else."""
        self._called("on_train_epoch_end")

    def on_train_end(self, run_context):
        """Nothing else."""
        self._called("on_train_end")

    def _called(self, method):
        if method == self.method:
            self.calls += 1
            if self.calls == self.call:
                os.kill(os.getpid(), signal.SIGTERM)


def main(folder, rank, count):
    """Train for each; the first process writes the file of all."""
    batches = [(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))] * BATCHES
    for name, (method, call) in ASKED.items():
        net = nn.Dense(2, 1)
        optimizer = SGD(net.trainable_params(), lr=0.1)
        ask = Ask(method if rank == count - 1 else None, call)
        stop = SaveOnStop(optimizer, None if rank else folder / f"{name}.safetensors")
        data = ms.dataset.GeneratorDataset(batches, ["x", "y"], shuffle=False)
        Model(net, nn.MSELoss(), optimizer).train(EPOCHS, data, callbacks=[ask, stop], dataset_sink_mode=False)
        told = {"rank": rank, "name": name, "steps": ask.steps, "stopped": stop.stopped}
        print("STOPPED " + json.dumps(told), flush=True)
