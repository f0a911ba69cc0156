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
from isolane.security.contamination import ContaminationDetector
from isolane.security.errors import AuditUnavailableError, ResponseWithheldError, UserQuarantinedError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity
from isolane.security.findings import ContaminationReport, ContaminationViolation, ScanCoverage, ScanMode
from isolane.security.quarantine import Quarantine
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
from isolane.security.scanpoints import ContaminationAuditSink, ContaminationLogFilter
from isolane.security.streams import StreamGuard

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
    "ContaminationAuditSink",
    "ContaminationDetector",
    "ContaminationLogFilter",
    "ContaminationReport",
    "ContaminationViolation",
    "DataSanitizer",
    "EncryptedAuditLogger",
    "EncryptedAuditStorage",
    "EncryptedStorage",
    "EnvKey",
    "FailurePolicy",
    "FieldDecryptionError",
    "FileKey",
    "Finding",
    "InclusionProof",
    "KeyProvider",
    "Modes",
    "Quarantine",
    "References",
    "ResponseWithheldError",
    "SanitizeBlockedError",
    "SanitizeLimitError",
    "Sanitized",
    "ScanCoverage",
    "ScanMode",
    "SecurityAuditEvent",
    "SecurityAuditIntegration",
    "SecurityEvent",
    "SecurityReport",
    "Severity",
    "StreamGuard",
    "StreamSanitizer",
    "TimeRange",
    "UserQuarantinedError",
]
