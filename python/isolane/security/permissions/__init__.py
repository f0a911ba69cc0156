"""Who may do what: the wall of ownership, grants, roles, and services that decide beside them."""

from __future__ import annotations

from isolane._core import PolicyLoadError, resource_name
from isolane.security.permissions.answers import PermissionAnswer, PolicyCompliance, ResourceAccess
from isolane.security.permissions.boundary import PermissionBoundarySystem
from isolane.security.permissions.engine import PermissionEngine
from isolane.security.permissions.errors import PermissionDeniedError
from isolane.security.permissions.grants import Grants
from isolane.security.permissions.result import PermissionValidationResult, PermissionViolation, ViolationType
from isolane.security.permissions.service import PermissionService

__all__ = [
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
    "ViolationType",
    "resource_name",
]
