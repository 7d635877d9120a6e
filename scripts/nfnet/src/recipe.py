"""The recipe of a training: what tells one from another, in one YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import yaml

from ms_optim.arguments import Choice, Flag, Number, Whole
from src.nfnet import ARCHITECTURES

DATASETS = ("digits", "idx", "csv", "folder")


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
        pad (int): Images that are not of a folder are cut from themselves with so many pixels around them.
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

    model: str = "nfnet_f0"
    num_classes: int = 1000
    in_channels: int = 3
    approximate: bool = True
    dropout: float = 0.2
    drop_path: float = 0.25
    dataset: str = "folder"
    data_path: str = ""
    image_size: int = 192
    eval_image_size: int = 256
    pad: int = 0
    flip: bool = True
    randaugment_layers: int = 4
    randaugment_magnitude: int = 5
    mixup: float = 0.2
    cutmix: float = 1.0
    label_smoothing: float = 0.1
    epochs: int = 360
    warmup_epochs: int = 5
    batch_size: int = 4096
    eval_batch_size: int = 250
    lr: float = 1.6
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 2e-5
    clipping: float = 0.01
    exempt: tuple = ("head.fc.*",)
    ema_decay: float = 0.99999
    ema_schedule: str = "torch_ema"
    amp_level: str = "O0"
    loss_scale: float = 1.0
    seed: int = 0
    device_target: str = "CPU"
    data_workers: int = 1
    data_sink: bool = False
    log_steps: int = 10

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in KINDS:
                value = KINDS[field.name].check("recipe", field.name, value)
            elif field.name == "exempt":
                if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in value):
                    raise TypeError(f"For 'recipe', 'exempt' must be a list of patterns, but got {value!r}.")
                value = tuple(value)
            elif not isinstance(value, str):
                raise TypeError(f"For 'recipe', '{field.name}' must be text, but got {value!r}.")
            object.__setattr__(self, field.name, value)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"For 'recipe', 'warmup_epochs' must be less than the 'epochs' {self.epochs}, but got "
                f"{self.warmup_epochs}."
            )

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
        known = {field.name for field in fields(cls)}
        if given.keys() - known:
            odd = sorted(map(str, given.keys() - known))
            raise ValueError(f"For 'recipe', the names must be some of {sorted(known)}, but got {odd}.")
        return replace(cls(), **given)


_RATE, _WEIGHT, _COUNT = Number("[0, 1)"), Number("[0, inf)"), Whole(1)
KINDS = {
    "model": Choice(*ARCHITECTURES),
    "num_classes": _COUNT,
    "in_channels": Choice(1, 3),
    "approximate": Flag(),
    "dropout": _RATE,
    "drop_path": _RATE,
    "dataset": Choice(*DATASETS),
    "image_size": _COUNT,
    "eval_image_size": _COUNT,
    "pad": Whole(0),
    "flip": Flag(),
    "randaugment_layers": Whole(0),
    "randaugment_magnitude": Whole(0),
    "mixup": _WEIGHT,
    "cutmix": _WEIGHT,
    "label_smoothing": _RATE,
    "epochs": _COUNT,
    "warmup_epochs": Whole(0),
    "batch_size": _COUNT,
    "eval_batch_size": _COUNT,
    "lr": _WEIGHT,
    "momentum": _WEIGHT,
    "nesterov": Flag(),
    "weight_decay": _WEIGHT,
    "clipping": _WEIGHT,
    "ema_decay": Number("[0, 1]"),
    "amp_level": Choice("O0", "O2", "O3"),
    "loss_scale": Number("(0, inf)"),
    "seed": Whole(0),
    "device_target": Choice("Ascend", "GPU", "CPU"),
    "data_workers": _COUNT,
    "data_sink": Flag(),
    "log_steps": _COUNT,
}
