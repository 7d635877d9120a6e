"""What is written while a network trains: the log, the history and the checkpoint."""

import contextlib
import json
import logging
import os
import time

import numpy as np
from mindspore.train import Callback

from ms_optim import save

LAST = "last.safetensors"


def _told(history):
    """What a history tells, but for a last line that a process did not finish."""
    lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
    told = []
    for line in lines:
        try:
            told.append(json.loads(line))
        except ValueError:
            break
    return told


@contextlib.contextmanager
def replacing(file):
    """A file to be written, which takes the place of another when it is whole."""
    written = file.with_name(f".{file.name}.new")
    yield written
    os.replace(written, file)


class Log(Callback):
    """Lines of the log and of the history: loss, learning rate and images per second, and what each epoch has come to.

    Args:
        folder (Path): Where "log.txt" and "history.jsonl" are written.
        recipe (Recipe): What is trained.
        ema (EMA): The optimizer.
        evaluate (Callable): Gives the accuracy of the network as it is.
        per_epoch (int): The steps of an epoch.
        rank (int): The worker; only the first writes.
    """

    def __init__(self, folder, recipe, ema, evaluate, per_epoch, rank):
        super().__init__()
        self.recipe, self.ema, self.evaluate, self.per_epoch = recipe, ema, evaluate, per_epoch
        self.history, self.rank, self.folder = folder / "history.jsonl", rank, folder
        self.log = logging.getLogger("nfnet")
        self.log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
        self.log.propagate = False
        for known in self.log.handlers[:]:
            self.log.removeHandler(known)
            known.close()
        for handler in (logging.StreamHandler(), *([logging.FileHandler(folder / "log.txt")] if rank == 0 else [])):
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
            self.log.addHandler(handler)

    def go_on(self):
        """Forget what was written after the step that a training goes on from; evaluate there if that is lacking."""
        self.step = self.logged = int(self.ema.global_step.asnumpy().item())
        # All groups have one, and `get_lr` gives that of the step that comes.
        self.rates = self.ema.param_groups[0]["lr"]
        told = _told(self.history)
        kept = [entry for entry in told if entry["step"] <= self.step]
        if self.rank == 0 and self.history.exists():
            with replacing(self.history) as file:
                file.write_text("".join(f"{json.dumps(entry)}\n" for entry in kept), encoding="utf-8")
        done = any(entry["step"] == self.step and "accuracy" in entry for entry in kept)
        if self.step and self.step % self.per_epoch == 0 and not done:
            self._evaluate()

    def on_train_begin(self, run_context):
        """Begin to measure time."""
        self.time = time.perf_counter()

    def on_train_step_end(self, run_context):
        """Tell a step, each so many."""
        told = run_context.original_args()
        self.step += told.batch_num if told.dataset_sink_mode else 1
        self.outputs = told.net_outputs
        if self.step - self.logged < self.recipe.log_steps and self.step % self.per_epoch:
            return
        loss, rate = self.loss(), self.rates[min(self.step, len(self.rates)) - 1]
        now = time.perf_counter()
        speed = (self.step - self.logged) * self.recipe.batch_size / (now - self.time)
        self.log.info(
            "epoch %d/%d step %d/%d loss %.4f lr %.4g images/s %.0f",
            *(-(-self.step // self.per_epoch), self.recipe.epochs, self.step, self.per_epoch * self.recipe.epochs),
            *(loss, rate, speed),
        )
        self._keep({"step": self.step, "loss": loss, "lr": rate})
        self.logged, self.time = self.step, now

    def loss(self):
        """That of the step that was taken last.

        Raises:
            FloatingPointError: If it is not finite.
        """
        loss = float(self.outputs.asnumpy())
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss} at step {self.step}.")
        return loss

    def on_train_epoch_end(self, run_context):
        """Evaluate the weights and their averages, and write the checkpoint, unless there is no time for it."""
        if run_context.get_stop_requested():
            return
        self._evaluate()
        if self.rank == 0:
            save(self.ema, self.folder / LAST)
        self.time = time.perf_counter()

    def _evaluate(self):
        weights = self.evaluate()
        with self.ema.average_parameters():
            averages = self.evaluate()
        epoch = self.step // self.per_epoch
        self.log.info("epoch %d/%d accuracy %.4f average %.4f", epoch, self.recipe.epochs, weights, averages)
        self._keep({"step": self.step, "accuracy": weights, "average": averages})

    def _keep(self, told):
        if self.rank == 0:
            with open(self.history, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(told) + "\n")
