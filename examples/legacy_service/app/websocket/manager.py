"""All sockets of all users."""

import threading
from datetime import UTC, datetime
from typing import Any

from fastapi import WebSocket


class WebSocketManager:
    """The one manager of the process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.connections: dict[str, list[WebSocket]] = {}

    def add_connection(self, user_id: str, websocket: WebSocket) -> None:
        """Keep an accepted socket."""
        self.connections.setdefault(user_id, []).append(websocket)

    def remove_connection(self, user_id: str, websocket: WebSocket) -> None:
        """Forget a socket."""
        sockets = self.connections.get(user_id, [])
        if websocket in sockets:
            sockets.remove(websocket)

    async def broadcast_message(self, message: dict[str, Any]) -> None:
        """Send a message to everybody who is connected."""
        message = {"timestamp": datetime.now(UTC).isoformat(), **message}
        with self._lock:
            for sockets in list(self.connections.values()):
                for websocket in list(sockets):
                    try:
                        await websocket.send_json(message)
                    except RuntimeError:
                        sockets.remove(websocket)

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        """Send a message to the sockets of one user."""
        for websocket in list(self.connections.get(user_id, [])):
            await websocket.send_json({"timestamp": datetime.now(UTC).isoformat(), **message})


websocket_manager = WebSocketManager()


def get_websocket_manager() -> WebSocketManager:
    """Return the one manager."""
    return websocket_manager
