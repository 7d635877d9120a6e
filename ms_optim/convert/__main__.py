"""The command line of `ms_optim.convert`: a file of torch into one of MindSpore, or back."""

import argparse
import importlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from mindspore import nn

from ms_optim._files import kind_of
from ms_optim.checkpoint import restore, save
from ms_optim.convert.files import FORMATS, read_tensors, write_tensors, write_torch
from ms_optim.convert.names import COUNTER, NORM, ParameterMap, Row, in_torch_words, parameter_map, shapes_of
from ms_optim.convert.parts import weights_of
from ms_optim.convert.stand_ins import Unread
from ms_optim.convert.transfer import to_mindspore, to_torch


def main(argv: Iterable[str] | None = None) -> int:
    """Convert a file; print what went where."""
    parser = argparse.ArgumentParser(
        prog="convert",
        description="Convert the weights in a file of torch to one of MindSpore (.ckpt), or back (.pt, .pth, .bin); "
        "one of safetensors is of whichever the other is not. What it cannot map is an error.",
    )
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--key", help="the entry of SOURCE that is the state dict, such as 'model'")
    parser.add_argument("--map", metavar="FILE.json", help="names of torch, and for each the name of MindSpore")
    parser.add_argument(
        "--cell",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function that makes the network, whose "
        "Parameters then decide; without it names and ranks do, and an unclear one is an error",
    )
    parser.add_argument(
        "--optimizer",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function from the network of --cell to its optimizer, or to the EMA around that, whose state is "
        "converted too: TARGET is a checkpoint of both, or a file of torch with 'model', 'optimizer' and 'ema'",
    )
    parser.add_argument(
        "--like",
        metavar="FILE.pt",
        help="a file of torch with the names that TARGET is to have, in their order, and with the groups of its "
        "optimizer, where a state goes along; needs --cell. Without it 'param_names' in the groups say the order",
    )
    parser.add_argument(
        "--ema", action="store_true", help="write the averages of a checkpoint of MindSpore in the place of its weights"
    )
    options = parser.parse_args(argv)
    try:
        rows, left = _convert(options)
        print_map(rows)
        if left:
            print("left out:", ", ".join(f"{name} ({_kind(entry)})" for name, entry in left.items()))
    except (ValueError, TypeError, OSError, ImportError, AttributeError) as error:
        print(f"convert: error: {error}", file=sys.stderr)
        return 2
    return 0


def _kind(entry):
    """What an entry is, in a word."""
    return entry.name if isinstance(entry, Unread) else type(entry).__name__


def _convert(options):
    target = Path(options.target).suffix
    sides = kind_of("convert", options.source), FORMATS.get(target)
    if sides[1] is None or sides[0] == sides[1]:
        raise ValueError(
            "SOURCE and TARGET must be one file of torch and one of MindSpore, or one of either and one of "
            f"safetensors, TARGET ending in one of {(*FORMATS,)}, but got one of {sides[0]} and {target!r}."
        )
    if options.optimizer and not options.cell:
        raise ValueError("'--optimizer' must be given with '--cell', whose network the optimizer is of.")
    given = json.loads(Path(options.map).read_text(encoding="utf-8")) if options.map else {}
    if not isinstance(given, dict):
        raise ValueError(f"'--map' must be a JSON object, but got {type(given).__name__}.")
    odd = [name for name, goal in given.items() if goal is not None and not (isinstance(goal, str) and goal)]
    if odd:
        raise ValueError(f"'--map' must map names to names or null, but got {given[odd[0]]!r} for {odd[0]!r}.")
    cell = _made("--cell", nn.Cell, options.cell) if options.cell else None
    optimizer = _made("--optimizer", nn.Optimizer, options.optimizer, cell) if options.optimizer else None
    back = sides[1] == "torch" or sides[0] == "MindSpore"
    if options.ema and not back:
        raise ValueError("'--ema' must be given for a checkpoint of MindSpore, but SOURCE is of torch.")
    if options.ema and optimizer:
        raise ValueError("'--ema' must not be given with '--optimizer', whose EMA is written beside the weights.")
    if options.like and not (back and cell):
        raise ValueError("'--like' must be given for a checkpoint of MindSpore, and with '--cell'.")
    if back and optimizer and sides[1] != "torch":
        endings = [ending for ending, kind in FORMATS.items() if kind == "torch"]
        raise ValueError(f"'TARGET' must end in one of {endings} where a state goes along, but got {target!r}.")
    found = read_tensors(options.source)
    values, left = _weights(found, options.key)
    if back:
        given = {name: goal for name, goal in given.items() if goal is not None}
        return _to_torch(options, found, values, left, given, cell, optimizer)
    if optimizer is not None:
        name, state = _optimizer_state(found)
        rows = to_mindspore(cell, values, optimizer, state, given=given)
        save(nn.CellList([cell, optimizer], auto_prefix=False), options.target)
        return rows, {entry: value for entry, value in left.items() if entry != name}
    if cell is not None:
        rows = to_mindspore(cell, values, given=given)
        written = cell.parameters_dict()
    else:
        rows = _by_rules(values, False, given)
        written = {row.parameter: values[row.torch] for row in rows if row.parameter is not None}
    write_tensors(written, options.target)
    return rows, left


