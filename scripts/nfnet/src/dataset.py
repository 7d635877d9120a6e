"""Images: read, augmented and put into batches, each of which is a function of the seed and of its step alone."""

import contextlib
import gzip
import threading
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import vision

# Of ImageNet, for images of three channels; images of one are brought to [-1, 1].
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp")
# What draws at random says so by a number of its own, beside the seed and the step.
ORDER, IMAGE, PAIR = range(3)
# A process has one seed for all that its threads draw.
_drawing = threading.Lock()


def _digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), labels


def _halves(images, labels, held_out):
    """The images to train on and those to evaluate, in one order that never changes."""
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order[held_out:]], labels[order[held_out:]]), (images[order[:held_out]], labels[order[:held_out]])


def _idx(file):
    """The array of a file of MNIST's format, gzipped: its rank and sizes come first."""
    with gzip.open(file) as stream:
        content = stream.read()
    sizes = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def _classes(folder):
    """The names of the folders in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _listed(folder):
    """The files of a folder of folders, one for each class, and their classes."""
    found = [(str(file), i) for i, name in enumerate(_classes(folder)) for file in sorted((folder / name).rglob("*"))]
    found = [(file, i) for file, i in found if Path(file).suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(
            f"For 'recipe', 'data_path' must lead to images in folders of classes, but got {str(folder)!r}."
        )
    return np.array([file for file, _ in found]), np.array([i for _, i in found])


def read(recipe):
    """What a recipe trains on, and what is held out.

    Args:
        recipe (Recipe): What says where it is.

    Returns:
        Two pairs of images and labels (n,). The images are uint8 of (n, height, width), or names of files.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If there are labels that are no class, or folders of images that do not belong together.
    """
    path = Path(recipe.data_path)
    if recipe.dataset == "digits":
        pairs = _halves(*_digits(), 360)
    elif recipe.dataset == "csv":
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        side = int((rows.shape[1] - 1) ** 0.5)
        if (
            side * side != rows.shape[1] - 1
            or not ((rows[:, :-1] % 1 == 0) & (rows[:, :-1] >= 0) & (rows[:, :-1] < 256)).all()
        ):
            raise ValueError(
                f"For 'recipe', '{path}' must have rows of the pixels of a square, each an integer in [0, 255], and a "
                f"label, but has {rows.shape[1]} numbers in [{rows.min():g}, {rows.max():g}]."
            )
        pairs = _halves(rows[:, :-1].reshape(-1, side, side).astype(np.uint8), rows[:, -1], len(rows) // 5)
    elif recipe.dataset == "idx":
        pairs = [
            [_idx(path / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]
            for part in ("train", "t10k")
        ]
    else:
        odd = {*_classes(path / "train")} ^ {*_classes(path / "val")}
        if odd:
            raise ValueError(
                f"For 'recipe', 'data_path' must have the same classes in 'train' and 'val', but got {sorted(odd)} "
                "in one."
            )
        pairs = [_listed(path / part) for part in ("train", "val")]
    for images, labels in pairs:
        if len(images) != len(labels) or not len(labels):
            raise ValueError(
                f"For 'recipe', '{path}' must have a label for each image, but got {len(images)} images and "
                f"{len(labels)} labels."
            )
        odd = labels[(labels < 0) | (labels % 1 != 0)]
        if odd.size:
            raise ValueError(f"For 'recipe', the labels in '{path}' must be integers from 0 on, but got {odd[0]:g}.")
    pairs = [(images, labels.astype(np.int32)) for images, labels in pairs]
    largest = max(labels.max() for _, labels in pairs)
    if largest >= recipe.num_classes:
        raise ValueError(
            f"For 'recipe', 'num_classes' must be more than the label {largest}, but got {recipe.num_classes}."
        )
    return pairs


def transforms(recipe, train):
    """The operations on one image, in order."""
    size = recipe.image_size if train else recipe.eval_image_size
    scale = [vision.Normalize(MEAN, DEVIATION), vision.HWC2CHW()]
    if recipe.in_channels == 1:
        scale = [vision.Normalize((127.5,), (127.5,)), vision.HWC2CHW()]
    resized = [vision.Resize((size, size))]
    if recipe.dataset == "folder":
        if train:
            resized = [vision.RandomCropDecodeResize(size)]
        else:
            # The paper's: the middle of the image, with a border of 32 pixels for 256.
            resized = [vision.Decode(), vision.Resize(round(size * 1.125)), vision.CenterCrop(size)]
    if not train:
        return [*resized, *scale]
    cut = [vision.RandomCrop(size, recipe.pad)] if recipe.pad else []
    mirrored = [vision.RandomHorizontalFlip()] if recipe.flip else []
    layers, magnitude = recipe.randaugment_layers, recipe.randaugment_magnitude
    changed = [vision.RandAugment(layers, magnitude)] if layers else []
    return [*resized, *cut, *mirrored, *changed, *scale]


def mixed(images, targets, recipe, rngs):
    """Mix each image with its neighbour, by mixup or cutmix.

    Pairs are of neighbours, so that what a worker has is what it would have in the batch of all.

    Args:
        images (array): Of (n, channels, side, side), n even.
        targets (array): Of (n, classes).
        recipe (Recipe): What says how much.
        rngs (list[Generator]): One for each pair.

    Returns:
        The images and the targets.
    """
    partners = np.arange(len(images)).reshape(-1, 2)[:, ::-1].ravel()
    new_images, new_targets, side = images.copy(), targets.copy(), images.shape[-1]
    for pair, rng in enumerate(rngs):
        some = slice(2 * pair, 2 * pair + 2)
        cuts = rng.random() < 0.5 if recipe.mixup and recipe.cutmix else recipe.cutmix > 0
        keeps = rng.beta(*[recipe.cutmix if cuts else recipe.mixup] * 2)
        if cuts:
            half = (1 - keeps) ** 0.5 * side / 2
            middle = rng.integers(0, side, 2)
            (top, left), (bottom, right) = (
                np.clip(np.round(middle + way * half), 0, side).astype(int) for way in (-1, 1)
            )
            new_images[some, :, top:bottom, left:right] = images[partners[some], :, top:bottom, left:right]
            keeps = 1 - (bottom - top) * (right - left) / side**2
        else:
            new_images[some] = keeps * images[some] + (1 - keeps) * images[partners[some]]
        new_targets[some] = keeps * targets[some] + (1 - keeps) * targets[partners[some]]
    return new_images.astype(np.float32), new_targets.astype(np.float32)


class Batches:
    """The batches of a training, by step: item t is that of step t, as far as one of several workers has it.

    Args:
        recipe (Recipe): What says how.
        images (array): All images, as `read` gives them.
        labels (array): Their labels.
        rank (int): Which worker it is. Default: ``0`` .
        workers (int): How many there are. Default: ``1`` .

    Raises:
        ValueError: If a worker has no even number of images, or there are less than a batch.
    """

    def __init__(self, recipe, images, labels, rank=0, workers=1):
        if recipe.batch_size % (2 * workers) or recipe.batch_size > len(images):
            raise ValueError(
                f"For 'recipe', 'batch_size' must be a multiple of {2 * workers} and at most {len(images)}, the "
                f"images that there are, but got {recipe.batch_size}."
            )
        self.recipe, self.images, self.labels, self.rank = recipe, images, labels, rank
        self.size = recipe.batch_size // workers
        self.per_epoch = len(images) // recipe.batch_size
        self.transforms = transforms(recipe, train=True)

    def __len__(self):
        """The steps of all epochs."""
        return self.per_epoch * self.recipe.epochs

    def __getitem__(self, step):
        """The images (n, channels, side, side) and the targets (n, classes) of a step."""
        step, recipe = int(step), self.recipe
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng([recipe.seed, ORDER, epoch]).permutation(len(self.images))
        begin = self.rank * self.size
        first = place * recipe.batch_size + begin
        last = first + self.size
        chosen = order[first:last]
        images = [
            opened(self.images[i], self.transforms, recipe, [recipe.seed, IMAGE, step, begin + k])
            for k, i in enumerate(chosen)
        ]
        images, targets = np.stack(images), np.eye(recipe.num_classes, dtype=np.float32)[self.labels[chosen]]
        if recipe.mixup or recipe.cutmix:
            pairs = [recipe.seed, PAIR, step]
            rngs = [np.random.default_rng([*pairs, (begin + k) // 2]) for k in range(0, self.size, 2)]
            images, targets = mixed(images, targets, recipe, rngs)
        return images, targets


class Held:
    """What is evaluated, each image for itself: item i has the image and its label."""

    def __init__(self, recipe, images, labels):
        self.recipe, self.images, self.labels = recipe, images, labels
        self.transforms = transforms(recipe, train=False)

    def __len__(self):
        """How many there are."""
        return len(self.images)

    def __getitem__(self, i):
        """The image (channels, side, side) and its label."""
        return opened(self.images[i], self.transforms, self.recipe), self.labels[i]


def opened(image, operations, recipe, seed=None):
    """One image, changed; with a seed, always in the same way."""
    image = (
        np.fromfile(image, np.uint8) if recipe.dataset == "folder" else image[..., None].repeat(recipe.in_channels, 2)
    )
    with contextlib.nullcontext() if seed is None else _drawing:
        if seed is not None:
            # The operations draw from this when they are called.
            ds.config.set_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        for operation in operations:
            image = operation(image)
    return image.astype(np.float32)


class _Steps(ds.Sampler):
    """So many steps, each time that it is asked: those that follow."""

    def __init__(self, first, count):
        super().__init__(num_samples=count)
        self.first, self.count = first, count

    def __iter__(self):
        """Give those of an epoch."""
        begin, self.first = self.first, self.first + self.count
        return iter(range(begin, self.first))


def steps(batches, first=0):
    """The batches as MindSpore reads them, from a step on, an epoch each time; or what is left of the epoch it is in.

    Args:
        batches (Batches): Of what worker.
        first (int): The step. Default: ``0`` .
    """
    left = batches.per_epoch - first % batches.per_epoch
    return ds.GeneratorDataset(
        batches,
        ["image", "target"],
        sampler=_Steps(first, left),
        num_parallel_workers=batches.recipe.data_workers,
        # of several workers each is a process, whose seed is its own; one alone is a thread
        python_multiprocessing=True,
    )


def held(recipe, images, labels, rank=0, workers=1):
    """What one of several workers evaluates: every so many-th image."""
    some = slice(rank, None, workers)
    source = Held(recipe, images[some], labels[some])
    return ds.GeneratorDataset(source, ["image", "label"], shuffle=False).batch(
        min(recipe.eval_batch_size, len(source))
    )
