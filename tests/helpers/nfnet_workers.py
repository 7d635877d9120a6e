"""What each worker of msrun runs of scripts/nfnet, with a small network: `FOLDER PART`; it prints what each comes to.

A part is some trainings, one after the other, of which one may be stopped by a signal: after a step one of the workers
writes its process id into a file, and goes on when that is gone. The first begins with workers of different recipes.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

NFNET = Path(__file__).parents[2] / "scripts" / "nfnet"
# Of each training the folder, whether it goes on, and the worker and the step that are waited at.
STOPPED = (5, 30)
PARTS = {
    "first": [("whole", False, None), ("parts", False, (1, STOPPED[0]))],
    "second": [("parts", True, (0, STOPPED[1]))],
}
ASKED = "asked"


def tell(folder, log):
    """Print the bits that there are after a step."""
    bits = hashlib.sha256(b"".join(param.asnumpy().tobytes() for param in log.ema.get_parameters())).hexdigest()
    print("IS " + json.dumps({"name": folder, "rank": log.rank, "step": log.step, "bits": bits}), flush=True)


def waiting(folder, name, asked, told):
    """What is called after a step, tells what there is after some of them, and waits after one."""

    def on_train_step_end(self, run_context):
        told(self, run_context)
        if self.step in STOPPED:
            tell(name, self)
        if (self.rank, self.step) == asked:
            written = folder / f".{ASKED}"
            written.write_text(str(os.getpid()))
            os.replace(written, folder / ASKED)
            while (folder / ASKED).exists():
                time.sleep(0.01)

    return on_train_step_end


def main(folder, part):
    """Train, and print of each training its folder, the worker, where it ended and the bits that there are then."""
    sys.path.insert(0, str(NFNET))
    from src import training
    from src.callback import Log
    from src.config import Recipe
    from src.nfnet import Architecture

    recipe = Recipe.read(NFNET / "configs" / "digits.yaml", ["epochs=2", "image_size=8", "eval_image_size=8"])
    training.ARCHITECTURES[recipe.model] = Architecture((0,), (32,), 16, 16)
    rank = training.prepare(recipe)[0]
    if part == "first":
        try:
            training.train(replace(recipe, lr=0.1 * rank, log_steps=1 + rank), folder / "other")
        except ValueError as error:
            print("REFUSED " + str(error), flush=True)
    told = Log.on_train_step_end
    for name, again, asked in PARTS[part]:
        Log.on_train_step_end = waiting(folder, name, asked, told)
        _, ema = training.train(recipe, folder / name, again)
        print("ENDED " + json.dumps([name, rank, int(ema.global_step.asnumpy().item())]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
