"""Who is asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated user of a connection, as the application's ``authenticate`` returns it.

    Attributes:
        user_id: the user; opaque to isolane.
        claims: whatever else the application knows of the user.
    """

    user_id: str
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), compare=False)


class NotAuthenticatedError(Exception):
    """Nobody is signed in on this connection."""
