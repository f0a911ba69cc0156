"""Any resource, by functions of the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Anything(Generic[T]):
    """Opens, closes and discards by what the application gave."""

    def __init__(
        self,
        opener: Callable[[], Awaitable[T]],
        closer: Callable[[T], Awaitable[object]],
        discarder: Callable[[T], object] | None,
    ) -> None:
        self._opener, self._closer, self._discarder = opener, closer, discarder

    async def open(self, user_id: str) -> T:
        """Open one. It is the application's own matter that it is clean."""
        del user_id
        return await self._opener()

    async def close(self, thing: T, *, broken: bool) -> None:
        """Close it."""
        del broken
        await self._closer(thing)

    def discard(self, thing: T) -> None:
        """Discard it, if the application said how."""
        if self._discarder is not None:
            self._discarder(thing)
