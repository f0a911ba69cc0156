"""Who is asking."""

from __future__ import annotations

from isolane.security.authentication.principal import Principal


class NotAuthenticatedError(Exception):
    """Nobody is signed in on this connection."""


__all__ = ["NotAuthenticatedError", "Principal"]
