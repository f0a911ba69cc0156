"""Faults that a test can ask for: what fails, is slow, breaks off or is cancelled. A fault that never came is told."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from isolane.testing.asgi import AsyncWsClient

MOST_STEPS = 1_000
"""Turns of the event loop after which work counts as endless."""

Function = TypeVar("Function", bound=Callable[..., Any])


class InjectedError(RuntimeError):
    """What an injected fault raises unless the test says otherwise."""


class FaultNeverCameError(AssertionError):
    """A fault was asked for and did not happen: what the test shows, it shows without it."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """One cancellation of `FaultInjector.cancel_everywhere`.

    Attributes:
        step: The turn of the loop after which the work was cancelled, from 0 on.
        was_cancelled: Whether it was; False once it was done before.
        result: What it returned, when it was done.
    """

    step: int
    was_cancelled: bool
    result: Any = None


@dataclass(slots=True)
class Fault:
    """A fault that was asked for.

    Attributes:
        what: In words.
        came: How often it happened.
    """

    what: str
    came: int = 0


class FaultInjector:
    """Breaks what it is given. At the end of the test the fixture fails it when a fault never came."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def _plan(self, what: str) -> Fault:
        fault = Fault(what)
        self.faults.append(fault)
        return fault

    @property
    def never_came(self) -> list[str]:
        """The faults that did not happen so far, in words."""
        return [fault.what for fault in self.faults if not fault.came]

    def verify(self) -> None:
        """Raise when a fault did not happen.

        Raises:
            FaultNeverCameError: Names them.
        """
        if missing := self.never_came:
            raise FaultNeverCameError("faults that were asked for and never came: " + ", ".join(missing))

    # -- functions and tools ---------------------------------------------------------------------------------------

    def failing(
        self,
        function: Function,
        error: BaseException | type[BaseException] = InjectedError,
        *,
        calls: Collection[int] = (1,),
    ) -> Function:
        """The function, but some of its calls fail instead of running. Coroutine functions stay such.

        Args:
            function: What is called.
            error: What is raised.
            calls: Which calls, counted from 1; empty for all.
        """
        fault = self._plan(f"{_name(function)} fails")
        number = 0

        def fails() -> bool:
            nonlocal number
            number += 1
            if calls and number not in calls:
                return False
            fault.came += 1
            return True

        def raised() -> BaseException:
            return error(f"injected into {_name(function)}") if isinstance(error, type) else error

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def failing_coroutine(*args: Any, **kwargs: Any) -> Any:
                if fails():
                    raise raised()
                return await function(*args, **kwargs)

            return failing_coroutine  # type: ignore[return-value]

        @functools.wraps(function)
        def failing(*args: Any, **kwargs: Any) -> Any:
            if fails():
                raise raised()
            return function(*args, **kwargs)

        return failing  # type: ignore[return-value]

    def slow(self, function: Function, seconds: float) -> Function:
        """The function, but each call takes so much longer: a coroutine waits, a plain function blocks its thread.

        Args:
            function: What is called.
            seconds: By how much.
        """
        fault = self._plan(f"{_name(function)} is slow")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def slow_coroutine(*args: Any, **kwargs: Any) -> Any:
                fault.came += 1
                await asyncio.sleep(seconds)
                return await function(*args, **kwargs)

            return slow_coroutine  # type: ignore[return-value]

        @functools.wraps(function)
        def slow(*args: Any, **kwargs: Any) -> Any:
            fault.came += 1
            time.sleep(seconds)
            return function(*args, **kwargs)

        return slow  # type: ignore[return-value]

    def failing_tool(
        self, tool: Any, error: BaseException | type[BaseException] = InjectedError, *, calls: Collection[int] = (1,)
    ) -> Any:
        """A tool whose calls fail: a ``Tool`` of isolane, or whatever `Tool.of` takes. Its name and parameters stay.

        Args:
            tool: The tool.
            error: What is raised.
            calls: Which calls, counted from 1; empty for all.
        """
        from isolane.tools import Tool  # noqa: PLC0415 - only tests of tools need them

        held = Tool.of(tool)
        return dataclasses.replace(held, call=self.failing(held.call, error, calls=calls))

    # -- sockets ---------------------------------------------------------------------------------------------------

    def dropped_socket(self, socket: AsyncWsClient, *, after: int) -> AsyncWsClient:
        """The socket breaks once it has received so many messages, without a goodbye.

        Args:
            socket: A client in this process.
            after: Messages.
        """
        fault = self._plan(f"the socket drops after {after} messages")
        socket._drop_after = after  # noqa: SLF001 - the two are one thing
        socket._on_fault = functools.partial(_came, fault)  # noqa: SLF001 - the same
        return socket

    def slow_consumer(self, socket: AsyncWsClient, *, after: int) -> AsyncWsClient:
        """The client reads nothing more once it has received so many messages, until ``resume``.

        Args:
            socket: A client in this process.
            after: Messages.
        """
        fault = self._plan(f"the client stops reading after {after} messages")
        socket._stall_after = after  # noqa: SLF001 - the two are one thing
        socket._on_fault = functools.partial(_came, fault)  # noqa: SLF001 - the same
        return socket

    # -- cancellation ----------------------------------------------------------------------------------------------

    async def cancel_at(self, work: Callable[[], Awaitable[Any]], step: int) -> Cancelled:
        """Run the work as a task and cancel it after so many turns of the event loop.

        Args:
            work: Makes what is awaited.
            step: Turns that the task gets first: 0 cancels it before it has begun.

        Raises:
            TimeoutError: Cancelled, it did not end within 1 000 turns and 10 seconds.
            Exception: What the work raised instead of being cancelled.
        """
        fault = self._plan(f"the work is cancelled at step {step}")
        outcome = await self._cancel_at(work, step)
        fault.came += outcome.was_cancelled
        return outcome

    async def _cancel_at(self, work: Callable[[], Awaitable[Any]], step: int) -> Cancelled:
        async def run() -> Any:
            return await work()

        task = asyncio.create_task(run(), name=f"cancelled at step {step}")
        try:
            for _ in range(step):
                if task.done():
                    break
                await asyncio.sleep(0)
        except BaseException:
            task.cancel()
            raise
        if task.done():
            return Cancelled(step, was_cancelled=False, result=task.result())
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        if not task.done():
            raise TimeoutError(f"cancelled at step {step}, the work did not end in 10 s")
        if task.cancelled():
            return Cancelled(step, was_cancelled=True)
        # It was done in the very turn, or has swallowed the cancellation.
        return Cancelled(step, was_cancelled=False, result=task.result())

    async def cancel_everywhere(self, work: Callable[[], Awaitable[Any]]) -> AsyncIterator[Cancelled]:
        """Run the work again and again, cancelled one turn of the loop later each time, until it is done before.

        Look in the loop's body at what a cancellation there has left behind. Turns are those of the event loop, so work
        that waits for a socket or a timer is cancelled in the middle of that wait.

        Args:
            work: Makes what is awaited, anew each time.

        Raises:
            TimeoutError: It is not done after 1 000 turns: let it wait for less.
        """
        fault = self._plan("the work is cancelled everywhere")
        for step in range(MOST_STEPS):
            outcome = await self._cancel_at(work, step)
            fault.came += outcome.was_cancelled
            yield outcome
            if not outcome.was_cancelled:
                return
        raise TimeoutError(f"the work is not done after {MOST_STEPS} turns of the event loop")


def _came(fault: Fault) -> None:
    fault.came += 1


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
