"""What the suite runs against: a service, and users who are signed in to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from isolane.acceptance.events import EventShape
from isolane.acceptance.records import Run, Transcript

RunKind = Literal["normal", "failing", "long"]


class TargetError(RuntimeError):
    """The service could not be used as the configuration says: it did not start, or nobody could sign in."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the suite.

    Attributes:
        user: the id.
        values: what else the configuration says of this user, such as a password.
    """

    user: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that must not work, and how it ended.

    Attributes:
        what: in words.
        refused: whether it was refused.
        outcome: how, in words; without any data.
        control: whether this is the nearest thing that must work, tried to see that the refusal means something.
    """

    what: str
    refused: bool
    outcome: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be tested of a target. A text says why something cannot."""

    failing_runs: str = ""
    sockets: str = ""
    legacy: str = ""
    resumes: bool = False
    """A connection that comes back is sent what it missed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the service uses at one moment.

    Attributes:
        memory: resident bytes of its process; ``None`` where that cannot be seen.
        descriptors: its open files and sockets; ``None`` where that cannot be seen.
        counts: what it says of itself, such as ``engines`` and ``connections``.
    """

    memory: int | None = None
    descriptors: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


class UserSession(Protocol):
    """A user who is signed in. What this user is sent is recorded in the transcript."""

    account: Account
    transcript: Transcript

    async def connect(self, *, legacy: bool = False) -> None:
        """Open the socket, as today's clients do or as older ones did."""

    async def run(self, kind: RunKind = "normal") -> Run:
        """Start a run with own canaries, and wait for its end. Never raises for what the service does."""

    async def begin(self) -> Run:
        """Start a run that takes long, and return while it runs."""

    async def abandon(self) -> Run:
        """Start a run, and give the request up before it is answered."""

    async def cut(self) -> None:
        """Drop the socket without a word."""

    async def finish(self, run: Run) -> None:
        """Wait for the end of a run that was begun."""

    async def settle(self) -> None:
        """Wait a moment for what is still under way."""

    async def aclose(self) -> None:
        """Sign out, as far as that is known, and let go of everything."""


class Target(Protocol):
    """A service that can be tested."""

    name: str
    shape: EventShape
    capabilities: Capabilities

    async def open(self) -> None:
        """Start it, or see that it is there. Raises `TargetError`."""

    async def aclose(self) -> None:
        """Stop what was started."""

    def accounts(self, count: int, part: str) -> list[Account]:
        """Return users for one part of the suite: as many as asked for, or as there are."""

    async def sign_in(self, account: Account) -> UserSession:
        """Sign a user in. Raises `TargetError`."""

    def intrusions(self, thief: UserSession, victim: UserSession) -> AsyncIterator[Attempt]:
        """Try what must not work, each beside its nearest thing that must."""

    async def usage(self) -> Usage:
        """Return what it uses now."""

    def legacy_faults(self, transcript: Transcript) -> list[str]:
        """Return what an older client would miss in what it was sent."""

    def ended(self) -> str:
        """Return that it ended by itself, and how; nothing while it is there."""
