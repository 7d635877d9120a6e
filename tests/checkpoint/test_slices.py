"""Checkpoints where MindSpore slices tensors: as many files as devices, which are cut and merged for other layouts."""

import mindspore as ms
import numpy as np
import pytest
from helpers import everything
from mindspore import Parameter, Tensor, context
from mindspore.communication import management
from mindspore.parallel._tensor import _load_tensor_by_layout
from mindspore.parallel.auto_parallel import AutoParallel

from ms_optim import SGD, _slices, checkpoint, restore, resume, save
from ms_optim._plain_data import as_json, from_json

WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)
# As MindSpore says it: the devices, which of their axes cuts which of the tensor, the shape of a part, what is of no
# account here, the group of the devices that share a part, the shape of the whole.
BY_ROWS = ([2], [0, -1], [2, 6], 0, True, "", 0)
LAYOUTS = {
    "rows": BY_ROWS,
    "columns": ([2], [-1, 0], [4, 3], 0, True, "", [4, 6]),
    "both": ([2, 2], [0, 1], [2, 3], 0, True, "", [4, 6]),
    "rows twice": ([2, 2], [0, -1], [2, 6], 0, True, "", [4, 6]),
    "columns, ZeRO": ([2, 2], [-1, 0], [4, 3], 0, True, "2-devices", [4, 6]),
    "another shape": ([2], [0, -1], [4, 3], 0, True, "", [8, 3]),
}


