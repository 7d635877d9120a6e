"""Training in several processes: MindSpore's msrun on this machine, and torch's DistributedDataParallel beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import data_parallel, shares, stopping, workers, zero
from mindspore import Tensor, nn

from ms_optim import SGD, resume
from parity.cases import networks
from parity.sides.mindspore import set_mode

# Which imports nothing of here.
IN_PARTS = Path(workers.__file__).with_name("in_parts.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory, forks):
    """Where two workers have written, and what each has printed."""
    folder = tmp_path_factory.mktemp("two")
    return folder, forks.launched(folder, workers.__file__, str(folder))


def far(one, other):
    """The largest distance of two tensors of one name, relative to the largest element of the second."""
    assert one.files == other.files
    return max(abs(one[name] - other[name]).max() / abs(other[name]).max() for name in other.files)


def test_parts_of_batches_train_as_whole_ones_do(two, forks, tmp_path, monkeypatch):
    """By Model.train and in a compiled function: ranks to the bit, one process and torch but for their operators."""
    monkeypatch.setattr(networks, "BLOCKS", networks.BLOCKS[:1])
    set_mode("graph")
    data_parallel.in_mindspore(tmp_path / "one", 0, 1, "model")
    forks.run(tmp_path, data_parallel.__file__, tmp_path / "torch", 2, tmp_path / "place")
    files = {path.name: np.load(path) for folder in (two[0], tmp_path) for path in folder.glob("*.npz")}
    assert files.keys() == {
        "one.model.0.npz",
        *(f"two.{way}.{rank}.npz" for way in ("model", "jit") for rank in range(2)),
        *(f"torch.{rank}.npz" for rank in range(2)),
    }
    first = files.pop("two.model.0.npz")
    # README says so.
    for name, other in files.items():
        assert far(first, other) <= (0 if "two" in name else 2e-6 if "one" in name else 1e-5), name
    assert {name for name in first.files if name.startswith("ema.")} == {
        f"ema.{name}" for name in first.files if not name.startswith("ema.")
    }


def found(said, what):
    """What each process has printed of something, as JSON."""
    lines = [line for text in said for line in text.splitlines()]
    return [json.loads(line.removeprefix(what)) for line in lines if line.startswith(what)]


def test_norms_are_summed_over_processes(forks, tmp_path):
    """Columns in several processes are trained as the whole is, and not so where each takes its own norms for those."""
    told = found(forks.launched(tmp_path, workers.__file__, str(tmp_path), "COLUMNS", count=4), "COLUMNS ")
    assert sorted(each["rank"] for each in told) == [0, 1, 2, 3]
    for each in told:
        assert max(each["far"]["hccl_world_group"]) < 3e-7 and min(each["far"]["whole"]) > 1e-4, told


def test_rows_are_gathered_from_processes(two):
    """Matrices in two processes are trained as the whole is, to the bit; not so where each takes its rows for all."""
    told = found(two[1], "ROWS ")
    assert sorted(each["rank"] for each in told) == [0, 1]
    for each in told:
        assert max(each["far"]["hccl_world_group"]) == 0 and min(each["far"]["whole"]) > 1e-2, told


def test_rows_are_trained_as_torchs_are(forks, tmp_path):
    """What its DTensors of rows become is as near to the whole of here, which parts are to the bit, as to its own."""
    make, _, shapes = shares.SHARED["ROWS"]
    weights, gradients = shares.drawn(shapes)
    given = {f"weight{i}": weight for i, weight in enumerate(weights)}
    given |= {f"gradients{i}": np.stack(each) for i, each in enumerate(zip(*gradients))}
    np.savez(tmp_path / "given.npz", **given)
    forks.run(tmp_path, IN_PARTS, *(tmp_path / name for name in ("place", "given.npz", "torch.npz")))
    params = shares.parameters(np.asarray, weights)
    optimizer = make(params, None)
    for step in gradients:
        optimizer(tuple(Tensor(grad) for grad in step))
    with np.load(tmp_path / "torch.npz") as file:
        parts, wholes = ([file[f"{kind}{i}"] for i in range(len(shapes))] for kind in ("part", "whole"))
    ours = [param.asnumpy() for param in params]
    allowed = shares.told(parts, wholes)  # in bfloat16, by its definition
    assert all(far <= 1.5 * most < 1e-2 for far, most in zip(shares.told(ours, parts), allowed)), allowed
    assert max(shares.told(ours, wholes)) < 1e-3


def test_what_are_no_rows_gives_no_number(two):
    """Copies in two processes are not taken for twice as many rows."""
    told = found(two[1], "COPIES ")
    assert sorted(each["rank"] for each in told) == [0, 1] and all(each["nan"] for each in told), told


def test_means_are_summed_over_processes(two):
    """Slices in two processes are trained as the whole is, also where one has more, or both have all of a tensor."""
    told = found(two[1], "SLICES ")
    assert sorted(each["rank"] for each in told) == [0, 1]
    for each in told:
        far = each["far"]
        assert max(far["hccl_world_group"]) <= 3 * max(far["float32"]) < 3e-6 < 1e-3 < min(far["whole"]), told


def test_state_of_slices_that_stays_whole(two):
    """Where MindSpore slices tensors and not what has another shape, rows are gathered, and each takes its own."""
    told = found(two[1], "SLICED ")
    assert sorted(each["rank"] for each in told) == [0, 1]
    assert all(len(each["far"]) == 9 and max(each["far"]) < 3e-7 for each in told), told


def test_state_that_trainers_shard_by_hand(two):
    """Clones of which each process has its rows take the place of the parameters, of those in an average too."""
    told = found(two[1], "ZERO ")
    assert [(each["rank"], each["name"]) for each in sorted(told, key=lambda each: each["rank"])] == [
        (rank, name) for rank in (0, 1) for name in zero.OPTIMIZERS
    ]
    for each in told:
        assert each["far"] < 3e-7 and each["cut"] == {"SGD": 1, "AdamW": 3, "EMA": 3}[each["name"]], each


def test_all_stop_where_one_is_asked_to(two):
    """After the same step, which is that of the file."""
    told = found(two[1], "STOPPED ")
    ends = {"step": (2, {"epoch": 1, "step": 2}), "epoch": (3, {"epoch": 1, "step": 3})}
    ends["end"] = stopping.EPOCHS * stopping.BATCHES, {"epoch": 2, "step": 6}
    for name, (steps, also) in ends.items():
        assert [(each["rank"], each["steps"], each["stopped"]) for each in told if each["name"] == name] == [
            (rank, steps, True) for rank in (0, 1)
        ]
        optimizer = SGD(nn.Dense(2, 1).trainable_params(), lr=0.1)
        assert resume(optimizer, two[0] / f"{name}.safetensors") == also
        assert optimizer.step_counts.asnumpy().tolist() == [steps, steps]
