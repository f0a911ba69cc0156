"""Tools, permissions and proof: what is checked at the borders between users, and what is kept as evidence."""

from __future__ import annotations

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
    "AuditSink",
    "AuditUnavailableError",
    "ContaminationAuditSink",
    "ContaminationDetector",
    "ContaminationLogFilter",
    "ContaminationReport",
    "ContaminationViolation",
    "DataSanitizer",
    "FieldDecryptionError",
    "Finding",
    "Modes",
    "Quarantine",
    "References",
    "ResponseWithheldError",
    "SanitizeBlockedError",
    "SanitizeLimitError",
    "Sanitized",
    "ScanCoverage",
    "ScanMode",
    "SecurityEvent",
    "Severity",
    "StreamGuard",
    "StreamSanitizer",
    "UserQuarantinedError",
]
