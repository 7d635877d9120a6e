"""What a class of optimizers declares: the kinds of its arguments and the names of its state, held to its functions."""

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ms_optim.arguments import COMMON, Kind, NamePatterns, Predicate, refuse_idle_patterns

# What is decided of the numbers of each rule, as the class says that has it first.
_conditions_of_rules: "weakref.WeakKeyDictionary[Callable, Mapping]" = weakref.WeakKeyDictionary()


def arguments_of(cls: Any) -> Mapping[str, inspect.Parameter]:
    """What a class takes, by name, that inherits its `__init__` or has one of its own.

    Before Python 3.11.4 the signature of one that inherits it is that of the `__new__` of a Cell, which takes anything.
    """
    return dict(_parameters_of(cls.__init__)[1:])


@functools.lru_cache(256)
def _parameters_of(function):
    """What a function takes, by name: an optimizer asks a dozen times, which takes longer than all else it declares."""
    return tuple(inspect.signature(function).parameters.items())


def _names_of(function):
    """The names of what a function takes."""
    return tuple(name for name, _ in _parameters_of(function))


class Declared:
    """The declaration of an optimizer, and what is wrong with one."""

    scalars: Callable
    update: Callable
    slots: ClassVar[tuple] = ()
    conditions: ClassVar[Mapping[str, tuple[str, Callable]]] = {}
    arguments: ClassVar[Mapping[str, Kind]] = {}

    @classmethod
    def kind_of(cls, name: str) -> Kind:
        """The kind of an argument.

        Raises:
            TypeError: If the class does not declare it, and it is not a common one.
        """
        kind = cls.arguments.get(name) or COMMON.get(name)
        if kind is None:
            raise TypeError(
                f"For '{cls.__name__}', 'arguments' must have the kind of '{name}', as a Number, because it "
                f"is none of the common {sorted(COMMON)}, but got {sorted(cls.arguments)}."
            )
        return kind

    @classmethod
    def check_group(cls, group: Mapping) -> None:
        """Raise if the arguments of a group do not go together; a subclass says which.

        Raises:
            ValueError: Naming them.
        """

    @classmethod
    def _own_names(cls):
        """The names of the slots; the numbers called step are the optimizer's own counts."""
        return {slot.name for slot in cls.slots if not (slot.scalar and slot.name == "step")}

    @classmethod
    def _refuse_names(cls, taken, what="slots"):
        """Raise if slots, or arguments, have names that are taken."""
        if taken:
            raise ValueError(
                f"For '{cls.__name__}', '{what}' must have other names than what an optimizer has, each once, but got "
                f"{sorted(taken)}."
            )

    @classmethod
    def _scalar_slots(cls):
        """The names of those that `scalars` takes and gives."""
        return [slot.name for slot in cls.slots if slot.scalar and slot.name != "step"]

    @classmethod
    def _numbers_read(cls):
        """What `scalars` takes after the step, the scalar slots and the learning rate."""
        return _names_of(cls.scalars)[2 + len(cls._scalar_slots()) :]

    @classmethod
    def _taken_by_update(cls):
        """What `update` takes after parameter, gradient and slots."""
        return _names_of(cls.update)[3:]

    @classmethod
    def _conditions_taken(cls):
        """Those that `update` takes: a class that derives from another may have a rule that takes none of its."""
        return {name: cls.conditions[name] for name in cls._taken_by_update() if name in cls.conditions}

    @classmethod
    def _flags_taken(cls, kinds):
        """Those that `update` takes: what is decided at construction."""
        return tuple(name for name in cls._taken_by_update() if name in kinds and not kinds[name].members(name))

    @classmethod
    def _numbers_taken(cls, kinds):
        """Those that `update` takes, of which `scalars` gives each."""
        others = {*cls._flags_taken(kinds), *cls._conditions_taken()}
        return tuple(name for name in cls._taken_by_update() if name not in others)

    @classmethod
    def _keep_conditions(cls):
        """Note what is decided of the numbers of the rule, if this is the first class that has it."""
        _conditions_of_rules.setdefault(cls.update, cls._conditions_taken())

    @classmethod
    def _has_own_conditions(cls):
        """Whether another class had this rule first, and decides otherwise."""
        taken = cls._conditions_taken()
        return taken != _conditions_of_rules.get(cls.update, taken)

    @classmethod
    def _check_declaration(cls, kinds):
        """Raise if the arguments, which have these kinds, are not what the functions and the slots read."""
        missing = [name for name in ("scalars", "update") if not hasattr(cls, name)]
        if missing:
            raise TypeError(f"For '{cls.__name__}', the class must have the function '{missing[0]}', but has it not.")
        members = [member for name, kind in kinds.items() for member in kind.members(name)]
        twice = sorted({member for member in members if members.count(member) > 1})
        if twice:
            raise TypeError(f"For '{cls.__name__}', each argument must have numbers of its own, but got {twice} twice.")
        read = {name for slot in cls.slots for name in (slot.when, slot.init) if name}
        missing = sorted((read - kinds.keys()) | ({"lr", *cls._numbers_read()} - {*members}))
        if missing:
            raise TypeError(
                f"For '{cls.__name__}', 'defaults' must have all that 'scalars' and 'slots' read, but got no {missing}."
            )
        cls._refuse_names(cls._own_names() & {*kinds, *members})
        cls._check_order(kinds)
        read = {number for number, _ in cls._conditions_taken().values()}
        missing = sorted((read | cls.__dict__.get("conditions", {}).keys()) - {*cls._taken_by_update()})
        if missing:
            raise TypeError(
                f"For '{cls.__name__}', 'conditions' must have names, and be of numbers, that 'update' takes, but it "
                f"takes no {missing}."
            )

    @classmethod
    def _check_order(cls, kinds):
        """Raise if the functions take what they are given by its place in another order."""
        first = ["step", *cls._scalar_slots(), "lr"]
        taken = [*_names_of(cls.scalars)]
        if taken[1 : len(first)] != first[1:]:
            raise TypeError(f"For '{cls.__name__}', 'scalars' must take {first} first, but takes {taken}.")
        numbers, conditions, flags = cls._numbers_taken(kinds), (*cls._conditions_taken(),), cls._flags_taken(kinds)
        if cls._taken_by_update() != (*numbers, *conditions, *flags):
            raise TypeError(
                f"For '{cls.__name__}', 'update' must take the numbers of 'scalars' after the slots, then the "
                f"conditions {[*conditions]}, then the flags {[*flags]}, but takes {[*cls._taken_by_update()]}."
            )

    def _check_numbers(self, count):
        """Raise unless `scalars` gave so many results as are taken, -1 of which stands for what is no tuple."""
        slots, numbers = self._scalar_slots(), self._numbers_taken(self.kinds)
        if count != len(slots) + len(numbers):
            kept = f"the new {slots} and " if slots else ""
            raise TypeError(
                f"For '{type(self).__name__}', 'scalars' must return a tuple of {kept}what 'update' takes as numbers, "
                f"{[*numbers]}, but got {'something else' if count < 0 else f'{count} of them'}."
            )

    @classmethod
    def _refuse_idle(cls, groups, kinds):
        """Raise if an argument that nothing reads is other than it is by default: whoever gave it believes otherwise.

        A class that derives from another may have a rule that takes fewer than that one's constructor.
        """
        read = {"lr", *(name for slot in cls.slots for name in (slot.when, slot.init))}
        read |= {*cls._numbers_read(), *cls._taken_by_update()}
        nothing = inspect.Parameter.empty
        usual = {
            name: argument.default for name, argument in arguments_of(cls).items() if argument.default is not nothing
        }
        for name, kind in kinds.items():
            if read & {name, *kind.members(name)}:
                continue
            expected = kind.check(cls.__name__, name, usual[name]) if name in usual else nothing
            for group in groups:
                if group[name] != expected:
                    raise ValueError(
                        f"For '{cls.__name__}', '{name}' must be what it is by default, because neither 'scalars' nor "
                        f"'update' nor 'slots' read it, but got {group[name]!r}."
                    )

    @staticmethod
    def _refuse_idle_patterns(owner, groups, kinds):
        """A pattern may be for all groups, and must match in one of them."""
        for name in (name for name, kind in kinds.items() if isinstance(kind, Predicate)):
            members = {}
            for group in groups:
                for pattern in group[name] if isinstance(group[name], NamePatterns) else ():
                    members.setdefault(pattern, []).extend(group["params"])
            for pattern, params in members.items():
                refuse_idle_patterns(owner, name, [pattern], params)
