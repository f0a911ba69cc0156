"""An event loop whose clock jumps to the next timer, together with the core's: minutes of waiting take no time."""

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from isolane import _core


class NothingLeftError(RuntimeError):
    """Everything waits, and no timer is left that could end it: a deadlock."""


class _Jump(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the time to it."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self.advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise NothingLeftError("everything waits and no timer is left: it would wait for ever")
        self.advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time is that of the core's clock, which stands still while something can run."""

    def __init__(self) -> None:
        super().__init__(_Jump(self._advance))

    def time(self) -> float:
        return _core.monotonic()

    @staticmethod
    def _advance(seconds: float) -> None:
        # The core counts whole microseconds; rounded down, the timer would not be due yet.
        _core._advance_clock((math.ceil(seconds * 1e6) + 0.5) / 1e6)  # noqa: SLF001 - the core's hook for tests


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in virtual time. Raises `NothingLeftError` when it deadlocks."""
    _core._manual_clock(True)  # noqa: SLF001
    try:
        loop = VirtualLoop()
        try:
            return loop.run_until_complete(main())
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    finally:
        _core._manual_clock(False)  # noqa: SLF001
