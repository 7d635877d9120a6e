"""A training by a recipe, from its first step or from where one was left; evaluation and export of what it came to."""

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, amp, nn, ops
from mindspore.communication import get_group_size, get_rank, init
from mindspore.train import FixedLossScaleManager, Model

from ms_optim import EMA, MomentumAGC, resume
from ms_optim.callbacks import SaveOnStop
from ms_optim.groups import param_groups_weight_decay
from ms_optim.lr_scheduler import get_cosine_schedule_with_warmup, table
from src import dataset
from src.callback import LAST, Log, replacing
from src.nfnet import ARCHITECTURES, NFNet

# What of a recipe may be otherwise where a training goes on.
MAY_DIFFER = ("data_path", "data_sink", "data_workers", "device_target", "eval_batch_size", "log_steps")


def prepare(recipe):
    """Set the mode, the device and the seed; meet the other workers, if msrun has started this one.

    Returns:
        The rank of this worker and how many there are.
    """
    ms.set_context(mode=ms.GRAPH_MODE, device_target=recipe.device_target)
    ms.set_seed(recipe.seed)
    if "MS_WORKER_NUM" not in os.environ:
        return 0, 1
    init()
    rank, workers = get_rank(), get_group_size()
    ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True, device_num=workers)
    return rank, workers


def rates(recipe, steps_per_epoch):
    """The learning rate of each step."""
    steps, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
    return table(lambda optimizer: get_cosine_schedule_with_warmup(optimizer, warmup, steps), recipe.lr, steps)


def build(recipe, steps_per_epoch):
    """The network and its optimizer, an EMA around MomentumAGC.

    Args:
        recipe (Recipe): What says how.
        steps_per_epoch (int): What the learning rates go by.
    """
    network = NFNet(
        ARCHITECTURES[recipe.model],
        recipe.num_classes,
        recipe.in_channels,
        dropout=recipe.dropout,
        drop_path=recipe.drop_path,
        approximate=recipe.approximate,
    )
    if recipe.amp_level != "O0":
        amp.auto_mixed_precision(network, recipe.amp_level)
    optimizer = MomentumAGC(
        # gains of a convolution have four axes, and would decay by their rank
        param_groups_weight_decay(
            network.trainable_params(), recipe.weight_decay, no_decay=sorted(network.no_weight_decay())
        ),
        rates(recipe, steps_per_epoch),
        recipe.momentum,
        nesterov=recipe.nesterov,
        clipping=recipe.clipping,
        exempt=recipe.exempt,
        loss_scale=recipe.loss_scale,
    )
    return network, EMA(optimizer, recipe.ema_decay, schedule=recipe.ema_schedule)


class Loss(nn.Cell):
    """The cross entropy of logits (n, classes) and targets (n, classes), which sum up to 1."""

    def __init__(self, label_smoothing):
        super().__init__()
        self.label_smoothing = label_smoothing

    def construct(self, logits, targets):
        """Average it over the images."""
        return ops.cross_entropy(logits.astype(ms.float32), targets, label_smoothing=self.label_smoothing)


