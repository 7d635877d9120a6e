"""What MindSpore makes, for one of eight devices, of training in ways of its own, and what slices it restores.

Run as a program with expressions that make an optimizer of `params`, it prints for each way, as JSON, what is made of
each expression: the shape that every Parameter has on the device, and how often it communicates and how; and then what
becomes of slices that are restored before a compilation. As in `eight_devices`, nothing runs.
"""

import json
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, context, lazy_inline, nn, ops
from mindspore.common.api import _cell_graph_executor
from mindspore.common.initializer import initializer
from mindspore.communication import _comm_helper, management
from mindspore.nn.wrap.cell_wrapper import _TrainGradAccuStepCell
from mindspore.ops.operations import comm_ops
from mindspore.parallel import _tensor, _utils

import ms_optim
from helpers.eight_devices import DEVICES, device_setter, size_of

RANK = 5
# The inputs of the first layer: more than a part of a sum has.
WIDTH = 4160
# The options of the slices of the optimizer in each way.
WAYS = {
    "recomputed in two stages, slices over two": {"optimizer_weight_shard_size": 2},
    "accumulated in slices": {"gradient_accumulation_shard": True},
}


class Layer(nn.Cell):
    """A product with a weight that is cut."""

    def __init__(self, shape, strategy):
        super().__init__()
        self.weight = Parameter(initializer("normal", shape, ms.float32), name="weight")
        self.product = ops.MatMul(transpose_b=True).shard(strategy)

    def construct(self, x):
        """The product."""
        return self.product(x, self.weight)


class Net(nn.Cell):
    """The loss of two layers, the first of which is cut by rows and the second by columns."""

    def __init__(self, copies):
        super().__init__()
        self.first = Layer((64, WIDTH), ((copies, 1), (2, 1)))
        self.second = Layer((16, 64), ((copies, 2), (1, 2)))
        self.loss = nn.MSELoss()

    def construct(self, x, y):
        """The loss."""
        return self.loss(self.second(self.first(x)), y)


class Inlined(Net):
    """The same, as gradients that are accumulated in slices want it."""

    @lazy_inline
    def __init__(self, copies):
        super().__init__(copies)


def made(expression, way=None):
    """A training step, in one of the ways or as it is."""
    stages = 2 if way and "stages" in way else 1
    context.reset_auto_parallel_context()
    context.set_auto_parallel_context(
        device_num=DEVICES,
        global_rank=RANK,
        parallel_mode="semi_auto_parallel",
        gradients_mean=True,
        full_batch=True,
        pipeline_stages=stages,
        enable_parallel_optimizer=True,
        parallel_optimizer_config={"parallel_optimizer_threshold": 0, **WAYS.get(way, {})},
    )
    accumulated = way and "accumulated" in way
    net, step = (Inlined if accumulated else Net)(DEVICES // 2 // stages), nn.TrainOneStepCell
    if stages == 2:
        net.first.recompute()
        net.second.recompute()
        net.first.pipeline_stage, net.second.pipeline_stage = 0, 1
        net, step = nn.PipelineCell(net, 2), _TrainGradAccuStepCell
    if accumulated:
        net, step = nn.GradAccumulationCell(net, 2), _TrainGradAccuStepCell
    return step(net, eval(expression, {**vars(ms_optim), "params": net.trainable_params(), "nn": nn})).set_train()


def compiled(step, set_device):
    """Compile a step."""
    set_device("Ascend")
    try:
        _cell_graph_executor.compile(step, *(Tensor(np.ones((64, size), np.float32)) for size in (WIDTH, 16)))
    finally:
        set_device("CPU")
    return step


def graph_of(step, set_device, folder):
    """The shapes on one device and what is sent."""
    for path in folder.rglob("*.ir"):
        path.unlink()
    compiled(step, set_device)
    text = sorted(folder.rglob("*_validate_*.ir"))[-1].read_text()
    shapes = re.findall(r"^%para\d+_(\S+?): <Ref\[Tensor\[\w+\]\], \(([\d, ]*)\)", text, re.M)
    sent = re.findall(r"= (?:PrimFunc_)?(AllReduce|AllGather|ReduceScatter|Send|Receive)\(", text)
    return {
        "shapes": {name: [int(size) for size in shape.split(", ") if size] for name, shape in shapes},
        "sent": Counter(sent),
    }


def drawn(step):
    """Whole tensors for the Parameters of a step that is not compiled yet, by name."""
    rng = np.random.default_rng(0)
    return {
        param.name: Tensor(rng.standard_normal(param.shape).astype(ms.dtype_to_nptype(param.dtype)))
        for param in step.get_parameters()
    }


def restored(file, set_device):
    """What becomes of wholes and slices that are restored before a compilation, and of slices for another layout."""
    expression = "SGD(params, momentum=0.9, fused=False)"
    first, second, third = (made(expression) for _ in range(3))
    wholes = drawn(first)
    told = {"unknown": ms_optim.restore(first, wholes)}
    compiled(first, set_device)
    ms_optim.save(first, file)
    told["unknown"] += [*ms_optim.restore(second, file), *ms_optim.restore(third, file)]
    compiled(second, set_device)
    pairs = list(zip(first.get_parameters(), second.get_parameters(), strict=True))
    told["differ"] = [a.name for a, b in pairs if not np.array_equal(a.asnumpy(), b.asnumpy())]
    told["places"] = {
        param.name: [*np.argwhere(wholes[param.name].asnumpy() == param.asnumpy()[0, 0])[0].tolist(), *param.shape]
        for param in second.get_parameters()
        if param.ndim == 2
    }
    context.set_auto_parallel_context(parallel_optimizer_config={"optimizer_weight_shard_size": 2})
    try:
        compiled(third, set_device)
    except ValueError as error:
        told["refused"] = str(error)
    return told


def main(*expressions):
    """Print what there is to say, a line for each way."""
    _comm_helper._HCCL_TEST_AVAILABLE = True
    for module in (comm_ops, management, _tensor, _utils):
        module.get_group_size = size_of
        module.get_rank = lambda group=None: RANK if group is None else RANK // 2 % size_of(group)
    with tempfile.TemporaryDirectory() as folder:
        graphs = Path(folder, "ir")
        os.environ |= {
            "MS_DEV_PRECOMPILE_ONLY": "1",  # there is no backend
            "MS_DEV_SAVE_GRAPHS": "1",
            "MS_DEV_SAVE_GRAPHS_PATH": str(graphs),
            "MS_DEV_DUMP_IR_PASSES": "validate",
            "MS_OPTIM_SUMS": "float32",
        }
        set_device = device_setter(folder)
        print(json.dumps(restored(Path(folder, "step.ckpt"), set_device)), flush=True)
        for way in WAYS:  # nothing is computed any more once a cell is inlined late
            print(json.dumps([graph_of(made(text, way), set_device, graphs) for text in expressions]), flush=True)
    os._exit(0)  # what was made for another device cannot be taken down


if __name__ == "__main__":
    main(*sys.argv[1:])
