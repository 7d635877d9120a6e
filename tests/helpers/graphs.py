"""What a compiled step consists of: its operators, with the dtypes and shapes of what each takes and gives."""

import sys
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn
from mindspore.train import mind_ir_pb2

# The module of MindSpore that compiles, whose place is another in each version.
api = sys.modules[ms.jit.__module__]

# As MindSpore's format of graphs has them.
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
# What is no kernel on any device.
_NO_KERNELS = {"Constant", "Depend", "Load", "MakeTuple", "Return", "TupleGetItem", "UpdateState"}


@dataclass(frozen=True)
class Node:
    """An operator, what it takes of Tensors, and what it gives: the dtype and shape of each."""

    primitive: str
    takes: tuple[tuple[str, tuple[int, ...]], ...]
    gives: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def dtypes(self) -> frozenset[str]:
        """Those of all Tensors that it has to do with."""
        return frozenset(dtype for dtype, _ in (*self.takes, *self.gives))

    @property
    def shapes(self) -> frozenset[tuple[int, ...]]:
        """Those of the same."""
        return frozenset(shape for _, shape in (*self.takes, *self.gives))


def _described(tensor):
    return _DTYPES.get(tensor.data_type, str(tensor.data_type)), tuple(tensor.dims)


def nodes(cell: nn.Cell, phase: str | None = None) -> list[Node]:
    """The operators of a graph of a Cell that has compiled, or of its only one, as MindSpore hands it to a backend."""
    if phase is None:
        (phase,) = cell.compile_cache
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(api._cell_graph_executor._graph_executor.get_func_graph_proto(phase, "mind_ir"))
    known = {param.name: (_described(param),) for param in model.graph.parameter}
    known |= {taken.name: tuple(map(_described, taken.tensor)) for taken in model.graph.input}
    found = []
    for node in model.graph.node:
        primitive = node.op_type.split(":")[2] if node.op_type.startswith("REF::") else node.op_type
        gives = tuple(_described(tensor) for a in node.attribute if a.name == "shape" for tensor in a.tensors)
        known |= {name: gives for name in node.output}
        takes = tuple(tensor for name in node.input for tensor in known.get(name, ()))
        found.append((primitive, takes, gives))
    return [Node(*node) for node in found if node[0] not in _NO_KERNELS]
