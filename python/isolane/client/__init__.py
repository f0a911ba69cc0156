"""A client of isolane's event stream: every event of the user's runs once and in order.

```python
async with connect("ws://127.0.0.1:8000/ws", token=token) as client:
    async for record in client.events():
        ...
```
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from isolane.client.client import Client, Provider, headers_of, renewal_of, value_of
from isolane.client.reader import Frame
from isolane.client.records import CancelState, Ended, Event, Position, Record, Replaced, Skipped, State, StateChanged
from isolane.client.sockets import Socket, open_websocket

BUFFER = 256


def connect(
    url: str,
    *,
    token: Provider | None = None,
    ticket: Provider | None = None,
    headers: Mapping[str, str] | None = None,
    compress: bool = True,
    positions: Mapping[str, Position] | None = None,
    buffer: int = BUFFER,
    **options: Any,
) -> Client:
    """Make a client that follows all runs of a user, reconnects by itself, and resumes where it was.

    Args:
        url: The event stream's address, such as ``ws://127.0.0.1:8000/ws``. ``http`` and ``https`` are understood.
        token: Sent as ``Authorization: Bearer``; a function, sync or async, is asked before each connection, and when
            the server says that the sign-in ends soon.
        ticket: Sent in the address; a function, sync or async, that gets a new one, since each opens one connection.
        headers: Further headers of the handshake.
        compress: Whether to ask for compressed frames.
        positions: Where to begin, by run: positions that were kept from an earlier client. Without, runs begin at their
            first event.
        buffer: Records that may wait to be read before the server is held back.
        options: Passed on to ``websockets.asyncio.client.connect``, such as ``ssl`` and ``proxy``.

    Returns:
        The client. Use it with ``async with``; nothing is connected before.

    Raises:
        ModuleNotFoundError: The extra ``client`` is not installed.
        ValueError: The address has another scheme, ``buffer`` is below 1, or both a token and a ticket are given.
    """
    if importlib.util.find_spec("websockets") is None:
        raise ModuleNotFoundError(
            "isolane.client needs websockets, which is not installed: pip install 'isolane[client]'", name="websockets"
        )
    if token is not None and ticket is not None:
        raise ValueError("give a token or a ticket: a connection signs in once")
    address = _address(url, compress=compress)

    async def open_socket() -> Socket:
        shown = await value_of(ticket)
        there = _with_ticket(address, shown) if shown else address
        return await open_websocket(there, await headers_of(token, headers), options)

    async def renew() -> Frame | None:
        return await renewal_of(token, ticket)

    return Client(open_socket, buffer=buffer, positions=positions, renew=renew)


def _with_ticket(address: str, ticket: str) -> str:
    return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode({'ticket': ticket})}"


def _address(url: str, *, compress: bool) -> str:
    scheme, host, path, query, _ = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    if scheme not in {"ws", "wss"}:
        raise ValueError(f"{url!r} is no address of an event stream: it begins with ws:// or wss://")
    if compress:
        query = f"{query}&compress=deflate-raw" if query else "compress=deflate-raw"
    return urlunsplit((scheme, host, path, query, ""))


__all__ = [
    "CancelState",
    "Client",
    "Ended",
    "Event",
    "Position",
    "Record",
    "Replaced",
    "Skipped",
    "State",
    "StateChanged",
    "connect",
]
