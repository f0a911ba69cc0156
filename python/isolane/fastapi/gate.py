"""The gate: who a connection is of, and whether it may come in at all. Decided before a socket is accepted."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from isolane import _core
from isolane.fastapi.principal import Principal
from isolane.security.authentication.credentials import (
    Credential,
    Method,
    bearer_token,
    offered,
    subprotocol_token,
    token_in_query,
)
from isolane.security.authentication.errors import (
    AccessRefusedError,
    AuthInQueryForbiddenError,
    CredentialRefusedError,
    OriginNotAllowedError,
    TokenExpiredError,
)
from isolane.security.authentication.origins import OriginPolicy
from isolane.security.authentication.records import note, note_refusal
from isolane.security.authentication.tickets import Tickets
from isolane.security.events import AuditClass, AuditSink

DENIED = _core.metric("isolane_permission_decisions_total").labels("deny", "insufficient_permissions")

if TYPE_CHECKING:
    from isolane.fastapi.settings import IsolaneSettings

TICKET = "ticket"
"""The query parameter of a ticket."""


class Gate:
    """Asks the application's ``authenticate``, within the rules for sockets.

    Args:
        settings: origins, and how sockets may sign in.
        authenticate: says who a connection is of.
        tickets: redeems them.
        audit: is told who was let in to a socket, and who was refused anything.
    """

    def __init__(
        self,
        settings: IsolaneSettings,
        authenticate: Callable[[HTTPConnection], Any],
        tickets: Tickets,
        audit: AuditSink | None = None,
    ) -> None:
        self._methods = settings.socket_methods
        self.origins = OriginPolicy(settings.origins_allowed)
        self._authenticate = authenticate
        self._tickets = tickets
        self._audit = audit

    def takes(self, method: Method) -> bool:
        """Whether sockets may sign in this way."""
        return method in self._methods

    async def of_request(self, conn: HTTPConnection) -> Principal | None:
        """Return who sent an HTTP request. Raises ``AccessRefusedError``."""
        with self._noting("request"):
            return self._not_over(await self._ask(conn))

    async def of_stream(self, conn: HTTPConnection) -> Principal | None:
        """Return who asks for an event stream: by what requests are signed in with, or by a ticket."""
        with self._noting("event_stream"):
            _check_address(conn)
            return await self._admit(conn, conn, conn.query_params.get(TICKET))

    async def of_socket(self, conn: HTTPConnection) -> Principal | None:
        """Return whose socket is to be opened, or ``None`` when nobody is signed in.

        Raises:
            AccessRefusedError: it is not to be opened: the address has a token, the page is of another origin, or the
                credential is not taken.
        """
        with self._noting("socket"):
            _check_address(conn)
            credential = self._credential(conn)
            self._check_origin(conn, credential)
            ticket = credential.value if credential is not None and credential.method is Method.TICKET else None
            ambient = credential is None and self.takes(Method.COOKIE)
            asked = conn if ambient else _without(conn, b"cookie")
            if not self.takes(Method.HEADER):
                # One that is no bearer token is none of the credentials above: browsers send some by themselves.
                asked = _without(asked, b"authorization")
            return await self._admit(conn, asked, ticket)

    async def of_message(self, conn: HTTPConnection, message: Mapping[str, Any]) -> Principal | None:
        """Return who sends a ``token`` or a ``ticket`` over an open socket.

        A token is given to ``authenticate`` as the ``Authorization`` header of the same connection, which has no cookie
        and no subprotocols.

        Raises:
            AccessRefusedError: it does not count.
        """
        with self._noting("message"):
            return await self._of_message(conn, message)

    async def _of_message(self, conn: HTTPConnection, message: Mapping[str, Any]) -> Principal | None:
        token, ticket = message.get("token"), message.get(TICKET)
        if isinstance(ticket, str) and token is None:
            return await self._admit(conn, conn, ticket)
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or ticket is not None:
            raise CredentialRefusedError("Send one token, or one ticket")
        bare = _without(conn, b"cookie", b"authorization", b"sec-websocket-protocol")
        header = (b"authorization", b"Bearer " + token.encode())
        again = HTTPConnection({**bare.scope, "headers": [*bare.scope["headers"], header], "subprotocols": []})
        return await self._admit(conn, again, None)

    async def _admit(self, conn: HTTPConnection, asked: HTTPConnection, ticket: str | None) -> Principal | None:
        if ticket is not None:
            # Of a request to its own service that changes nothing, browsers name no origin, but say that it is one.
            own = conn.headers.get("sec-fetch-site") == "same-origin"
            principal: Principal | None = await self._tickets.redeem(
                ticket, conn.headers.get("origin"), is_own=functools.partial(_is_own, conn) if own else None
            )
        else:
            principal = await self._ask(asked)
        principal = self._not_over(principal)
        if principal is not None:
            note(self._audit, "authn_login_success", principal.user_id, method="socket" if ticket is None else TICKET)
        return principal

    def _not_over(self, principal: Principal | None) -> Principal | None:
        if principal is None or principal.expires_at is None or principal.expires_at > _core.unix_time():
            return principal
        # Not a number is in no future either.
        over = TokenExpiredError()
        note_refusal(self._audit, "session_expired", principal.user_id, error=over, reason="sign_in_over")
        raise over

    @contextlib.contextmanager
    def _noting(self, method: str) -> Iterator[None]:
        """Tell the audit log who is refused, unless whoever looked at the credential has done so."""
        try:
            yield
        except AccessRefusedError as error:
            if not error.is_recorded:
                note_refusal(self._audit, "authn_login_fail", error=error, method=method, reason=error.code)
            raise

    async def _ask(self, conn: HTTPConnection) -> Principal | None:
        answer = self._authenticate(conn)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not None and not isinstance(answer, Principal):
            raise TypeError(f"authenticate must return a Principal or None, got {type(answer).__name__}")
        return answer

    def _credential(self, conn: HTTPConnection) -> Credential | None:
        """Return the one credential that a browser does not add by itself."""
        found = credentials_of(conn.headers)
        if TICKET in conn.query_params:
            found.append(Credential(Method.TICKET, conn.query_params[TICKET]))
        if len({credential.value for credential in found}) > 1:
            raise CredentialRefusedError("Several credentials were sent: send one")
        for credential in found:
            if not self.takes(credential.method):
                raise CredentialRefusedError(f"Sockets do not sign in by {credential.method} here")
        return found[0] if found else None

    def _check_origin(self, conn: HTTPConnection, credential: Credential | None) -> None:
        origin = conn.headers.get("origin")
        if origin is None:
            # No browser: what it sends, it sends on purpose, unless it is a cookie.
            if credential is None and "cookie" in conn.headers and self.takes(Method.COOKIE):
                raise OriginNotAllowedError("Cookies are taken from pages alone: the request has no origin")
        elif not self.origins.allows(origin, scheme=conn.scope.get("scheme", ""), host=conn.headers.get("host", "")):
            raise OriginNotAllowedError

    async def issue_ticket(self, conn: HTTPConnection, principal: Principal) -> str:
        """Return a ticket for the page that asks for it.

        Raises:
            OriginNotAllowedError: the page may not connect.
            CredentialRefusedError: sockets do not sign in by tickets here.
            SignInLimitError: too many are given out.
        """
        with self._noting("ticket"):
            if not self.takes(Method.TICKET):
                raise CredentialRefusedError("Sockets do not sign in by ticket here")
            self._check_origin(conn, Credential(Method.TICKET, ""))
        return await self._tickets.issue(principal, conn.headers.get("origin"))

    def end_tickets(self, user_id: str, session_id: str | None) -> None:
        """Let no ticket count that the user was given before signing out."""
        self._tickets.end(user_id, session_id)

    @property
    def ticket_seconds(self) -> float:
        """How long a ticket counts."""
        return self._tickets.seconds

    def note_expired(self, principal: Principal, reason: str) -> None:
        """Tell the audit log that a socket or event stream ends because its sign-in does."""
        note_refusal(self._audit, "session_expired", principal.user_id, reason=reason)

    def note_stranger(self, principal: Principal) -> None:
        """Tell the audit log that a socket was to go on as somebody else."""
        note_refusal(self._audit, "authn_login_fail", principal.user_id, method="refresh", reason="another_user")

    def note_denied(self, principal: Principal, command: str) -> None:
        """Count that a user may not do something, and tell the audit log."""
        DENIED.inc()
        note_refusal(self._audit, "authz_fail", principal.user_id, audit_class=AuditClass.PERMISSION, command=command)


def _is_own(conn: HTTPConnection, origin: str) -> bool:
    return OriginPolicy().allows(origin, scheme=conn.scope.get("scheme", ""), host=conn.headers.get("host", ""))


def _check_address(conn: HTTPConnection) -> None:
    if token_in_query(conn.query_params.multi_items()):
        raise AuthInQueryForbiddenError


def credentials_of(headers: Headers) -> list[Credential]:
    """Return the tokens of the ``Authorization`` header and of the offered subprotocols."""
    found = []
    token = bearer_token(headers.get("authorization", ""))
    if token is not None:
        found.append(Credential(Method.HEADER, token))
    for entry in headers.getlist("sec-websocket-protocol"):
        for subprotocol in offered(entry):
            token = subprotocol_token(subprotocol)
            if token is not None:
                found.append(Credential(Method.SUBPROTOCOL, token))
    return found


def bearer_of(headers: Headers) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header, or of an offered subprotocol that is a credential.

    Those begin with ``bearer.``, ``jwt.`` or ``jwt-auth.``; what follows is the token, or the base64url of a JSON Web
    Token. A browser cannot send headers with a WebSocket, and a token in the address would stand in every log.
    """
    found = credentials_of(headers)
    return found[0].value if found else None


def _without(conn: HTTPConnection, *names: bytes) -> HTTPConnection:
    """Return the connection without some headers."""
    kept = [(name, value) for name, value in conn.scope["headers"] if name.lower() not in names]
    return conn if len(kept) == len(conn.scope["headers"]) else HTTPConnection({**conn.scope, "headers": kept})
