"""Tools, permissions and proof: what is checked at the borders between users, and what is kept as evidence."""

from __future__ import annotations

from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity
from isolane.security.permissions import (
    Grants,
    PermissionAnswer,
    PermissionBoundarySystem,
    PermissionDeniedError,
    PermissionEngine,
    PermissionService,
    PermissionValidationResult,
    PermissionViolation,
    PolicyCompliance,
    PolicyLoadError,
    ResourceAccess,
    ViolationType,
    resource_name,
)

__all__ = [
    "AuditClass",
    "AuditSink",
    "AuditUnavailableError",
    "Grants",
    "PermissionAnswer",
    "PermissionBoundarySystem",
    "PermissionDeniedError",
    "PermissionEngine",
    "PermissionService",
    "PermissionValidationResult",
    "PermissionViolation",
    "PolicyCompliance",
    "PolicyLoadError",
    "ResourceAccess",
    "SecurityEvent",
    "Severity",
    "ViolationType",
    "resource_name",
]
