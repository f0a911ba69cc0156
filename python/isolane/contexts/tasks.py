"""Tasks that end with their context."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

MAX_TASKS = 1_000
"""Most tasks of one context at a time: a loop that starts tasks for ever is a leak, not a use."""


def start(
    coro: Coroutine[Any, Any, Any], name: str | None, own: set[asyncio.Task[Any]], run: set[asyncio.Task[Any]]
) -> asyncio.Task[Any]:
    """Start a task and keep it in both sets until it is done: those of the context, and those of its run."""
    if not asyncio.iscoroutine(coro):
        raise TypeError(f"create_task takes a coroutine, got: {type(coro).__name__}. Call the async function")
    if len(own) >= MAX_TASKS:
        coro.close()
        raise RuntimeError(f"{MAX_TASKS} tasks of this context are running; wait for some before starting more")
    try:
        task = asyncio.get_running_loop().create_task(coro, name=name)
    except RuntimeError:
        coro.close()
        raise
    for tasks in (own, run):
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return task


def canceller(tasks: set[asyncio.Task[Any]]) -> Callable[[], Awaitable[None]]:
    """Return what cancels the tasks and waits for those of the running loop."""

    async def cancel_tasks() -> None:
        loop = asyncio.get_running_loop()
        waited_for = []
        for task in list(tasks):
            # A task may clean up its own context: it goes on.
            if task is asyncio.current_task():
                continue
            if task.get_loop() is loop:
                task.cancel()
                waited_for.append(task)
            else:
                # A loop that is closed runs it no more.
                with contextlib.suppress(RuntimeError):
                    task.get_loop().call_soon_threadsafe(task.cancel)
        if waited_for:
            await asyncio.wait(waited_for)

    return cancel_tasks
