"""What users were sent: kept as it came, so that it can be judged later, and judged again with something planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Channel = Literal["body", "header", "frame", "stream", "refusal"]
Outcome = Literal["completed", "failed", "refused", "unanswered", "cancelled"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Something that a user was sent.

    Attributes:
        channel: an HTTP body or its headers, a WebSocket frame, an event of an event stream, or the answer to a request
            that was to be refused.
        place: where it came from, such as ``GET /runs/{run}``; placeholders are not filled in.
        data: as it came.
        at: when it came: Unix time in seconds.
        connection: which connection of this user's it came over, counted from 1; 0 for HTTP.
        cut: whether more came that was not kept.
    """

    channel: Channel
    place: str
    data: str | bytes
    at: float
    connection: int = 0
    cut: bool = False

    @property
    def text(self) -> str:
        """The data as text; what is no text is shown by its bytes."""
        return self.data if isinstance(self.data, str) else self.data.decode("utf-8", "backslashreplace")

    @property
    def value(self) -> Any:
        """The data as JSON, or as it came where it is none."""
        if self.channel == "header":
            return self.data
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            return self.data


@dataclass(slots=True)
class Run:
    """A run as the user who started it saw it.

    Attributes:
        run_id: as the service named it; empty when it never did.
        seconds: from the start to the end that the user saw.
        outcome: what became of it.
        status: of the answer to the request that started it; 0 without one.
        detail: what went wrong, without any data.
        connection: the user's connection when it was started.
    """

    run_id: str = ""
    began: float = 0.0
    seconds: float = 0.0
    outcome: Outcome = "unanswered"
    status: int = 0
    detail: str = ""
    connection: int = 0

    @property
    def ok(self) -> bool:
        """It was completed."""
        return self.outcome == "completed"


@dataclass(slots=True)
class Transcript:
    """All that one user was sent, in the order in which it came.

    Attributes:
        user: who that is.
        run_ids: runs of this user's, those of earlier sessions among them.
        canaries: what was put into the data of this user.
        requests: requests that were answered at all, and how many were answered by an error of the server.
    """

    user: str
    receipts: list[Receipt] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    run_ids: set[str] = field(default_factory=set)
    canaries: list[str] = field(default_factory=list)
    requests: int = 0
    server_errors: int = 0

    def copy(self) -> Transcript:
        """Return a copy to plant something into."""
        return Transcript(
            self.user,
            list(self.receipts),
            [replace(run) for run in self.runs],
            set(self.run_ids),
            list(self.canaries),
            self.requests,
            self.server_errors,
        )

    def completed(self) -> Iterator[Run]:
        """Return the runs that were completed."""
        return (run for run in self.runs if run.ok)
