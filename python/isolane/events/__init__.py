"""Events: the factory of emitters, and what a wait for a delivery may end in."""

from isolane.events.bridge import WebSocketBridgeFactory, WebSocketConfig
from isolane.events.errors import DeliveryTimeout

__all__ = ["DeliveryTimeout", "WebSocketBridgeFactory", "WebSocketConfig"]
