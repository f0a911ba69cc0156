"""What an engine has to do so that processes can share limits and logs. Redis is one; ``memory`` is another.

Both protocols are asked by one task of the process, never by a user's. What they are asked may be asked again after an
answer was lost: each operation done twice is as done once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

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


class LogBatch(NamedTuple):
    """What is new in one run's log. Only the worker that runs it writes."""

    user: str
    """The user's key, not the id."""
    run: str
    epoch: str
    entries: Sequence[tuple[int, bytes]]
    """Numbers that grow, and what was published."""
    snapshot: tuple[int, bytes] | None = None
    """Stands for everything up to its number."""
    ended: str | None = None


class LogWant(NamedTuple):
    """What is wanted of one run's log."""

    user: str
    run: str
    epoch: str
    after: int


class LogChunk(NamedTuple):
    """A part of one run's log."""

    entries: list[tuple[int, bytes]]
    snapshot: tuple[int, bytes] | None = None
    """There when entries after the wanted number are gone."""
    ended: str | None = None


class LogRun(NamedTuple):
    """A run that a user has on some worker."""

    run: str
    epoch: str
    worker: str
    data: bytes = b""


@runtime_checkable
class LogStore(Protocol):
    """Keeps the logs of runs where all processes can read them."""

    async def append(self, batches: Sequence[LogBatch]) -> list[bool | Exception]:
        """Append; ``False`` where a second writer was there first. Numbers that are there already count as appended."""

    async def read(self, wants: Sequence[LogWant]) -> list[LogChunk | Exception | None]:
        """Read on; ``None`` where there is no such log."""

    async def announce(self, user: str, run: LogRun) -> None:
        """Say which worker has the run, again before its lease runs out."""

    async def forget(self, user: str, run: str) -> None:
        """Take a run off the user's list."""

    async def runs_of(self, users: Sequence[str]) -> list[list[LogRun]]:
        """List the runs of each user, whichever worker has them."""


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
