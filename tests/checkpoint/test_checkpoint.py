"""Checkpoints: whole whenever the process is killed, and continued from bit for bit."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from threading import Timer

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, log, nn
from mindspore.train.checkpoint_pb2 import Checkpoint

import ms_optim
from ms_optim import EMA, Adam, AdamW, restore, save
from ms_optim._files import replacing
from ms_optim.checkpoint import _tensors
from ms_optim.convert import load


@pytest.fixture(params=["ckpt", "safetensors"])
def suffix(request):
    """How a file ends."""
    return request.param


def make():
    """An optimizer in an average, whose parameters are not what they start as elsewhere."""
    params = [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in (("a", (2, 3)), ("b", ()))]
    return EMA(AdamW(params, lr=0.1, amsgrad=True), decay=0.5)


def step(optimizer, size=1.0):
    """Take one."""
    optimizer(tuple(Tensor(np.full(param.shape, size, np.float32)) for param in optimizer.parameters))


@pytest.mark.parametrize("compiled", [False, True])
def test_goes_on_bit_for_bit(tmp_path, suffix, compiled, mode):
    """From a file, in a freshly built optimizer and in one that has compiled."""
    first, second = make(), make()
    step(first)
    first.param_groups[0]["lr"] = 0.3
    save(first, tmp_path / f"state.{suffix}")
    step(first, -0.3)
    if compiled:
        step(second, 7.0)
    assert restore(second, tmp_path / f"state.{suffix}") == []
    step(second, -0.3)
    for one, other in zip(first.get_parameters(), second.get_parameters(), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy(), err_msg=one.name)
    assert os.listdir(tmp_path) == [f"state.{suffix}"]


def test_what_another_process_is_writing_stays(tmp_path):
    """Until it ends, however it does; what nobody is writing goes, and nothing else."""
    file = tmp_path / "state.ckpt"
    (tmp_path / ".state.ckpt-mine").mkdir()
    (tmp_path / ".state.ckpt-saving-dead").mkdir()
    with replacing(file) as first, replacing(file) as second:
        save(nn.Dense(2, 2), file)
        assert sorted(os.listdir(tmp_path)) == sorted(
            [".state.ckpt-mine", first.parent.name, second.parent.name, "state.ckpt"]
        )
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert file.read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == [".state.ckpt-mine", "state.ckpt"]


def test_a_folder_that_goes_before_it_is_locked(tmp_path, monkeypatch):
    """Another process has seen it, and holds its lock until it has removed it."""
    flock, seen = fcntl.flock, []

    def late(number, how):
        if not seen:
            seen.extend(tmp_path.iterdir())
            other = os.open(seen[0], os.O_RDONLY)
            flock(other, fcntl.LOCK_EX)
            Timer(0.2, lambda: (seen[0].rmdir(), os.close(other))).start()
        flock(number, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with replacing(tmp_path / "state.ckpt") as written:
        time.sleep(0.4)
        written.write_bytes(b"whole")
    assert os.listdir(tmp_path) == ["state.ckpt"] and not seen[0].exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Nothing is removed there, because nobody knows whether it is in use."""

    def none(number, how):
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".state.ckpt-saving-used").mkdir()
    save(nn.Dense(2, 2), tmp_path / "state.ckpt")
    assert sorted(os.listdir(tmp_path)) == [".state.ckpt-saving-used", "state.ckpt"]


WITHOUT_FCNTL = """
import os
import sys
from mindspore import nn
sys.modules["fcntl"] = None  # MindSpore needs it only where it is
import ms_optim
os.mkdir(sys.argv[1] + "/.net.ckpt-saving-used")
for suffix in ("ckpt", "safetensors"):
    for bias in ("zeros", "ones"):
        saved, restored = nn.Dense(2, 3, bias_init=bias), nn.Dense(2, 3)
        ms_optim.save(saved, f"{sys.argv[1]}/net.{suffix}")
        ms_optim.restore(restored, f"{sys.argv[1]}/net.{suffix}")
        assert (restored.bias.asnumpy() == (bias == "ones")).all()
"""


