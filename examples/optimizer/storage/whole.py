"""Database work that a cancellation does not cut in two.

A statement that is cancelled leaves its connection between the statement and its commit, with the write lock taken:
whoever keeps the error keeps the connection, and the user's next run waits for both. So work on a database is short,
and goes on to its end; only then does the cancellation go on.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def done_whole(work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work to its end, and let a cancellation that came meanwhile go on after it."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as cancellation:
            if task.cancelled():
                break
            cancelled = cancellation
        except Exception:  # noqa: BLE001 - the task has it, and it is raised below
            break
    if cancelled is None:
        return await task
    if not task.cancelled():
        # Looked at, so that nobody is told of an error that nobody asked for.
        task.exception()
    raise cancelled


def whole(work: Callable[Given, Coroutine[Any, Any, Result]]) -> Callable[Given, Coroutine[Any, Any, Result]]:
    """Let a function's work be done whole, whoever calls it."""

    @wraps(work)
    async def worker(*given: Given.args, **named: Given.kwargs) -> Result:
        return await done_whole(work(*given, **named))

    return worker
