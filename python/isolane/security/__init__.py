"""Tools, permissions and proof: what is checked at the borders between users, and what is kept as evidence."""

from __future__ import annotations

from isolane.security.audit import (
    AuditHealth,
    AuditKeyError,
    AuditLogError,
    AuditLogger,
    AuditRecord,
    AuditTamperError,
    AuditVerification,
    CallableKey,
    EncryptedAuditLogger,
    EncryptedAuditStorage,
    EncryptedStorage,
    EnvKey,
    FailurePolicy,
    FileKey,
    InclusionProof,
    KeyProvider,
    SecurityAuditEvent,
    SecurityAuditIntegration,
    SecurityReport,
    TimeRange,
)
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

__all__ = [
    "AuditClass",
    "AuditHealth",
    "AuditKeyError",
    "AuditLogError",
    "AuditLogger",
    "AuditRecord",
    "AuditSink",
    "AuditTamperError",
    "AuditUnavailableError",
    "AuditVerification",
    "CallableKey",
    "EncryptedAuditLogger",
    "EncryptedAuditStorage",
    "EncryptedStorage",
    "EnvKey",
    "FailurePolicy",
    "FileKey",
    "InclusionProof",
    "KeyProvider",
    "SecurityAuditEvent",
    "SecurityAuditIntegration",
    "SecurityEvent",
    "SecurityReport",
    "Severity",
    "TimeRange",
]
