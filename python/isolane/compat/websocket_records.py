"""What the host's WebSocket factory hands out as data: settings, events, and the state of one emitter."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

MAX_SENT = 100
"""Sent events that are remembered; above it the oldest go, down to half."""
MAX_FAILED = 256
"""Failed events that are remembered, the latest."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class WebSocketFactoryConfig:
    """Settings of the factory, under the host's names.

    Attributes:
        max_events_per_user: events of one run before the oldest are folded into a snapshot.
        event_timeout_seconds: how long an event of class 3, progress, is worth sending. Others do not expire.
        heartbeat_interval_seconds: accepted, without effect: the server's own pings find dead sockets.
        max_reconnect_attempts: how often the pool is asked for the connection again after its socket was lost.
        delivery_retries: how often a failed write is tried again on the same socket.
        delivery_timeout_seconds: deadline of a write, and of the draining when an emitter is cleaned up.
        enable_event_compression: accepted, without effect.
        enable_event_batching: accepted, without effect: the browser's client takes one message at a time.
    """

    max_events_per_user: int = 1000
    event_timeout_seconds: float = 30.0
    heartbeat_interval_seconds: float = 30.0
    max_reconnect_attempts: int = 3
    delivery_retries: int = 3
    delivery_timeout_seconds: float = 5.0
    enable_event_compression: bool = True
    enable_event_batching: bool = True

    @classmethod
    def from_env(cls) -> WebSocketFactoryConfig:
        """Read ``WEBSOCKET_*``. A wrong value raises an error that names the variable and what is allowed."""
        from isolane.fastapi.settings import IsolaneSettings  # noqa: PLC0415 - needs the extra `fastapi`

        settings = IsolaneSettings()
        return cls(
            settings.websocket_max_events_per_user,
            settings.websocket_event_timeout,
            settings.websocket_heartbeat_interval,
            settings.websocket_max_reconnect_attempts,
            settings.websocket_delivery_retries,
            settings.websocket_delivery_timeout,
            settings.websocket_enable_compression,
            settings.websocket_enable_batching,
        )


class ConnectionStatus(Enum):
    """How the delivery to a socket is doing."""

    INITIALIZING = "initializing"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass
class WebSocketEvent:
    """An event as the host keeps it. On the wire it has the shape of the browser's client.

    Attributes:
        event_type: one of the six.
        user_id: whose it is.
        thread_id: the conversation.
        data: the payload.
        timestamp: when it was published, aware UTC.
        event_id: the id; of a delivered event the one that the client got.
        retry_count: how often writing it was tried again.
        max_retries: how often that is tried.
    """

    event_type: str
    user_id: str
    thread_id: str
    data: dict[str, Any]
    timestamp: datetime = field(default_factory=_now)
    event_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    retry_count: int = 0
    max_retries: int = 3


class PendingEvents:
    """The events of one emitter that its socket has not been sent yet. The log is where they are; this counts them.

    In the place of the host's queue: ``qsize``, ``empty``, ``full`` and ``maxsize`` mean what they mean there.
    """

    def __init__(self, maxsize: int = 1000) -> None:
        self.maxsize = maxsize
        self.folded = 0
        self._runs: dict[str, deque[tuple[int, WebSocketEvent]]] = {}

    def add(self, run_id: str, number: int, event: WebSocketEvent) -> None:
        """Note an event that the log has accepted."""
        events = self._runs.setdefault(run_id, deque())
        events.append((number, event))
        if len(events) > self.maxsize:
            # The log has as many events: this one is in its snapshot by now.
            events.popleft()
            self.folded += 1

    def delivered(self, run_id: str, number: int) -> WebSocketEvent | None:
        """Take out what the socket has been sent with the message ``number``; returns the event if it was one's own.

        Earlier ones that were not sent by themselves are covered by the snapshot that the socket was sent.
        """
        events = self._runs.get(run_id)
        sent = None
        while events and events[0][0] <= number:
            at, event = events.popleft()
            if at == number:
                sent = event
            else:
                self.folded += 1
        if events is not None and not events:
            del self._runs[run_id]
        return sent

    def take(self) -> list[WebSocketEvent]:
        """Take all of them out."""
        left = [event for events in self._runs.values() for _, event in events]
        self._runs.clear()
        return left

    def runs(self) -> set[str]:
        """Return the runs with events to come."""
        return set(self._runs)

    def qsize(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._runs.values()))

    def empty(self) -> bool:
        """Return whether there are none."""
        return not self._runs

    def full(self) -> bool:
        """Return whether there are as many as the log keeps."""
        return self.qsize() >= self.maxsize


@dataclass
class UserWebSocketContext:
    """The state of one emitter.

    Attributes:
        user_id: whose it is.
        thread_id: the conversation.
        connection_id: the host's name of the socket.
        session_id: the session of the browser, if it was given.
        created_at: aware UTC.
        event_queue: what the socket has not been sent yet.
        sent_events: the latest events that were written to the socket, at most 100.
        failed_events: the latest events that were not delivered before the emitter was cleaned up, at most 256.
        last_heartbeat: when the socket last took a message.
        connection_status: how the delivery is doing.
        reconnect_attempts: how often the pool was asked for the connection again.
        cleanup_callbacks: called by ``cleanup``, the last first; what they return is awaited if it is awaitable.
    """

    user_id: str
    thread_id: str
    connection_id: str
    session_id: str | None = None
    created_at: datetime = field(default_factory=_now)
    event_queue: PendingEvents = field(default_factory=PendingEvents)
    sent_events: list[WebSocketEvent] = field(default_factory=list)
    failed_events: list[WebSocketEvent] = field(default_factory=list)
    last_heartbeat: datetime | None = None
    connection_status: ConnectionStatus = ConnectionStatus.INITIALIZING
    reconnect_attempts: int = 0
    cleanup_callbacks: list[Callable[[], Any]] = field(default_factory=list)

    def note_sent(self, event: WebSocketEvent) -> None:
        """Remember an event that was written to the socket."""
        self.sent_events.append(event)
        if len(self.sent_events) > MAX_SENT:
            del self.sent_events[: -MAX_SENT // 2]

    def note_failed(self, events: list[WebSocketEvent]) -> None:
        """Remember events that were given up."""
        self.failed_events.extend(events)
        del self.failed_events[:-MAX_FAILED]
