"""What decides beside the built-in roles: Cedar, casbin, OPA, or an application's own rules."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, runtime_checkable

from isolane._core import UserExecutionContext


@runtime_checkable
class PermissionService(Protocol):
    """Decides about requests that the wall has let pass. It can refuse more, and never less.

    It answers ``True`` to permit. Anything else refuses, as does an exception or an answer that comes too late.
    """

    def authorize(
        self, context: UserExecutionContext, action: str, resources: tuple[str, ...]
    ) -> bool | Awaitable[bool]:
        """Return whether the context's user may do this to all of these resources; also as an awaitable."""
