"""Answers that are known at once: with ``await`` or without it they say the same, and forgetting it permits nothing."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from isolane.security.permissions.result import PermissionViolation


@dataclass(frozen=True, slots=True)
class PermissionAnswer:
    """Whether something is permitted. ``bool(answer)`` and ``await answer`` say the same.

    Attributes:
        permitted: whether it is.
        code: ``permitted``, or why not, in one word.
    """

    permitted: bool
    code: str = "permitted"

    def __bool__(self) -> bool:
        return self.permitted

    def __await__(self) -> Generator[Any, None, bool]:
        yield from ()
        return self.permitted


@dataclass(frozen=True, slots=True)
class ResourceAccess:
    """Whether a user may reach a resource. It may be awaited, which returns it.

    Attributes:
        permitted: whether the user may.
        reason: why not, in one word; ``permitted`` otherwise. For operators: outward a foreign resource is
            ``not_found``.
        policies: the rules that decided.
    """

    permitted: bool
    reason: str
    policies: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.permitted

    def __await__(self) -> Generator[Any, None, ResourceAccess]:
        yield from ()
        return self


@dataclass(frozen=True, slots=True)
class PolicyCompliance:
    """Whether a request complies with the policies. It may be awaited, which returns it.

    Attributes:
        compliant: whether it does.
        violations: what does not.
    """

    compliant: bool
    violations: tuple[PermissionViolation, ...] = ()

    def __bool__(self) -> bool:
        return self.compliant

    def __await__(self) -> Generator[Any, None, PolicyCompliance]:
        yield from ()
        return self
