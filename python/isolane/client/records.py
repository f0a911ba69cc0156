"""What a client is told: events, what replaces them, ends of runs, and states of the connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["connecting", "open", "waiting", "closed"]
CancelState = Literal["accepted", "ended", "gone"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands for this client.

    Attributes:
        epoch: Which incarnation of the run's log the number belongs to.
        number: The number of the last event, 0 before the first.
        ended: Whether the run has ended.
    """

    epoch: str
    number: int
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes:
        run_id: The run.
        number: The event's number in the run.
        message: The event as JSON: ``type``, ``payload`` and so on.
        skipped: How many events before this one were skipped: progress that had been overtaken, or debug events.
        first: The first number that this event stands for; others may have been merged into it.
        priority: The event's class, 1 to 4.
        epoch: The incarnation of the run's log. With the number it makes a `Position`.
    """

    run_id: str
    number: int
    message: dict[str, Any]
    skipped: int = 0
    first: int = 0
    priority: int = 2
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The latest events of a run were skipped, and none has followed yet.

    Attributes:
        run_id: The run.
        number: The last number that was skipped.
        count: How many were.
    """

    run_id: str
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """What was received of a run is replaced as a whole: its log was folded, or begins again.

    Attributes:
        run_id: The run.
        messages: The messages that stand for everything up to ``number``; none when the run begins again.
        number: The number up to which they stand.
        epoch: The incarnation of the run's log.
    """

    run_id: str
    messages: list[dict[str, Any]]
    number: int = 0
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run has ended. It comes once for each.

    Attributes:
        run_id: The run.
        outcome: ``completed``, ``partial``, ``failed``, ``cancelled``, or ``lost``: the server does not know the run.
    """

    run_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The connection changed.

    Attributes:
        state: ``connecting``, ``open``, ``waiting`` for the next attempt, or ``closed``.
        code: The code with which the socket was closed; 1006 when it broke.
        reason: Why, for people.
        delay: Of ``waiting``: seconds until the next attempt.
        final: Of ``closed``: whether only a new client can come back; otherwise `Client.reconnect` can.
    """

    state: State
    code: int | None = None
    reason: str = ""
    delay: float | None = None
    final: bool = False


Record = Event | Skipped | Replaced | Ended | StateChanged
