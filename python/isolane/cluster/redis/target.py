"""Where the Redis is, and how a connection of its own is made to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from isolane.urls import BETWEEN_URLS, shown

Address = tuple[str, int]

NOT_COPIED = {
    "connection_class",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "encoder_class",
    "event_dispatcher",
    "health_check_interval",
    "himport_registry",
    "legacy_responses",
    "maint_notifications_config",
    "maint_notifications_pool_handler",
    "maintenance_notification_hash",
    "maintenance_state",
    "max_connections",
    "orig_host_address",
    "orig_socket_connect_timeout",
    "orig_socket_timeout",
    "oss_cluster_maint_notifications_handler",
    "parser_class",
    "protocol",
    "response_callbacks",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "single_connection_client",
    "socket_connect_timeout",
    "socket_read_size",
    "socket_timeout",
    "timeout",
}
"""Of the application's client: how it waits, tries again and reads, which the plane does its own way."""


def check_url(url: str) -> str:
    """Return the URL. Raises ``ValueError`` for what is none of Redis."""
    for each in BETWEEN_URLS.split(url.strip()):
        try:
            parse_url(each)
        except ValueError as error:
            raise ValueError(
                f"{shown(each)} is no URL of a Redis: use redis://, rediss:// or unix:// ({error})"
            ) from None
    return url


class Target:
    """Makes connections that nobody else has, from a URL or as the application's client makes its own.

    Args:
        source: one URL, or several with commas of which any will do at first; or a client of ``redis.asyncio``, or its
            pool. Only how it connects is taken over.
    """

    def __init__(self, source: str | Redis | RedisCluster | ConnectionPool) -> None:
        self._kind: Callable[..., AbstractConnection] = Connection
        self._kinds: list[tuple[Callable[..., AbstractConnection], dict[str, Any]]] = []
        self._held: Any = source
        if isinstance(source, str):
            check_url(source)
            for each in BETWEEN_URLS.split(source.strip()):
                settings: dict[str, Any] = dict(parse_url(each))
                self._add(settings.get("connection_class", Connection), settings)
        elif isinstance(source, RedisCluster):
            for node in source.nodes_manager.startup_nodes.values():
                # READONLY, which it sends to replicas.
                settings = {**node.connection_kwargs, "redis_connect_func": None}
                self._add(node.connection_class, settings)
        elif isinstance(source, (Redis, ConnectionPool)):
            pool: Any = source if isinstance(source, ConnectionPool) else source.connection_pool
            self._add(pool.connection_class, pool.connection_kwargs)
        else:
            raise TypeError(
                f"a plane takes a URL, or a client of redis.asyncio (Redis, RedisCluster, or a ConnectionPool); got "
                f"{type(source).__module__}.{type(source).__name__}"
            )

    def _add(self, kind: Callable[..., AbstractConnection], settings: dict[str, Any]) -> None:
        self._kinds.append((kind, {name: value for name, value in settings.items() if name not in NOT_COPIED}))

    @property
    def seeds(self) -> int:
        """How many places are known from the start."""
        return len(self._kinds)

    def connection(
        self, address: Address | None = None, *, seed: int = 0, connect_seconds: float
    ) -> AbstractConnection:
        """Make a connection, not connected yet, to the node of a cluster or to a place known from the start."""
        kind, settings = self._kinds[seed % len(self._kinds)]
        settings = dict(settings)
        if address is not None:
            settings["host"], settings["port"] = address
        return kind(
            **settings,
            socket_timeout=None,
            socket_connect_timeout=connect_seconds,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def host(self, seed: int = 0) -> str:
        """Return the host of a place known from the start."""
        return str(self._kinds[seed % len(self._kinds)][1].get("host", "localhost"))

    def __str__(self) -> str:
        if isinstance(self._held, str):
            return shown(self._held)
        places = []
        for _, settings in self._kinds:
            place = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
            places.append(str(place))
        return ", ".join(places)
