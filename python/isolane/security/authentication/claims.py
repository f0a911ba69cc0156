"""What a token must say, beside being signed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isolane._core import EventCursor, InvalidContextError
from isolane.security.authentication.jws import _RejectedError


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What is asked of the claims.

    Attributes:
        issuer: the one ``iss``.
        audience: the one ``aud``.
        leeway: seconds by which clocks may differ.
        shared_audience: whether a token may be for others as well.
    """

    issuer: str
    audience: str
    leeway: float
    shared_audience: bool

    def check(self, claims: Mapping[str, Any], now: float) -> tuple[str, float]:
        """Return the user and when the token is over. Raises ``_RejectedError``."""
        if claims.get("iss") != self.issuer:
            raise _RejectedError("wrong_issuer" if "iss" in claims else "no_issuer")
        self._check_audience(claims)
        subject = claims.get("sub")
        if not isinstance(subject, str):
            raise _RejectedError("no_subject")
        check_user_id(subject)
        not_before, issued = _time(claims, "nbf"), _time(claims, "iat")
        if not_before is not None and now + self.leeway < not_before:
            raise _RejectedError("not_yet_valid")
        if issued is not None and now + self.leeway < issued:
            raise _RejectedError("issued_in_the_future")
        expires = _time(claims, "exp")
        if expires is None:
            raise _RejectedError("no_expiry")
        # Last: only who holds a token that was good is told that it is over.
        if now >= expires + self.leeway:
            raise _RejectedError("expired", expired=True)
        return subject, expires if expires > now else expires + self.leeway

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        audience = claims.get("aud")
        if audience is None:
            raise _RejectedError("no_audience")
        named = audience if isinstance(audience, list) else [audience]
        if self.audience not in named or not (self.shared_audience or len(named) == 1):
            raise _RejectedError("wrong_audience")


def check_user_id(user_id: str) -> None:
    """Let an id pass that contexts take. Raises ``_RejectedError``."""
    try:
        # The rule is the core's, and whoever has a lane passes it. It takes nobody's place.
        EventCursor(user_id, max_connections=1 << 30).detach()
    except InvalidContextError:
        raise _RejectedError("subject_is_no_user_id") from None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RejectedError(f"{name}_is_no_time")
    try:
        seconds = float(value)
    except OverflowError:
        raise _RejectedError(f"{name}_is_no_time") from None
    if not math.isfinite(seconds):
        raise _RejectedError(f"{name}_is_no_time")
    return seconds
