"""Whose request this is."""

from contextvars import ContextVar

from fastapi import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from .sessions import user_of_token

current_user: ContextVar[str | None] = ContextVar("current_user", default=None)


def token_of(connection: HTTPConnection) -> str:
    """Return the token that a request or a socket carries."""
    authorization = connection.headers.get("authorization", "")
    return authorization.removeprefix("Bearer ") or connection.cookies.get("session", "")


class CurrentUserMiddleware(BaseHTTPMiddleware):
    """Puts the user of a request where everybody finds it."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Look the user up, then go on."""
        current_user.set(user_of_token(token_of(request)))
        return await call_next(request)


def signed_in_user() -> str:
    """Return the user, or refuse the request."""
    user_id = current_user.get()
    if user_id is None:
        raise HTTPException(401, "Sign in first: POST /login", {"WWW-Authenticate": "Bearer"})
    return user_id