class Among(nn.Cell):
    """An operator on a Tensor of each worker, such as `AllReduce`, in a graph of its own."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def construct(self, x):
        """Give each worker what it makes of theirs."""
        return self.operator(x)


def accuracy(network, data, total=None):
    """The share of images that a network classifies rightly, those of all workers together.

    Args:
        network (Cell): Gives logits.
        data (Dataset): The images and labels of this worker.
        total (Union[None, Among]): The sum of the workers, if there are several. Default: ``None`` .
    """
    was_training = network.training
    network.set_train(False)
    right = count = size = 0
    for image, label in data.create_tuple_iterator(num_epochs=1, output_numpy=True):
        size = max(size, len(label))
        # the last batch is filled up: each shape would compile
        filled = np.concatenate([image, np.zeros((size - len(image), *image.shape[1:]), image.dtype)])
        logits = network(Tensor(filled)).asnumpy()[: len(label)]
        right, count = right + int((logits.argmax(1) == label).sum()), count + len(label)
    network.set_train(was_training)
    if total is not None:
        right, count = total(Tensor([right, count], ms.float32)).asnumpy()
    return float(right / count)


def _refuse_others(recipe):
    """Refuse a recipe that is not that of all workers; each of them does, and none waits for another."""
    names = [name for name in asdict(recipe) if name not in MAY_DIFFER]
    # float32 has each integer of 24 bits
    own = [zlib.crc32(repr(getattr(recipe, name)).encode()) % 2**24 for name in names]
    all_of_them = Among(ops.AllGather())(Tensor([own], ms.float32)).asnumpy()
    odd = [name for name, values in zip(names, all_of_them.T) if (values != values[0]).any()]
    if odd:
        raise ValueError(
            f"For 'recipe', '{odd[0]}' must be the same for all workers, but got {getattr(recipe, odd[0])!r} "
            "here and another elsewhere."
        )


def _keep_recipe(recipe, folder, again, rank):
    """Write what a training goes by; where one goes on, refuse what would not be as it was."""
    file, said = folder / "recipe.json", json.loads(json.dumps(asdict(recipe)))
    if again and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        odd = [name for name in said if name not in MAY_DIFFER and before.get(name, said[name]) != said[name]]
        if odd:
            raise ValueError(
                f"For 'recipe', '{odd[0]}' must be {before[odd[0]]!r}, as in the training that goes on, but got "
                f"{said[odd[0]]!r}."
            )
    if rank == 0:
        with replacing(file) as written:
            written.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def train(recipe, folder, again=False):
    """Train by a recipe.

    A checkpoint is written after each epoch, and after the step in which a worker is asked to stop, by SIGTERM or
    Ctrl-C: then all do. A training that is taken up goes on to the bit, unless dropout or `drop_path` draw: MindSpore
    tells no state of what they draw from.

    Args:
        recipe (Recipe): What says how.
        folder (Union[str, Path]): Where the log and the checkpoint are written, and read.
        again (bool): Go on from the checkpoint there. Default: ``False`` .

    Returns:
        NFNet, EMA, what was trained.

    Raises:
        FloatingPointError: If the loss is not finite.
        OSError: If there is no checkpoint to go on from, or there is one and `again` is False.
        ValueError: If it is to go on by another recipe, or workers have not the same.
    """
    rank, workers = prepare(recipe)
    if workers > 1:
        _refuse_others(recipe)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LAST).exists() != again:
        raise OSError(
            f"For 'train', '{folder / LAST}' must be there to go on from it."
            if again
            else f"For 'train', '{folder}' must have no training, but has '{LAST}': go on from it with --resume."
        )
    _keep_recipe(recipe, folder, again, rank)
    training, evaluated = dataset.read(recipe)
    batches = dataset.Batches(recipe, *training, rank, workers)
    network, ema = build(recipe, batches.per_epoch)
    if again:
        resume(ema, folder / LAST)
    first = int(ema.global_step.asnumpy().item())
    model = Model(
        network,
        Loss(recipe.label_smoothing),
        ema,
        loss_scale_manager=FixedLossScaleManager(recipe.loss_scale, drop_overflow_update=False),
    )
    held, total = dataset.held(recipe, *evaluated, rank, workers), Among(ops.AllReduce()) if workers > 1 else None
    log = Log(folder, recipe, ema, lambda: accuracy(network, held, total), batches.per_epoch, rank)
    log.go_on()
    # No weights that a loss has spoiled are to take the place of good ones.
    stop = SaveOnStop(ema, folder / LAST if rank == 0 else None, lambda: {"loss": log.loss()})
    while first < len(batches) and not stop.stopped:
        epoch, broken_off = divmod(first, batches.per_epoch)
        model.train(
            epoch + 1 if broken_off else recipe.epochs,
            dataset.steps(batches, first),
            callbacks=[log, stop],
            dataset_sink_mode=recipe.data_sink,
            initial_epoch=epoch,
        )
        first = int(ema.global_step.asnumpy().item())
    return network, ema


def load(network, checkpoint, average):
    """Give a network the weights of a checkpoint that `train` has written.

    Args:
        network (NFNet): As it was trained.
        checkpoint (Union[str, Path]): The file.
        average (bool): Take the averages of the weights.

    Returns:
        NFNet, the network, in evaluation.

    Raises:
        ValueError: If the file does not have them.
    """
    saved = ms.load_checkpoint(str(checkpoint), format="safetensors")
    prefix = "ema." if average else ""
    wanted = {param.name: prefix + param.name for param in network.get_parameters()}
    missing = sorted({*wanted.values()} - saved.keys())
    if missing:
        raise ValueError(f"For 'load', '{checkpoint}' must be one of train.py, but it has no {missing}.")
    ms.load_param_into_net(network, {name: saved[key] for name, key in wanted.items()}, strict_load=True)
    return network.set_train(False)


def evaluate(recipe, checkpoint):
    """The accuracy of the weights and of their averages, each in [0, 1].

    Args:
        recipe (Recipe): By which they were trained.
        checkpoint (Union[str, Path]): The file.
    """
    rank, workers = prepare(recipe)
    data, total = (
        dataset.held(recipe, *dataset.read(recipe)[1], rank, workers),
        Among(ops.AllReduce()) if workers > 1 else None,
    )
    network = build(recipe, 1)[0]
    return tuple(accuracy(load(network, checkpoint, average), data, total) for average in (False, True))


def export(recipe, checkpoint, file, average=True):
    """Write a network as MindIR, for one image.

    Args:
        recipe (Recipe): By which it was trained.
        checkpoint (Union[str, Path]): What `train` has written.
        file (Union[str, Path]): Ends in ".mindir".
        average (bool): Take the averages of the weights. Default: ``True`` .
    """
    prepare(recipe)
    side = recipe.eval_image_size
    image = Tensor(np.zeros((1, recipe.in_channels, side, side), np.float32))
    ms.export(load(build(recipe, 1)[0], checkpoint, average), image, file_name=str(file), file_format="MINDIR")
