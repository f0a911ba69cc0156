"""Events: the factory of emitters, what it knows of sockets, and how delivery gets on."""

from isolane.events.bridge import WebSocketBridgeFactory, WebSocketConfig
from isolane.events.errors import DeliveryTimeout
from isolane.events.event import WebSocketEvent
from isolane.events.health import HealthMonitor, HealthStatus
from isolane.events.lag import LoopLag, LoopLagMonitor
from isolane.events.pool import ConnectionPool, ConnectionStats, UserSocket
from isolane.events.statistics import EventStats, FactoryStats

__all__ = [
    "ConnectionPool",
    "ConnectionStats",
    "DeliveryTimeout",
    "EventStats",
    "FactoryStats",
    "HealthMonitor",
    "HealthStatus",
    "LoopLag",
    "LoopLagMonitor",
    "UserSocket",
    "WebSocketBridgeFactory",
    "WebSocketConfig",
    "WebSocketEvent",
]
