"""Events: the factory of emitters."""

from isolane.events.bridge import WebSocketBridgeFactory, WebSocketConfig

__all__ = ["WebSocketBridgeFactory", "WebSocketConfig"]