def _made(option, kind, factory, *args):
    """What a function, given as PACKAGE.MODULE:NAME, makes."""
    module, _, name = factory.partition(":")
    function = getattr(importlib.import_module(module), name)
    try:
        made = function(*args)
    except Exception as error:
        raise ValueError(
            f"'{option}' must make a {kind.__name__}, but raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, kind):
        raise TypeError(f"'{option}' must make a {kind.__name__}, but made {made!r}.")
    return made


def _to_torch(options, found, values, left, given, cell, optimizer):
    known = () if cell is None else [param.name for param in cell.get_parameters()]
    values, state = weights_of(values, options.ema, known)
    if options.like:
        like = read_tensors(options.like)
        names, _ = _weights(like, None)
    else:
        rows = _by_rules(values, True, given) if cell is None else _by_cell(values, cell, given)
        names = {row.torch: values[row.parameter].reshape(row.torch_shape) for row in rows}
    if optimizer is None and not options.like:
        write_tensors(names, options.target)
        return rows, left | state
    whole = cell if optimizer is None else nn.CellList([cell, optimizer], auto_prefix=False)
    unknown = restore(whole, found)
    optimizer_like = _optimizer_state(like)[1] if options.like and optimizer else None
    made = to_torch(cell, names, optimizer, optimizer_like=optimizer_like, given=given)
    write_torch(made if optimizer else made["model"], options.target)
    return parameter_map(cell, names, given), {name: found[name] for name in unknown}


def _optimizer_state(found):
    """The name and the value of the one entry that is the state of an optimizer, or, as of Lightning, a list of one."""
    entries = {
        name: item[0] if isinstance(item, (list, tuple)) and len(item) == 1 else item for name, item in found.items()
    }
    states = {
        name: item
        for name, item in entries.items()
        if isinstance(item, Mapping) and {"state", "param_groups"} <= item.keys()
    }
    if len(states) != 1:
        raise ValueError(f"SOURCE must have one entry that is the state of an optimizer, but got {[*states]}.")
    return next(iter(states.items()))


def _weights(found, key):
    """The tensors by name in a file, or in the one entry that has such, or in that of a key; and what else there is."""
    entries = {name: entry for name, entry in found.items() if isinstance(entry, Mapping) and _tensors(entry)}
    if key is None and not _tensors(found) and len(entries) == 1:
        (key,) = entries
    if key not in entries and (key is not None or not _tensors(found)):
        got = "it is not given" if key is None else f"got {key!r}"
        raise ValueError(
            f"'--key' must be an entry of SOURCE that has tensors by name, one of {[*entries]}, but {got}."
        )
    chosen = found if key is None else entries[key]
    tensors = _tensors(chosen)
    odd = {name: entry.name for name, entry in chosen.items() if isinstance(entry, Unread) and entry.is_tensor}
    if odd:
        raise ValueError(f"SOURCE must have dense tensors of numbers, but got {odd}.")
    beside = {} if key is None else {name: entry for name, entry in found.items() if name != key}
    return tensors, {**beside, **{name: entry for name, entry in chosen.items() if name not in tensors}}


def _tensors(entries):
    """Those of the entries that are tensors."""
    return {name: value for name, value in entries.items() if isinstance(name, str) and hasattr(value, "dtype")}


def _by_cell(values, cell, given):
    """The map from a file of the cell's Parameters to torch's names: those that are given, or else what it says."""
    theirs, ours = (
        {name: tuple(value.shape) for name, value in each.items()} for each in (values, cell.parameters_dict())
    )
    if theirs != ours:
        left = [
            ", ".join(f"{name} {shape}" for name, shape in each.items() if other.get(name) != shape)
            for each, other in ((theirs, ours), (ours, theirs))
        ]
        raise ValueError(
            "For 'convert', the file must have the Parameters of the cell, but do not fit\n"
            f"file: {left[0]}\ncell: {left[1]}"
        )
    words, aliases = in_torch_words(cell)
    names = {key: key for key in words}
    for name, goal in given.items():
        head = aliases.get(goal, goal)
        names |= {key: name + key[len(head) :] for key in words if f"{key}.".startswith(f"{head}.")}
    return parameter_map(cell, {names[key]: row.torch_shape for key, row in words.items()}, given)


def _words(leaves, back):
    """What the names in a layer are on the other side, if another, and those by which it could be another layer."""
    if back:
        norm = {"gamma", "beta"} <= leaves.keys() or "moving_mean" in leaves
        return (NORM, ()) if norm else ({"embedding_table": "weight"}, ("gamma", "beta"))
    if "running_mean" in leaves or [len(leaves.get(leaf, ())) for leaf in ("weight", "bias")] == [1, 1]:
        return {theirs: ours for ours, theirs in NORM.items()}, ()
    rank = len(leaves.get("weight", ()))
    return {}, ("weight",) if rank < 2 or (rank == 2 and "bias" not in leaves) else ()


def _by_rules(values, back, given):
    """A map by names alone: those of norms and embeddings differ. What a name alone does not tell is an error."""
    given = {goal: name for name, goal in given.items()} if back else dict(given)
    shapes, layers, rows, unclear = shapes_of(values), defaultdict(dict), [], []
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        layers[layer][leaf] = shape
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        words, doubtful = _words(layers[layer], back)
        other, how = f"{layer}.{words.get(leaf, leaf)}".lstrip("."), "layer" if leaf in words else "name"
        if name in given:
            other, how = given.pop(name), "given"
        elif not back and leaf == COUNTER and "running_mean" in layers[layer]:
            other, how = None, "no counterpart"
        elif leaf in doubtful:
            unclear.append(f"{name} {shape}")
        rows.append(Row(*((other, name) if back else (name, other)), shape, shape, how))
    goals = [row.torch if back else row.parameter for row in rows]
    twice = sorted({goal for goal in goals if goal is not None and goals.count(goal) > 1})
    if unclear or given or twice:
        sides = ("MindSpore", "torch") if back else ("torch", "MindSpore")
        raise ValueError(
            "For 'convert', each name must tell its layer (a weight alone is of a Dense or an Embedding, "
            "a gamma alone of a norm or of its own), or '--map' or '--cell' must, but got\n"
            f"{sides[0]}: {', '.join(unclear) or 'nothing'} unclear; given but not there: "
            f"{', '.join(given) or 'nothing'}\n{sides[1]}: {', '.join(twice) or 'nothing'} more than once"
        )
    return ParameterMap(rows)


def print_map(rows: ParameterMap) -> None:
    """Print with rich, if it is there and this is a terminal, and else as plain text."""
    try:
        if not sys.stdout.isatty():
            raise ImportError
        from rich.console import Console
        from rich.table import Column, Table
    except ImportError:
        print(rows)
        return
    table = Table(*(Column(heading, overflow="fold") for heading in rows.HEADINGS))
    for row in rows:
        table.add_row(*row.cells())
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
