"""A legacy state that is no longer written: its attributes, and the lists, dictionaries and sets below them.

The object stays of its class, and reads as before. What cannot be frozen in place, such as a plain dictionary of the
caller's, is compared: see ``Fingerprint``.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any

from isolane.migration.agents.attributes import field_names, is_record, read

OnWrite = Callable[[str], None]
"""Called with the name of what was written. What it raises, the writer gets; else the write comes to nothing."""

MAX_FROZEN = 10_000
"""Objects that are frozen below one state. Those beyond stay as they are; the context has its own copies either way."""

LEVELS = 64

_HEAP_TYPE = 1 << 9
"""Only instances of classes that Python code made can become of another class."""

_CLASS: Any = object.__dict__["__class__"]

_Told = tuple[weakref.ref[Any], OnWrite, str]

_guards: weakref.WeakKeyDictionary[type, weakref.ref[type]] = weakref.WeakKeyDictionary()
"""Classes and their frozen forms, which live as long as something is frozen."""

_told: dict[int, _Told] = {}
"""Who is told of writes to which object: beside the objects, whose own dictionaries are data."""


class _Guarded:
    """What the three containers share: who is told of writes, and below which field they are."""

    on_write: OnWrite
    field: str


def _container(base: type, changing: dict[str, Callable[..., Any]]) -> type:
    """Make the frozen form of a builtin container; ``changing`` says what its changing methods return instead."""

    def refusing(method: str, instead: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(getattr(base, method))
        def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.on_write(self.field)
            return instead(self, *args, **kwargs)

        return refuse

    def plain(self: Any) -> Any:
        return base(self)

    def deep(self: Any, memo: dict[int, Any]) -> Any:
        # Noted before it is filled: it may hold itself.
        made = memo[id(self)] = base()
        held = copy.deepcopy(list(self.items() if base is dict else self), memo)
        made.extend(held) if base is list else made.update(held)
        return made

    body: dict[str, Any] = {method: refusing(method, instead) for method, instead in changing.items()}
    body |= {
        "__copy__": plain,
        "__deepcopy__": deep,
        "__reduce_ex__": lambda self, _protocol: (base, (base(self),)),
        "__module__": __name__,
    }
    return type(f"Frozen{base.__name__.capitalize()}", (_Guarded, base), body)


def _follow(state: Any, on_write: OnWrite, field: str) -> None:
    number = id(state)

    # The map as an argument: at the exit of the process the module may be empty already.
    def gone(_: object, told: dict[int, _Told] = _told) -> None:
        told.pop(number, None)

    _told[number] = (weakref.ref(state, gone), on_write, field)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _itself(self: Any, *_: Any) -> Any:
    return self


_FROZEN_OF: dict[type, type] = {
    list: _container(
        list,
        {
            **dict.fromkeys(
                ("append", "extend", "insert", "remove", "clear", "sort", "reverse", "__setitem__", "__delitem__"),
                _nothing,
            ),
            **dict.fromkeys(("__iadd__", "__imul__"), _itself),
            "pop": lambda self, index=-1: self[index],
        },
    ),
    dict: _container(
        dict,
        {
            **dict.fromkeys(("__setitem__", "__delitem__", "clear", "update"), _nothing),
            "__ior__": _itself,
            "pop": lambda self, key, *default: self.get(key, *default) if default else self[key],
            "popitem": lambda self: next(reversed(self.items())),
            "setdefault": lambda self, key, default=None: self.get(key, default),
        },
    ),
    set: _container(
        set,
        {
            **dict.fromkeys(
                (
                    *("add", "discard", "remove", "clear", "update"),
                    *("intersection_update", "difference_update", "symmetric_difference_update"),
                ),
                _nothing,
            ),
            **dict.fromkeys(("__ior__", "__iand__", "__isub__", "__ixor__"), _itself),
            "pop": lambda self: next(iter(self)),
        },
    ),
}


def freeze(state: Any, on_write: OnWrite) -> bool:
    """Freeze a state in place. Returns whether its attributes are: see ``Fingerprint`` for the rest."""
    return _Freezer(on_write).object(state, "", 0)


def is_frozen(value: object) -> bool:
    """Return whether writing to it is refused here."""
    return isinstance(value, _Guarded) or "__isolane_guard__" in type(value).__dict__


class _Freezer:
    def __init__(self, on_write: OnWrite) -> None:
        self._on_write = on_write
        self._seen: dict[int, Any] = {}
        """What was looked at, held so that no number is used twice: its frozen form."""

    def object(self, state: Any, field: str, level: int) -> bool:
        """Freeze what a state holds, and then itself."""
        complete = True
        for name in field_names(state):
            value = read(state, name)
            frozen = self._value(value, field or name, level)
            if frozen is value:
                continue
            try:
                extra = getattr(state, "__pydantic_extra__", None)
                if isinstance(state, dict):
                    dict.__setitem__(state, name, frozen)
                elif extra and name in extra:
                    extra[name] = frozen
                else:
                    object.__setattr__(state, name, frozen)
            except (AttributeError, TypeError):
                complete = False
        return self._guard(state, field) and complete

    def _guard(self, state: Any, field: str) -> bool:
        if is_frozen(state):
            return True
        guard = _guard_of(type(state))
        if guard is None:
            return False
        try:
            _follow(state, self._on_write, field)
            _CLASS.__set__(state, guard)
        except TypeError:
            # It takes no weak references, or has a layout of its own.
            _told.pop(id(state), None)
            return False
        return True

    def _value(self, value: Any, field: str, level: int) -> Any:
        if level >= LEVELS or len(self._seen) >= MAX_FROZEN or is_frozen(value):
            return value
        known = self._seen.get(id(value))
        if known is not None:
            return known[1]
        kind = type(value)
        if kind in _FROZEN_OF:
            return self._frozen_container(kind, value, field, level)
        if kind is tuple:
            frozen = tuple(self._value(each, field, level + 1) for each in value)
            self._seen[id(value)] = (value, frozen)
            return frozen
        if hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value) and is_record(value):
            return self._frozen_record(value, field, level)
        return value

    def _frozen_record(self, value: Any, field: str, level: int) -> Any:
        """Return a frozen copy: the record itself may be one that others hold, such as a default of the process."""
        try:
            own = copy.copy(value)
        except Exception:  # noqa: BLE001 - whatever a class raises that cannot be copied
            return value
        self._seen[id(value)] = (value, own)
        self.object(own, field, level + 1)
        return own

    def _frozen_container(self, kind: type, value: Any, field: str, level: int) -> Any:
        frozen = _FROZEN_OF[kind]()
        frozen.on_write, frozen.field = self._on_write, field
        self._seen[id(value)] = (value, frozen)
        if kind is dict:
            for key, each in value.items():
                dict.__setitem__(frozen, key, self._value(each, field, level + 1))
        elif kind is list:
            list.extend(frozen, [self._value(each, field, level + 1) for each in value])
        else:
            set.update(frozen, value)
        return frozen


def _guard_of(cls: type) -> type | None:
    """Return a class that is ``cls`` but for writing, or ``None`` when its instances cannot be of another class."""
    if not cls.__flags__ & _HEAP_TYPE:
        return None
    reference = _guards.get(cls)
    guard = reference() if reference is not None else None
    if guard is None:
        try:
            guard = _made_guard(cls)
        except TypeError:
            return None
        _guards[cls] = weakref.ref(guard)
    return guard


def _tell(state: Any, name: str) -> None:
    told = _told.get(id(state))
    if told is not None:
        _, on_write, field = told
        on_write(field or name)


def _made_guard(cls: type) -> type:
    def thawed(made: Any) -> Any:
        _CLASS.__set__(made, cls)
        return made

    def reduce(self: Any, protocol: Any) -> Any:
        made = reduce_ex(self, protocol)
        if isinstance(made, str):
            return made
        function, arguments, *rest = made
        return (function, tuple(cls if part is type(self) else part for part in arguments), *rest)

    body: dict[str, Any] = {
        "__isolane_guard__": True,
        # What compares classes, as dataclasses and pickle do, sees the one that the code names.
        "__class__": property(lambda _: cls),
        "__setattr__": lambda self, name, _value: _tell(self, name),
        "__delattr__": _tell,
        "__reduce_ex__": reduce,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__slots__": (),
    }
    reduce_ex: Callable[..., Any] = cls.__reduce_ex__
    own_deep, own_copy = getattr(cls, "__deepcopy__", None), getattr(cls, "__copy__", None)
    if own_deep is not None:
        body["__deepcopy__"] = lambda self, memo=None: thawed(own_deep(self, memo))
    if own_copy is not None:
        body["__copy__"] = lambda self: thawed(own_copy(self))
    # Not through the metaclass: that of pydantic would build a model anew.
    guard: type = type.__new__(type(cls), cls.__name__, (cls,), body)
    return guard
