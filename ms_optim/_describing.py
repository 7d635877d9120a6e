"""What an optimizer tells of itself."""

from mindspore import nn


def table_of(optimizer: nn.Optimizer, why_compiled: str | None) -> str:
    """What each parameter of an optimizer of this library got, and why a direct call compiles, if it does."""
    groups = optimizer.param_groups
    rows = [("parameter", "group", "shape", "state", *optimizer.defaults)]
    columns = [(slot, optimizer.state.slots[slot]) for slot in optimizer.state.slots]
    arguments = [{name: group[name] for name in optimizer.defaults} for group in groups]
    for i, param in enumerate(optimizer.parameters):
        state = [slot for slot, column in columns if column[i] is not None]
        values = {**arguments[optimizer.group_of[i]], **dict(zip(optimizer.flag_names, optimizer.flags[i]))}
        rows.append(
            (param.name, str(optimizer.group_of[i]), str(param.shape), " ".join(state), *map(_short, values.values()))
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    way = f"are compiled, because {why_compiled}" if why_compiled else "run the native kernel at once"
    return "\n".join(["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] + [f"Direct calls {way}."])


def _short(value):
    """A number, flag or schedule in a table."""
    if isinstance(value, list):
        return f"[{value[0]:g}, ..., {value[-1]:g}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:g}" if isinstance(value, float) else getattr(value, "cls_name", None) or str(value)
