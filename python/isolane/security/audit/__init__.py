"""The audit log: what happened at the borders between users, sealed and provable."""

from __future__ import annotations

from isolane.security.audit.errors import AuditKeyError, AuditLogError, AuditTamperError
from isolane.security.audit.keys import CallableKey, EnvKey, FileKey, KeyProvider
from isolane.security.audit.logger import AuditLogger, FailurePolicy
from isolane.security.audit.records import (
    ERASED,
    SEALED,
    AuditHealth,
    AuditRecord,
    AuditVerification,
    InclusionProof,
    TimeRange,
)
from isolane.security.audit.report import SecurityReport, security_report
from isolane.security.audit.storage import EncryptedAuditStorage
from isolane.security.events import SecurityEvent

EncryptedAuditLogger = AuditLogger
"""The name of the second design document for the same class."""

SecurityAuditIntegration = AuditLogger
"""The same."""

SecurityAuditEvent = SecurityEvent
"""The name of the second design document for an event."""

EncryptedStorage = EncryptedAuditStorage
"""The name of the second design document for the storage."""

__all__ = [
    "ERASED",
    "SEALED",
    "AuditHealth",
    "AuditKeyError",
    "AuditLogError",
    "AuditLogger",
    "AuditRecord",
    "AuditTamperError",
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
    "SecurityReport",
    "TimeRange",
    "security_report",
]