def test_a_system_without_fcntl(tmp_path):
    """As Windows: what is imported and saved there needs no locks, and removes nothing without them."""
    subprocess.run([sys.executable, "-c", WITHOUT_FCNTL, tmp_path], check=True)
    assert sorted(os.listdir(tmp_path)) == [".net.ckpt-saving-used", "net.ckpt", "net.safetensors"]


def test_a_link_stays_one(tmp_path):
    """The file that it names is written, under whatever name."""
    (tmp_path / "there").mkdir()
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "there" / "step-100")
    for size in (2, 3):
        save(nn.Dense(size, size), tmp_path / "last.ckpt")
        assert (tmp_path / "last.ckpt").is_symlink() and os.listdir(tmp_path / "there") == ["step-100"]
        assert restore(nn.Dense(size, size), tmp_path / "last.ckpt") == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensor: setattr(tensor, "tensor_content", tensor.tensor_content[4:]),
        lambda tensor: setattr(tensor, "tensor_content", tensor.tensor_content * 1000),
        lambda tensor: setattr(tensor, "tensor_type", "Float64"),
        lambda tensor: tensor.dims.__setitem__(slice(None), [-3, -2]),
        lambda tensor: tensor.dims.__setitem__(slice(None), [0]),
        lambda tensor: tensor.dims.append(2**40),
    ],
)
@pytest.mark.parametrize("read", [load, lambda file: restore(nn.Dense(2, 3), file)])
def test_a_tensor_of_another_length(spoil, read, tmp_path):
    """Than its shape and dtype say. MindSpore would fill it with what is there, or write beyond its end."""
    save(nn.Dense(2, 3), tmp_path / "net.ckpt")
    records = Checkpoint.FromString((tmp_path / "net.ckpt").read_bytes())
    spoil(records.value[0].tensor)
    (tmp_path / "bad.ckpt").write_bytes(records.SerializeToString())
    with pytest.raises(
        ValueError,
        match=r"^For '(load|restore)', '.*bad.ckpt' must be a whole checkpoint, but got .* "
        r"bytes for 'weight'",
    ):
        read(tmp_path / "bad.ckpt")


def test_a_tensor_that_is_none():
    """Its content would be that of the next one."""
    tensor = {"dims": [2], "tensor_type": "Float32", "tensor_content": bytes(8)}
    records = Checkpoint(
        value=[{"tag": "a", "tensor": tensor}, {"tag": "a", "maptensor": {}}, {"tag": "b", "tensor": tensor}]
    )
    with pytest.raises(ValueError, match="8 bytes for 'a'"):
        _tensors(records.SerializeToString())


def test_what_mindspore_writes_has_its_lengths(tmp_path, monkeypatch):
    """Scalars, every dtype, text, large tensors in parts, and a checksum."""
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)
    values = {str(dtype): Tensor(np.ones((), bool), dtype) for dtype in (ms.bool_, ms.int8, ms.uint64, ms.float16)}
    values |= {"half": Tensor(np.ones((2, 3)), ms.bfloat16), "large": Tensor(np.ones(3000, np.float32))}
    ms.save_checkpoint(
        [{"name": name, "data": value} for name, value in values.items()],
        str(tmp_path / "a.ckpt"),
        append_dict={"epoch": 3, "note": "hello", "last": True},
        crc_check=True,
    )
    found = load(tmp_path / "a.ckpt")
    assert found.keys() == values.keys() | {"epoch", "note", "last"} and found["note"] == "hello"
    assert found["large"].shape == (3000,)


