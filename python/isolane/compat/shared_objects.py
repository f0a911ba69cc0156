"""Objects that the application declares shared: no context may hold them."""

from __future__ import annotations

import contextlib
from typing import Any

from isolane._core import ContextIsolationError, UserExecutionContext

OWNER = "isolane:shared-objects"
MAX_OBJECTS = 1000

_SHARED_OBJECT_REGISTRY: dict[int, UserExecutionContext] = {}
"""By ``id()``, a context that holds the object: the core compares owners, and no other object gets the address."""


def register_shared_object(obj: Any) -> None:
    """Declare that an object is shared: ``verify_isolation`` fails for a context that holds it from now on.

    Found are a ``db_session``, and dictionaries, lists, sets and bytearrays anywhere in the two dictionaries of a
    context. The object is kept alive until ``clear_shared_object_registry()``; registering it again does nothing. A
    container that a context was found to own before stays that context's.

    Raises ``RuntimeError`` beyond 1000 objects.
    """
    if id(obj) in _SHARED_OBJECT_REGISTRY:
        return
    if len(_SHARED_OBJECT_REGISTRY) >= MAX_OBJECTS:
        raise RuntimeError(
            f"{MAX_OBJECTS} shared objects are registered, which is all that are allowed; register objects once, at "
            "start-up, or call clear_shared_object_registry()"
        )
    holder = UserExecutionContext(OWNER, OWNER, OWNER, db_session=obj)
    holder.agent_context["object"] = obj
    if isinstance(obj, dict | list | set | bytearray):
        # Verified, the holder owns the container, unless a user's context was found to own it before.
        with contextlib.suppress(ContextIsolationError):
            holder.verify_isolation()
    _SHARED_OBJECT_REGISTRY[id(obj)] = holder


def clear_shared_object_registry() -> None:
    """Forget all shared objects. Tests call it between cases."""
    _SHARED_OBJECT_REGISTRY.clear()
