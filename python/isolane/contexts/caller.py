"""Whose connection is being served: for code that was handed neither a context nor a user."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from isolane._core import UserExecutionContext
from isolane.security.authentication.errors import AccessRefusedError


class KnowsItsUser(Protocol):
    """What one connection has of isolane, as ``RequestScope``."""

    @property
    def isolane(self) -> Any:
        """The application's isolane."""

    @property
    def known_user(self) -> str | None:
        """Who is signed in, if that was asked already."""

    @property
    def run_context(self) -> UserExecutionContext | None:
        """The run context, if it was made already."""

    async def user_of(self, connection: Any) -> str | None:
        """Ask who is signed in, once."""


class Caller:
    """The user of the connection that is being served. When that is over it keeps the user's id, and nothing else.

    Tasks and timers that a request starts copy the variable: they must not keep its headers and its data.
    """

    __slots__ = ("_connection", "_is_refused", "_scope", "_user_id")

    def __init__(self, scope: KnowsItsUser, connection: Mapping[str, Any]) -> None:
        self._scope: KnowsItsUser | None = scope
        self._connection: Any = connection
        self._user_id: str | None = None
        self._is_refused = False

    @property
    def application(self) -> Any:
        """The isolane of the application, while the connection is served."""
        return None if self._scope is None else self._scope.isolane

    @property
    def user_id(self) -> str | None:
        """Who is signed in; ``None`` for nobody, and before anybody asked."""
        return self._user_id if self._scope is None else self._scope.known_user

    @property
    def run_context(self) -> UserExecutionContext | None:
        """The run context of the connection, while it is served and has one."""
        return None if self._scope is None else self._scope.run_context

    async def resolve(self) -> str | None:
        """Return who is signed in, and ask the application if that was not done yet.

        A credential that isolane's gate does not take signs nobody in. Raises what the application's sign-in raises.
        """
        if self._scope is None or self._is_refused:
            return self.user_id
        try:
            return await self._scope.user_of(self._connection)
        except AccessRefusedError:
            # Recorded by the gate, once.
            self._is_refused = True
            return None

    def close(self) -> None:
        """The connection is served."""
        if self._scope is not None:
            self._user_id = self._scope.known_user
            self._scope = self._connection = None


current_caller: ContextVar[Caller | None] = ContextVar("isolane_caller", default=None)
"""Whose connection the code that runs here serves; set by the middleware."""
