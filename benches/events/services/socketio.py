"""python-socketio, mounted as its documents say, with its defaults."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import socketio
from fastapi import FastAPI

from benches.events.services import Emit, payload
from benches.events.services.envelope import message
from benches.events.shape import EVENT


class SocketIoService:
    """Emits a message to the one session of its user."""

    def __init__(self) -> None:
        self.server = socketio.AsyncServer(async_mode="asgi")
        self.app = socketio.ASGIApp(self.server, other_asgi_app=FastAPI())
        self.sessions: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.sent: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.server.on("connect", self.connected)
        self.server.on("disconnect", self.disconnected)
        self.server.on("resume", self.resume)

    async def open(self, users: Sequence[str]) -> None:
        """Nothing is to be made."""

    def emit(self, user: str) -> Emit:
        sent = self.sent[user]

        async def emit(number: int, at: int, due: int) -> None:
            event = message(payload(number, at, due))
            sent.append(event)
            session = self.sessions.get(user)
            if session is not None:
                await self.server.emit(EVENT, event, to=session)

        return emit

    async def connected(self, session: str, environ: dict[str, Any], _auth: Any) -> None:
        user = parse_qs(environ["QUERY_STRING"])["user"][0]
        self.sessions[user] = session
        self.users[session] = user

    async def disconnected(self, session: str, _reason: str) -> None:
        user = self.users.pop(session)
        if self.sessions.get(user) == session:
            del self.sessions[user]

    async def resume(self, session: str, after: int) -> None:
        """What an application has to write itself: the events after the client's position."""
        for event in self.sent[self.users[session]][after:]:
            await self.server.emit(EVENT, event, to=session)
