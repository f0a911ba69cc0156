"""What the application says that it holds for a user."""

from __future__ import annotations

import weakref
from typing import Any

from isolane._core import MemoryCharge, UserExecutionContext, charge_memory, estimate_size


def charge(context: UserExecutionContext, nbytes: int) -> MemoryCharge:
    """Charge bytes to the context's user until the handle is released, left as a ``with`` block, or dropped.

    It only counts; ``MemoryOptimizationManager.charge`` also refuses.
    """
    return charge_memory(context, nbytes)


def track(
    context: UserExecutionContext,
    obj: Any,
    size: int | None = None,
    user_limit: int | None = None,
    process_limit: int | None = None,
) -> MemoryCharge:
    """Charge an object to the context's user until the object ends.

    The object is not kept alive. The handle may be dropped; releasing it returns the bytes early. An object that is
    tracked twice is charged twice.

    Args:
        context: whose user is charged.
        obj: an object that can be referred to weakly: an instance of a class, not a ``str``, ``dict`` or ``list``.
        size: bytes. Default: ``estimate_size(obj)``, which looks at the object as it is now and never again.
        user_limit: bytes that the user may hold. Default: any number.
        process_limit: bytes that all users may hold. Default: any number.

    Raises:
        TypeError: the object cannot be referred to weakly.
        MemoryLimitExceededError: it would go over one of the limits.
    """
    handle = charge_memory(context, estimate_size(obj) if size is None else size, user_limit, process_limit)
    try:
        finalizer = weakref.finalize(obj, handle.release)
    except TypeError:
        handle.release()
        raise TypeError(
            f"{type(obj).__name__} objects cannot be tracked, since nothing can refer to them weakly; use charge(), or "
            f"track the object that holds them"
        ) from None
    finalizer.atexit = False
    return handle
