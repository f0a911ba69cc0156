"""``WebSocketBridgeFactory``: makes the emitters of users and counts them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from isolane._core import (
    UserExecutionContext,
    UserWebSocketEmitter,
    _refusal,
    emitter_for_context,
    emitter_for_user,
    event_figures,
    lane_stats,
)
from isolane.events.event import WebSocketEvent
from isolane.events.health import HealthMonitor, HealthStatus
from isolane.events.notices import Notices
from isolane.events.pool import ConnectionPool
from isolane.events.statistics import FactoryStats, in_milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketConfig:
    """Bounds of the event logs.

    Attributes:
        max_events_per_user: events of one run before the oldest are folded into a snapshot.
        max_run_bytes: bytes of one run's log.
        max_user_bytes: bytes of all logs of a user.
        max_event_bytes: bytes of one event's payload.
        retention_seconds: how long an ended log stays readable.
        progress_ttl_seconds: how long a progress event is worth sending.
        max_connections: sockets of one user; one more replaces the one that acknowledged least recently.
        sanitize: what is masked in events when they are published: ``secrets``, ``all`` (what is personal as well) or
            ``off``.
    """

    max_events_per_user: int = 1000
    max_run_bytes: int = 1 << 20
    max_user_bytes: int = 4 << 20
    max_event_bytes: int = 64 << 10
    retention_seconds: float = 300.0
    progress_ttl_seconds: float = 30.0
    max_connections: int = 3
    sanitize: Literal["secrets", "all", "off"] = "secrets"

    def bounds(self) -> dict[str, Any]:
        """Return the bounds as the core takes them."""
        return {
            "max_events": self.max_events_per_user,
            "max_run_bytes": self.max_run_bytes,
            "max_user_bytes": self.max_user_bytes,
            "max_event_bytes": self.max_event_bytes,
            "retention": self.retention_seconds,
            "progress_ttl": self.progress_ttl_seconds,
            "sanitize": self.sanitize,
        }


class PublishesBeside(Protocol):
    """Has streams of its own in the lanes of users, as the hub of older names."""

    def end_idle(self) -> None:
        """End those into which nothing was told for a while."""

    def close(self) -> None:
        """End all of them."""


class _Held(weakref.ref[UserWebSocketEmitter]):
    """An emitter that is in use, and whose it is."""

    __slots__ = ("user_id",)
    user_id: str


class WebSocketBridgeFactory:
    """Makes one emitter for a context, or for a user's thread and connection.

    Attributes:
        config: the bounds for what is made from now on.
        health: looks at the delivery of events; ``setup`` starts it with the application.
    """

    def __init__(self, config: WebSocketConfig | None = None) -> None:
        self.config = config if config is not None else WebSocketConfig()
        self._emitters: set[_Held] = set()
        self._latest: dict[str, _Held] = {}
        # Emitters are made and collected in any thread, and collected while one is made.
        self._lock = threading.RLock()
        self._pools: weakref.WeakValueDictionary[str, ConnectionPool] = weakref.WeakValueDictionary()
        self._notices = Notices()
        self._beside: weakref.WeakSet[PublishesBeside] = weakref.WeakSet()
        self.health = HealthMonitor()
        self._created = 0
        self._closed = False

    def configure(self, config: WebSocketConfig) -> None:
        """Replace the bounds for emitters that are made from now on."""
        self.config = config

    async def create_user_emitter(
        self,
        user_id: str,
        thread_id: str | UserExecutionContext,
        connection_id: str | None = None,
    ) -> UserWebSocketEmitter:
        """Make an emitter.

        ``(user_id, context)`` for one run, ``(user_id, thread_id, connection_id)`` for all runs of a user. No
        connection is needed: events wait in the log for whoever connects. Raises ``InvalidContextError`` for bad ids
        and ``ContextIsolationError`` for a context of another user.
        """
        self._check_open()
        bounds = self.config.bounds()
        if isinstance(thread_id, UserExecutionContext):
            if thread_id.user_id != user_id:
                raise _refusal("the context belongs to another user than the emitter's", "bind")
            emitter = emitter_for_context(thread_id, **bounds)
        else:
            emitter = emitter_for_user(user_id, thread_id, connection_id, **bounds)
        held = _Held(emitter, self._forget)
        held.user_id = user_id
        with self._lock:
            self._emitters.add(held)
            self._latest[user_id] = held
            self._created += 1
        return emitter

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the bridge factory was shut down; make a new one")

    async def broadcast_to_user(self, user_id: str, event: WebSocketEvent | Mapping[str, Any]) -> bool:
        """Tell a user something that belongs to no run: every socket of the user gets it, and nobody else's.

        ``event`` is a ``WebSocketEvent`` of the user, or a dictionary with ``type`` and ``payload`` and, if wanted,
        ``event_id``, ``priority``, ``thread_id`` and ``agent_type``.

        It is published into a stream of its own, one for each thread that was named, else of the thread ``broadcast``:
        what is told in one thread arrives in the order of the calls. The stream ends when nothing was told for a
        minute.

        Returns ``False``, and publishes nothing, when the user has neither a socket nor a stream of a run that has not
        ended: then nobody would come to read it. Raises what ``emitter.publish`` raises, and ``ContextIsolationError``
        for an event of another user.
        """
        self._check_open()
        return self._notices.publish(WebSocketEvent.of(user_id, event), self.config.bounds())

    def end_idle_notices(self) -> None:
        """End the streams of ``broadcast_to_user`` into which nothing was told for a minute. ``setup`` does it."""
        self._notices.end_idle()
        for beside in list(self._beside):
            beside.end_idle()

    def look_after(self, beside: PublishesBeside) -> None:
        """Have the idle streams of something ended with the notices, and all of them with the factory. Held weakly."""
        self._beside.add(beside)

    def connection_pool(self, user_id: str) -> ConnectionPool:
        """Return the sockets of a user as a pool: the same one as long as somebody holds it."""
        pool = self._pools.get(user_id)
        if pool is None:
            pool = self._pools[user_id] = ConnectionPool(user_id, self.config.max_connections)
        return pool

    def _forget(self, held: _Held) -> None:
        with self._lock:
            self._emitters.discard(held)
            if self._latest.get(held.user_id) is held:
                del self._latest[held.user_id]

    def _living(self) -> list[UserWebSocketEmitter]:
        with self._lock:
            held = list(self._emitters)
        emitters = (reference() for reference in held)
        return [emitter for emitter in emitters if emitter is not None and not emitter.is_closed]

    def get_user_emitter(self, user_id: str) -> UserWebSocketEmitter | None:
        """Return the emitter that was made last for the user, if it is still in use."""
        held = self._latest.get(user_id)
        emitter = held() if held is not None else None
        return emitter if emitter is not None and not emitter.is_closed else None

    async def cleanup_user_emitter(self, user_id: str) -> int:
        """Clean up all emitters of a user; their streams end and stay readable. Returns how many there were.

        The streams of ``broadcast_to_user`` end as well, and are not counted.
        """
        self._notices.end(user_id)
        emitters = [emitter for emitter in self._living() if emitter.user_id == user_id]
        for emitter in emitters:
            await emitter.cleanup()
        return len(emitters)

    def get_factory_metrics(self) -> dict[str, Any]:
        """Return counts of emitters and of the events of this process, and ``heartbeat_status`` of ``health``."""
        stats, active = lane_stats(), len(self._living())
        return {
            "emitters_created": self._created,
            "emitters_active": active,
            "emitters_cleaned": self._created - active,
            "events_published_total": stats["events_published"],
            "events_sent_total": stats["events_sent"],
            "events_failed_total": stats["events_failed"],
            "heartbeat_status": self.health.heartbeat_status,
        }

    def get_factory_stats(self) -> FactoryStats:
        """Return what this factory has made, and the events of the process, as a frozen record. Looks at every lane."""
        stats, events = lane_stats(), event_figures()
        figures, active = self.health.check().figures, len(self._living())
        return FactoryStats(
            emitters_created=self._created,
            emitters_active=active,
            emitters_cleaned=self._created - active,
            sockets=figures["sockets"],
            streams=figures["streams"],
            events_published=stats["events_published"],
            events_sent=stats["events_sent"],
            events_failed=stats["events_failed"],
            events_folded=stats["events_folded"],
            events_shed=stats.get("events_shed", 0),
            events_forgotten=stats["events_forgotten"],
            event_type_counts=events["types"],
            latency_ms=in_milliseconds(events["latency"]),
            heartbeat_status=self.health.heartbeat_status,
            taken_at=datetime.now(UTC),
        )

    def health_check(self) -> HealthStatus:
        """Look now whether events get through: at the sockets, the logs and, where it is measured, the loop."""
        return self.health.check()

    def reopen(self) -> None:
        """Make emitters again after a shutdown."""
        self._closed = False

    async def shutdown(self) -> None:
        """Clean up all emitters and make no more."""
        self._closed = True
        self.health.stop()
        self._notices.end()
        for beside in list(self._beside):
            beside.close()
        for emitter in self._living():
            await emitter.cleanup()

    def __repr__(self) -> str:
        return f"<WebSocketBridgeFactory {len(self._emitters)} emitters>"
