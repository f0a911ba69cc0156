"""Tools, permissions and proof: what is checked at the borders between users, and what is kept as evidence."""

from __future__ import annotations

from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

__all__ = ["AuditClass", "AuditSink", "AuditUnavailableError", "SecurityEvent", "Severity"]
