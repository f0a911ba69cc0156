"""Who somebody is: tokens, sessions, tickets for sockets, roles and second factors."""

from isolane.security.authentication.errors import (
    AccessRefusedError,
    AuthInQueryForbiddenError,
    CredentialRefusedError,
    InvalidTokenError,
    KeySetError,
    MfaRequiredError,
    OriginNotAllowedError,
    RoleRequiredError,
    SignInLimitError,
    SubprotocolRefusedError,
    TokenExpiredError,
)
from isolane.security.authentication.jwt import JwtVerifier, VerifiedToken
from isolane.security.authentication.origins import OriginPolicy
from isolane.security.authentication.roles import MfaPolicy, RolePermissions, is_multi_factor
from isolane.security.authentication.sessions import Session, SessionRegistry
from isolane.security.authentication.tickets import MemoryTicketStore, Ticket, Tickets, TicketStore

__all__ = [
    "AccessRefusedError",
    "AuthInQueryForbiddenError",
    "CredentialRefusedError",
    "InvalidTokenError",
    "JwtVerifier",
    "KeySetError",
    "MemoryTicketStore",
    "MfaPolicy",
    "MfaRequiredError",
    "OriginNotAllowedError",
    "OriginPolicy",
    "RolePermissions",
    "RoleRequiredError",
    "Session",
    "SessionRegistry",
    "SignInLimitError",
    "SubprotocolRefusedError",
    "Ticket",
    "TicketStore",
    "Tickets",
    "TokenExpiredError",
    "VerifiedToken",
    "is_multi_factor",
]
