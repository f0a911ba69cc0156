"""A FastAPI application with isolane in it, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from isolane.agents import AgentRegistry
from isolane.fastapi import IsolaneSettings, Principal, setup
from isolane.testing.asgi import AsyncWsClient
from isolane.testing.recording import user_id_of
from isolane.testing.transport import Answer, InMemoryTransport
from isolane.testing.users import HEADER, UserFactory


class LabApplication:
    """An application whose users are those of the test: ``async with isolane_app``.

    Add routes to `app` and agents to `registry` before it is opened.

    Attributes:
        app: The FastAPI application.
        isolane: What ``setup`` returned.
        registry: The classes of agents.
        transport: Requests and sockets without a user.
    """

    def __init__(self, settings: IsolaneSettings, users: UserFactory, **options: Any) -> None:
        self._users = users
        self.app = FastAPI()
        self.registry: AgentRegistry = options.pop("registry", None) or AgentRegistry()
        self.isolane = setup(self.app, settings, self._who, registry=self.registry, **options)
        self.transport = InMemoryTransport(self.app)
        self._path = settings.websocket_path

    def _who(self, conn: HTTPConnection) -> Principal | None:
        # Only users that the test has made are let in: a name that was typed wrong is nobody.
        user = self._users.users.get(conn.headers.get(HEADER, ""))
        return None if user is None else user.principal

    async def __aenter__(self) -> Self:
        """Start the application."""
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        await self.transport.__aexit__(kind, error, traceback)

    async def get(self, path: str, user: Any = None) -> Answer:
        """``GET`` as a user, or as nobody."""
        return await self.transport.get(path, headers=_as(user))

    async def post(self, path: str, json: Any = None, user: Any = None) -> Answer:
        """``POST`` of JSON as a user, or as nobody."""
        return await self.transport.post(path, json, headers=_as(user))

    def socket(self, user: Any = None, path: str | None = None, *, subprotocols: Iterable[str] = ()) -> AsyncWsClient:
        """A socket of a user, to be opened by ``async with``; by default on the path of isolane's events."""
        return self.transport.websocket(path or self._path, headers=_as(user), subprotocols=subprotocols)


def _as(user: Any) -> dict[str, str]:
    return {} if user is None else {HEADER: user_id_of(user)}
