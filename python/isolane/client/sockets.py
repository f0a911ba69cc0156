"""A WebSocket as the client uses it, over the ``websockets`` library."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from isolane._core import SUBPROTOCOL

MAX_BYTES = 16 * 2**20
"""Longest frame, compressed or not: a snapshot of a whole run fits."""
ABNORMAL = 1006
UNAUTHENTICATED = 4501
FORBIDDEN = 4503
PROTOCOL_ERROR = 4500

_FINAL_STATUSES: dict[int, int] = {
    HTTPStatus.UNAUTHORIZED: UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: FORBIDDEN,
    HTTPStatus.NOT_FOUND: PROTOCOL_ERROR,
}


class SocketClosedError(Exception):
    """The socket is closed, or could not be opened. From code 4500 on it is for good."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """What the client needs of a socket. Each raises `SocketClosedError` when it is closed."""

    async def receive(self) -> str | bytes:
        """Wait for the next message."""

    async def send(self, text: str) -> None:
        """Send a text message."""

    async def close(self) -> None:
        """Close the socket."""


class _WebSocket:
    """A socket of the ``websockets`` library."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def receive(self) -> str | bytes:
        """Wait for the next message."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - the extra may be absent

        try:
            message: str | bytes = await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None
        return message

    async def send(self, text: str) -> None:
        """Send a text message."""
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - the extra may be absent

        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def close(self) -> None:
        """Close the socket."""
        await self._connection.close()


def _closed(error: Any) -> SocketClosedError:
    received = error.rcvd
    if received is None:
        return SocketClosedError(ABNORMAL, "the connection broke")
    return SocketClosedError(received.code, received.reason)


async def open_websocket(url: str, headers: Mapping[str, str], options: Mapping[str, Any]) -> Socket:
    """Open a socket. Raises `SocketClosedError` when that is not possible."""
    from websockets.asyncio.client import connect  # noqa: PLC0415 - the extra may be absent
    from websockets.exceptions import InvalidHandshake, InvalidStatus  # noqa: PLC0415 - the same
    from websockets.typing import Subprotocol  # noqa: PLC0415 - the same

    settings: dict[str, Any] = {
        # The protocol has pings of its own: a library's would close sockets while the loop is busy.
        "ping_interval": None,
        "compression": None,
        "max_size": MAX_BYTES,
        "close_timeout": 2,
        **options,
    }
    try:
        connection = await connect(
            url, additional_headers=dict(headers), subprotocols=[Subprotocol(SUBPROTOCOL)], **settings
        )
    except InvalidStatus as error:
        status = error.response.status_code
        raise SocketClosedError(_FINAL_STATUSES.get(status, ABNORMAL), f"the server answered {status}") from None
    except (InvalidHandshake, OSError, TimeoutError) as error:
        raise SocketClosedError(ABNORMAL, str(error) or type(error).__name__) from None
    if connection.subprotocol != SUBPROTOCOL:
        await connection.close()
        raise SocketClosedError(PROTOCOL_ERROR, f"the server does not speak {SUBPROTOCOL}")
    return _WebSocket(connection)
