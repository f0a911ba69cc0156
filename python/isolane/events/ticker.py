"""A timer of an event loop that comes again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Ticker:
    """Calls a function every so often, on the loop that it was started on, with how late the loop was.

    One timer and no thread or task. The next call is planned after the function has returned, so a loop that was
    blocked makes up for no call it missed.
    """

    def __init__(self, every: float, call: Callable[[float], object]) -> None:
        self.every = every
        self._call = call
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped, on a loop that is not closed."""
        return self._timer is not None and self._loop is not None and not self._loop.is_closed()

    def start(self) -> None:
        """Start on the running loop. One that runs goes on as it was; one that was left on another loop begins anew."""
        loop = asyncio.get_running_loop()
        if self.is_running and self._loop is loop:
            return
        self.stop()
        self._loop = loop
        self._plan(loop)

    def stop(self) -> None:
        """Stop. Once stopped it can be started again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        # By the clock and not by the loop's own, which uvloop reads once a turn.
        self._due = time.monotonic() + self.every
        self._timer = loop.call_later(self.every, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        late = max(0.0, time.monotonic() - self._due)
        try:
            self._call(late)
        finally:
            # The function may have stopped it.
            if self._loop is loop:
                self._plan(loop)
