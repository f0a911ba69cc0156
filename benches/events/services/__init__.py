"""Who delivers: `own` is isolane's route as every application has it, the others are its peers.

Each is an ASGI application and knows how to publish for a user. The peers keep what they have sent in a list, so that
their clients can come back as well: python-socketio keeps nothing by itself, nor does a bare loop.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from starlette.types import ASGIApp

from benches.events.shape import Way
from benches.python.cases.data import PAYLOAD

Emit = Callable[[int, int, int], Awaitable[Any]]
"""Publishes the event with a number, stamped with when it is published and when it was due."""


class Service(Protocol):
    """What the server needs of each of them."""

    app: ASGIApp

    async def open(self, users: Sequence[str]) -> None:
        """Begin a run for each of the users."""

    def emit(self, user: str) -> Emit:
        """How an agent of the user publishes."""


def payload(number: int, at: int, due: int) -> dict[str, Any]:
    """The payload of every event: that of the other benchmarks, and what the client looks at."""
    return {**PAYLOAD, "number": number, "at": at, "due": due}


def make(way: Way) -> Service:
    """The service. What the others need is not imported."""
    match way:
        case Way.ISOLANE:
            from benches.events.services.own import IsolaneService  # noqa: PLC0415

            return IsolaneService()
        case Way.BARE:
            from benches.events.services.bare import BareService  # noqa: PLC0415

            return BareService()
        case Way.UVICORN | Way.FASTAPI:
            from benches.events.services import idle  # noqa: PLC0415

            return idle.IdleService(idle.alone if way is Way.UVICORN else idle.routed())
        case Way.SOCKETIO:
            from benches.events.services.socketio import SocketIoService  # noqa: PLC0415

            return SocketIoService()
