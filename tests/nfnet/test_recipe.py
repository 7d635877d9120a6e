"""The recipe of scripts/nfnet: what is read, what is trained, resumed, evaluated and exported by it."""

import gzip
import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from helpers.processes import ROOT
from mindspore import Tensor, nn
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from src import dataset, training
from src.callback import LAST, Log
from src.config import Recipe
from src.nfnet import Architecture

NFNET = ROOT / "scripts" / "nfnet"
DIGITS = Recipe.read(NFNET / "configs" / "digits.yaml")
SHORT = replace(DIGITS, epochs=2, image_size=8, eval_image_size=8)
# All that is drawn at random for an image.
DRAWN = replace(DIGITS, in_channels=3, flip=True, randaugment_layers=2, mixup=0.2, cutmix=1.0)


@pytest.fixture
def quiet():
    """What a training sets for its process is what it was before."""
    before = ms.get_context("mode")
    yield
    ms.set_context(mode=before)


def test_each_recipe_is_read():
    """That of ImageNet says what the paper says, and its values are those that a recipe has without any."""
    read = {path.stem: Recipe.read(path) for path in sorted((NFNET / "configs").glob("*.yaml"))}
    assert read["digits"].model == "nfnet_small"
    paper = read["nfnet_f0"]
    assert paper == Recipe(data_path=paper.data_path)
    assert (paper.lr, paper.batch_size, paper.epochs, paper.warmup_epochs) == (0.1 * 4096 / 256, 4096, 360, 5)
    assert (paper.momentum, paper.nesterov, paper.weight_decay, paper.clipping) == (0.9, True, 2e-5, 0.01)
    assert (paper.ema_decay, paper.label_smoothing, paper.mixup, paper.dropout) == (0.99999, 0.1, 0.2, 0.2)


