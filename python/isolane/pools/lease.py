"""The right to use one connection of each of some pools, until it is released."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from isolane._core import ForkedProcessError, Permit
from isolane.limits.responses import Application, bind
from isolane.pools.accounts import Accounts

if TYPE_CHECKING:
    from isolane.pools.gate import Gate


class Lease:
    """Admission of one user to one connection of each pool that was asked for.

    It counts once under the user's limit and once in each pool. Use it as a block, ``with`` or ``async with``, or call
    ``release``. One that is dropped returns itself, with a ``ResourceWarning``.

    Attributes:
        user_id: whose it is.
        pools: the names of the pools.
        waited: seconds that it was waited for.
        deadline: when the time of the request ends, on the clock of ``time.monotonic``: opening a connection is part
            of it.
    """

    __slots__ = ("__weakref__", "_accounts", "_bound", "_grant", "deadline", "pools", "user_id", "waited")

    def __init__(
        self,
        accounts: Accounts,
        grant: Permit,
        user_id: str,
        pools: tuple[str, ...],
        *,
        waited: float,
        deadline: float,
    ) -> None:
        self._accounts = accounts
        self._grant: Permit | None = grant
        self._bound = False
        self.user_id, self.pools, self.waited, self.deadline = user_id, pools, waited, deadline

    @property
    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._grant is not None

    def release(self) -> bool:
        """Give it back. May be called again. Returns whether it was still held."""
        grant, self._grant = self._grant, None
        if grant is None or not grant.release():
            return False
        self._accounts.returned(self.user_id, self.pools)
        return True

    def bind(self, response: Application) -> Application:
        """Bind it to a response, and return that: ``return lease.bind(StreamingResponse(...))``.

        It is released when the response was sent, failed or was cancelled, and when it is never sent. The end of the
        block that took the lease then does not release it.

        Raises:
            RuntimeError: the lease was released already.
            TypeError: ``response`` is no ASGI application.
        """
        if self._grant is None:
            raise RuntimeError("this lease was released already: bind it while its block runs")
        bound = bind(self, response)
        self._bound = True
        return bound

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bound:
            self.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        grant, self._grant = getattr(self, "_grant", None), None
        try:
            was_held = grant is not None and grant.release()
        except ForkedProcessError:
            # It is the parent's to return.
            return
        if was_held:
            self._accounts.collected(self.user_id, self.pools)
            if not self._bound:
                warnings.warn(f"a lease of {self.pools} was never released", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<Lease of {', '.join(self.pools)}, {'held' if self.held else 'released'}>"


class Leasing:
    """What ``pools.connection()`` returns: ``async with`` it, ``await`` it, or ``with`` it in a thread.

    Each use asks anew. Nothing is taken before.
    """

    __slots__ = ("_asked", "_gate", "_lease")

    def __init__(self, gate: Gate, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> None:
        self._gate = gate
        self._asked = (user_id, pools, seconds, priority)
        self._lease: Lease | None = None

    def __await__(self) -> Generator[object, None, Lease]:
        return self._gate.acquire(*self._asked).__await__()

    async def __aenter__(self) -> Lease:
        self._check_free()
        self._lease = await self._gate.acquire(*self._asked)
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __enter__(self) -> Lease:
        refuse_in_a_loop("connection")
        self._check_free()
        self._lease = self._gate.acquire_sync(*self._asked)
        return self._lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.__exit__(kind, error, trace)

    def _check_free(self) -> None:
        if self._lease is not None and self._lease.held:
            raise RuntimeError("this connection() is in use: call pools.connection() for each block")


def refuse_in_a_loop(what: str) -> None:
    """Raise ``RuntimeError`` where waiting would block an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"`with pools.{what}(...)` waits, which would stop the event loop: use `async with` here, and `with` in threads"
    )
