"""What authentication tells the audit log. No token, ticket or session id is ever in it."""

from __future__ import annotations

import contextlib
from typing import Any

from isolane.security.authentication.errors import AccessRefusedError
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity


def note(
    audit: AuditSink | None,
    name: str,
    user_id: str | None = None,
    *,
    severity: Severity = Severity.INFO,
    audit_class: AuditClass = AuditClass.LIFECYCLE,
    **data: Any,
) -> None:
    """Record something that lets somebody in. Raises ``AuditUnavailableError`` where that must not go unrecorded."""
    if audit is not None:
        audit.record(SecurityEvent(name=name, audit_class=audit_class, user_id=user_id, severity=severity, data=data))


def note_refusal(
    audit: AuditSink | None,
    name: str,
    user_id: str | None = None,
    *,
    severity: Severity = Severity.WARNING,
    audit_class: AuditClass = AuditClass.LIFECYCLE,
    error: AccessRefusedError | None = None,
    **data: Any,
) -> None:
    """Record a refusal. A log that takes no records changes nothing about it.

    The error that tells of it is marked as recorded when there is a log: nobody records it again.
    """
    if error is not None:
        error.is_recorded = audit is not None
    with contextlib.suppress(AuditUnavailableError):
        note(audit, name, user_id, severity=severity, audit_class=audit_class, **data)
