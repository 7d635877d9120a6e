"""The recipe of a training: what tells one from another, in one YAML file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import yaml

from ms_optim import EMA
from ms_optim.arguments import Choice, Flag, Number, Whole
from src.nfnet import ARCHITECTURES

_RATE, _WEIGHT, _COUNT = Number("[0, 1)"), Number("[0, inf)"), Whole(1)


def _of(default, kind):
    return field(default=default, metadata={"kind": kind})


def _numeric(value, kind):
    """A number of YAML 1.2 such as 2e-5, which PyYAML gives as text."""
    if kind not in (int, float) or not isinstance(value, str):
        return value
    if not re.fullmatch(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+", value):
        return value
    number = float(value)
    return int(number) if kind is int and number.is_integer() else number


@dataclass(frozen=True)
class Recipe:
    """What a training is made of. The values here are those of NFNet-F0 in the paper.

    Args:
        model (str): One of `ARCHITECTURES`.
        num_classes (int): How many there are.
        in_channels (int): Of the images, 1 or 3.
        approximate (bool): GELU with tanh.
        dropout (float): The rate before the classifier, in [0, 1).
        drop_path (float): The rate of the last block's branch, in [0, 1).
        dataset (str): "digits", those of scikit-learn; "idx", the four files of MNIST and the like, gzipped; "csv",
            rows of pixels and a label, a fifth of them held out; "folder", `train` and `val` with a folder of images
            for each class.
        data_path (str): The folder, or the file of "csv".
        image_size (int): The side of the images that are trained on.
        eval_image_size (int): The side of those that are evaluated.
        pad (int): Images are cut from themselves with so many pixels around them.
        flip (bool): Half of the images are mirrored.
        randaugment_layers (int): How many operations RandAugment applies, 0 for none.
        randaugment_magnitude (int): How strong they are, from 0 to 30.
        mixup (float): The parameter of Beta by which pairs of images are mixed, 0 for none.
        cutmix (float): The same for pairs of which one gets a box of the other; with both, a coin decides.
        label_smoothing (float): In [0, 1).
        epochs (int): How often each image is seen.
        warmup_epochs (int): For how many of them the learning rate grows; then it falls as a cosine does.
        batch_size (int): Of all workers together, an even number for each.
        eval_batch_size (int): The largest for each worker where images are evaluated.
        lr (float): The largest learning rate.
        momentum (float): Of MomentumAGC.
        nesterov (bool): Whether it is Nesterov's.
        weight_decay (float): Of weights; gains and biases have none.
        clipping (float): The largest norm of a gradient relative to its unit's, 0 for plain momentum.
        exempt (tuple[str]): Patterns of the parameters that are not clipped.
        ema_decay (float): Of the averages, in [0, 1].
        ema_schedule (str): How they start, as `schedule` of `ms_optim.EMA`; "torch_ema" is what DeepMind trained with.
        amp_level (str): "O0" computes in float32, "O2" and "O3" in float16.
        loss_scale (float): What the loss is multiplied by, a power of two to leave the numbers as they are.
        seed (int): Of the weights, the order and the augmentation.
        device_target (str): "Ascend", "GPU" or "CPU".
        data_workers (int): Processes that read images for each worker.
        data_sink (bool): Train an epoch in one call, where the device can.
        log_steps (int): How many steps there are between two lines of the log.
    """

    model: str = _of("nfnet_f0", Choice(*ARCHITECTURES))
    num_classes: int = _of(1000, _COUNT)
    in_channels: int = _of(3, Choice(1, 3))
    approximate: bool = _of(True, Flag())
    dropout: float = _of(0.2, _RATE)
    drop_path: float = _of(0.25, _RATE)
    dataset: str = _of("folder", Choice("digits", "idx", "csv", "folder"))
    data_path: str = ""
    image_size: int = _of(192, _COUNT)
    eval_image_size: int = _of(256, _COUNT)
    pad: int = _of(0, Whole(0))
    flip: bool = _of(True, Flag())
    randaugment_layers: int = _of(4, Whole(0))
    randaugment_magnitude: int = _of(5, Choice(*range(31)))
    mixup: float = _of(0.2, _WEIGHT)
    cutmix: float = _of(1.0, _WEIGHT)
    label_smoothing: float = _of(0.1, _RATE)
    epochs: int = _of(360, _COUNT)
    warmup_epochs: int = _of(5, Whole(0))
    batch_size: int = _of(4096, _COUNT)
    eval_batch_size: int = _of(250, _COUNT)
    lr: float = _of(1.6, _WEIGHT)
    momentum: float = _of(0.9, _WEIGHT)
    nesterov: bool = _of(True, Flag())
    weight_decay: float = _of(2e-5, _WEIGHT)
    clipping: float = _of(0.01, _WEIGHT)
    exempt: tuple = ("head.fc.*",)
    ema_decay: float = _of(0.99999, Number("[0, 1]"))
    ema_schedule: str = _of("torch_ema", EMA.arguments["schedule"])
    amp_level: str = _of("O0", Choice("O0", "O2", "O3"))
    loss_scale: float = _of(1.0, Number("(0, inf)"))
    seed: int = _of(0, Whole(0))
    device_target: str = _of("CPU", Choice("Ascend", "GPU", "CPU"))
    data_workers: int = _of(1, _COUNT)
    data_sink: bool = _of(False, Flag())
    log_steps: int = _of(10, _COUNT)

    def __post_init__(self):
        for said in fields(self):
            value = getattr(self, said.name)
            if "kind" in said.metadata:
                value = said.metadata["kind"].check("recipe", said.name, value)
            elif said.type is tuple:
                if not isinstance(value, (list, tuple)) or not all(isinstance(pattern, str) for pattern in value):
                    raise TypeError(f"For 'recipe', '{said.name}' must be a list of patterns, but got {value!r}.")
                value = tuple(value)
            elif not isinstance(value, str):
                raise TypeError(f"For 'recipe', '{said.name}' must be text, but got {value!r}.")
            object.__setattr__(self, said.name, value)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"For 'recipe', 'warmup_epochs' must be less than the 'epochs' {self.epochs}, but got "
                f"{self.warmup_epochs}."
            )
        if self.dataset == "folder" and self.in_channels != 3:
            raise ValueError("For 'recipe', 'in_channels' must be 3 where 'dataset' is 'folder', but got 1.")
        if self.randaugment_layers and self.in_channels == 1:
            raise ValueError(
                "For 'recipe', 'randaugment_layers' must be 0 where 'in_channels' is 1, because RandAugment changes "
                f"colours, but got {self.randaugment_layers}."
            )

    @classmethod
    def read(cls, file, changes=()):
        """Read a recipe.

        Args:
            file (Union[str, Path]): The YAML: a mapping of the names above.
            changes (Iterable[str]): What is otherwise, each a text such as "lr=0.2".

        Raises:
            OSError: If the file cannot be read.
            TypeError, ValueError: If it is no mapping, or a name is unknown or a value not allowed.
        """
        with open(file, encoding="utf-8") as stream:
            given = yaml.safe_load(stream)
        if not isinstance(given, Mapping):
            raise TypeError(f"For 'recipe', '{file}' must hold a mapping, but got {type(given).__name__}.")
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals:
                raise ValueError(f"For 'recipe', a change must be of the form name=value, but got {change!r}.")
            given[name] = yaml.safe_load(value)
        known = {said.name: said.type for said in fields(cls)}
        if given.keys() - known.keys():
            odd = sorted(map(str, given.keys() - known.keys()))
            raise ValueError(f"For 'recipe', the names must be some of {sorted(known)}, but got {odd}.")
        return replace(cls(), **{name: _numeric(value, known[name]) for name, value in given.items()})
