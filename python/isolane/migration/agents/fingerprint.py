"""What a legacy state held, to find writes that freezing it does not refuse.

Those are writes to what cannot be frozen in place, such as a plain dictionary of the caller's, a ``defaultdict`` or an
object without declared fields, and writes past the attributes, such as ``state.__dict__[...] = ...``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from isolane.migration.agents.attributes import field_names, is_record, read

MAX_COMPARED = 10_000
"""Objects below one state that are compared. The context has its own copies of those beyond as well."""

_LEAVES = (str, bytes, int, float, complex, bool, type(None), type)


class Fingerprint:
    """What a state held when it was taken, to be told apart from what it holds later.

    Lists, dictionaries, sets, ``deque``, ``bytearray``, their subclasses and the public attributes of objects are
    compared, each by the identity of what it holds: nothing is called. Other mutable things, such as arrays, are not
    looked into.
    """

    def __init__(self, state: object) -> None:
        self._state = state
        self._fields = self._top()
        self._below: list[tuple[str, Any, Any]] = []
        seen: dict[int, Any] = {}
        waiting = deque((name, value) for name, value in self._fields.items())
        while waiting and len(seen) < MAX_COMPARED:
            field, value = waiting.popleft()
            if isinstance(value, _LEAVES) or id(value) in seen:
                continue
            seen[id(value)] = value
            shape = _shape(value)
            if shape is None:
                continue
            if not isinstance(value, tuple):
                self._below.append((field, value, shape))
            waiting.extend((field, each) for each in _held(shape))

    def _top(self) -> dict[str, Any]:
        return {name: read(self._state, name) for name in field_names(self._state)}

    def changed(self) -> list[str]:
        """Return the names of the fields that were set, added or removed since, or below which something was."""
        before, now = self._fields, self._top()
        own = [
            name
            for name in dict.fromkeys([*before, *now])
            if name not in now or name not in before or now[name] is not before[name]
        ]
        below = (field for field, value, shape in self._below if not _is_same(shape, _shape(value)))
        return list(dict.fromkeys([*own, *below]))


def _shape(value: Any) -> Any:
    """Return what something holds, in a form that does not change with it; ``None`` for what holds nothing."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, (list, tuple, deque)):
        return tuple(value)
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, bytearray):
        return bytes(value)
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict) and not callable(value) and _is_data(value):
        return {name: held[name] for name in field_names(value) if name in held}
    return None


def _is_data(value: object) -> bool:
    """Whether the context has a copy of it. Services that say how they are copied are shared: no write is lost."""
    return is_record(value) or getattr(type(value), "__deepcopy__", None) is None


def _held(shape: Any) -> Any:
    if isinstance(shape, Mapping):
        return shape.values()
    return () if isinstance(shape, (bytes, AbstractSet)) else shape


def _is_same(before: Any, now: Any) -> bool:
    if isinstance(before, (bytes, AbstractSet)):
        return bool(before == now)
    if type(before) is not type(now) or len(before) != len(now):
        return False
    if isinstance(before, Mapping):
        return all(key in now and now[key] is each for key, each in before.items())
    return all(each is other for each, other in zip(before, now, strict=True))
