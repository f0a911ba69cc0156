"""``EventStats`` of an emitter and ``FactoryStats`` of the factory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from isolane._core import LatencyHistogram, event_figures

MAX_TYPES = 56
"""Types that a record counts by name: the six agent events and 50 others. The rest counts as ``other``."""
OTHER = "other"


def in_milliseconds(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Return the figures of a histogram in milliseconds; ``count`` stays a number."""
    return {
        name: value if name == "count" or value is None else round(value * 1000, 3) for name, value in figures.items()
    }


@dataclass(slots=True)
class EventStats:
    """What an emitter has published, and how it got on.

    ``emitter.get_event_stats()`` returns a copy; recording into it changes the copy only. One that is made by its
    constructor begins at zero and can be recorded into, for events that isolane does not deliver.

    Each attribute can be read by its name in brackets as well: ``stats["events_sent"]``.

    Attributes:
        events_published: events of this emitter that were accepted.
        events_refused: events of this emitter that were refused.
        events_sent: events of the emitter's streams that were written to a socket. Others may publish into the same
            streams.
        queue_size: events of its open streams that were written to no socket yet.
        stream_head: the latest number of its stream; the sum over all streams of an emitter of a whole user.
        event_type_counts: accepted events of this emitter by type: the six, the latest 50 other types, and ``other``.
        last_event_time: when the latest event was accepted, aware UTC; ``None`` before the first.
        latency_ms: milliseconds from being published to being handed to a socket, of all users of the process:
            ``count``, ``mean``, ``p50``, ``p95``, ``p99``, ``longest``. A value is ``None`` while nothing was handed.
    """

    events_published: int = 0
    events_refused: int = 0
    events_sent: int = 0
    queue_size: int = 0
    stream_head: int = 0
    event_type_counts: dict[str, int] = field(default_factory=dict)
    last_event_time: datetime | None = None
    latency_ms: dict[str, float | int | None] = field(default_factory=dict)
    _recorded: LatencyHistogram | None = field(default=None, repr=False, compare=False)

    @property
    def events_failed(self) -> int:
        """Events that were refused, under the name of the second design document."""
        return self.events_refused

    @property
    def avg_processing_time_ms(self) -> float:
        """The mean of ``latency_ms``; 0.0 while there is none. The percentiles say more."""
        return self.latency_ms.get("mean") or 0.0

    def get_success_rate(self) -> float:
        """Return the part of what was published that was accepted; 1.0 when nothing was."""
        tried = self.events_published + self.events_refused
        return self.events_published / tried if tried else 1.0

    def record_event_sent(self, event_type: str, processing_time: float) -> None:
        """Count an event that was sent ``processing_time`` seconds after it was made."""
        self.events_published += 1
        self.events_sent += 1
        counts = self.event_type_counts
        name = event_type if event_type in counts or len(counts) < MAX_TYPES else OTHER
        counts[name] = counts.get(name, 0) + 1
        self.last_event_time = datetime.now(UTC)
        if self._recorded is None:
            self._recorded = LatencyHistogram()
        self._recorded.record(processing_time)
        self.latency_ms = in_milliseconds(self._recorded.figures())

    def record_event_failed(self, event_type: str, error: str) -> None:  # noqa: ARG002 - the seed's signature
        """Count an event that was not sent. Neither the type nor the error is kept: both may be about a user."""
        self.events_refused += 1

    def __getitem__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self, name):
            raise KeyError(name)
        return getattr(self, name)


def stats_of_emitter(figures: dict[str, Any]) -> EventStats:
    """Return the statistics of an emitter from what the core counted. Called by the core."""
    return EventStats(**figures, latency_ms=in_milliseconds(event_figures()["latency"]))


@dataclass(frozen=True, slots=True)
class FactoryStats:
    """What a bridge factory has made, and the events of the whole process.

    Attributes:
        emitters_created: emitters that this factory has made.
        emitters_active: of them, those in use.
        emitters_cleaned: of them, those that are over: cleaned up, closed with their run, or let go.
        sockets: sockets of all users.
        streams: unexpired streams of all users that have not ended.
        events_published: accepted into a log.
        events_sent: handed to a socket, counted for each socket.
        events_failed: refused when they were published.
        events_folded: folded into a snapshot.
        events_shed: dropped unread because they were for debugging and their log was full.
        events_forgotten: dropped from a snapshot that was full itself.
        event_type_counts: accepted events by type: the six, the latest 50 other types, and ``other``.
        latency_ms: see ``EventStats``.
        heartbeat_status: see ``HealthMonitor``.
        taken_at: when this was counted, aware UTC.
    """

    emitters_created: int
    emitters_active: int
    emitters_cleaned: int
    sockets: int
    streams: int
    events_published: int
    events_sent: int
    events_failed: int
    events_folded: int
    events_shed: int
    events_forgotten: int
    event_type_counts: Mapping[str, int]
    latency_ms: Mapping[str, float | int | None]
    heartbeat_status: str
    taken_at: datetime
