"""The calls of one factory: their numbers, their ends, and the one timer that ends those whose time is over."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Iterable
from typing import Any

from isolane._core import DispatchBook, UserExecutionContext


class RunningCall:
    """One call that is under way. ``end`` tells once, and only once, that the call is to be shown as ended."""

    __slots__ = ("_book", "_calls", "cancels", "expired", "number", "task")

    def __init__(self, calls: dict[int, RunningCall], book: DispatchBook, number: int) -> None:
        self._calls = calls
        self._book = book
        self.number = number
        self.task = asyncio.current_task()
        self.cancels = self.task.cancelling() if self.task is not None else 0
        self.expired = False

    def expire(self) -> None:
        """Its time is over."""
        if self.task is not None and not self.task.done():
            self.expired = True
            self.task.cancel()

    def is_own_cancellation(self) -> bool:
        """Return whether a cancellation came from the deadline alone, and take it back. As ``asyncio.timeout`` does."""
        return self.expired and self.task is not None and self.task.uncancel() <= self.cancels

    def end(self, how: str) -> float | None:
        """Note the end; return the milliseconds that it took, or ``None`` when it was noted before."""
        self._calls.pop(self.number, None)
        return self._book.end(self.number, how)


class Calls:
    """All calls of a factory."""

    def __init__(self, per_user: int) -> None:
        self.book = DispatchBook(per_user)
        self._running: dict[int, RunningCall] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rings_at = math.inf

    def begin(self, context: UserExecutionContext, tool: str, timeout: float) -> RunningCall:
        """Begin a call. Raises ``LimitRejected`` when its user has too many under way."""
        number = self.book.begin(context, tool, timeout)
        call = self._running[number] = RunningCall(self._running, self.book, number)
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._rings_at > loop.time() + timeout:
            self._arm(loop, timeout)
        return call

    def _arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        reference = weakref.ref(self)

        def ring() -> None:
            # A timer must not keep a factory alive that nobody else holds.
            calls = reference()
            if calls is not None:
                calls._ring()  # noqa: SLF001 - itself

        self._loop, self._timer = loop, loop.call_later(seconds, ring)
        self._rings_at = self._timer.when()

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        for number in self.book.due():
            call = self._running.get(number)
            if call is None or call.task is None:
                continue
            loop = call.task.get_loop()
            if loop is self._loop:
                call.expire()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(call.expire)
        due = self.book.next_due_in()
        if due is not None and self._loop is not None and not self._loop.is_closed():
            self._arm(self._loop, due)

    def cancel(self, numbers: Iterable[int]) -> list[asyncio.Future[Any]]:
        """Cancel calls; return the tasks of this loop in which they run, without the one that asks."""
        current = asyncio.current_task()
        tasks = {
            call.task
            for number in numbers
            if (call := self._running.get(number)) is not None and call.task is not None and call.task is not current
        }
        for task in tasks:
            task.cancel()
        return [task for task in tasks if task.get_loop() is asyncio.get_running_loop()]
