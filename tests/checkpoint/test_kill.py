"""A save that ends at any write, sync or rename leaves the old file or the new one, whole."""

import ctypes
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_optim import save
from ms_optim.convert import load

FAULTS = Path(__file__).with_name("faults.c")
KILLED = 9
SUFFIXES = ("ckpt", "safetensors")


class Net(nn.Cell):
    """Several tensors, all of one number, some larger than what is buffered."""

    def __init__(self, number):
        super().__init__()
        self.weights = ms.ParameterTuple(
            [Parameter(Tensor(np.full(30_000 * i, number, np.float32)), name=f"w{i}") for i in range(1, 4)]
        )


def number_in(file):
    """The number that all tensors of a whole file are of."""
    kept = load(file)
    assert {name: value.shape for name, value in kept.items()} == {f"w{i}": (30_000 * i,) for i in range(1, 4)}
    (number,) = {number for value in kept.values() for number in np.unique(value)}
    return float(number)


def end_at_each_operation(file):
    """Save in children of which each ends one operation later, until one does not; print what each leaves."""
    faults, left = ctypes.CDLL(None), []
    faults.operations.restype = ctypes.c_char_p
    old, new = Net(1), Net(2)
    save(old, file)
    for fatal in itertools.count(1):
        child = os.fork()
        if child == 0:
            faults.arm(os.fsencode(file.parent), fatal)
            save(new, file)
            print(json.dumps([left, faults.operations().decode()]), flush=True)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != KILLED:
            return
        left.append([number_in(file), len(list(file.parent.iterdir()))])
        save(old, file)
        assert os.listdir(file.parent) == [file.name]


@pytest.mark.slow
def test_a_save_that_ends_at_any_operation(tmp_path):
    """The new file is there from when it was renamed; what is left until then goes with the next save."""
    library, files = tmp_path / "faults.so", [tmp_path / suffix / f"state.{suffix}" for suffix in SUFFIXES]
    for file in files:
        file.parent.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, FAULTS, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, __file__, *files],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )
    for file, line in zip(files, done.stdout.splitlines(), strict=True):
        left, operations = json.loads(line)
        # MindSpore writes and renames a file of its own; then that is synced and renamed, and the folder synced.
        assert re.fullmatch("w+rsrs", operations)
        assert left == [[1.0, 2]] * (len(operations) - 1) + [[2.0, 1]]
        assert number_in(file) == 2


if __name__ == "__main__":
    for given in sys.argv[1:]:
        end_at_each_operation(Path(given))
