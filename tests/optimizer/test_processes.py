"""Training in several processes: MindSpore's msrun on this machine, and torch's DistributedDataParallel beside it."""

import json

import mindspore as ms
import numpy as np
import pytest
from helpers import columns, data_parallel, zero
from helpers.processes import launched, side_by_side

pytestmark = pytest.mark.slow


def far(one, other):
    """The largest distance of two tensors of one name, relative to the largest element of the second."""
    assert one.files == other.files
    return max(abs(one[name] - other[name]).max() / abs(other[name]).max() for name in other.files)


def test_parts_of_batches_train_as_whole_ones_do(tmp_path):
    """By Model.train and in a compiled function: ranks to the bit, one process and torch but for their operators."""
    launched(tmp_path, data_parallel.__file__, "mindspore", str(tmp_path / "two"), "model", "jit")
    place = tmp_path / "place"
    torchs = [[data_parallel.__file__, "torch", tmp_path / "torch", rank, 2, place] for rank in range(2)]
    side_by_side(tmp_path, [data_parallel.__file__, "mindspore", tmp_path / "one", "alone"], *torchs)
    files = {path.name: np.load(path) for path in tmp_path.glob("*.npz")}
    assert files.keys() == {
        "one.alone.0.npz",
        *(f"two.{way}.{rank}.npz" for way in ("model", "jit") for rank in range(2)),
        *(f"torch.{rank}.npz" for rank in range(2)),
    }
    two = files.pop("two.model.0.npz")
    for name, other in files.items():
        assert far(two, other) <= (0 if "two" in name else 2e-6 if "one" in name else 1e-5), name
    assert {name for name in two.files if name.startswith("ema.")} == {
        f"ema.{name}" for name in two.files if not name.startswith("ema.")
    }


def found(folder, program, *arguments):
    """What each process has printed as JSON."""
    lines = [line for said in launched(folder, program.__file__, *arguments) for line in said.splitlines()]
    return [json.loads(line.removeprefix("FOUND ")) for line in lines if line.startswith("FOUND ")]


def test_norms_are_summed_over_processes(tmp_path):
    """Columns in two processes are trained as the whole is, and not so where each takes its own norms for those."""
    told = found(tmp_path, columns, str(int(ms.GRAPH_MODE)))
    assert sorted(each["rank"] for each in told) == [0, 1]
    for each in told:
        assert max(each["far"]["hccl_world_group"]) < 3e-7 and min(each["far"]["whole"]) > 1e-4, told


def test_state_that_trainers_shard_by_hand(tmp_path):
    """Clones of which each process has its rows take the place of the parameters, of those in an average too."""
    told = found(tmp_path, zero, str(int(ms.GRAPH_MODE)), *zero.OPTIMIZERS)
    assert [(each["rank"], each["name"]) for each in sorted(told, key=lambda each: each["rank"])] == [
        (rank, name) for rank in (0, 1) for name in zero.OPTIMIZERS
    ]
    for each in told:
        assert each["far"] < 3e-7 and each["cut"] == {"SGD": 1, "AdamW": 3, "EMA": 3}[each["name"]], each
