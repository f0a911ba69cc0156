"""Reading a state of any class: a pydantic model, a dataclass, a dictionary, or what merely has attributes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

MISSING: Any = object()
"""Stands for a field that is not there."""


def read(state: object, name: str, default: Any = None) -> Any:
    """Return a field, by key from a mapping and by attribute from anything else."""
    if isinstance(state, Mapping):
        return state.get(name, default)
    return getattr(state, name, default)


def write(state: Any, name: str, value: Any) -> None:
    """Set a field of a state that is one's own."""
    if isinstance(state, dict):
        state[name] = value
    else:
        setattr(state, name, value)


def field_names(state: object) -> list[str]:
    """Return the names of the data that a state holds, in its own order, without private names.

    What a property computes is no data.
    """
    return [
        name
        for name in dict.fromkeys(_names(state))
        if isinstance(name, str) and not name.startswith("_") and not _is_computed(state, name)
    ]


def _is_computed(state: object, name: str) -> bool:
    """Whether it is a property that is kept once it was read."""
    if isinstance(state, Mapping):
        return False
    return isinstance(inspect.getattr_static(type(state), name, None), functools.cached_property)


def _names(state: object) -> Iterator[Any]:
    if isinstance(state, Mapping):
        yield from state
        return
    cls = type(state)
    # Pydantic 2 and 1; extra fields of the former are beside the instance's own dictionary.
    yield from _declared(cls, "model_fields") or _declared(cls, "__fields__")
    yield from getattr(state, "__pydantic_extra__", None) or ()
    if dataclasses.is_dataclass(state):
        yield from (field.name for field in dataclasses.fields(state))
    for above in reversed(cls.__mro__):
        slots = above.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(state, name):
                yield name
    yield from getattr(state, "__dict__", ())


def _declared(cls: type, name: str) -> Mapping[str, Any]:
    found = getattr(cls, name, None)
    return found if isinstance(found, Mapping) else {}


def is_record(value: object) -> bool:
    """Whether it is data: a pydantic model or a dataclass. Services and sessions that a state holds are left alone."""
    return hasattr(type(value), "__dataclass_fields__") or hasattr(type(value), "__pydantic_fields__")


def is_state(value: object) -> bool:
    """Return whether something is a legacy state: a mapping or an object that has a place for the ids of a run."""
    if isinstance(value, Mapping):
        return "user_id" in value or "chat_thread_id" in value
    return not isinstance(value, type) and (hasattr(value, "user_request") or hasattr(value, "chat_thread_id"))
