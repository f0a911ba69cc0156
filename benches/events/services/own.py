"""isolane in an application."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from isolane import UserContextFactory, UserExecutionContext
from isolane.fastapi import IsolaneSettings, Principal, setup
from starlette.requests import HTTPConnection

from benches.events.services import Emit, payload
from benches.events.shape import EVENT

ROOM = 1200
"""Events of a log, so that none of the measurements folds: a client that missed 1000 of them gets them one by one."""


def authenticate(conn: HTTPConnection) -> Principal:
    return Principal(user_id=conn.query_params["user"])


class IsolaneService:
    """The route that `setup` adds."""

    def __init__(self, redis: str | None = None) -> None:
        self.app = FastAPI()
        settings = IsolaneSettings(websocket_max_events_per_user=ROOM)
        self.isolane = setup(self.app, settings, authenticate, redis=redis)
        self.contexts: dict[str, UserExecutionContext] = {}
        self.emitters: dict[str, Any] = {}

    async def open(self, users: Sequence[str]) -> None:
        for user in users:
            context = UserContextFactory.create_context(user)
            self.contexts[user] = context
            self.emitters[user] = await self.isolane.bridge.create_user_emitter(user, context)

    def emit(self, user: str) -> Emit:
        publish = self.emitters[user].publish

        async def emit(number: int, at: int, due: int) -> None:
            publish(EVENT, payload(number, at, due))

        return emit
