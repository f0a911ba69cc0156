"""What was asked for: its answers, its deadline, and whoever waits, who may leave at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from isolane.cluster.errors import PlaneUnavailableError

if TYPE_CHECKING:
    from isolane.cluster.redis.line import Line

CANNOT_NOW = (ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError, OutOfMemoryError)
CANNOT_NOW_WORDS = (
    "CLUSTERDOWN ",
    "TRYAGAIN ",
    "BUSY ",
    "MISCONF ",
    "NOREPLICAS ",
    "UNKILLABLE ",
    "MASTERDOWN ",
    "LOADING ",
)
GRACE_SECONDS = 0.002
LATE_SECONDS = 0.002
"""A timer that comes later than that says that the loop was held up."""
PATIENCE = 6
"""While answers come, though not this one's yet, a call may take so many times longer."""


def cannot_now(reply: object) -> bool:
    """Whether the server cannot do it now, as opposed to it being wrong."""
    return isinstance(reply, ResponseError) and (
        isinstance(reply, CANNOT_NOW) or str(reply).startswith(CANNOT_NOW_WORDS)
    )


class Call:
    """One round trip: commands that are sent together, and the future of their answers."""

    __slots__ = (
        "_loop",
        "_missing",
        "_patience",
        "_replies",
        "_timeout",
        "_timer",
        "_told",
        "_when",
        "future",
        "line",
        "sent",
        "single",
        "started",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        timeout: float,
        told: Callable[[Call, str], None],
        *,
        single: bool = False,
    ) -> None:
        self._loop = loop
        self._replies: list[Any] = [None] * count
        self._missing = count
        self._timeout = timeout
        self._told = told
        self._patience = PATIENCE
        self.single = single
        self.started = loop.time()
        self.sent: float | None = None
        self.line: Line | None = None
        """The server that has it, or had it last."""
        self.future: asyncio.Future[Any] = loop.create_future()
        self._when = self.started + timeout
        self._timer = loop.call_at(self._when, self._due)

    @property
    def done(self) -> bool:
        """Whether nobody waits for answers any more."""
        return self.future.done()

    def answer(self, at: int, reply: Any) -> None:
        """Note the answer to one of the commands."""
        if self.future.done():
            return
        if cannot_now(reply):
            self.fail(PlaneUnavailableError(f"Redis cannot do that now: {reply}", "refused", sent=True))
            return
        self._replies[at] = reply
        self._missing -= 1
        if self._missing:
            return
        self._timer.cancel()
        self._told(self, "ok")
        if not self.single:
            self.future.set_result(self._replies)
        elif isinstance(reply, Exception):
            self.future.set_exception(reply)
            self.future.exception()
        else:
            self.future.set_result(reply)

    def fail(self, error: PlaneUnavailableError) -> None:
        """Tell whoever waits that there will be no answer."""
        self._timer.cancel()
        if self.future.done():
            return
        self._told(self, error.reason)
        self.future.set_exception(error)
        # Nobody has to ask: the state of the plane is logged once, not with each call.
        self.future.exception()

    def _due(self) -> None:
        if self.future.done():
            return
        loop = self._loop
        now = loop.time()
        # What this process was late with does not count, nor, for a while, that many others were first.
        left = 0.0 if self.sent is None else self.sent + self._timeout - now
        if left <= 0 and self._patience and (self._was_held_up(now) or self._is_in_turn(now)):
            self._patience -= 1
            left = self._timeout
        self._when = now + left
        if left > 0:
            self._timer = loop.call_later(left, self._due)
        else:
            # A loop that was held up reads what has come before it gives up.
            self._timer = loop.call_later(GRACE_SECONDS, self._late)

    def _was_held_up(self, now: float) -> bool:
        return now - self._when > LATE_SECONDS

    def _is_in_turn(self, now: float) -> bool:
        return self.line is not None and now - self.line.answered_at < self._timeout

    def _late(self) -> None:
        self.fail(
            PlaneUnavailableError(
                f"Redis did not answer within {self._timeout * 1000:.0f} ms", "timeout", sent=self.sent is not None
            )
        )


class Piece:
    """Commands of one call that go to one server.

    Attributes:
        at: the place of each command's answer in the call.
        tries: how often the commands were sent before, to this server or another.
        asking: the server has these keys while they move to it.
    """

    __slots__ = ("asking", "at", "call", "commands", "size", "tries")

    def __init__(
        self,
        call: Call,
        commands: list[tuple[Any, ...]],
        at: Sequence[int],
        *,
        size: int = 0,
        tries: int = 0,
        asking: bool = False,
    ) -> None:
        self.call = call
        self.commands = commands
        self.at = at
        self.size = size
        self.tries = tries
        self.asking = asking
