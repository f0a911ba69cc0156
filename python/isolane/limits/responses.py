"""Permits that live as long as a response: for bodies that are streamed after the handler has returned.

A ``finally`` in the generator of a streamed body is not enough: a generator that never starts never runs it, and a body
never starts when the client is gone before its first byte.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = TypeVar("Application", bound=Callable[[Scope, Receive, Send], Awaitable[None]])


class Releasable(Protocol):
    """What is released when the response is over: a permit."""

    def release(self) -> bool:
        """Return it."""
        ...


_ATTRIBUTE = "_isolane_permits"


def bind(permit: Releasable, response: Application) -> Application:
    """Return ``response``, which releases ``permit`` when it was sent, failed, was cancelled, or is collected unsent.

    ``response`` is an ASGI application, such as a ``StreamingResponse``. An object stays the same object, of a
    subclass that is made here; what cannot change its class is wrapped.

    Raises:
        TypeError: ``response`` cannot be called.
    """
    if not callable(response):
        raise TypeError(
            f"a permit is bound to an ASGI response, such as StreamingResponse(...), got {type(response).__name__}"
        )
    permits = getattr(response, _ATTRIBUTE, None)
    if permits is not None:
        permits.append(permit)
        return response
    if not _take(response, permit):
        return _Wrapped(response, permit)  # type: ignore[return-value]
    return response


def _take(response: object, permit: Releasable) -> bool:
    """Have an object release a permit after its call. Without success the object is what it was."""
    try:
        releasing = _releasing(cast("Any", type(response)))
    except Exception:  # noqa: BLE001 - whatever a class says to being derived from
        return False
    try:
        # Past a ``__setattr__`` of the class, which may refuse what it does not know. The attribute first, because the
        # new class looks for it.
        object.__setattr__(response, _ATTRIBUTE, [permit])
    except (TypeError, AttributeError):
        return False
    try:
        object.__setattr__(response, "__class__", releasing)
    except (TypeError, AttributeError):
        # A function, or an object of another layout than that of its class with more attributes.
        object.__delattr__(response, _ATTRIBUTE)
        return False
    return True


def _release(permits: list[Releasable]) -> None:
    while permits:
        permits.pop().release()


@lru_cache(maxsize=128)
def _releasing(cls: type[Any]) -> type[Any]:
    """Return a subclass whose calls release the permits of the object."""

    async def call(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await cls.__call__(self, scope, receive, send)
        finally:
            _release(getattr(self, _ATTRIBUTE))

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__})


class _Wrapped:
    """An ASGI application with a permit."""

    def __init__(self, application: Callable[..., Awaitable[None]], permit: Releasable) -> None:
        self._application = application
        self._permits = [permit]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._application(scope, receive, send)
        finally:
            _release(self._permits)
