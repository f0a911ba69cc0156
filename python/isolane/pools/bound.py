"""The real thing together with its admission: opened after it, closed before it is returned."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar

from isolane._core import monotonic
from isolane.limits import LimitTimeout
from isolane.pools.lease import Lease

if TYPE_CHECKING:
    from isolane.pools.keeper import Keeper
    from isolane.pools.lease import Leasing

logger = logging.getLogger("isolane.pools")

T = TypeVar("T")
Thing_co = TypeVar("Thing_co", covariant=True)


class Resource(Protocol[T]):
    """How a thing of the application's own pool is opened and given back."""

    async def open(self, user_id: str) -> T:
        """Take one from the application's pool, clean for this user."""

    async def close(self, thing: T, *, broken: bool) -> None:
        """Give it back clean. ``broken``: the block ended by an exception or a cancellation."""

    def discard(self, thing: T) -> None:
        """Make an end of it at once, without waiting, so that nobody is ever given it again."""


class SyncResource(Protocol[T]):
    """The same for threads."""

    def open(self, user_id: str) -> T:
        """Take one from the application's pool, clean for this user."""

    def close(self, thing: T, *, broken: bool) -> None:
        """Give it back clean."""


class BoundResource(Generic[T]):
    """``async with`` it: waits for admission, opens the thing, hands it out; closes it and returns the admission.

    The thing is opened and closed in tasks of their own, so that a cancellation never hits a library in the middle of
    either: what was opening is closed once it is open, what is closing goes on in the background. The admission is
    returned when the thing is back in the application's pool, at the latest ``close_timeout`` seconds later; by then
    it was discarded.
    """

    __slots__ = ("__weakref__", "_held", "_keeper", "_leasing", "_resource")

    def __init__(self, keeper: Keeper, leasing: Leasing, resource: Resource[T]) -> None:
        self._keeper, self._leasing, self._resource = keeper, leasing, resource
        self._held: tuple[T, Lease] | None = None

    async def __aenter__(self) -> T:
        if self._held is not None:
            raise RuntimeError("this block is in use: make one for each `async with`")
        lease = await self._leasing
        try:
            opening = asyncio.get_running_loop().create_task(_open(self._resource, lease.user_id))
        except BaseException:
            lease.release()
            raise
        try:
            await asyncio.wait({opening}, timeout=max(0.0, lease.deadline - monotonic()))
        except BaseException:
            self._keeper.in_background(self._abandon(opening, lease), lease)
            raise
        if not opening.done():
            self._keeper.in_background(self._abandon(opening, lease), lease)
            raise LimitTimeout(_TOO_SLOW.format(pool=lease.pools[0]), "global", 1, resource=lease.pools[0])
        try:
            thing = opening.result()
        except BaseException:
            lease.release()
            raise
        self._held = thing, lease
        self._keeper.keep(self)
        return thing

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is None:
            return
        (thing, lease), self._held = self._held, None
        closing = self._keeper.in_background(self._close(thing, lease, broken=error is not None), lease)
        if closing is None:
            _discard(self._resource, thing)
            return
        if isinstance(error, GeneratorExit):
            # Whoever is closed by the collector may not await any more.
            return
        try:
            failure = await asyncio.shield(closing)
        except asyncio.CancelledError:
            closing.add_done_callback(_log_failure)
            raise
        if failure is None:
            return
        if error is None:
            raise failure
        # What the block raised matters more than what followed from it.
        _log(failure)

    def force(self) -> None:
        """Discard what is held, and return the admission. Whoever still uses the thing meets its library's errors."""
        if self._held is not None:
            (thing, lease), self._held = self._held, None
            try:
                _discard(self._resource, thing)
            finally:
                lease.release()

    async def _close(self, thing: T, lease: Lease, *, broken: bool) -> Exception | None:
        try:
            async with asyncio.timeout(self._keeper.close_timeout):
                await self._resource.close(thing, broken=broken)
        except BaseException as error:
            _discard(self._resource, thing)
            if not isinstance(error, Exception):
                raise
            return error
        finally:
            lease.release()
        return None

    async def _abandon(self, opening: asyncio.Task[T], lease: Lease) -> Exception | None:
        """Wait for what is opening, for nobody, and close it."""
        try:
            await asyncio.wait({opening}, timeout=self._keeper.close_timeout)
            if not opening.done():
                opening.cancel()
                await asyncio.wait({opening}, timeout=self._keeper.close_timeout)
        finally:
            if not opening.done() or opening.cancelled() or opening.exception() is not None:
                lease.release()
                opening.add_done_callback(self._discard_late)
        if lease.held:
            return await self._close(opening.result(), lease, broken=True)
        return None

    def _discard_late(self, opening: asyncio.Task[T]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            _discard(self._resource, opening.result())


class BoundInThread(Generic[T]):
    """``with`` it in a thread: the same for libraries that block."""

    __slots__ = ("_held", "_leasing", "_resource")

    def __init__(self, leasing: Leasing, resource: SyncResource[T]) -> None:
        self._leasing, self._resource = leasing, resource
        self._held: tuple[T, Lease] | None = None

    def __enter__(self) -> T:
        if self._held is not None:
            raise RuntimeError("this block is in use: make one for each `with`")
        lease = self._leasing.__enter__()
        try:
            thing = self._resource.open(lease.user_id)
        except BaseException:
            lease.release()
            raise
        self._held = thing, lease
        return thing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is None:
            return
        (thing, lease), self._held = self._held, None
        try:
            self._resource.close(thing, broken=error is not None)
        finally:
            lease.release()

    def __aenter__(self) -> NoReturn:
        raise TypeError(
            "this engine blocks the event loop: `with pools.sqlalchemy(...)` it in a thread, such as in a `def` "
            "endpoint or `asyncio.to_thread`, or pass an AsyncEngine or async_sessionmaker"
        )

    def __aexit__(self, *_: object) -> NoReturn:
        raise AssertionError


async def _open(resource: Resource[T], user_id: str) -> T:
    return await resource.open(user_id)


def _discard(resource: Resource[T], thing: T) -> None:
    try:
        resource.discard(thing)
    except Exception:
        # The admission is returned whatever the library says.
        logger.exception("a connection could not be discarded")


def _log_failure(closing: asyncio.Task[Exception | None]) -> None:
    if not closing.cancelled() and closing.exception() is None and (failure := closing.result()) is not None:
        _log(failure)


def _log(failure: Exception) -> None:
    logger.error("a connection could not be closed; it was discarded", exc_info=failure)


_TOO_SLOW = (
    "pool {pool!r} admitted the request, but the application's own pool gave no connection in time: it is smaller than "
    "the limit here, something else uses it, or connecting is slow; raise its size, lower the limit, or pass a longer "
    "`timeout`"
)
