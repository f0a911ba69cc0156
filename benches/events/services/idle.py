"""Sockets that are taken and never written to: what a connection costs uvicorn, and an application around it."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from benches.events.services import Emit


class IdleService:
    """Accepts, and waits for the end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def open(self, users: Sequence[str]) -> None:
        """Nobody publishes here."""

    def emit(self, user: str) -> Emit:
        raise NotImplementedError(f"nothing is published for {user}: only idle connections are measured")


class Endpoint:
    """An ASGI endpoint: as isolane's, and without it."""

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


async def alone(scope: Scope, receive: Receive, send: Send) -> None:
    """The endpoint without an application."""
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
    else:
        await Endpoint()(scope, receive, send)


def routed() -> ASGIApp:
    """The endpoint as a route of FastAPI."""
    app = FastAPI()
    app.router.add_websocket_route("/ws", Endpoint())  # type: ignore[arg-type]
    return app
