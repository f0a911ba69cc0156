"""What happened at a border, as the audit log, the monitor and the alerts see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable


class AuditClass(StrEnum):
    """How much an event matters to the record: it decides what happens while the log takes no records."""

    PERMISSION = "permission"
    ISOLATION = "isolation"
    ADMIN = "admin"
    LIFECYCLE = "lifecycle"
    DEBUG = "debug"


class Severity(StrEnum):
    """How bad it is, as the seeds' ``ViolationSeverity``."""

    INFO = "info"
    WARNING = "warning"
    HIGH = "high"
    CRITICAL = "critical"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityEvent:
    """One event of security.

    Attributes:
        name: what happened, by the OWASP logging vocabulary where it has a word (``authz_fail``, ``session_created``).
        audit_class: decides what happens when it cannot be recorded.
        user_id: whose data, permission or session it is about; ``None`` for the process itself.
        severity: how bad it is.
        data: JSON-like details. Only the encrypted log sees them.
        at: when it happened, aware, in UTC.
    """

    name: str
    audit_class: AuditClass
    user_id: str | None = None
    severity: Severity = Severity.INFO
    data: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=_now)


@runtime_checkable
class AuditSink(Protocol):
    """Takes events of security; ``AuditLogger`` is one, and so is whatever has this method."""

    def record(self, event: SecurityEvent) -> None:
        """Takes one event without waiting for a disk.

        Raises:
            AuditUnavailableError: the event cannot be recorded, and its class says that the operation must not go on.
        """
