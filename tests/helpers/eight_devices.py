"""What MindSpore makes of a training step for eight devices, on a machine that has none: run as a program.

It is given expressions that make an optimizer of `params`, without ZeRO and with it, which `zero` says. It prints for
each, as JSON, the shape that every Parameter has on one device and over how many devices sums are taken and rows
gathered, or the error. MindSpore refuses to compile for devices on CPU, so that it is told another one while it
compiles; nothing runs.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, context, nn, ops
from mindspore._c_expression import ms_ctx_param
from mindspore.common.api import _cell_graph_executor
from mindspore.common.initializer import initializer
from mindspore.communication import _comm_helper, management
from mindspore.ops.operations import comm_ops

import ms_optim

DEVICES = 8
# The name of the device is a text within the context, written where it is: there is no device to be set.
SOURCE = """
#define _GLIBCXX_USE_CXX11_ABI 0
#include <memory>
#include <string>
namespace mindspore {
enum MsCtxParam : unsigned {};
struct MsContext {
    static std::shared_ptr<MsContext> GetInstance();
    template <typename T> const T &get_param(MsCtxParam) const;
};
}
extern "C" void set_text(unsigned which, const char *text) {
    using namespace mindspore;
    const auto &kept = MsContext::GetInstance()->get_param<std::string>(static_cast<MsCtxParam>(which));
    const_cast<std::string &>(kept) = std::string(text);
}
"""


class Net(nn.Cell):
    """Two products: the first weight is cut by rows, the second by columns, or neither is."""

    def __init__(self, whole=False):
        super().__init__()
        data, model = (8, 1) if whole else (4, 2)
        self.first = Parameter(initializer("normal", (64, 32), ms.float32), name="first")
        self.bias = Parameter(initializer("normal", (64,), ms.float32), name="bias")
        self.second = Parameter(initializer("normal", (16, 64), ms.float32), name="second")
        self.by_rows = ops.MatMul(transpose_b=True).shard(((data, 1), (model, 1)))
        self.add = ops.BiasAdd().shard(((data, model), (model,)))
        self.relu = ops.ReLU().shard(((data, model),))
        self.by_columns = ops.MatMul(transpose_b=True).shard(((data, model), (1, model)))

    def construct(self, x):
        """The second of the first."""
        return self.by_columns(self.relu(self.add(self.by_rows(x, self.first), self.bias)), self.second)


def device_setter(folder):
    """What tells MindSpore the name of the device."""
    source, library = Path(folder, "device.cpp"), Path(folder, "device.so")
    source.write_text(SOURCE)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    for path in (Path(ms.__file__).parent / "lib").glob("libmindspore_c*.so*"):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    set_text = ctypes.CDLL(str(library)).set_text
    return lambda name: set_text(int(ms_ctx_param.device_target), name.encode())


def size_of(group=None):
    """How many devices a group has: the name begins with it, also of those that MindSpore makes."""
    found = re.match(r"(\d+)-", str(group))
    return int(found[1]) if found else DEVICES


def parallel(zero):
    """Train on eight devices, with the state of the optimizer on all of them if `zero`."""
    more = {"parallel_optimizer_config": {"parallel_optimizer_threshold": 0}} if zero else {}
    context.reset_auto_parallel_context()
    context.set_auto_parallel_context(
        device_num=DEVICES,
        global_rank=0,
        parallel_mode="semi_auto_parallel",
        gradients_mean=True,
        enable_parallel_optimizer=zero,
        **more,
    )


def compiled(expression, zero, late, whole, set_device, folder):
    """The shapes on one device and the sums and gathers over devices; `late` sets the mode after construction.

    `whole` is whether the net cuts no weight.
    """
    context.reset_auto_parallel_context()
    if not late:
        parallel(zero)
    net = Net(whole)
    try:
        optimizer = eval(expression, {**vars(ms_optim), "params": net.trainable_params(), "nn": nn, "zero": zero})
        step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer).set_train()
    except (TypeError, ValueError) as error:
        return {"refused": str(error)}
    parallel(zero)
    for path in folder.glob("*.ir"):
        path.unlink()
    set_device("Ascend")
    try:
        _cell_graph_executor.compile(step, *(Tensor(np.ones((32, size), np.float32)) for size in (32, 16)))
    except Exception as error:  # there is no backend: what counts is how far it came
        said = str(error)
    finally:
        set_device("CPU")
    graphs = sorted(folder.glob("*_validate_*.ir"))
    if not graphs:
        return {"refused": said}
    text = graphs[-1].read_text()
    shapes = re.findall(r"^%para\d+_(\S+?): <Ref\[Tensor\[\w+\]\], \(([\d, ]*)\)", text, re.M)
    sums = re.findall(r'= (?:PrimFunc_)?(?:AllReduce|AllGather)\([^\n]*group: "(\d+)-units"', text)
    return {
        "shapes": {name: [int(size) for size in shape.split(", ") if size] for name, shape in shapes},
        "sums": [int(count) for count in sums],
    }


def main(*expressions):
    """Print what there is to say of each, a line for each.

    "late: " before one sets the mode after construction, "whole: " is of a net that cuts no weight.
    """
    _comm_helper._HCCL_TEST_AVAILABLE = True
    for module in (comm_ops, management):
        module.get_rank, module.get_group_size = lambda group=None: 0, size_of
    with tempfile.TemporaryDirectory() as folder:
        graphs = Path(folder, "ir")
        os.environ |= {
            "MS_DEV_SAVE_GRAPHS": "1",
            "MS_DEV_SAVE_GRAPHS_PATH": str(graphs),
            "MS_DEV_DUMP_IR_PASSES": "validate",
        }
        set_device = device_setter(folder)
        for given in expressions:
            expression, how = given.rpartition(": ")[2], [given.startswith(start) for start in ("late: ", "whole: ")]
            found = [compiled(expression, zero, *how, set_device, graphs) for zero in (False, True)]
            print(json.dumps(found), flush=True)
    os._exit(0)  # what was made for another device cannot be taken down


if __name__ == "__main__":
    main(*sys.argv[1:])
