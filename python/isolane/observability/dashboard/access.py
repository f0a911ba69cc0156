"""Who may look at the dashboard, and who may do something there."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import ipaddress
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from starlette.requests import Request

from isolane.security.authentication.origins import OriginPolicy

logger = logging.getLogger("isolane.dashboard")

AuthorizeAction = Callable[[Any, str, str | None], bool | Awaitable[bool]]
"""Answers whether a principal may do an action (``rollback``, ``reveal``, ``verify``) to a target; with no target,
whether the action is offered at all."""

CSRF_HEADER = "x-isolane-csrf"
CSRF_SECONDS = 12 * 3600.0
ANONYMOUS = "loopback"
"""Who somebody is who is let in because the request comes from this machine."""

_FORWARDED = ("forwarded", "x-real-ip", "via", "cf-connecting-ip", "true-client-ip")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_NAMES = ("user_id", "username", "email", "sub", "id", "name")


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks.

    Attributes:
        principal: what the application's dependency answered.
        name: what the audit log calls who it is; empty when the dependency does not say.
    """

    principal: Any
    name: str


def viewer_of(principal: Any) -> Viewer:
    """Return who looks.

    Raises:
        HTTPException: 401 when it is nobody. A dependency that answers nothing may have let anybody through.
    """
    if principal is None or principal is False:
        raise HTTPException(401, "Sign in first: auth= of the dashboard answered nobody", {"Cache-Control": "no-store"})
    return Viewer(principal, _name_of(principal))


def _name_of(principal: Any) -> str:
    if isinstance(principal, str):
        return principal.strip()
    for name in _NAMES:
        value = principal.get(name) if isinstance(principal, Mapping) else getattr(principal, name, None)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return ""


def loopback_only(request: Request) -> str:
    """Let in who is on this machine and did not come through a proxy; the dependency for nobody in particular.

    The name by which the service was asked for must be local too: else any page could have its name lead here.

    Raises:
        HTTPException: 403 for anybody else.
    """
    host = request.client.host if request.client is not None else ""
    try:
        is_local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        is_local = False
    headers = request.headers
    is_forwarded = any(name in headers for name in _FORWARDED) or any(
        name.startswith("x-forwarded-") for name in headers
    )
    asked = headers.get("host", "").lower()
    named = asked if asked.endswith("]") else asked.rpartition(":")[0] or asked
    if not is_local or is_forwarded or named not in _LOCAL_NAMES:
        raise HTTPException(
            403,
            "The dashboard is open to this machine alone, not through a proxy: pass auth= to dashboard_router to let "
            "others in",
            {"Cache-Control": "no-store"},
        )
    return ANONYMOUS


class CsrfTokens:
    """Tokens that a page sends with what it does: of one principal, of this process, for half a day.

    A token of a process that ended does not count any more; the page gets a new one with its next snapshot.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def token(self, viewer: Viewer) -> str:
        """Make a token."""
        at = str(int(time.time()))
        return f"{at}.{self._mac(viewer, at)}"

    def is_valid(self, viewer: Viewer, token: str) -> bool:
        """Whether it is one of this principal's, and still counts."""
        at, _, mac = token.partition(".")
        if not (at.isascii() and at.isdigit() and len(at) < 12) or not mac.isascii():  # noqa: PLR2004 - digits of a time
            return False
        is_own = hmac.compare_digest(mac, self._mac(viewer, at))
        return is_own and 0 <= time.time() - int(at) + 1 <= CSRF_SECONDS

    def _mac(self, viewer: Viewer, at: str) -> str:
        text = f"isolane dashboard csrf\0{at}\0{viewer.name}".encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, hashlib.sha256)).decode().rstrip("=")


def check_origin(request: Request) -> None:
    """Refuse what a page of another origin sends.

    A browser says itself whether a page is of the same origin, which counts whatever a proxy made of the host. One that
    does not say it names the page's origin. Without either it is no browser: it must not bring a cookie, which a
    browser adds by itself.

    Raises:
        HTTPException: 403.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_own = site == "same-origin"
    elif origin is not None:
        is_own = OriginPolicy().allows(
            origin, scheme=request.scope.get("scheme", ""), host=request.headers.get("host", "")
        )
    else:
        is_own = "cookie" not in request.headers
    if not is_own:
        raise HTTPException(403, "This is done from the dashboard's own page alone", {"Cache-Control": "no-store"})


class Permission:
    """Asks the application who may do what. Whatever it answers but ``True``, and whatever it raises, is a no."""

    def __init__(self, authorize: AuthorizeAction | None) -> None:
        self._authorize = authorize

    async def allows(self, viewer: Viewer, action: str, target: str | None) -> bool:
        """Whether the principal may do it. Somebody without a name may do nothing: nobody could be held to it."""
        if self._authorize is None or not viewer.name:
            return False
        try:
            answer = self._authorize(viewer.principal, action, target)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception:
            logger.exception("authorize_action failed; %s was refused", action)
            return False
        return answer is True


def number_of(request: Request, name: str, default: int, most: int) -> int:
    """Return a number of the query, at least 1.

    Raises:
        HTTPException: 422 when it is none.
    """
    text = request.query_params.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 1:
        raise HTTPException(422, f"{name} must be a number from 1 to {most}", {"Cache-Control": "no-store"})
    return int(min(value, most))
