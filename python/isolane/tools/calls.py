"""The calls of one factory: their numbers, their ends, and the one timer that ends those whose time is over."""

from __future__ import annotations

import asyncio
import math
import weakref
from asyncio import current_task, get_running_loop
from collections.abc import Iterable
from typing import Any

from isolane._core import DispatchBook


class Calls:
    """All calls of a factory."""

    def __init__(self, per_user: int) -> None:
        self.book = DispatchBook(per_user)
        self._running: dict[int, asyncio.Task[Any] | None] = {}
        self._expired: set[int] = set()
        """Calls under way whose tasks were cancelled because their time is over."""
        self._timers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.TimerHandle]
        self._timers = weakref.WeakKeyDictionary()
        """One a loop: threads have their own, and a loop may be closed while others run."""
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        """The loop whose timer was looked at last, and for how many seconds that is set at most."""
        self._rings_in = math.inf

    def follow(self, number: int, seconds: float) -> asyncio.Task[Any] | None:
        """Watch over a call that the book has let begin, to cancel it when its time is over. Returns its task."""
        try:
            loop = get_running_loop()
            task = self._running[number] = current_task(loop)
            if seconds < self._rings_in or self._loop is None or self._loop() is not loop:
                self._ring_within(loop, seconds)
        except BaseException:
            self.end(number, "cancelled")
            raise
        return task

    def is_expired(self, number: int) -> bool:
        """Return whether the time of a call is over and its task was cancelled for it."""
        return number in self._expired

    def end(self, number: int, how: str) -> float | None:
        """Note the end; return the milliseconds that it took, or ``None`` when it was noted before."""
        self._running.pop(number, None)
        if self._expired:
            self._expired.discard(number)
        return self.book.end(number, how)

    def _ring_within(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """See to it that the timer of the loop rings in so many seconds or before."""
        timer = self._timers.get(loop)
        if timer is None or timer.when() > loop.time() + seconds:
            if timer is not None:
                timer.cancel()
            self._timers[loop] = loop.call_later(seconds, _ring, weakref.ref(self), weakref.ref(loop))
        self._loop, self._rings_in = weakref.ref(loop), seconds

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timers.pop(loop, None)
        self._loop, self._rings_in = None, math.inf
        for number in self.book.due():
            task = self._running.get(number)
            if task is None:
                continue
            its_loop = task.get_loop()
            if its_loop is loop:
                self._expire(number)
            elif not its_loop.is_closed():
                its_loop.call_soon_threadsafe(self._expire, number)
        due = self.book.next_due_in()
        if due is not None:
            self._ring_within(loop, due)

    def _expire(self, number: int) -> None:
        task = self._running.get(number)
        if task is not None and not task.done():
            self._expired.add(number)
            task.cancel()

    def cancel(self, numbers: Iterable[int]) -> list[asyncio.Future[Any]]:
        """Cancel calls; return the tasks of this loop in which they run, without the one that asks."""
        current = current_task()
        running = (self._running.get(number) for number in numbers)
        tasks = {task for task in running if task is not None and task is not current}
        for task in tasks:
            task.cancel()
        return [task for task in tasks if task.get_loop() is get_running_loop()]


def _ring(calls: weakref.ref[Calls], loop: weakref.ref[asyncio.AbstractEventLoop]) -> None:
    """Ring for the calls of a factory. A timer must not keep a factory alive that nobody else holds."""
    factory_calls, running_loop = calls(), loop()
    if factory_calls is not None and running_loop is not None:
        factory_calls._ring(running_loop)  # noqa: SLF001 - itself
