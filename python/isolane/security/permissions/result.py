"""What a check came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from isolane._core import Verdict
from isolane.security.events import Severity
from isolane.security.permissions.errors import PermissionDeniedError


class ViolationType(StrEnum):
    """Which kind of rule was broken."""

    CONTEXT_INTEGRITY_FAILURE = "context_integrity_failure"
    INSUFFICIENT_PERMISSIONS = "insufficient_permissions"
    RESOURCE_ACCESS_DENIED = "resource_access_denied"
    CROSS_USER_ACCESS_RISK = "cross_user_access_risk"
    POLICY_VIOLATION = "policy_violation"
    LIMIT_EXCEEDED = "limit_exceeded"
    VALIDATION_ERROR = "validation_error"


@dataclass(frozen=True, slots=True)
class PermissionViolation:
    """One rule that was broken. For operators and the audit log: a user is told ``PermissionValidationResult.code``.

    Attributes:
        type: which kind of rule.
        code: which one, in one word, such as ``foreign_resource``.
        resource: at which resource, as the request named it; ``None`` when it is about none.
        severity: how bad it is.
    """

    type: ViolationType
    code: str
    resource: str | None
    severity: Severity


class PermissionValidationResult:
    """What a check of a request came to. Refused from the beginning, and permitted only at the end of a whole check.

    ``bool(result)`` is ``result.permitted``.
    """

    __slots__ = ("_action", "_engine", "_verdict")

    def __init__(self, action: str = "", engine: str = "isolane", _verdict: Verdict | None = None) -> None:
        self._verdict = Verdict() if _verdict is None else _verdict
        self._action = action
        self._engine = engine

    @property
    def permitted(self) -> bool:
        """Whether the request may go on."""
        return self._verdict.permitted

    @property
    def action(self) -> str:
        """What was to be done."""
        return self._action

    @property
    def violations(self) -> tuple[PermissionViolation, ...]:
        """What was found, in the order of the check."""
        return tuple(
            PermissionViolation(ViolationType(kind), code, resource, Severity(severity))
            for kind, code, resource, severity in self._verdict.violations
        )

    @property
    def determining_policies(self) -> tuple[str, ...]:
        """The rules that decided, such as ``analyst.allow[0]``, and the services that refused."""
        return tuple(self._verdict.policies)

    @property
    def policy_revision(self) -> str | None:
        """Names the policy of roles that was asked; ``None`` when none was."""
        return self._verdict.revision

    @property
    def engine(self) -> str:
        """What decided beside the wall: ``roles``, the names of services, or both."""
        return self._engine

    @property
    def micros(self) -> int:
        """How long the check took, in microseconds."""
        return self._verdict.micros

    @property
    def confidence_score(self) -> float:
        """1.0 when everything was checked, 0.0 when the check broke off."""
        failed = any(kind == ViolationType.VALIDATION_ERROR for kind, *_ in self._verdict.violations)
        return 1.0 if self._verdict.evaluated and not failed else 0.0

    @property
    def code(self) -> str:
        """What the user is told.

        ``permitted``, ``permission_denied``, ``not_found`` for what is or may be another user's,
        ``too_many_resources``, or ``unavailable`` when the check broke off.
        """
        if self._verdict.permitted:
            return "permitted"
        found = [(kind, code) for kind, code, _, _ in self._verdict.violations]
        kinds = {kind for kind, _ in found}
        if ViolationType.CROSS_USER_ACCESS_RISK in kinds:
            return "not_found"
        if ("limit_exceeded", "too_many_resources") in found:
            return "too_many_resources"
        if any(code.startswith("resource_") for kind, code in found if kind == ViolationType.VALIDATION_ERROR):
            return "not_found"
        if kinds <= {ViolationType.VALIDATION_ERROR}:
            return "unavailable"
        return "permission_denied"

    def to_public(self) -> Mapping[str, Any]:
        """Return what may leave the process: whether it is permitted, and the code."""
        return {"permitted": self.permitted, "code": self.code}

    def raise_for_refusal(self) -> None:
        """Raise ``PermissionDeniedError`` unless the request is permitted."""
        if not self._verdict.permitted:
            raise PermissionDeniedError(self.code, self)

    def __bool__(self) -> bool:
        return self._verdict.permitted

    def __repr__(self) -> str:
        return f"<PermissionValidationResult {self.code}, {self._verdict.violation_count} violations>"
