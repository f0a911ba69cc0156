"""Tools, permissions and proof: what is checked at the borders between users, and what is kept as evidence."""

from __future__ import annotations

from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity
from isolane.security.sanitizer import (
    DataSanitizer,
    FieldDecryptionError,
    Finding,
    Modes,
    References,
    SanitizeBlockedError,
    Sanitized,
    SanitizeLimitError,
    StreamSanitizer,
)

__all__ = [
    "AuditClass",
    "AuditSink",
    "AuditUnavailableError",
    "DataSanitizer",
    "FieldDecryptionError",
    "Finding",
    "Modes",
    "References",
    "SanitizeBlockedError",
    "SanitizeLimitError",
    "Sanitized",
    "SecurityEvent",
    "Severity",
    "StreamSanitizer",
]
