"""python-socketio with its Redis manager, as its documents say: each user has a room, and any worker emits into it."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import socketio
from fastapi import FastAPI

from benches.events.services import Emit, payload
from benches.events.services.envelope import message
from benches.events.shape import EVENT


class RoomService:
    """Emits a message to the room of its user, wherever the socket is. Nothing is kept."""

    def __init__(self, redis: str) -> None:
        self.server = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(redis))
        self.app = socketio.ASGIApp(self.server, other_asgi_app=FastAPI())
        self.server.on("connect", self.connected)

    async def open(self, users: Sequence[str]) -> None:
        """Nothing is to be made."""

    def emit(self, user: str) -> Emit:
        async def emit(number: int, at: int, due: int) -> None:
            await self.server.emit(EVENT, message(payload(number, at, due)), room=user)

        return emit

    async def connected(self, session: str, environ: dict[str, Any], _auth: Any) -> None:
        await self.server.enter_room(session, parse_qs(environ["QUERY_STRING"])["user"][0])