def test_restores_no_damaged_file(suffix, tmp_path):
    """The error names it; and a missing one is missing."""
    save(nn.Dense(2, 3), tmp_path / f"net.{suffix}")
    content = (tmp_path / f"net.{suffix}").read_bytes()
    for length in (0, 1, 7, len(content) // 3, len(content) - 1):
        (tmp_path / f"{length}.{suffix}").write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"^For 'restore', '.*{length}.{suffix}' must be a whole checkpoint, but"):
            restore(nn.Dense(2, 3), tmp_path / f"{length}.{suffix}")
    with pytest.raises(FileNotFoundError):
        restore(nn.Dense(2, 3), tmp_path / f"none.{suffix}")


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    """Also no file that is half written."""
    optimizer = make()
    save(optimizer, tmp_path / "state.ckpt")
    before = (tmp_path / "state.ckpt").read_bytes()

    def fail(what, file, **kwargs):
        with open(file, "wb") as stream:
            stream.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(ms, "save_checkpoint", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save(optimizer, tmp_path / "state.ckpt")
    assert (tmp_path / "state.ckpt").read_bytes() == before
    assert os.listdir(tmp_path) == ["state.ckpt"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({}, "state.ckpt"), TypeError, "For 'save', 'cell' must be a Cell, but got dict"),
        ((nn.Dense(2, 2), "state.pt"), ValueError, r"'file' must end in one of \('.ckpt', '.safetensors'\), but got "),
        ((nn.Dense(2, 2), "state"), ValueError, "'file' must end in one of"),
        ((nn.Dense(2, 2), 5), TypeError, "For 'save', 'file' must be a str or a PathLike, but got 5"),
    ],
)
def test_save_refuses(arguments, error, message):
    """What it cannot save, and what is no checkpoint."""
    with pytest.raises(error, match=message):
        save(*arguments)


def test_restore_refuses_another_file(tmp_path):
    """By what is in it."""
    (tmp_path / "state.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="it is none of torch, MindSpore or safetensors: it begins with b'no check'"):
        ms_optim.restore(nn.Dense(2, 2), tmp_path / "state.ckpt")


def test_restores_bfloat16(tmp_path):
    """For which MindSpore's assign has no kernel on CPU."""
    first, second = (nn.Dense(2, 3, dtype=ms.bfloat16, weight_init=kind) for kind in ("normal", "zeros"))
    save(first, tmp_path / "net.ckpt")
    assert restore(second, tmp_path / "net.ckpt") == []
    np.testing.assert_array_equal(second.weight.float().asnumpy(), first.weight.float().asnumpy())


def test_the_averages_are_not_saved_as_the_weights(tmp_path, suffix, mode):
    """Of an EMA inside `average_parameters`, in whatever cell it is; those of the network alone are."""
    net = nn.Dense(2, 3)
    ema = EMA(AdamW(net.trainable_params(), lr=0.1), decay=0.5)
    cells = ema, nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), ema)
    file = tmp_path / f"state.{suffix}"
    save(ema, file)
    for param in net.trainable_params():
        param.set_data(param + 1)
    with ema.average_parameters():
        for cell in cells:
            for refused in (save, restore):
                message = f"^For '{refused.__name__}', 'cell' must not hold an optimizer or an EMA inside"
                with pytest.raises(RuntimeError, match=message):
                    refused(cell, file)
        with pytest.raises(RuntimeError, match=r"^For 'save', 'also' must not hold an optimizer or an EMA inside"):
            save(net, file, {"epoch": 3, "ema": ema})
        save(net, tmp_path / f"net.{suffix}")
    averages = ms.load_checkpoint(str(tmp_path / f"net.{suffix}"), format=suffix)
    for average, param in zip(ema.averages, ema.tracked, strict=True):
        np.testing.assert_array_equal(averages[param.name].asnumpy(), average.asnumpy())
    for cell in cells:
        save(cell, file)
        restore(cell, file)


class Packed(nn.Cell):
    """Four bits for each number."""

    def __init__(self, value):
        super().__init__()
        packed = Tensor(np.full(4, value, np.int8), ms.qint4x2)
        self.packed = Parameter(packed, name="packed", requires_grad=False)


def test_four_bits(tmp_path, suffix):
    """No operator copies them, and safetensors have no such kind."""
    save(Packed(3), tmp_path / f"packed.{suffix}")
    net = Packed(1)
    assert restore(net, tmp_path / f"packed.{suffix}") == []
    assert net.packed.dtype == ms.qint4x2 and (net.packed.asnumpy() == 3).all()


