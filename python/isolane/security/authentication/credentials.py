"""Where a connection carries its credential, and what it is."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

PREFIXES = ("jwt-auth.", "jwt.", "bearer.")
"""What a subprotocol that is a credential begins with."""

QUERY_NAMES = frozenset({"access_token", "auth_token", "authorization", "bearer", "id_token", "jwt", "token"})
"""Names under which tokens are put into addresses."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class Method(StrEnum):
    """How a socket may sign in."""

    TICKET = "ticket"
    SUBPROTOCOL = "subprotocol"
    HEADER = "header"
    MESSAGE = "message"
    COOKIE = "cookie"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client sent to say who it is.

    Attributes:
        method: how it was sent.
        value: the token or ticket.
    """

    method: Method
    value: str = field(repr=False)


def bearer_token(authorization: str) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def is_credential(subprotocol: str) -> bool:
    """Whether an offered subprotocol is a credential, which is never selected: the answer would carry it."""
    return subprotocol.lower().startswith(PREFIXES)


def subprotocol_token(subprotocol: str) -> str | None:
    """Return the token of an offered subprotocol that is a credential: what follows the prefix, or its base64url.

    What decodes to a JSON Web Token is one; anything else is taken as it is.
    """
    prefix = next((prefix for prefix in PREFIXES if subprotocol.lower().startswith(prefix)), None)
    if prefix is None:
        return None
    value = subprotocol[len(prefix) :]
    return _decoded(value) or value or None


def _decoded(value: str) -> str | None:
    if "." in value:
        return None
    try:
        text = base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True).decode("ascii")
    except ValueError:
        return None
    return text if _TOKEN.fullmatch(text) else None


def offered(header: str) -> list[str]:
    """Return the subprotocols of a ``Sec-WebSocket-Protocol`` header."""
    return [entry.strip() for entry in header.split(",") if entry.strip()]


def token_in_query(parameters: Iterable[tuple[str, str]]) -> bool:
    """Whether the address carries a token: under a name that is used for them, or as something that looks like one."""
    return any((name.lower() in QUERY_NAMES and value) or _TOKEN.search(value) for name, value in parameters)
