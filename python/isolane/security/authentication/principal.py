"""Who is asking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated user of a connection, as the application's ``authenticate`` returns it.

    Attributes:
        user_id: the user; opaque to isolane.
        claims: whatever else the application knows of the user.
        roles: the roles of the user. None by default.
        permissions: what the roles allow. None by default.
        amr: how the user signed in, in the words of RFC 8176 (``pwd``, ``otp``, ``mfa``). None by default.
        expires_at: when the sign-in is over, in seconds since 1970; sockets and event streams end then. ``None``, the
            default: not by itself.
        session_id: which session it is; ``None`` without one.

    Any collection of names is taken for ``roles``, ``permissions`` and ``amr``, such as a list of a token.

    Raises:
        TypeError: one of them is a single text, whose letters would be taken for names.
    """

    user_id: str
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    roles: frozenset[str] = field(default=frozenset(), compare=False)
    permissions: frozenset[str] = field(default=frozenset(), compare=False)
    amr: frozenset[str] = field(default=frozenset(), compare=False)
    expires_at: float | None = field(default=None, compare=False)
    session_id: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("roles", "permissions", "amr"):
            held: Iterable[str] = getattr(self, name)
            if type(held) is frozenset:
                continue
            if isinstance(held, str):
                raise TypeError(f"{name} must be a collection of names, got one text; put it into a list")
            object.__setattr__(self, name, frozenset(held))
