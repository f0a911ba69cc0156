"""What ``setup(authenticate=...)`` takes for services without a sign-in of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import HTTPConnection

from isolane.fastapi.gate import bearer_of
from isolane.fastapi.principal import Principal
from isolane.security.authentication.errors import InvalidTokenError
from isolane.security.authentication.jwt import JwtVerifier
from isolane.security.authentication.roles import RolePermissions
from isolane.security.authentication.sessions import SessionRegistry

MAX_SESSION_CHARACTERS = 256


class JwtAuthenticator:
    """Signs in whoever sends a JSON Web Token: for ``setup(authenticate=JwtAuthenticator(...))``.

    The token is that of an ``Authorization: Bearer`` header or, on a socket, of an offered subprotocol. Without one
    nobody is signed in; one that does not count is refused.

    Args:
        verifier: says whom a token is for.
        roles: the claim that lists the user's roles, with dots for what is nested (``realm_access.roles``), as a list
            or as words with spaces between. Default: ``roles``.
        permissions: what the roles allow. Default: nothing.
        is_revoked: asked with each principal; ``True`` refuses it, such as for a session that has ended. Default: none
            is.
    """

    def __init__(
        self,
        verifier: JwtVerifier,
        *,
        roles: str = "roles",
        permissions: RolePermissions | None = None,
        is_revoked: Callable[[Principal], bool] | None = None,
    ) -> None:
        self._verifier = verifier
        self._roles = roles.split(".")
        self._permissions = permissions or RolePermissions({})
        self._is_revoked = is_revoked

    def __call__(self, conn: HTTPConnection) -> Principal | None:
        """Return who sent the token, or ``None`` without one. Raises ``InvalidTokenError``."""
        token = bearer_of(conn.headers)
        return None if token is None else self.principal_of(token)

    def principal_of(self, token: str) -> Principal:
        """Return whom a token is for.

        Raises:
            TokenExpiredError: it is over.
            InvalidTokenError: it does not count, or was revoked.
        """
        verified = self._verifier.verify(token)
        claims = verified.claims
        roles = _words(_at(claims, self._roles))
        session = claims.get("sid")
        principal = Principal(
            verified.user_id,
            claims,
            roles=roles,
            permissions=self._permissions.of(roles),
            amr=_words(claims.get("amr")) if isinstance(claims.get("amr"), list) else frozenset(),
            expires_at=verified.expires_at,
            session_id=session if isinstance(session, str) and len(session) <= MAX_SESSION_CHARACTERS else None,
        )
        if self._is_revoked is not None and self._is_revoked(principal) is not False:
            raise InvalidTokenError
        return principal


class SessionAuthenticator:
    """Signs in whoever has a session: for ``setup(authenticate=SessionAuthenticator(...), sessions=...)``.

    The token of the session is that of an ``Authorization: Bearer`` header, of an offered subprotocol, or of a cookie.
    On sockets a cookie counts only where the settings allow it.

    Args:
        sessions: the sessions.
        cookie: the name of the cookie; ``None`` for none. Default: ``__Host-session``.
    """

    def __init__(self, sessions: SessionRegistry, *, cookie: str | None = "__Host-session") -> None:
        self._sessions = sessions
        self._cookie = cookie

    def __call__(self, conn: HTTPConnection) -> Principal | None:
        """Return whose session it is, or ``None`` without one. Raises ``InvalidTokenError``."""
        token = bearer_of(conn.headers)
        if token is None and self._cookie is not None:
            token = conn.cookies.get(self._cookie)
        return None if token is None else self._sessions.touch(token).principal


def _at(claims: Mapping[str, Any], path: list[str]) -> Any:
    value: Any = claims
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _words(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset(value.split())
    return frozenset(word for word in value if isinstance(word, str)) if isinstance(value, list) else frozenset()
