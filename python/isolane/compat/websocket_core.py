"""The host's ``websocket_core``: its managers, over isolane's lanes. ``isolane.migration.legacy`` does the work."""

from __future__ import annotations

from typing import Any

from isolane.migration.deprecation import deprecated
from isolane.migration.legacy.managers import LegacyManagerProxy, get_legacy_websocket_manager, get_websocket_manager
from isolane.migration.legacy.outcome import SendOutcome
from isolane.migration.legacy.process import process_hub

__all__ = [
    "UnifiedWebSocketManager",
    "WebSocketManager",
    "WebSocketManagerAdapter",
    "broadcast_message",
    "get_legacy_websocket_manager",
    "get_websocket_manager",
]


@deprecated("ISO-D004", symbol="WebSocketManager")
class WebSocketManager(LegacyManagerProxy):
    """The manager of the process. Each instance is the same one: its sockets are those of the process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


@deprecated("ISO-D004", symbol="UnifiedWebSocketManager")
class UnifiedWebSocketManager(LegacyManagerProxy):
    """As ``WebSocketManager``."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


@deprecated("ISO-D004", symbol="WebSocketManagerAdapter")
class WebSocketManagerAdapter(LegacyManagerProxy):
    """As ``WebSocketManager``."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


@deprecated("ISO-D006", symbol="broadcast_message")
async def broadcast_message(message: Any, user_id: str | None = None, room_id: str | None = None) -> SendOutcome | int:
    """Do what ``ISOLANE_LEGACY_BROADCAST`` says; with ``user_id`` send to that user."""
    del room_id
    hub = process_hub()
    if user_id is not None:
        return await hub.send(user_id, message, None, "broadcast_message")
    return await hub.send_to_all(message, "broadcast_message")
