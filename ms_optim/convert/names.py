"""Which Parameter of a network each tensor of a torch module is."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral

from mindspore import Parameter, nn

from ms_optim.convert.files import array

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# What torch calls the Parameters of a layer of mindspore.nn. Those of all others, `mint.nn` too, it calls the same.
LAYERS = (
    (
        (
            nn.BatchNorm1d,
            nn.BatchNorm2d,
            nn.SyncBatchNorm,
            nn.LayerNorm,
            nn.GroupNorm,
            nn.InstanceNorm1d,
            nn.InstanceNorm2d,
            nn.InstanceNorm3d,
        ),
        NORM,
    ),
    ((nn.Embedding, nn.EmbeddingLookup), {"embedding_table": "weight"}),
    ((nn.PReLU,), {"w": "weight"}),
)
# What a norm without `affine` has here and not in torch.
IDLE, NEUTRAL = "idle", {"gamma": 1, "beta": 0}
COUNTER = "num_batches_tracked"
# What DistributedDataParallel and AveragedModel, and torch.compile, put before each name.
WRAPPERS = {"module", "_orig_mod"}


@dataclass(frozen=True)
class Row:
    """What torch calls a tensor, the Parameter that it goes to, if any, the shapes of both, and how that is known."""

    torch: str
    parameter: str | None
    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]
    how: str

    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table."""
        shapes = str(self.torch_shape) if self.shape == self.torch_shape else f"{self.torch_shape} <-> {self.shape}"
        return self.torch, self.parameter or "-", shapes, self.how


