"""The host's ``services.websocket_bridge_factory``: emitters that follow their events to a socket of the host's pool.

Needs the extra ``fastapi``. Events are published into isolane's logs and written to the socket from there, in the shape
that the browser's client reads. The host's pool is taken as it is (``isolane.compat.protocols``); its registry and
health monitor are kept for the application and not called.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, overload

import isolane.fastapi  # noqa: F401 - the first import: it names the extra where that is missing
from isolane._core import UserExecutionContext, _refusal
from isolane._core import UserWebSocketEmitter as ContextEmitter
from isolane.compat.pool_delivery import SocketLink, is_gone
from isolane.compat.protocols import ConnectionPool, PooledSocket
from isolane.compat.run_spans import stream_head
from isolane.compat.websocket_emitter import UserWebSocketEmitter
from isolane.compat.websocket_records import (
    ConnectionStatus,
    UserWebSocketContext,
    WebSocketEvent,
    WebSocketFactoryConfig,
)
from isolane.contexts.factory import UserContextFactory
from isolane.events.bridge import WebSocketBridgeFactory as ModernFactory
from isolane.events.bridge import WebSocketConfig
from isolane.fastapi.settings import IsolaneSettings

__all__ = [
    "ConnectionStatus",
    "UserWebSocketContext",
    "UserWebSocketEmitter",
    "WebSocketBridgeFactory",
    "WebSocketEvent",
    "WebSocketFactoryConfig",
    "get_websocket_bridge_factory",
]

logger = logging.getLogger("isolane.compat")


class WebSocketBridgeFactory(ModernFactory):
    """Makes one emitter for a user's thread and connection, or for a context.

    Also what an engine factory takes as its bridge: when the pool knows a context's ``websocket_client_id``, the events
    of its run are written to that socket.
    """

    def __init__(self, config: WebSocketFactoryConfig | None = None) -> None:
        """Without ``config`` the settings come from the environment."""
        self.factory_config = config if config is not None else WebSocketFactoryConfig.from_env()
        super().__init__(
            WebSocketConfig(
                max_events_per_user=self.factory_config.max_events_per_user,
                progress_ttl_seconds=self.factory_config.event_timeout_seconds,
            )
        )
        self._settings = IsolaneSettings(websocket_delivery_timeout=self.factory_config.delivery_timeout_seconds)
        self._connection_pool: ConnectionPool | None = None
        self._agent_registry: Any = None
        self._health_monitor: Any = None
        self._links: dict[tuple[str, str], SocketLink] = {}
        self._followed: weakref.WeakSet[UserWebSocketEmitter] = weakref.WeakSet()
        self._made = 0
        self._done = 0
        self._sent = 0
        self._failed = 0
        self._since = datetime.now(UTC)

    def configure(  # type: ignore[override]
        self, connection_pool: ConnectionPool, agent_registry: Any = None, health_monitor: Any = None
    ) -> None:
        """Say where the sockets are. Raises ``ValueError`` without a pool."""
        if connection_pool is None:
            raise ValueError(
                "connection_pool cannot be None: pass the object whose get_connection(connection_id, user_id) returns "
                "the connections"
            )
        self._connection_pool = connection_pool
        self._agent_registry = agent_registry
        self._health_monitor = health_monitor

    @overload  # type: ignore[override]
    async def create_user_emitter(
        self, user_id: str, thread_id: UserExecutionContext, connection_id: None = None
    ) -> ContextEmitter: ...

    @overload
    async def create_user_emitter(self, user_id: str, thread_id: str, connection_id: str) -> UserWebSocketEmitter: ...

    async def create_user_emitter(
        self,
        user_id: str,
        thread_id: str | UserExecutionContext,
        connection_id: str | None = None,
    ) -> UserWebSocketEmitter | ContextEmitter:
        """Make an emitter for a connection of the pool, or with ``(user_id, context)`` for a run.

        Raises ``RuntimeError`` before ``configure`` and for a connection that the pool does not have,
        ``InvalidContextError`` for bad ids, ``ContextIsolationError`` for a socket or context of another user.
        """
        if isinstance(thread_id, UserExecutionContext):
            emitter = await super().create_user_emitter(user_id, thread_id)
            await self.follow(thread_id)
            return emitter
        if self._connection_pool is None:
            raise RuntimeError("Factory not configured - call configure() first")
        if self._closed:
            raise RuntimeError("the bridge factory was shut down; make a new one")
        # Raises for ids that no context could have.
        UserContextFactory.create_context(user_id, thread_id)
        if not connection_id:
            raise ValueError("connection_id must name a connection of the pool, got an empty one")
        websocket = await self._socket(self._connection_pool, connection_id, user_id)
        if websocket is None:
            raise RuntimeError(
                f"No active WebSocket connection {connection_id!r:.80} for this user: the pool returned none with an "
                "open websocket; accept the socket and add it to the pool first"
            )
        link = await self._link(user_id, connection_id, websocket)
        context = UserWebSocketContext(user_id, thread_id, connection_id)
        made = UserWebSocketEmitter(context, link, self.factory_config, on_release=self._on_release)
        link.listen(made, lambda: self._drop_unused(link))
        made.status_changed(link)
        self._followed.add(made)
        self._made += 1
        return made

    # -- sockets ---------------------------------------------------------------------------------------------------

    async def _socket(self, pool: ConnectionPool, connection_id: str, user_id: str) -> PooledSocket | None:
        connection = await pool.get_connection(connection_id, user_id)
        if connection is None:
            return None
        if getattr(connection, "user_id", user_id) != user_id:
            raise _refusal("the pool returned a connection of another user", "bind")
        websocket: PooledSocket | None = getattr(connection, "websocket", None)
        return None if websocket is None or is_gone(websocket) else websocket

    async def _link(self, user_id: str, connection_id: str, websocket: PooledSocket) -> SocketLink:
        pool = self._connection_pool
        if pool is None:
            raise RuntimeError("Factory not configured - call configure() first")
        key = (user_id, connection_id)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = SocketLink(user_id, connection_id, pool, self.factory_config, self._settings)
        try:
            await link.attach(websocket)
        except BaseException:
            self._drop_unused(link)
            raise
        return link

    def _drop_unused(self, link: SocketLink) -> None:
        """Let go of a link whose emitters were collected without being cleaned up."""
        key = (link.user_id, link.connection_id)
        if not link.is_used and self._links.get(key) is link:
            del self._links[key]
            link.stop()

    async def _release(self, link: SocketLink) -> None:
        if not link.is_used and self._links.get((link.user_id, link.connection_id)) is link:
            del self._links[link.user_id, link.connection_id]
            await link.close()

    async def _on_release(self, emitter: UserWebSocketEmitter) -> None:
        self._done += 1
        self._sent += emitter.events_sent
        self._failed += emitter.events_refused + emitter.events_undelivered
        self._followed.discard(emitter)
        link = emitter.link
        link.unlisten(emitter)
        await self._release(link)

    async def follow(self, context: UserExecutionContext) -> None:
        """Deliver a context's events to the socket that its request came from, until the context is cleaned up."""
        connection_id = context.websocket_client_id
        if connection_id is None or self._connection_pool is None:
            return
        websocket = await self._socket(self._connection_pool, connection_id, context.user_id)
        if websocket is None:
            logger.info("a context names a connection that the pool does not have; its events wait in the log")
            return
        link = await self._link(context.user_id, connection_id, websocket)
        follower = _Follower()
        link.listen(follower, lambda: self._drop_unused(link))
        user_id, run_id = context.user_id, context.run_id

        async def let_go() -> None:
            heads = {run_id: stream_head(user_id, run_id)}
            await link.drain(heads, self.factory_config.delivery_timeout_seconds)
            link.unlisten(follower)
            await self._release(link)

        context.register_cleanup_callback(let_go, timeout=self.factory_config.delivery_timeout_seconds + 1.0)

    # -- ending ----------------------------------------------------------------------------------------------------

    async def cleanup_user_context(self, user_id: str, connection_id: str) -> int:
        """Let go of a connection, as when its socket was closed. Returns how many events the socket had not taken.

        Runs that are going on are not ended: their emitters publish into the logs until they are cleaned up.
        """
        emitters = [one for one in self._followed if (one.user_id, one.connection_id) == (user_id, connection_id)]
        return sum([await emitter.release() for emitter in emitters])

    async def cleanup_user_emitter(self, user_id: str) -> int:
        """Clean up all emitters of a user. Returns how many there were."""
        emitters = [one for one in self._followed if one.user_id == user_id and not one.is_closed]
        for emitter in emitters:
            await emitter.cleanup()
        return len(emitters) + await super().cleanup_user_emitter(user_id)

    async def shutdown(self) -> None:
        """Clean up all emitters, let go of all sockets, and make no more."""
        await super().shutdown()
        for emitter in list(self._followed):
            await emitter.cleanup()
        for link in list(self._links.values()):
            await link.close()
        self._links.clear()

    # -- figures ---------------------------------------------------------------------------------------------------

    def get_factory_metrics(self) -> dict[str, Any]:
        """Return counts of emitters, of events that sockets took, and of events that were refused or not delivered."""
        living = list(self._followed)
        modern: Mapping[str, Any] = super().get_factory_metrics()
        return {
            "emitters_created": self._made + modern["emitters_created"],
            "emitters_active": len(living) + modern["emitters_active"],
            "emitters_cleaned": self._done + modern["emitters_cleaned"],
            "events_sent_total": self._sent + sum(emitter.events_sent for emitter in living),
            "events_failed_total": self._failed + sum(emitter.events_refused for emitter in living),
            "created_at": self._since.isoformat(),
            "active_contexts": len({(emitter.user_id, emitter.connection_id) for emitter in living}),
            "config": asdict(self.factory_config),
            "timestamp": datetime.now(UTC).isoformat(),
        }


class _Follower:
    """Keeps a link in use for a context."""

    def delivered(self, run_id: str, number: int, event_id: str, retries: int) -> None:
        """Nothing to note: the engine's events are counted by the core."""

    def status_changed(self, link: SocketLink) -> None:
        """Nothing to show."""


_factory: WebSocketBridgeFactory | None = None
_factory_lock = threading.Lock()


def get_websocket_bridge_factory() -> WebSocketBridgeFactory:
    """Return the factory of the process, made on first use. It holds no user's data but through its emitters."""
    global _factory  # noqa: PLW0603 - the host's own way
    with _factory_lock:
        if _factory is None:
            _factory = WebSocketBridgeFactory()
        return _factory
