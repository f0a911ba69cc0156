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

Command = tuple[Any, ...]

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
IN_SCRIPTS = ("-OOM ", "-READONLY ", "-MISCONF ", "-NOREPLICAS ")
GRACE_SECONDS = 0.002
LATE_SECONDS = 0.002
"""A timer that comes later than that says that the loop was held up."""
PATIENCE = 6
"""While answers come, though not this one's yet, a call may take so many times longer."""


def cannot_now(reply: object) -> bool:
    """Whether the server cannot do it now, as opposed to it being wrong."""
    if not isinstance(reply, ResponseError):
        return False
    text = str(reply)
    # Before Redis 7 a script wraps the error of what it called.
    return (
        isinstance(reply, CANNOT_NOW)
        or text.startswith(CANNOT_NOW_WORDS)
        or ("@user_script" in text and any(word in text for word in IN_SCRIPTS))
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
        "strict",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        timeout: float,
        told: Callable[[Call, str], None],
        *,
        single: bool = False,
        strict: bool = False,
    ) -> None:
        self._loop = loop
        self._replies: list[Any] = [None] * count
        self._missing = count
        self._timeout = timeout
        self._told = told
        self._patience = PATIENCE
        self.single = single
        self.strict = strict
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
        wrong = next((each for each in self._replies if isinstance(each, Exception)), None) if self.strict else None
        if wrong is not None:
            self.future.set_exception(wrong)
            self.future.exception()
        else:
            self.future.set_result(reply if self.single else self._replies)

    def fail(self, error: PlaneUnavailableError) -> None:
        """Tell whoever waits that there will be no answer."""
        self._timer.cancel()
        if self.future.done():
            return
        self.future.set_exception(error)
        # Nobody has to ask: the state of the plane is logged once, not with each call.
        self.future.exception()
        # Which may refuse all that waits, this one included.
        self._told(self, error.reason)

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
        packed: the commands as they are sent.
        at: the place of each command's answer in the call.
        tries: how often the commands were sent before, to this server or another.
        asking: the server has these keys while they move to it.
    """

    __slots__ = ("asking", "at", "call", "commands", "packed", "size", "tries")

    def __init__(
        self,
        call: Call,
        commands: Sequence[Command],
        at: Sequence[int],
        *,
        packed: list[bytes] | None = None,
        tries: int = 0,
        asking: bool = False,
    ) -> None:
        self.call = call
        self.commands = commands
        self.packed = packed if packed is not None else [pack(command) for command in commands]
        self.at = at
        self.size = sum(map(len, self.packed))
        self.tries = tries
        self.asking = asking


def pack(command: Command) -> bytes:
    """Return a command as it is sent. Raises ``TypeError`` before anything is."""
    name, *words = command
    parts = [*(name.split() if isinstance(name, (str, bytes)) else [name]), *words]
    packed = [b"*%d\r\n" % len(parts)]
    for word in parts:
        if isinstance(word, bytes):
            data = word
        elif isinstance(word, str):
            data = word.encode()
        elif isinstance(word, (int, float)) and not isinstance(word, bool):
            data = str(word).encode()
        else:
            raise TypeError(f"{name} is asked with {type(word).__name__}; Redis takes bytes, texts and numbers")
        packed.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(packed)


ASKING = pack(("ASKING",))