@pytest.mark.parametrize("same", [False, True])
def test_a_file_of_mindspores_that_changes_arguments(same, tmp_path, monkeypatch):
    """Nothing in it says that it is AdamW's, whose decay Adam would take without a word."""
    told = []
    monkeypatch.setattr(log, "warning", told.append)
    optimizers = [cls(nn.Dense(2, 3).trainable_params(), weight_decay=0.3) for cls in (AdamW, Adam)]
    if not same:
        optimizers[1].param_groups[0]["weight_decay"] = 0.0
    ms.save_checkpoint(optimizers[0], str(tmp_path / "adamw.ckpt"))
    restore(optimizers[1], tmp_path / "adamw.ckpt")
    said = "Adam gets of it 'weight_decay' [0.3], which was [0.0]."
    assert [said in one for one in told] == ([] if same else [True])


class Grown(nn.Cell):
    """A cell that has had one Parameter, of two numbers, and has two now."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (Parameter(Tensor([0.0], ms.float32), name=name) for name in ("first", "second"))
        self.seen = []

    def legacy_parameters(self, saved):
        """Both of what was one."""
        self.seen.append(sorted(saved))
        prefix = self.first.name.removesuffix("first")
        both = saved[f"{prefix}both"]
        return {self.first.name: both[:1], self.second.name: both[1:]}

    def restored(self):
        """Note what there is then."""
        self.seen.append([self.first.asnumpy().item(), self.second.asnumpy().item()])


def test_older_files_restore(tmp_path, suffix):
    """A part of a cell says what its new Parameters are, only if the file lacks some, and hears when it is done."""
    cell = nn.SequentialCell(Grown(), nn.Dense(2, 3), Grown())
    saved = {param.name: param for param in cell[1].get_parameters()}
    saved |= {f"{i}.both": Tensor([i + 1.0, i + 2.0], ms.float32) for i in (0, 2)}
    file = tmp_path / f"cell.{suffix}"
    ms.save_checkpoint([{"name": name, "data": data} for name, data in saved.items()], str(file), format=suffix)
    assert sorted(restore(cell, file)) == ["0.both", "2.both"]
    assert [cell[0].seen, cell[2].seen] == [[sorted(saved), [1.0, 2.0]], [sorted(saved), [3.0, 4.0]]]
    save(cell, file)
    assert restore(cell, file) == []
    assert cell[0].seen[2:] == [[1.0, 2.0]]
    del saved["1.bias"]
    with pytest.raises(ValueError, match=r"lacks \['1.bias'\]"):
        restore(cell, saved)
    assert cell[0].seen[3:] == [sorted(saved)]


class Namesake(nn.Dense):
    """A cell with methods of its own that are called as some of an optimizer."""

    def follow_requires_grad(self, layer):
        """Something else."""
        raise AssertionError

    def numbers_given(self):
        """Something else."""
        raise AssertionError


def test_methods_of_optimizers_are_those_of_others_too(tmp_path, suffix):
    """No other cell is asked for them, by files of MindSpore neither."""
    cell, file = Namesake(2, 3), tmp_path / f"cell.{suffix}"
    save(cell, file)
    assert restore(cell, file) == []
    assert restore(cell, dict(cell.parameters_and_names())) == []


def test_the_state_of_another_class(tmp_path, suffix):
    """Adam would take over the weight decay of AdamW; what says so is in the way of nothing else."""
    params = nn.Dense(2, 3).trainable_params()
    adamw, adam = AdamW(params, weight_decay=0.1), Adam(params)
    file = tmp_path / f"state.{suffix}"
    inside = AdamW(params, weight_decay=0.1)
    for saved in (adamw, EMA(inside), nn.CellList([inside, EMA(inside)], auto_prefix=False)):
        save(saved, file)
        with pytest.raises(ValueError, match=r"the state of 'global_step' must be of Adam, .* that of AdamW was saved"):
            restore(adam, file)
        assert adam.param_groups[0]["weight_decay"] == 0
    save(adamw, file)
    found = ms.load_checkpoint(str(file), format=suffix)
    assert restore(adamw, file) == restore(adamw, found) == []
    assert {*restore(nn.Dense(2, 3), file)} == adamw.parameters_dict().keys() - {"weight", "bias"}
    kept, left = ms.load_param_into_net(adamw, found)
    assert (kept, sorted(left)) == ([], ["ms_optim.checksums", "ms_optim.writers"])
    writers = found.pop("ms_optim.writers")
    assert bytes(writers.asnumpy()) == b'{"global_step": "AdamW"}'
    assert restore(adam, found) == []
    assert adam.param_groups[0]["weight_decay"] == 0.1
    for damaged in (Tensor([1, 2]), "text", Tensor(np.frombuffer(b"3", np.uint8))):
        with pytest.raises(ValueError, match=r"^For 'restore', '.*writers' must be an entry that 'save' wrote"):
            restore(adam, found | {"ms_optim.writers": damaged})
    save(nn.Dense(2, 3), file)
    assert ms.load_checkpoint(str(file), format=suffix).keys() == {"weight", "bias", "ms_optim.checksums"}


FULL = """
import resource, signal, sys
from mindspore import nn
from ms_optim import save

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for file in sys.argv[1:]:
    try:
        save(nn.Dense(500, 500), file)
    except OSError as error:
        print(type(error).__name__, error.errno, error.filename)