@pytest.mark.parametrize(
    "text, changes, error, words",
    [
        ("- lr", (), TypeError, "must hold a mapping, but got list"),
        ("lr: 1", ("lr",), ValueError, "must be of the form name=value, but got 'lr'"),
        ("learning_rate: 1", (), ValueError, r"the names must be some of .*'lr'.*, but got \['learning_rate'\]"),
        ("lr: fast", (), TypeError, r"'lr' must be a number in \[0, inf\), but got 'fast'"),
        ("lr: 1e400", (), ValueError, r"'lr' must be in \[0, inf\), but got inf"),
        ("epochs: 15e-1", (), TypeError, r"'epochs' must be an int in \[1, inf\), but got 1.5"),
        ("dropout: 1", (), ValueError, r"'dropout' must be in \[0, 1\), but got 1"),
        ("model: nfnet_f9", (), ValueError, "'model' must be one of .*nfnet_f0.*, but got 'nfnet_f9'"),
        ("ema_schedule: swa", (), ValueError, "'ema_schedule' must be one of .*torch_ema.*, but got 'swa'"),
        ("exempt: head", (), TypeError, "'exempt' must be a list of patterns, but got 'head'"),
        ("exempt: 3", (), TypeError, "'exempt' must be a list of patterns, but got 3"),
        ("randaugment_magnitude: 31", (), ValueError, "'randaugment_magnitude' must be one of .* but got 31"),
        ("data_path: 3", (), TypeError, "'data_path' must be text, but got 3"),
        ("in_channels: 1", (), ValueError, "'in_channels' must be 3 where 'dataset' is 'folder', but got 1"),
        (
            "in_channels: 1",
            ("dataset=idx",),
            ValueError,
            "'randaugment_layers' must be 0 where 'in_channels' is 1, .* but got 4",
        ),
        ("epochs: 5", (), ValueError, "'warmup_epochs' must be less than the 'epochs' 5, but got 5"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(text, changes, error, words, tmp_path):
    """With what is allowed."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(error, match=words):
        Recipe.read(file, changes)


@pytest.mark.parametrize(
    ("name", "said", "value"),
    [
        ("weight_decay", "2e-5", 2e-5),
        ("weight_decay", "2e-05", 2e-5),
        ("lr", "1E1", 10.0),
        ("lr", "+.5e+1", 5.0),
        ("loss_scale", "1e5", 1e5),
        ("epochs", "1e2", 100),
        ("data_path", "1e5", "1e5"),
    ],
)
def test_numbers_have_exponents(name, said, value, tmp_path):
    """In the file and among what is otherwise; PyYAML takes them for text, which a path is."""
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{name}: {said}")
    read = [getattr(Recipe.read(file), name)]
    file.write_text("{}")
    read.append(getattr(Recipe.read(file, [f"{name}={said}"]), name))
    assert read == [value] * 2 and {*map(type, read)} == {type(value)}


def test_a_batch_is_a_function_of_its_step():
    """Whoever asks for it, and in which order; two workers have what one has."""
    pairs = dataset.read(DRAWN)
    whole = dataset.Batches(DRAWN, *pairs[0])
    again, parts = dataset.Batches(DRAWN, *pairs[0]), [dataset.Batches(DRAWN, *pairs[0], rank, 2) for rank in (0, 1)]
    steps = [30, 0, 21]
    batches = {step: whole[step] for step in sorted(steps)}
    for step in steps:
        for one, other in zip(batches[step], again[step]):
            assert np.array_equal(one, other)
        for one, several in zip(batches[step], zip(*(part[step] for part in parts))):
            assert np.array_equal(one, np.concatenate(several))
    image, target = batches[0]
    assert image.shape == (64, 3, 16, 16) and image.dtype == np.float32
    assert np.allclose(target.sum(1), 1, atol=1e-6) and (target < 0.99).any(1).mean() > 0.5
    assert not np.array_equal(image, batches[21][0])
    other = dataset.Batches(replace(DRAWN, seed=1), *pairs[0])[0]
    assert not np.array_equal(image, other[0]) and not np.array_equal(target, other[1])


def counted(arrays):
    """How often each of several images is there."""
    return Counter(image.tobytes() for image in arrays)


def yielding(image):
    """Let the other threads run."""
    time.sleep(0.0001)
    return image


def test_batches_that_are_made_at_once(monkeypatch):
    """Threads draw from one seed of the process, and each batch is what it is when it is made alone."""
    batches = dataset.Batches(DRAWN, *dataset.read(DRAWN)[0])
    # another thread comes between the seed and what is drawn from it
    monkeypatch.setattr(batches, "transforms", [yielding, *batches.transforms])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(batches.__getitem__, range(12)))
    for step, parts in enumerate(found):
        assert all(np.array_equal(part, alone) for part, alone in zip(parts, batches[step])), step


def test_an_epoch_has_each_image_once():
    """As it is, where nothing is drawn; the next has another order. What is held out is all the rest."""
    still = replace(DIGITS, pad=0)
    (pixels, labels), (held, _) = dataset.read(still)
    assert len(pixels) == 1437 and len(held) == 360
    drawn = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    assert counted(drawn) == counted(pixels) + counted(held)
    batches = dataset.Batches(still, pixels, labels)
    assert len(batches) == 22 * 12
    epochs = [np.concatenate([batches[step][0] for step in range(begin, begin + 22)]) for begin in (0, 22)]
    plain = np.stack([dataset.opened(image, batches.transforms, still) for image in pixels])
    assert all(len(epoch) == 1408 and counted(epoch) <= counted(plain) for epoch in epochs)
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("first, epochs", [(15, [range(15, 22)]), (22, [range(22, 44), range(44, 66)])], ids=str)
def test_the_steps_of_an_epoch(first, epochs):
    """Those that are left of one that was broken off, or whole ones, one after the other."""
    batches = dataset.Batches(replace(DIGITS, epochs=3), *dataset.read(DIGITS)[0])
    iterator = dataset.steps(batches, first).create_tuple_iterator(num_epochs=len(epochs), output_numpy=True)
    for epoch in epochs:
        found = [image for image, _ in iterator]
        assert len(found) == len(epoch)
        assert all(np.array_equal(image, batches[step][0]) for image, step in zip(found, epoch))


def test_mixed_images():
    """Mixup mixes whole images, cutmix a box, each in the proportion of the targets."""
    size = 8
    given = np.stack([np.full((1, size, size), i, np.float32) for i in range(2)])
    for recipe in (replace(DIGITS, mixup=1.0), replace(DIGITS, cutmix=1.0)):
        boxes = 0
        for seed in range(20):
            rngs = [np.random.default_rng(seed)]
            image, target = dataset.mixed(given, np.eye(2, dtype=np.float32), recipe, rngs)
            assert np.allclose(image.mean((1, 2, 3)), target[:, 1], atol=1e-6)
            assert np.allclose(target.sum(1), 1)
            boxes += len(np.unique(image[0])) > 1
        assert boxes > 10 if recipe.cutmix else boxes == 0


def test_files(tmp_path):
    """MNIST's format, rows of numbers, and folders of images."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (20, 12, 12), np.uint8), np.arange(20, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            with gzip.open(tmp_path / f"{part}-{kind}-ubyte.gz", "wb") as stream:
                stream.write(head + array.tobytes())
    for found, expected in zip(
        dataset.read(replace(DIGITS, dataset="idx", data_path=str(tmp_path)))[1], (pixels, labels)
    ):
        assert np.array_equal(found, expected)
    file = tmp_path / "rows.csv"
    np.savetxt(file, np.column_stack([pixels.reshape(20, -1), labels]), "%d", ",")
    trained, held = dataset.read(replace(DIGITS, dataset="csv", data_path=str(file)))
    assert (len(trained[0]), len(held[0])) == (16, 4)
    assert all(
        np.array_equal(image, pixels[(labels == label) & (pixels == image).all((1, 2))][0])
        for image, label in zip(*held)
    )
    with pytest.raises(ValueError, match="'num_classes' must be more than the label 9, but got 5"):
        dataset.read(replace(DIGITS, dataset="csv", data_path=str(file), num_classes=5))
    for cut, label, said in (
        (slice(None), -1, "the labels in .* must be integers from 0 on, but got -1"),
        (slice(None), 1.5, "the labels in .* must be integers from 0 on, but got 1.5"),
        (slice(3, None), 1, "must have rows of the pixels of a square, .*, but has 142 numbers in"),
    ):
        rows = np.column_stack([pixels.reshape(20, -1)[:, cut], np.full(20, label)])
        np.savetxt(file, rows, "%g", ",")
        with pytest.raises(ValueError, match=f"^For 'recipe', .*{said}"):
            dataset.read(replace(DIGITS, dataset="csv", data_path=str(file)))
    np.savetxt(file, np.column_stack([pixels.reshape(20, -1) / 255, labels]), "%g", ",")
    with pytest.raises(ValueError, match=r"each an integer in \[0, 255\], and a label, but has"):
        dataset.read(replace(DIGITS, dataset="csv", data_path=str(file)))
    with gzip.open(tmp_path / "train-labels-idx1-ubyte.gz", "wb") as stream:
        stream.write(bytes([0, 0, 8, 1]) + np.array([16], ">i4").tobytes() + labels[:16].tobytes())
    with pytest.raises(ValueError, match="must have a label for each image, but got 20 images and 16 labels"):
        dataset.read(replace(DIGITS, dataset="idx", data_path=str(tmp_path)))


def test_a_folder_of_images(tmp_path):
    """Cut, resized and normalized, the same for each reading."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (50, 60, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.jpg")
    changes = {
        "dataset": "folder",
        "data_path": str(tmp_path),
        "batch_size": 4,
        "image_size": 32,
        "eval_image_size": 40,
    }
    recipe = replace(DRAWN, num_classes=2, **changes)
    trained, held = dataset.read(recipe)
    assert trained[1].tolist() == [0, 0, 0, 1, 1, 1]
    first, again = (dataset.Batches(recipe, *trained)[1] for _ in range(2))
    assert first[0].shape == (4, 3, 32, 32) and np.array_equal(first[0], again[0])
    image, label = dataset.Held(recipe, *held)[4]
    assert image.shape == (3, 40, 40) and label == 1 and np.abs(image).max() < 3
    for part in ("train", "val"):
        (tmp_path / "empty" / part / "cat").mkdir(parents=True)
    (tmp_path / "val" / "fox").mkdir()
    with pytest.raises(ValueError, match=r"the same classes in 'train' and 'val', but got \['fox'\] in one"):
        dataset.read(recipe)
    with pytest.raises(ValueError, match="'data_path' must lead to images in folders of classes, but got"):
        dataset.read(replace(recipe, data_path=str(tmp_path / "empty")))


def test_batches_that_do_not_fit_are_refused():
    """Each worker has pairs of images."""
    with pytest.raises(ValueError, match=r"'batch_size' must be a multiple of 4 and at most 1437, .* but got 66"):
        dataset.Batches(replace(DIGITS, batch_size=66), *dataset.read(DIGITS)[0], 0, 2)


def test_learns_digits(tmp_path, monkeypatch, quiet):
    """To more than 95 % of those held out, by the weights and by their averages, as the files say that it has."""
    monkeypatch.setitem(training.ARCHITECTURES, DIGITS.model, Architecture((1, 1), (32, 64), 32, 16))
    recipe = replace(DIGITS, epochs=2, warmup_epochs=0, batch_size=16)
    training.train(recipe, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert last["step"] == 178 and last["accuracy"] > 0.95 and last["average"] > 0.95
    rates = [line["lr"] for line in lines if "lr" in line]
    assert (
        rates == [training.rates(recipe, 89)[line["step"] - 1] for line in lines if "lr" in line] and rates[-1] < 1e-3
    )
    log = (tmp_path / "log.txt").read_text()
    assert f"epoch 2/2 accuracy {last['accuracy']:.4f} average {last['average']:.4f}" in log
    assert "step 178/178 loss" in log and "images/s" in log
    checkpoint = tmp_path / LAST
    assert training.evaluate(recipe, checkpoint) == (last["accuracy"], last["average"])
    training.export(recipe, checkpoint, tmp_path / "nfnet.mindir")
    loaded = nn.GraphCell(ms.load(str(tmp_path / "nfnet.mindir")))
    image = Tensor(dataset.Held(DIGITS, *dataset.read(DIGITS)[1])[0][0][None])
    network = training.build(recipe, 1)[0]
    averages = training.load(network, checkpoint, average=True)(image).asnumpy()
    assert np.array_equal(loaded(image).asnumpy(), averages)
    assert not np.array_equal(training.load(network, checkpoint, average=False)(image).asnumpy(), averages)


def test_no_weights_that_a_loss_has_spoiled_are_kept(tmp_path, monkeypatch, quiet):
    """By a signal between two lines of the log: the file is that of the epoch before."""
    monkeypatch.setitem(training.ARCHITECTURES, SHORT.model, Architecture((0,), (32,), 16, 16))
    told = Log.on_train_step_end

    def spoiled(self, run_context):
        if self.step == 24:
            run_context.original_args().net_outputs = Tensor(np.nan, ms.float32)
            os.kill(os.getpid(), signal.SIGTERM)
        told(self, run_context)

    monkeypatch.setattr(Log, "on_train_step_end", spoiled)
    with pytest.raises(FloatingPointError, match="The loss is nan at step 25"):
        training.train(replace(SHORT, log_steps=1000), tmp_path)
    assert load_file(tmp_path / LAST)["global_step"].item() == 22


def test_trains_in_half_precision(tmp_path, monkeypatch, quiet):
    """With a loss scale and data sink: weights, state and averages are float32, and the network computes in float16."""
    monkeypatch.setitem(training.ARCHITECTURES, SHORT.model, Architecture((0,), (32,), 16, 16))
    recipe = replace(SHORT, epochs=1, warmup_epochs=0, amp_level="O2", loss_scale=1024.0, data_sink=True)
    training.train(recipe, tmp_path)
    lines = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    (last,) = [line for line in lines if "average" in line]
    assert last["accuracy"] > 0.2  # six deviations above a tenth, after 22 steps
    kept = load_file(tmp_path / LAST)
    assert {value.dtype for name, value in kept.items() if name.startswith(("ema.", "momentum"))} == {np.dtype("f4")}
    image = Tensor(dataset.Held(recipe, *dataset.read(recipe)[1])[0][0][None])
    half, whole = (
        training.load(training.build(made, 1)[0], tmp_path / LAST, average=False)(image).asnumpy()
        for made in (recipe, replace(recipe, amp_level="O0"))
    )
    assert 1e-5 < np.abs(half - whole).max() / np.abs(whole).max() < 1e-2


def test_goes_on_to_the_bit(tmp_path, monkeypatch, quiet):
    """Stopped by a signal within an epoch: all that is in the checkpoint, and the history, is as of one run.

    The network has no block, because each of three trainings compiles it.
    """
    monkeypatch.setitem(training.ARCHITECTURES, SHORT.model, Architecture((0,), (32,), 16, 16))
    training.train(SHORT, tmp_path / "whole")
    with monkeypatch.context() as patch:
        told = Log.on_train_step_end

        def stopping(self, run_context):
            told(self, run_context)
            if self.step == 30:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Log, "on_train_step_end", stopping)
        training.train(SHORT, tmp_path / "parts")
    assert load_file(tmp_path / "parts" / LAST)["global_step"].item() == 30
    with pytest.raises(
        OSError, match=r"must have no training, but has 'last.safetensors': go on from it with --resume"
    ):
        training.train(SHORT, tmp_path / "parts")
    training.train(SHORT, tmp_path / "parts", again=True)
    whole, parts = (load_file(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and any(name.startswith("ema.") for name in whole)
    differ = [name for name in whole if whole[name].tobytes() != parts[name].tobytes()]
    assert differ == []
    evaluated = [
        [line for line in (tmp_path / name / "history.jsonl").read_text().splitlines() if "average" in line]
        for name in ("whole", "parts")
    ]
    assert evaluated[0] == evaluated[1] and len(evaluated[0]) == 2
    steps = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    rates = training.rates(SHORT, steps[-1]["step"] // SHORT.epochs)
    assert [one["lr"] for one in steps if "lr" in one] == [rates[one["step"] - 1] for one in steps if "lr" in one]
    for name, change in (("lr", 0.01), ("epochs", 3), ("ema_decay", 0.5)):
        with pytest.raises(
            ValueError, match=f"For 'recipe', '{name}' must be .*, as in the training that goes on, but"
        ):
            training.train(replace(SHORT, **{name: change}), tmp_path / "parts", again=True)
    # A last line that was not finished, and an evaluation for which there was no time, when the process was stopped.
    history = tmp_path / "parts" / "history.jsonl"
    kept = history.read_text().splitlines()
    history.write_text("\n".join(kept[:-1]) + '\n{"step": 9')
    training.train(replace(SHORT, log_steps=7), tmp_path / "parts", again=True)
    assert history.read_text().splitlines() == kept
    with pytest.raises(OSError, match=r"'.*none.*' must be there to go on from it"):
        training.train(SHORT, tmp_path / "none", again=True)
