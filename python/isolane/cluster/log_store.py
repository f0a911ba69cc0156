"""What a shared run log asks of an engine: the words of the ``LogStore``, which memory and Redis speak.

A log is kept in the engine by its user's key, its run and its epoch. One worker writes it, and the engine sees to that:
what another worker appends, or one that was thought dead, is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

MAX_READ = 1000
"""Entries of one log that are read at a time."""

Listener = Callable[[bool], None]
"""Is told whether runs may have begun or ended, and not only said something."""


class Appended(enum.Enum):
    """What an engine did with a batch."""

    STORED = "stored"
    REFUSED = "refused"
    """Another worker has the run, or the stream has ended."""
    REWIND = "rewind"
    """The engine has lost what came before: it wants a snapshot, and what follows."""
    FAILED = "failed"
    """It could not, for a reason that has to do with this log alone."""


@dataclass(frozen=True, slots=True)
class LogKey:
    """One incarnation of a run's log.

    Attributes:
        user: the user's key (``Plane.user_key``), which tells nobody who it is.
        run: the run.
        epoch: the incarnation.
    """

    user: str
    run: str
    epoch: str


@dataclass(frozen=True, slots=True)
class LogBatch:
    """What a worker appends to a log of its own.

    Attributes:
        key: the log.
        worker: the writer.
        owner: whose run it is and of which thread, sealed: for workers that read it, or have to close it.
        entries: numbers, which grow, and what is kept under them.
        after: the number that this follows. Numbers between it and the first entry were left out.
        upto: the number up to which the engine has everything with this.
        snapshot: what stands for everything up to a number, when it is to be kept from now on.
        outcome: how the stream ended, once it has.
        whole: it begins where the log does: what the engine has of this incarnation is replaced.
        replaces: the epoch that this one takes the place of, when a worker closes the run of a dead one.
    """

    key: LogKey
    worker: str
    owner: str = ""
    entries: Sequence[tuple[int, bytes]] = ()
    after: int = 0
    upto: int = 0
    snapshot: tuple[int, bytes] | None = None
    outcome: str | None = None
    whole: bool = False
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class LogRecord:
    """What an engine knows of a run beside its events.

    Attributes:
        key: the latest incarnation of its log.
        worker: who writes it.
        owner: whose run it is and of which thread, sealed.
        head: the latest number.
        outcome: how it ended, or ``None``.
    """

    key: LogKey
    worker: str
    owner: str
    head: int
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class LogWant:
    """A log, and how far the reader has come."""

    key: LogKey
    position: int = 0


@dataclass(frozen=True, slots=True)
class LogReading:
    """What follows a position.

    Attributes:
        entries: what comes next after the position, or after the snapshot.
        snapshot: set when the reader was behind it.
        outcome: how the stream ended, when the reader has everything with this.
    """

    entries: list[tuple[int, bytes]] = field(default_factory=list)
    snapshot: tuple[int, bytes] | None = None
    outcome: str | None = None


@runtime_checkable
class LogStore(Protocol):
    """An engine that keeps logs. What it cannot do now it raises, and is asked again.

    Every method may be cancelled, and called again with the same arguments.
    """

    async def append(self, batches: Sequence[LogBatch]) -> list[Appended]:
        """Append each batch, in order. Appending what is there already is no fault."""

    async def read(self, wants: Sequence[LogWant]) -> list[LogReading]:
        """Read what follows each position."""

    async def runs_of(self, users: Sequence[str]) -> list[list[LogRecord]]:
        """Return the runs of each user: those that go on, and those that ended within the retention."""

    async def announce(self, worker: str, runs: Sequence[LogKey], seconds: float) -> None:
        """Say that the worker runs these, for so long unless it is said again."""

    async def renew(self, worker: str, runs: Sequence[LogKey], seconds: float) -> list[bool]:
        """Say so again. ``False`` for those that are announced no more, which stay so."""

    async def forget(self, worker: str, runs: Sequence[LogKey]) -> None:
        """These have ended."""

    async def overdue(self, limit: int) -> list[tuple[str, LogKey]]:
        """Return runs whose worker did not say so again in time, and that worker."""

    async def claim(self, key: LogKey, worker: str, by: str, seconds: float) -> bool:
        """Take an overdue run over. Only one of all who try is told ``True``; the former worker can append no more."""

    def hint(self, users: Mapping[str, bool]) -> None:
        """Tell others that there is something new of these users, and whether runs began or ended. May be lost."""

    def listen(self, user: str, heard: Listener) -> None:
        """Have ``heard`` called for hints about a user. One listener for each user."""

    def unlisten(self, user: str) -> None:
        """Listen no more."""
