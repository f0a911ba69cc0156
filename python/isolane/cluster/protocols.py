"""What an engine has to do so that processes can share limits and logs. Redis is one; ``memory`` is another.

Both protocols are asked by one task of the process, never by a user's. What they are asked may be asked again after an
answer was lost: each operation done twice is as done once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from isolane.cluster.log_store import Appended, LogBatch, LogKey, LogReading, LogRecord, LogStore, LogWant

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

__all__ = [
    "Appended",
    "Command",
    "CommandHandler",
    "HintHandler",
    "LeaseAnswer",
    "LeaseBackend",
    "LeaseKind",
    "LeaseOperation",
    "LeaseReply",
    "LogBatch",
    "LogKey",
    "LogReading",
    "LogRecord",
    "LogStore",
    "LogWant",
    "Part",
    "PlaneState",
    "StateListener",
]

LeaseKind = Literal["acquire", "renew", "release", "restore"]
PlaneState = Literal["starting", "up", "down"]


class LeaseOperation(NamedTuple):
    """One thing to do with leases of one user, or of the total of a limit."""

    number: int
    """By which the desk knows it again."""
    kind: LeaseKind
    limit_name: str
    user_key: str
    """Empty for units of the total."""
    ids: list[bytes]
    """128 bits each, made by who wants the lease."""
    ttl_ms: int
    user_limit: int
    """-1: none."""
    total_limit: int
    """-1: none."""


class LeaseAnswer(NamedTuple):
    """What became of one lease that was asked for."""

    granted: bool
    fence: int
    """Grows with each grant of the limit, also after the engine lost its data."""
    which: Literal["user", "total"] | None
    """The limit that refused."""
    retry_ms: int
    """When the first of the leases that are in the way runs out."""


LeaseReply = list[LeaseAnswer] | list[bool] | list[int] | None
"""Of acquire; of renew, whether each is still held; of restore, the fences; of release."""


@runtime_checkable
class LeaseBackend(Protocol):
    """Keeps leases for all processes."""

    async def run(self, operations: Sequence[LeaseOperation]) -> list[LeaseReply | Exception]:
        """Do the operations, each as one step that others see whole. An exception stands for one that failed."""


@runtime_checkable
class Part(Protocol):
    """Something that lives on the plane: it is started after it, and stopped before it."""

    async def start(self, plane: Plane) -> None:
        """Begin. The plane may be down."""

    async def stop(self) -> None:
        """End. The plane may be down."""

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""


class Command(NamedTuple):
    """What one worker tells another."""

    kind: str
    payload: bytes
    sender: str


CommandHandler = Callable[[Command], Awaitable[None] | None]
HintHandler = Callable[[bytes], None]
StateListener = Callable[[PlaneState], None]
