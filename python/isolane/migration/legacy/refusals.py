"""What the legacy names refused, as the audit log and the monitor see it."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from isolane._core import ContextIsolationError
from isolane.migration.legacy.errors import BroadcastDeniedError, CrossUserSendError
from isolane.security.crossings import checked, refused
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

logger = logging.getLogger("isolane.migration")

BOUNDARY = "legacy"


class Refusals:
    """Counts and records refusals. The log says each reason once; the audit log has every one.

    Args:
        audit: takes the events. Without one they are only counted.
    """

    def __init__(self, audit: AuditSink | None = None) -> None:
        self.audit = audit
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return how often each reason was met."""
        with self._lock:
            return dict(self._counts)

    def note(self, error: ContextIsolationError, user_id: str | None, call: str) -> None:
        """Record a refusal.

        Args:
            error: what is raised.
            user_id: for whom the code ran that was refused; ``None`` when that is not known.
            call: the legacy name.

        Raises:
            AuditUnavailableError: it cannot be recorded. The refusal stands.
        """
        reason = _reason(error)
        with self._lock:
            first = reason not in self._counts
            self._counts[reason] += 1
        if isinstance(error, CrossUserSendError) and error.is_breach:
            # What the core or another border refused was counted there.
            checked(BOUNDARY)
            refused(BOUNDARY)
        if first:
            # No id in it, and once for each reason: a broken service would fill the log.
            logger.error("%s was refused (%s); further refusals are counted and recorded", call, reason)
        if self.audit is None:
            return
        # Nobody is bound: the user may just have gone. What code of one user tries on another is a violation.
        is_breach = reason not in {"not_connected", "broadcast"}
        self.audit.record(
            SecurityEvent(
                name="isolation_violation" if is_breach else "authz_fail",
                audit_class=AuditClass.ISOLATION if is_breach else AuditClass.PERMISSION,
                user_id=user_id,
                severity=Severity.HIGH if is_breach else Severity.WARNING,
                data={"boundary": BOUNDARY, "call": call, "reason": reason, "code": getattr(error, "code", "")},
            )
        )


def _reason(error: ContextIsolationError) -> str:
    if isinstance(error, CrossUserSendError):
        return error.reason
    if isinstance(error, BroadcastDeniedError):
        return "broadcast"
    return error.boundary or "owner"
