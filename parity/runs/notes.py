"""What is noted of a step beside its numbers: what who trains says, loss scales, clipping, steps that were skipped."""

import json
from typing import Any

OWNER = "record"


class Notes:
    """What is noted of the step that comes next.

    What was seen goes with the step that it was seen before, and is gone if that is skipped; what was said then waits
    for the next. Of steps that are left out it is gone as well, and only the number of those that were skipped remains.
    """

    def __init__(self):
        self._said: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        self._skipped = 0

    def say(self, **named: Any) -> None:
        """Take what who trains has said, as it is now.

        Raises:
            TypeError: If a value is none that JSON has.
            ValueError: If it is called as the number of steps that were skipped.
        """
        if "skipped" in named:
            raise ValueError(
                f"For '{OWNER}', a note must have another name than 'skipped', which counts steps that were not taken."
            )
        self._said.update({name: _as_json(name, value) for name, value in named.items()})

    def see(self, name: str, value: Any) -> None:
        """Take a number that the step that comes has."""
        self._seen[name] = value

    def add(self, name: str, value: Any) -> None:
        """Take one of what there may be several of."""
        self._seen.setdefault(name, []).append(value)

    def skip(self) -> None:
        """Count a step that was not taken."""
        self._skipped += 1
        self._seen = {}

    def pass_by(self) -> None:
        """Forget a step that was taken and is not recorded."""
        self._seen, self._said = {}, {}

    def taken(self) -> dict[str, Any]:
        """All that goes with the step that is recorded now, and begin anew."""
        found = {**self.left, **self._seen, **self._said}
        self.__init__()
        return found

    @property
    def left(self) -> dict[str, int]:
        """How many steps were skipped since the last that was recorded, if any."""
        return {"skipped": self._skipped} if self._skipped else {}


def loss_of(value: Any) -> float:
    """A loss as a number, of a tensor of either framework.

    Raises:
        TypeError: If it is none.
    """
    try:
        if not isinstance(value, (str, bytes)):
            return float(value.item() if hasattr(value, "item") else value)
    except (RuntimeError, TypeError, ValueError):
        pass
    got = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
    raise TypeError(f"For '{OWNER}', what 'loss' is given must be a number or have one element, but got {got}.")


def _as_json(name, value):
    """A value as it is read back; arrays and tensors are lists and numbers."""

    def plain(other):
        if hasattr(other, "tolist"):
            return other.tolist()
        raise TypeError(
            f"For '{OWNER}', what 'note' is given as '{name}' must be a value of JSON, but got {type(other).__name__}."
        )

    return json.loads(json.dumps(value, default=plain))
