"""The part of ``UserExecutionContext.cleanup`` that awaits: callbacks, then the session of the request."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from isolane._core import UserExecutionContext

SESSION_CLOSE_SECONDS = 5.0


async def _within(seconds: float, call: Callable[[], Any]) -> None:
    result = call()
    if inspect.isawaitable(result):
        async with asyncio.timeout(seconds):
            await result


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


async def close_context(
    context: UserExecutionContext,
    callbacks: Sequence[tuple[Callable[[], Any], float]],
    session: Any,
) -> tuple[BaseException, ...]:
    """Run the callbacks in the given order, each within its own deadline, then close the session.

    A cancellation does not stop it: what is left is still run, and the cancellation is raised at the end.
    Returns the exceptions that were raised.
    """
    errors: list[BaseException] = []
    cancelled: asyncio.CancelledError | None = None
    # Taken once: a cancellation that is asked for in one step may arrive in a later one.
    before = _cancellations()
    steps = list(callbacks)
    if session is not None:
        close = getattr(session, "aclose", None) or getattr(session, "close", None)
        if close is not None:
            steps.append((close, SESSION_CLOSE_SECONDS))
    try:
        for call, seconds in steps:
            try:
                await _within(seconds, call)
            except asyncio.CancelledError as error:
                # Else it is of something that the callback awaited: most often a task that it cancelled itself.
                if _cancellations() > before:
                    cancelled = error
            except Exception as error:  # noqa: BLE001 - one callback must not keep the others from running
                errors.append(error)
    finally:
        context._finish()  # noqa: SLF001 - the other half of the same method
    if cancelled is not None:
        raise cancelled
    return tuple(errors)
