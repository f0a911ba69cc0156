"""Coroutines on a clock that is moved by hand, so that seconds of waiting take none."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from tests.adversity.manual_loop import ManualLoop


def in_virtual_time(make: Callable[[], Coroutine[Any, Any, Any]], *, step: float = 0.01, at_most: float = 60.0) -> Any:
    """Run a coroutine to its end, ``step`` seconds at a time. The loop's clock and the core's move together.

    Raises:
        AssertionError: it has not ended after ``at_most`` seconds: it waits for something that does not come.
    """
    loop = ManualLoop()
    try:
        task = loop.create_task(make())
        began = loop.time()
        loop.turns()
        while not task.done() and loop.time() - began < at_most:
            loop.advance(step)
            loop.turns()
        if not task.done():
            task.cancel()
            loop.turns(20)
            raise AssertionError(f"not done after {at_most:g} s")
        return task.result()
    finally:
        loop.close()