class ParameterMap(tuple):
    """A Row for each name of torch, in torch's order; as text, a table."""

    __slots__ = ()
    HEADINGS = ("torch", "MindSpore", "shape", "known by")

    def __str__(self) -> str:
        rows = [self.HEADINGS, *(row.cells() for row in self)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def parameter_map(
    cell: nn.Cell, names_and_shapes: Mapping, given: Mapping[str, str | None] | None = None
) -> ParameterMap:
    """Find which Parameter of a cell each tensor of a torch module is.

    A Parameter is found by its place in the cell, if that is the name in torch, "gamma" of a norm being "weight" and so
    on; else by structure: if no other layer on either side has the same names and shapes. What stands before all names
    of one side and is in none of the other, such as "model.", does not count, nor do "module." and "_orig_mod.".
    `mindspore.nn.Conv1d` has an axis of size 1 in its weight that torch's has not; the table shows both shapes.
    "num_batches_tracked" goes nowhere unless the layer has it, as those of `mint.nn`; ones and zeros of a norm without
    `affine`, which torch's has not, stay.

    Args:
        cell (Cell): The network.
        names_and_shapes (Mapping): torch's `state_dict`, or shapes by name.
        given (Mapping[str, Union[str, None]]): Where names of torch go, before all else: to the name of a Parameter, or
            its place in the cell, or nowhere (None). The name of a module stands for all in it. The place "" is the
            cell itself: what is in the module, as in ``{"module.encoder_q": ""}`` , is all that is asked for of the
            file. Tied weights are two names for one Parameter. Default: ``None`` .

    Returns:
        ParameterMap, a tuple of rows (torch, parameter, torch_shape, shape, how).

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a name is left over on either side, or shapes differ, or `given` names what is not there.

    Examples:
        >>> from mindspore import Parameter, nn
        >>> from ms_optim.convert import parameter_map
        >>> net = nn.SequentialCell(nn.Dense(2, 3), nn.LayerNorm([3]))
        >>> print(parameter_map(net, {"0.weight": (3, 2), "0.bias": (3,), "norm.weight": (3,), "norm.bias": (3,)}))
        torch        MindSpore  shape   known by
        0.weight     0.weight   (3, 2)  name
        0.bias       0.bias     (3,)    name
        norm.weight  1.gamma    (3,)    structure
        norm.bias    1.beta     (3,)    structure
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"For 'parameter_map', 'cell' must be a Cell, but got {type(cell).__name__}.")
    shapes, (ours, aliases) = shapes_of(names_and_shapes), in_torch_words(cell)
    chosen, problems = _given(shapes, aliases, given or {})
    theirs, own = aligned((name for name in shapes if name not in chosen), ours)
    keys = {short: key for key, short in own.items()}
    found = {name: (keys[short], "name") for name, short in theirs.items() if short in keys} | chosen
    used = {key for key, _ in found.values()}
    found |= {
        name: (key, "structure")
        for name, key in _by_structure(shapes, {key: row.torch_shape for key, row in ours.items()})
        if name not in found and key not in used
    }
    for name in shapes.keys() - found.keys():  # a counter goes where the mean beside it goes
        mean, _ = found.get(name.removesuffix(COUNTER) + "running_mean", (None, ""))
        if mean is not None:
            key = mean.removesuffix("running_mean") + COUNTER
            found[name] = (key, "structure") if key in ours else (None, "no counterpart")
    rows = []
    for name, shape in shapes.items():
        if name in found:
            key, how = found[name]
            rows.append(replace(ours.get(key, Row(name, None, shape, shape, how)), torch=name, how=how))
    problems += [
        f"shapes differ: {row.torch} {shapes[row.torch]} in torch, {row.parameter} {row.shape} in MindSpore"
        for row in rows
        if row.torch_shape != shapes[row.torch]
    ]
    used = {key for key, _ in found.values()}
    left = (
        [f"{name} {shapes[name]}" for name in shapes if name not in found],
        [f"{row.parameter} {row.shape}" for key, row in ours.items() if key not in used and row.how != IDLE],
    )
    if problems or any(left):
        raise ValueError(
            "For 'parameter_map', each name of torch must go to a Parameter of its shape and none may be "
            "left over, but got\n" + "\n".join([*problems, sides(*left)])
        )
    return ParameterMap(rows)


def sides(theirs: Iterable[str], ours: Iterable[str]) -> str:
    """What either side has, for a message."""
    return f"torch: {', '.join(theirs) or 'nothing'}\nMindSpore: {', '.join(ours) or 'nothing'}"


def bare(names: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Each name, and what it is without what all of them begin with, if that is a wrapper or in none of the others.

    A wrapper that is inside, as a compiled part of a module has it, does not count either.
    """
    names = list(names)
    short = [name.replace("._orig_mod.", ".") for name in names]
    kept = {part for name in others for part in name.split(".")}
    while all("." in name for name in short):
        heads = {name.partition(".")[0] for name in short}
        if len(heads) != 1 or not (heads <= WRAPPERS or (kept and not heads & kept)):
            break
        short = [name.partition(".")[2] for name in short]
    return dict(zip(names, short))


def aligned(theirs: Iterable[str], ours: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names of two sides without what stands before all of one and is in none of the other."""
    ours = list(ours)
    short = bare(theirs, ours)
    return short, bare(ours, short.values())


def shapes_of(values: Mapping) -> dict[str, tuple[int, ...]]:
    """The shapes by name: those of tensors, or the values themselves."""
    shapes = (
        {name: getattr(value, "shape", value) for name, value in values.items()} if isinstance(values, Mapping) else {}
    )
    wrong = [
        f"{type(shape).__name__} for {name!r}, among {list(values)[:10]}"
        for name, shape in shapes.items()
        if not isinstance(name, str)
        or not isinstance(shape, (tuple, list))
        or not all(isinstance(size, Integral) for size in shape)
    ]
    if wrong or not shapes:
        raise TypeError(
            "For 'parameter_map', a state dict must map names to tensors or shapes, but got "
            f"{wrong[0] if wrong else type(values).__name__ + ' {}' * isinstance(values, Mapping)}."
        )
    return {name: tuple(map(int, shape)) for name, shape in shapes.items()}


def in_torch_words(cell: nn.Cell) -> tuple[dict[str, Row], dict[str, str]]:
    """A row for each Parameter, by what torch would call it; and that by all names that it has here."""
    found: dict[str, Row] = {}
    aliases: dict[str, str] = {}
    by_name: dict[str, Parameter] = {}
    parts = dict(cell.cells_and_names())
    for path, part in parts.items():
        words = next((words for classes, words in LAYERS if isinstance(part, classes)), {})
        outer = path.rpartition(".")[0]
        layer = outer if isinstance(parts.get(outer), nn.BatchNorm3d) else path  # it holds a BatchNorm2d
        for leaf, param in part.parameters_and_names(expand=False):
            if by_name.setdefault(param.name, param) is not param:
                raise ValueError(
                    f"For 'parameter_map', the Parameters must have different names, but got "
                    f"{param.name!r} more than once."
                )
            key, shape = f"{layer}.{words.get(leaf, leaf)}".lstrip("."), tuple(param.shape)
            line = isinstance(part, (nn.Conv1d, nn.Conv1dTranspose)) and leaf == "weight"
            idle = (
                words is NORM and leaf in NEUTRAL and not param.requires_grad and (array(param) == NEUTRAL[leaf]).all()
            )
            found[key] = Row(key, param.name, (*shape[:2], shape[3]) if line else shape, shape, IDLE if idle else "")
            aliases |= {f"{path}.{leaf}".lstrip("."): key, key: key}
    return found, aliases | {row.parameter: key for key, row in found.items() if row.parameter is not None}


def _given(shapes, aliases, given):
    """What the caller says of each name, for it alone or for a module that it is in; and what makes no sense of it."""
    goals, found, problems = {}, {}, []
    for head in sorted(given, key=len):  # what is said of a part of a module counts more
        inside = [name for name in shapes if f"{name}.".startswith(f"{head}.")]
        goals |= {
            name: None if given[head] is None else (given[head] + name[len(head) :]).removeprefix(".")
            for name in inside
        }
        problems += [] if inside else [f"given, but not in torch: {head}"]
    for name, goal in goals.items():
        if goal is None or goal in aliases:
            found[name] = aliases.get(goal), "given"
        elif name.rpartition(".")[2] != COUNTER:
            problems.append(f"given, but not in MindSpore: {goal} (for {name})")
    if "" in given.values():  # a part of the file was asked for
        found |= {name: (None, "not asked for") for name in shapes if name not in goals}
    return found, problems


def _by_structure(theirs, ours):
    """Pair the names of layers whose names and shapes occur once on either side."""
    once = []
    for side in (theirs, ours):
        layers, kinds = defaultdict(dict), defaultdict(list)
        for name, shape in side.items():
            layer, _, leaf = name.rpartition(".")
            if leaf != COUNTER:
                layers[layer][leaf, shape] = name
        for leaves in layers.values():
            kinds[frozenset(leaves)].append(leaves)
        once.append({kind: found[0] for kind, found in kinds.items() if len(found) == 1})
    return [(once[0][kind][leaf], once[1][kind][leaf]) for kind in once[0].keys() & once[1].keys() for leaf in kind]
