"""Runs of one's own: recorded into files in one framework, and replayed where the other is.

A run is a folder. `run.json` says of what it is:

- "format": "parity run 1";
- "optimizer": the name of the class, as "AdamW";
- "groups": for each group "params", the names of its parameters, and its arguments as they were at first;
- "dtypes": of each parameter;
- "average", if there is an EMA around the optimizer: its arguments. The averages are state, "ema";
- "names", of a run of MindSpore: what it calls the parameters that the run calls as torch does;
- "after", if steps were skipped after the last that is there: "skipped", how many;
- "every", if not 1: from how many steps one is there, as 000000, 000010 and so on;
- "sample", of one that has not all elements of large tensors: "elements", how many are there of each in a vector,
  "seed", and "shapes" of the parameters. They are `numpy.random.default_rng([seed, zlib.crc32(NAME)]).choice(size,
  elements, replace=False)`, in order, of the tensor in C order, with the name of its parameter;
- and, for who reads it, "versions", "command", "threads", "seed" and "device".

`initial.safetensors` has what there was before the first step, and `000000.safetensors` and so on what each step left
behind; a file that is there is whole, so that a run that was killed has the steps before. Of a tensor the key is

- "parameter/NAME", and "state/SLOT/NAME" with torch's name of the slot: after the step;
- "gradient/NAME": as the rule saw it, without a loss scale; none where it was absent; of a sparse one the values, and
  "rows/NAME";
- "before/NAME": a parameter that was changed since the step before, as it was when the step began;
- "double/parameter/NAME" and "double/state/SLOT/NAME": the same after a step of the framework's own optimizer in
  float64, on the same gradients and numbers from the first step on.

A bfloat16 tensor has its bits as uint16, and its key is in the list "bfloat16" of the file. The metadata of a step has,
each as JSON, "groups", the arguments of each group as the step read them, "bfloat16", "loss" if it was told, and
"notes" if there are any, which a replay does not read. Notes are what who trains has told, by name, and

- "loss_scale": by what the loss was multiplied; none is 1;
- "skipped": how many steps were skipped since the one before that is there, as by a scaler;
- "clip_grad_norm": each time gradients were clipped before the step, in order, "max_norm", the "norm" that they had,
  "norm_type" if that is known and not 2, and "params" if it was not all of those that had a gradient;
- "clip_grad_value": the same with "clip_value" and the "largest" magnitude that they had.

`np.savez` files of the same keys are read too, with the metadata as arrays of one string under "metadata/groups" and so
on; and so are folders of `np.save` files, 000000/parameter/NAME.npy and so on, with 000000/metadata.json. `Writer`
writes all of it from arrays of NumPy and knows no framework.
"""

from parity.runs.files import Run, Step, Writer
from parity.runs.reading import read

__all__ = ["Run", "Step", "Writer", "read"]
