"""States of schedulers: told, checked as a whole, and only then taken over."""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from types import FunctionType
from typing import Any, ClassVar

from ms_optim.arguments import Kind
from ms_optim.lr_scheduler.kinds import Each, Real, declared

# What torch's states hold and no step reads: two flags that are False between steps.
UNREAD = {"_get_lr_called_within_step", "_is_initial"}


class Stateful:
    """An object whose attributes, but for `optimizer`, are its state, as those of torch's schedulers are.

    A class says as `arguments` and `attributes` of which kind its own are; an attribute that no class of it declares
    is not checked. As `later` it names those that torch's has not had since 1.1, which stay as they were made where
    a state lacks them, and as `earlier` what torch's had before and has no meaning here.
    """

    arguments: ClassVar[Mapping[str, Kind]] = {}
    attributes: ClassVar[Mapping[str, Kind]] = {}
    later: ClassVar[frozenset[str]] = frozenset()
    earlier: ClassVar[frozenset[str]] = frozenset({"verbose"})

    def state_dict(self) -> dict:
        """Give torch's keys and numbers, which a scheduler of torch loads; of functions nothing is kept."""
        return {key: _saved(value) for key, value in self._own().items()}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Take what `state_dict` gave, here or in torch, from a scheduler of this class. The groups are left alone.

        Raises:
            TypeError: If `state_dict` is not a mapping, or a value in it is of the wrong kind.
            ValueError: If it has not the keys of this scheduler, or not its number of groups or schedulers, or a value
                is out of the range that the constructor allows. Nothing is changed then, in parts of this one either.
        """
        self._restore(self._check_state(state_dict))

    def _own(self):
        """List the attributes that a state holds."""
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def _kinds(self):
        """Find the kinds of the attributes."""
        return declared(type(self), "arguments", "attributes")

    def _check_state(self, state_dict, kinds=None):
        """Check a state and give what each attribute becomes. `kinds` go before those of `_kinds`."""
        owner, own = type(self).__name__, self._own()
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"For '{owner}', 'state_dict' must be a mapping, but got {type(state_dict).__name__}.")
        later, earlier = (_named(type(self), what) for what in ("later", "earlier"))
        different = (own.keys() - state_dict.keys() - later) | (state_dict.keys() - own.keys() - earlier)
        different -= UNREAD
        if different:
            raise ValueError(
                f"For '{owner}', 'state_dict' must have the keys {sorted(own.keys() - UNREAD)}, but got "
                f"{sorted(map(str, state_dict.keys() - UNREAD))}: they differ in "
                f"{sorted(map(str, different))}."
            )
        kinds = self._kinds() | (kinds or {})
        return {
            key: _check_value(owner, key, own[key], value, kinds.get(key))
            for key, value in state_dict.items()
            if key in own.keys() - UNREAD
        }

    def _restore(self, checked):
        """Set the attributes to what `_check_state` gave."""
        vars(self).update({key: _restored(vars(self)[key], value) for key, value in checked.items()})


def _named(cls, what):
    """What the classes name that a class is made of."""
    return {name for base in cls.__mro__ for name in vars(base).get(what, ())}


def _has_parts(value):
    """Whether this is a list of schedulers or functions."""
    return isinstance(value, list) and any(isinstance(item, Stateful) or callable(item) for item in value)


def _saved(value: Any) -> Any:
    """Copy an attribute for a state: of a function nothing, of a callable object its attributes."""
    if isinstance(value, Stateful):
        return value.state_dict()
    if isinstance(value, list):
        return [_saved(item) for item in value]
    if callable(value):
        return None if isinstance(value, FunctionType) else deepcopy(getattr(value, "__dict__", {}))
    return deepcopy(value)


def _check_value(owner, name, own, given, kind):
    """Check what a state holds of an attribute, which is `own` now, and give what it becomes."""
    what = f"For '{owner}', '{name}' of 'state_dict' must"
    if isinstance(own, Stateful):  # one that waits for its milestone is before the first epoch
        return own._check_state(given, {"last_epoch": Real("(-inf, inf)")})
    if _has_parts(own):
        _check_list(what, own, given)
        return [_check_value(owner, name, *each, kind) for each in zip(own, given)]
    if callable(own):
        if not isinstance(given, (Mapping, type(None))) or (given and not hasattr(own, "__dict__")):
            raise TypeError(f"{what} be the attributes of {own!r} or None, but got {given!r}.")
        return deepcopy(given)
    if kind is None:
        return deepcopy(given)
    if isinstance(own, Counter):
        if isinstance(given, (list, tuple)):  # as the first versions had them
            given = Counter(given)
        if not isinstance(given, Mapping):
            raise TypeError(f"{what} map epochs to counts, but got {given!r}.")
        epochs = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in given]  # JSON has text
        return Counter(dict(zip(kind.check(owner, name, epochs), kind.check(owner, name, given.values()))))
    if isinstance(kind, Each):
        _check_list(what, own, given, kind.same_length)
    if isinstance(own, bool) and given is not own:
        raise ValueError(f"{what} be {own} as in the scheduler, but got {given!r}.")
    return kind.check(owner, name, given)


def _check_list(what, own, given, same_length=True):
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{what} be a list, but got {given!r}.")
    if len(given) != len(own) and (same_length or not given):
        raise ValueError(f"{what} have {len(own)} entries, but got {len(given)}.")


def _restored(own, checked):
    """Give an attribute its checked value; functions and schedulers stay the same objects."""
    if isinstance(own, Stateful):
        own._restore(checked)
        return own
    if callable(own):
        if checked:
            vars(own).update(checked)
        return own
    return list(map(_restored, own, checked)) if _has_parts(own) else checked