"""


def test_a_disk_that_is_full_is_an_oserror(tmp_path):
    """That names the file; what was there before is there."""
    files = [tmp_path / f"a{suffix}" for suffix in (".ckpt", ".safetensors")]
    for file in files:
        file.write_text("before")
    ran = subprocess.run([sys.executable, "-c", FULL, *files], check=True, stdout=subprocess.PIPE, text=True)
    assert ran.stdout.splitlines() == [f"OSError {errno.EFBIG} {file}" for file in files]
    assert {file.read_text() for file in files} == {"before"}
    assert sorted(os.listdir(tmp_path)) == [file.name for file in files]


def test_damage_is_noticed(suffix, tmp_path):
    """A single bit anywhere in the numbers, or in anything else that matters; of what is refused nothing is written."""
    optimizer = Adam(nn.Dense(4, 5).trainable_params())
    optimizer(tuple(Tensor(np.ones(param.shape, np.float32)) for param in optimizer.parameters))
    file = tmp_path / f"a.{suffix}"
    save(optimizer, file)
    whole, before = file.read_bytes(), {param.name: param.asnumpy().copy() for param in optimizer.get_parameters()}
    numbers = whole.index(before["weight"].tobytes())
    rng, refused = np.random.default_rng(0), 0
    places = [*range(numbers, numbers + before["weight"].nbytes), *rng.integers(0, len(whole), 150)]
    for i, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            restore(optimizer, file)
        except ValueError as error:
            assert "restore" in str(error) and (
                i >= before["weight"].nbytes or "other bytes for 'weight'" in str(error)
            )
            refused += 1
        for param in optimizer.get_parameters():
            np.testing.assert_array_equal(param.asnumpy(), before[param.name], err_msg=f"{place} of {len(whole)}")
    assert refused > before["weight"].nbytes + 100


def test_checksums_under_another_name_are_damage(suffix, tmp_path):
    """As one flipped bit makes of it: nothing would be compared."""
    file = tmp_path / f"a.{suffix}"
    save(nn.Dense(4, 5), file)
    file.write_bytes(file.read_bytes().replace(b"ms_optim.checksums", b"ms_optim.bhecksums"))
    with pytest.raises(ValueError, match=r"must be a whole checkpoint, .* but what it holds as 'ms_optim.bhecksums'"):
        restore(nn.Dense(4, 5), file)


@pytest.mark.parametrize("byte", b"[{")
def test_bytes_are_no_checksums(byte, suffix, tmp_path):
    """Though they may begin as these do."""
    cell = nn.Cell()
    cell.q = Parameter(Tensor(np.full(200_000, byte, np.uint8)), name="q", requires_grad=False)
    file = str(tmp_path / f"a.{suffix}")
    ms.save_checkpoint(cell, file, format=suffix)
    assert restore(cell, file) == []


def test_values_that_are_changed_on_purpose_restore(suffix, tmp_path):
    """A mapping is what the caller says, though a file has checksums; and a file without them restores."""
    net, file = nn.Dense(2, 3), str(tmp_path / f"a.{suffix}")
    save(net, file)
    found = ms.load_checkpoint(file, format=suffix)
    found["bias"] = Tensor(np.full(3, 7, np.float32))
    assert restore(net, found) == [] and net.bias.asnumpy().tolist() == [7, 7, 7]
    ms.save_checkpoint(net, file, format=suffix)
    assert restore(net, file) == []
