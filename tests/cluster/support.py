"""What tests of the plane share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from isolane.cluster import Plane

PATIENT = 10.0
QUICK = 0.05
SECONDS = 30.0
"""For anything to happen, on a machine that does much else."""


@contextlib.asynccontextmanager
async def planes(source: Any, count: int = 1, **options: Any) -> AsyncIterator[list[Plane]]:
    """Workers of one application, as far as the plane goes. Nothing of them is left afterwards."""
    # A machine that does much else is no fault: only tests of the deadline have the one that workers have.
    options.setdefault("call_timeout", PATIENT)
    before = left()
    made = [Plane(source, **options) for _ in range(count)]
    try:
        for plane in made:
            await plane.start()
        yield made
    finally:
        for plane in made:
            await plane.stop()
        assert before or not left(), "tasks of the plane are left"


def left() -> list[asyncio.Task[Any]]:
    """Tasks of planes that are not over."""
    alive = [task for task in asyncio.all_tasks() if not task.done()]
    return [task for task in alive if task.get_name().startswith(("isolane redis", "isolane plane"))]


async def until(holds: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Wait until it holds."""
    limit = asyncio.get_running_loop().time() + seconds
    while not holds():
        assert asyncio.get_running_loop().time() < limit, "it did not come to that"
        await asyncio.sleep(0.01)


async def until_up(*of: Plane) -> None:
    await until(lambda: all(plane.state == "up" for plane in of))


async def until_down(*of: Plane) -> None:
    await until(lambda: all(plane.state == "down" for plane in of))