@pytest.fixture
def on_device(monkeypatch):
    """A function that makes this one of several devices, two of which have the pieces of a part."""

    def enter(rank, devices=2, mode="semi_auto_parallel"):
        context.reset_auto_parallel_context()
        context.set_auto_parallel_context(parallel_mode=mode, device_num=devices, global_rank=rank)
        monkeypatch.setattr(management, "get_rank", lambda group=None: rank // 2 if group else rank)
        monkeypatch.setattr(management, "get_group_size", lambda group=None: 2 if group else devices)

    yield enter
    context.reset_auto_parallel_context()


def devices_of(layout):
    """Over how many devices a layout is."""
    return int(np.prod(layout[0]))


def made(values, rank=None, layout=BY_ROWS, dtype=ms.float32):
    """An optimizer with a weight and a bias; of a rank, one that has compiled there, which cuts the weight."""
    place = None if rank is None else _slices.place_in(layout, rank)
    weight = Parameter(Tensor(values, dtype), name="weight")
    bias = Parameter(Tensor(values[0], dtype), name="bias")
    optimizer = SGD([weight, bias], momentum=0.9, fused=False)
    optimizer.momentum_buffer[0].set_data(Tensor(values * 2, dtype))
    optimizer.global_step.set_data(Tensor([7], ms.int32))
    if place:
        for param in optimizer.get_parameters():
            param.sliced = True
        for param in (weight, optimizer.momentum_buffer[0]):
            array = place.of(param.asnumpy())
            count = (layout[2][0] // place.pieces, *layout[2][1:]) if layout[6] != [8, 3] else (2, 6)
            param.set_data(Tensor(array.reshape(count), dtype), True)
        optimizer.parameter_layout_dict = dict.fromkeys(("weight", "momentum_buffer.weight"), layout)
    return optimizer


def same(one, other):
    """Whether two optimizers have the same bits."""
    for (name, value), expected in zip(everything(one).items(), everything(other).values(), strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=name)
    return True


def test_each_device_has_a_file(on_device, tmp_path):
    """No rank writes over the slices of another, and each gets its own again, to the bit."""
    file = tmp_path / "step.safetensors"
    for rank in (0, 1):
        on_device(rank)
        save(made(WHOLE, rank), file, {"epoch": 3 + rank})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.rank_0.safetensors", "step.rank_1.safetensors"]
    for rank in (0, 1):
        on_device(rank)
        for taken in (restore, resume):
            optimizer = made(WHOLE + 1, rank)
            assert taken(optimizer, file) == ([] if taken is restore else {"epoch": 3 + rank})
            assert same(optimizer, made(WHOLE, rank))


def test_a_cell_that_sets_the_mode_only_to_compile(on_device, tmp_path):
    """As `AutoParallel` does: there is no mode then, but slices, or the cell itself."""
    for rank in (0, 1):
        on_device(rank, mode="stand_alone")
        optimizer = made(WHOLE, rank)
        save(optimizer, tmp_path / "step.ckpt")
        save(AutoParallel(made(WHOLE, rank)), tmp_path / "cell.ckpt")
    names = [f"{stem}.rank_{rank}.ckpt" for stem in ("cell", "step") for rank in (0, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert restore(optimizer, tmp_path / "step.ckpt") == [] and same(optimizer, made(WHOLE, 1))
    early = made(WHOLE + 1)
    assert restore(AutoParallel(early), tmp_path / "cell.ckpt") == [] and same(early, made(WHOLE, 1))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_whole_checkpoint_is_cut(on_device, tmp_path, suffix):
    """That of one device, or merged, is for any layout; before a compilation it is taken whole."""
    save(made(WHOLE), tmp_path / f"step{suffix}")
    for layout in (BY_ROWS, LAYOUTS["both"], LAYOUTS["another shape"]):
        rank = devices_of(layout) - 1
        on_device(rank, devices_of(layout))
        optimizer = made(WHOLE + 1, rank, layout)
        assert restore(optimizer, tmp_path / f"step{suffix}") == []
        assert same(optimizer, made(WHOLE, rank, layout))
    early = made(WHOLE + 1)
    assert restore(early, tmp_path / f"step{suffix}") == []
    assert same(early, made(WHOLE))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_slice_is_where_mindspore_has_it(name, on_device, monkeypatch):
    """On each device: what it cuts itself of a whole, with the function that it compiles with."""
    layout = LAYOUTS[name]
    for rank in range(devices_of(layout)):
        on_device(rank, devices_of(layout))
        monkeypatch.setattr("mindspore.parallel._tensor.get_rank", management.get_rank)
        monkeypatch.setattr("mindspore.parallel._tensor.get_group_size", management.get_group_size)
        cut = _load_tensor_by_layout(Tensor(WHOLE), layout, rank).asnumpy()
        np.testing.assert_array_equal(_slices.place_in(layout, rank).of(WHOLE), cut.reshape(-1))


def test_one_axis_that_several_cut(on_device):
    """The first of them is the outer one."""
    on_device(0, 8)
    layout = ([2, 2, 2], [(2, 0), 1], [1, 3], 0, True, "", [4, 6])
    for rank in range(8):
        a, b, c = np.unravel_index(rank, (2, 2, 2))
        row = 2 * a + c
        np.testing.assert_array_equal(_slices.place_in(layout, rank).of(WHOLE), WHOLE[row, 3 * b : 3 * b + 3])


@pytest.mark.parametrize(
    ("name", "dtype", "suffix"),
    [
        ("rows", ms.float32, ".ckpt"),
        ("columns", ms.float16, ".safetensors"),
        ("both", ms.bfloat16, ".safetensors"),
        ("rows twice", ms.float32, ".safetensors"),
        ("columns, ZeRO", ms.bfloat16, ".ckpt"),
        ("another shape", ms.float32, ".ckpt"),
    ],
    ids=str,
)
def test_slices_are_merged_for_another_layout(name, dtype, suffix, on_device, tmp_path, monkeypatch):
    """For fewer devices or more, before a compilation, and for one device; to the bit."""
    monkeypatch.setattr("ms_optim.optimizer.ms.get_context", lambda _: "Ascend")  # bfloat16 needs no kernel there
    layout, file = LAYOUTS[name], tmp_path / f"step{suffix}"
    for rank in range(devices_of(layout)):
        on_device(rank, devices_of(layout))
        save(made(WHOLE, rank, layout, dtype), file, {"epoch": 3})
    assert len([*tmp_path.iterdir()]) == devices_of(layout)
    for other, count in [(LAYOUTS["columns, ZeRO"], 4), (BY_ROWS, 2), (None, 1), (None, 8)]:
        rank = count - 1
        on_device(rank, count, "semi_auto_parallel" if count > 1 else "stand_alone")
        optimizer = made(WHOLE + 1, other and rank, other, dtype)
        assert restore(optimizer, file) == []
        assert same(optimizer, made(WHOLE, other and rank, other, dtype))
    optimizer = made(WHOLE + 1, None, None, dtype)
    assert resume(optimizer, file) == {"epoch": 3} and same(optimizer, made(WHOLE, None, None, dtype))


def refused(optimizer, given, message):
    """That nothing is written where a checkpoint is refused."""
    before = everything(optimizer)
    with pytest.raises(ValueError, match=f"For 'restore', {message}"):
        restore(optimizer, given)
    for name, value in everything(optimizer).items():
        np.testing.assert_array_equal(value, before[name])


def test_slices_that_do_not_fit_and_have_no_others(on_device, tmp_path):
    """Those of another device, of another number of devices, of another layout, and before a compilation."""
    on_device(0)
    save(made(WHOLE, 0), tmp_path / "step.ckpt")
    other = tmp_path / "step.rank_0.ckpt"
    entries = checkpoint.read_checkpoint("restore", other)
    merge = r"; and slices of \['weight', 'momentum_buffer.weight'\] cannot be merged, because there are none of ranks "
    for rank, devices, message in [
        (1, 2, "must be of rank 1 of 2, or whole, but got those of rank 0 of 2"),
        (0, 4, "must be of rank 0 of 4, or whole, but got those of rank 0 of 2"),
    ]:
        on_device(rank, devices)
        refused(made(WHOLE + 1, rank), entries, f"'parameters' {message}")
        refused(made(WHOLE + 1, rank), other, rf"'parameters' {message}{merge}\[1\]")
    on_device(0)
    refused(made(WHOLE.reshape(6, 4)), entries, "'cell' must have been compiled .* slices of .*, which are whole")
    refused(made(WHOLE, dtype=ms.float16), entries, "'weight' must be Float16 of shape")
    by_columns = made(WHOLE + 1, 0, LAYOUTS["columns"])
    refused(by_columns, entries, r"'parameters' must be of the layout .* other slices of \['weight', 'momentum_buffer")
    on_device(1, 4)  # a file that another training has left
    save(made(WHOLE, 1, LAYOUTS["both"]), tmp_path / "step.ckpt")
    on_device(0)
    refused(by_columns, other, rf".*{merge}\[1\]")


def test_slices_before_a_compilation(on_device, tmp_path):
    """A Parameter that is whole takes its own one, and MindSpore cuts no more; another layout is refused then."""
    for layout in LAYOUTS.values():
        rank = devices_of(layout) - 1
        on_device(rank, devices_of(layout))
        compiled, early = made(WHOLE, rank, layout), made(WHOLE + 1)
        for param in (compiled.parameters[0], compiled.momentum_buffer[0]):
            param.param_info.parameter_shape = [4, 6]
        save(compiled, tmp_path / "step.ckpt")
        assert restore(early, tmp_path / "step.ckpt") == [] and same(early, compiled)
        save(early, tmp_path / "again.ckpt")
        told = [
            from_json(checkpoint.read_checkpoint("restore", path)[_slices.SLICES])["places"]
            for path in tmp_path.glob(f"*.rank_{rank}.ckpt")
        ]
        assert len(told) == 2 and told[0] == told[1]
        weight, momentum_buffer = early.parameters[0], early.momentum_buffer[0]
        assert weight.sliced and weight.init_data() is weight
        assert weight.init_data(layout, set_sliced=True) is weight and "init_data" not in vars(weight)
        whole = ([devices_of(layout)], [-1, -1], [4, 6], 0, True, "", [4, 6])
        with pytest.raises(ValueError, match=r"slice of 'momentum_buffer.weight' must be the one that is compiled"):
            momentum_buffer.init_data(whole, set_sliced=True)


def test_slices_of_different_steps(on_device, tmp_path):
    """A save that was interrupted leaves such; they are no checkpoint."""
    for rank in (0, 1):
        on_device(rank)
        optimizer = made(WHOLE, rank)
        optimizer.global_step.set_data(Tensor([7 + rank], ms.int32), True)
        save(optimizer, tmp_path / "step.ckpt")
    message = "the files beside .* must be of one step, but '.*rank_0.ckpt' is not"
    refused(made(WHOLE + 1, 1, LAYOUTS["columns"]), tmp_path / "step.ckpt", message)


def test_slices_whose_place_is_not_known(on_device, tmp_path, monkeypatch):
    """In files of earlier versions, and where it is not the cell that has compiled: each device takes its own."""
    for rank in (0, 1):
        on_device(rank)
        optimizer = made(WHOLE, rank)
        optimizer.parameter_layout_dict = {}
        for param in (optimizer.parameters[0], optimizer.momentum_buffer[0]):
            param.param_info.parameter_shape = [4, 6]
        save(optimizer, tmp_path / "now.ckpt")
        with monkeypatch.context() as patch:
            patch.setattr(_slices, "as_json", lambda told: as_json({key: told[key] for key in told if key != "places"}))
            save(optimizer, tmp_path / "earlier.ckpt")
    for name in ("now.ckpt", "earlier.ckpt"):
        optimizer = made(WHOLE + 1, 1)
        assert restore(optimizer, tmp_path / name) == [] and same(optimizer, made(WHOLE, 1))
        message = r"'cell' must have been compiled .* slices of \['.* cannot be merged, because where they are was not"
        refused(made(WHOLE + 1), tmp_path / name, message)
