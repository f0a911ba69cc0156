"""Why somebody is not let in. What these say is safe to show; details are for the audit log alone."""

from __future__ import annotations

from typing import ClassVar


class AccessRefusedError(Exception):
    """Somebody is not let in. Its text says what a client can do about it, and nothing about the credential.

    Attributes:
        status_code: of the HTTP answer.
        code: the public code.
        close_code: of a socket.
        is_recorded: whether the audit log was told of it; the gate of an application tells it of the others.
    """

    status_code: ClassVar[int] = 403
    code: ClassVar[str] = "forbidden"
    close_code: ClassVar[int] = 4503
    is_recorded: bool = False


class InvalidTokenError(AccessRefusedError):
    """A token, ticket or session that does not count, for whatever reason: the audit log has it."""

    status_code = 401
    code = "invalid_token"
    close_code = 4501

    def __init__(self, message: str = "The credential is not valid: sign in again") -> None:
        super().__init__(message)


class TokenExpiredError(InvalidTokenError):
    """A token that was valid, and is over."""

    code = "expired"

    def __init__(self, message: str = "The sign-in has expired: sign in again") -> None:
        super().__init__(message)


class AuthInQueryForbiddenError(AccessRefusedError):
    """A token stands in the address, from where it gets into logs and histories."""

    status_code = 400
    code = "auth_in_query_forbidden"
    close_code = 4501

    def __init__(
        self,
        message: str = "A token must not stand in the address: send it as a header or subprotocol, or use a ticket",
    ) -> None:
        super().__init__(message)


class CredentialRefusedError(AccessRefusedError):
    """Several credentials at once, or one that is sent in a way that this service does not take."""

    status_code = 400
    code = "credential_refused"
    close_code = 4501


class OriginNotAllowedError(AccessRefusedError):
    """A page of another origin, or a request without an origin whose credential a browser would add by itself."""

    code = "origin_not_allowed"

    def __init__(self, message: str = "This origin may not connect") -> None:
        super().__init__(message)


class SubprotocolRefusedError(AccessRefusedError):
    """No subprotocol was offered that the server could select."""

    status_code = 400
    code = "subprotocol_refused"
    close_code = 4500


class RoleRequiredError(AccessRefusedError):
    """The user lacks a role or a permission."""

    def __init__(self, message: str = "You may not do this") -> None:
        super().__init__(message)


class MfaRequiredError(AccessRefusedError):
    """The user signed in with one factor, and this needs two."""

    code = "mfa_required"

    def __init__(self, message: str = "Sign in with a second factor first") -> None:
        super().__init__(message)


class SignInLimitError(AccessRefusedError):
    """The process holds as many sessions or tickets as it may."""

    status_code = 503
    code = "overloaded"
    close_code = 4029
    retry_after: ClassVar[int] = 5

    def __init__(self, message: str = "The service is at its limit; try again later") -> None:
        super().__init__(message)


class KeySetError(ValueError):
    """A set of keys that no token is verified with: it is for whoever runs the service, and names the key."""
