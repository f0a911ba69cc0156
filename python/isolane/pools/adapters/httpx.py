"""A client of httpx for one user, over the connections of the application's client."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from isolane.pools.capacity import of_httpx

if TYPE_CHECKING:
    from isolane.pools.keeper import Keeper
    from isolane.pools.lease import Lease, Leasing

LIBRARIES = ("httpx", "httpx2")
"""Those whose clients are taken. They have the same classes; none is imported, the client brings its own."""


def client_of(keeper: Keeper, leasing: Leasing, client: Any, pool: str) -> Any:
    """Return a client of the same class, whose requests are admitted."""
    library = _library(type(client))
    if library is None:
        raise TypeError(f"{type(client).__name__} is no AsyncClient of httpx: pass the application's own client")
    keeper.compare(pool, client, of_httpx(client))
    base: Any = type(client)
    kind = _user_client(base, library)
    mine = kind.__new__(kind)
    # Everything is shared, the transports with the connections among it, and nothing is built again.
    mine.__dict__.update(client.__dict__)
    mine._isolane = (leasing, client)  # noqa: SLF001 - made here
    # These setters copy: what one user sets, or a server sets for one user, is nobody else's.
    mine.cookies = client.cookies
    mine.headers = client.headers
    mine.params = client.params
    mine.event_hooks = client.event_hooks
    return mine


def _library(kind: type) -> Any:
    for base in kind.__mro__:
        name = base.__module__.partition(".")[0]
        if base.__name__ == "AsyncClient" and name in LIBRARIES:
            return sys.modules[name]
    return None


@lru_cache(maxsize=64)
def _user_client(base: Any, library: Any) -> Any:
    held_body = _held_body(library)

    class UserClient(base):  # type: ignore[misc]
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            leasing, original = self._isolane
            if original.is_closed:
                raise RuntimeError("the application's client, over which this one sends, is closed")
            lease = await leasing
            try:
                response = await base.send(self, request, stream=True, **options)
                if response.is_closed:
                    # It was read already, as after a flow of authentication.
                    lease.release()
                else:
                    response.stream = held_body(response.stream, lease)
            except BaseException:
                lease.release()
                raise
            if not stream:
                try:
                    await response.aread()
                except BaseException:
                    await response.aclose()
                    raise
            return response

        async def aclose(self) -> None:
            """Close nothing: the connections are the application's."""

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *args: object) -> None:
            pass

    UserClient.__name__ = UserClient.__qualname__ = f"User{base.__name__}"
    return UserClient


@lru_cache(maxsize=8)
def _held_body(library: Any) -> Any:
    class HeldBody(library.AsyncByteStream):  # type: ignore[misc]
        """A response's body; the admission is returned when it is closed."""

        def __init__(self, body: Any, lease: Lease) -> None:
            self._body, self._lease = body, lease

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._body:
                yield part

        async def aclose(self) -> None:
            try:
                await self._body.aclose()
            finally:
                self._lease.release()

    return HeldBody
