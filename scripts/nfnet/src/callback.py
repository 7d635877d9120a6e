"""What is written while a network trains: the log, the history and the checkpoint."""

import json
import logging
import time

import numpy as np
from mindspore.train import Callback

from ms_optim import save

LAST = "last.safetensors"


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

    def on_train_begin(self, run_context):
        """Forget what was written after the step that a training goes on from."""
        self.step = self.logged = int(self.ema.global_step.asnumpy().item())
        self.time = time.perf_counter()
        if self.rank == 0:
            lines = self.history.read_text().splitlines() if self.history.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            self.history.write_text("".join(f"{line}\n" for line in kept))

    def on_train_step_end(self, run_context):
        """Tell a step, each so many."""
        told = run_context.original_args()
        self.step += told.batch_num if told.dataset_sink_mode else 1
        if self.step - self.logged < self.recipe.log_steps and self.step % self.per_epoch:
            return
        loss = float(told.net_outputs.asnumpy())
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss} at step {self.step}.")
        rate = self.ema.get_lr()
        rate = float((rate[0] if isinstance(rate, tuple) else rate).asnumpy())
        now = time.perf_counter()
        speed = (self.step - self.logged) * self.recipe.batch_size / (now - self.time)
        self.log.info(
            "epoch %d/%d step %d/%d loss %.4f lr %.4g images/s %.0f",
            *(-(-self.step // self.per_epoch), self.recipe.epochs, self.step, self.per_epoch * self.recipe.epochs),
            *(loss, rate, speed),
        )
        self._keep({"step": self.step, "loss": loss, "lr": rate})
        self.logged, self.time = self.step, now

    def on_train_epoch_end(self, run_context):
        """Evaluate the weights and their averages, and write the checkpoint."""
        if run_context.get_stop_requested():
            return
        weights = self.evaluate()
        with self.ema.average_parameters():
            averages = self.evaluate()
        epoch = self.step // self.per_epoch
        self.log.info("epoch %d/%d accuracy %.4f average %.4f", epoch, self.recipe.epochs, weights, averages)
        self._keep({"step": self.step, "accuracy": weights, "average": averages})
        if self.rank == 0:
            save(self.ema, self.folder / LAST)
        self.time = time.perf_counter()

    def _keep(self, told):
        if self.rank == 0:
            with open(self.history, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(told) + "\n")
