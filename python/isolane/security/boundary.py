"""``SecurityBoundaryManager``: the parts of security behind one object, the sweep for violations, and the emergency."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from isolane._core import (
    ContextIsolationError,
    UserExecutionContext,
    audit_isolation,
    clear_caches,
    isolation_violations,
)
from isolane.events.pool import close_sockets
from isolane.security.enforcer import BoundaryViolation, IsolationEnforcer
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

logger = logging.getLogger("isolane.security")

ACCESS = "access"
"""The boundary at which users ask for resources. What it stops is a refusal, and no defect of the application."""

RESYNC = 4010
"""What sockets of an isolated user are closed with: the client comes back, and starts from what the log has."""


class Sanitizes(Protocol):
    """Masks what does not belong, as ``DataSanitizer`` does."""

    def sanitize(self, value: Any, *, boundary: str, context: Any) -> Any:
        """Return an object whose ``value`` is what may go on."""


class Quarantines(Protocol):
    """Refuses new runs of users, as ``Quarantine`` does."""

    def quarantine(self, user_id: str, reason: str) -> object:
        """Start nothing more for the user."""


class EndsRuns(Protocol):
    """Ends the runs of a user, as ``ExecutionEngineFactory`` does."""

    async def cleanup_user_context(self, user_id: str) -> bool:
        """Return whether anything ran."""


class CountsDeliveries(Protocol):
    """Has looked into deliveries, as ``ContaminationDetector`` does."""

    def figures(self) -> Mapping[str, Any]:
        """Return ``violations`` among others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationRestoreReport:
    """What an emergency isolation did.

    Attributes:
        users: who was isolated.
        runs_ended: how many of them had runs.
        sockets_closed: how many of their sockets were closed; their clients come back and start again.
        cache_entries: how many entries of their caches were dropped.
        remaining: what the sweep afterwards still found.
        failed: steps that failed, by the kind of their error; what they were to do is not done.
    """

    users: tuple[str, ...]
    runs_ended: int
    sockets_closed: int
    cache_entries: int
    remaining: tuple[BoundaryViolation, ...]
    failed: tuple[str, ...] = ()

    @property
    def restored(self) -> bool:
        """Whether nothing failed and nothing is left that crosses a border."""
        return not self.remaining and not self.failed


class SecurityBoundaryManager:
    """The borders of an application in one place.

    Args:
        enforcer: asks at the borders.
        sanitizer: masks what goes in. Without one requests pass as they are.
        audit: takes all events.
        detector: its findings are part of ``detect_isolation_violations``.
        quarantine: refuses new runs of isolated users until an operator releases them. Without one they may start
            again at once.
        factories: end the runs of isolated users.
    """

    def __init__(
        self,
        *,
        enforcer: IsolationEnforcer | None = None,
        sanitizer: Sanitizes | None = None,
        audit: AuditSink | None = None,
        detector: CountsDeliveries | None = None,
        quarantine: Quarantines | None = None,
        factories: Iterable[EndsRuns] = (),
    ) -> None:
        self.enforcer = enforcer if enforcer is not None else IsolationEnforcer(audit=audit)
        self.sanitizer = sanitizer
        self.audit = audit
        self.detector = detector
        self.quarantine = quarantine
        self.factories = tuple(factories)
        self._lock = threading.Lock()
        self._told = isolation_violations()
        self._delivered = self._delivery_violations()

    def validate_user_context(self, context: object) -> bool:
        """Return whether the context is one, and holds nothing of another user's. What is wrong is recorded."""
        if not isinstance(context, UserExecutionContext):
            return False
        try:
            self.enforcer.enforce_memory_isolation(context)
        except ContextIsolationError:
            return False
        return True

    def sanitize_execution_request(self, request: Any, context: UserExecutionContext | None = None) -> Any:
        """Return the request as it may go on. The one that was handed in is not changed.

        Raises what the sanitizer raises for what it must not let through.
        """
        if self.sanitizer is None:
            return request
        return self.sanitizer.sanitize(request, boundary="input", context=context).value

    def enforce_isolation_boundaries(self, context: UserExecutionContext) -> None:
        """Return if the context may go on.

        Raises:
            ContextIsolationError: it holds something of another user's.
            MemoryLimitExceededError: its user holds more than users may.
        """
        self.enforcer.enforce_memory_isolation(context)
        self.enforcer.enforce_resource_limits(context)

    def audit_security_event(self, event: SecurityEvent) -> None:
        """Hand an event to the audit log.

        Raises:
            AuditUnavailableError: it cannot be recorded, and its class says that it must be.
        """
        if self.audit is not None:
            self.audit.record(event)

    # -- the sweep -------------------------------------------------------------------------------------------------

    def detect_isolation_violations(self) -> list[BoundaryViolation]:
        """Look for violations in the whole process, and record each.

        That is: what live contexts share (``isolane.audit_isolation()``, which walks the heap), what the boundaries of
        the core have stopped since this was asked last, and what the detector has found since then. A diagnostic: not
        for a request.

        Resources of others that users asked for and the wall refused (``access``) are of severity ``warning``, and
        recorded as ``authz_fail``: anybody can ask. All else is ``isolation_violation``.

        Raises:
            AuditUnavailableError: a violation cannot be recorded. The next sweep tells all of this one again.
        """
        with self._lock:
            told, delivered = self._told, self._delivered
            found = [*self._stopped(), *self._found_in_deliveries()]
            shared = self._sweep()
        found += shared
        try:
            for violation in found:
                self._record(violation)
        except Exception:
            with self._lock:
                self._told, self._delivered = told, delivered
                self._count_sweep(shared)
            raise
        return found

    def _sweep(self) -> list[BoundaryViolation]:
        found = _shared_by_contexts()
        self._count_sweep(found)
        return found

    def _count_sweep(self, found: list[BoundaryViolation]) -> None:
        # A sweep counts what it finds as the boundary ``verify`` does. What others stop meanwhile is still to be told.
        self._told = {**self._told, "verify": self._told.get("verify", 0) + len(found)}

    def _stopped(self) -> list[BoundaryViolation]:
        now, before = isolation_violations(), self._told
        self._told = now
        return [
            BoundaryViolation(
                boundary=name,
                code="stopped",
                severity=Severity.WARNING if name == ACCESS else Severity.HIGH,
                detail=f"the {name} boundary has stopped what was not the user's",
                count=count - before.get(name, 0),
            )
            for name, count in sorted(now.items())
            if count > before.get(name, 0)
        ]

    def _delivery_violations(self) -> int:
        return int(self.detector.figures()["violations"]) if self.detector is not None else 0

    def _found_in_deliveries(self) -> list[BoundaryViolation]:
        now = self._delivery_violations()
        before, self._delivered = self._delivered, now
        if now <= before:
            return []
        detail = "the detector has found data of one user on its way to another"
        return [
            BoundaryViolation(
                boundary="delivery", code="contaminated", severity=Severity.CRITICAL, detail=detail, count=now - before
            )
        ]

    def _record(self, violation: BoundaryViolation) -> None:
        if self.audit is None:
            return
        is_refusal = violation.boundary == ACCESS
        for user_id in violation.users or (None,):
            self.audit.record(
                SecurityEvent(
                    name="authz_fail" if is_refusal else "isolation_violation",
                    audit_class=AuditClass.PERMISSION if is_refusal else AuditClass.ISOLATION,
                    user_id=user_id,
                    severity=violation.severity,
                    data={
                        "boundary": violation.boundary,
                        "code": violation.code,
                        "detail": violation.detail,
                        "count": violation.count,
                    },
                )
            )

    # -- the emergency ---------------------------------------------------------------------------------------------

    async def emergency_isolation_restore(
        self, users: Iterable[str] | None = None, *, reason: str = "an isolation violation"
    ) -> IsolationRestoreReport:
        """Isolate users at once: start nothing more for them, end what runs, drop what is cached, close their sockets.

        It goes on whatever fails, and then looks again. Cancelled, it waits for no run any more and does the rest.
        Their logs stay, each readable by its own user only. Users stay in quarantine until an operator releases them.

        Args:
            users: whom to isolate. Default: those whose live contexts hold something that is not their own.
            reason: stands in the record.

        Raises:
            TypeError: ``users`` is one text, whose letters would be isolated.
        """
        if isinstance(users, str):
            raise TypeError("users must be a list of user ids, got one text; put it into a list")
        if users is None:
            with self._lock:
                users = {user for violation in self._sweep() for user in violation.users}
        isolated = tuple(sorted(set(users)))
        failed: list[str] = []
        for user_id in isolated:
            if self.quarantine is not None:
                self._attempt(failed, self.quarantine.quarantine, user_id, reason)
        ended: list[bool] = []
        try:
            ended = await asyncio.gather(*(self._end_runs(user_id, failed) for user_id in isolated))
        except asyncio.CancelledError:
            failed.append("CancelledError")
            raise
        finally:
            # Whoever is cancelled here does not leave sockets and caches as they were.
            report = self._cut_off(isolated, sum(ended), failed, reason)
        return report

    def _cut_off(
        self, isolated: tuple[str, ...], runs_ended: int, failed: list[str], reason: str
    ) -> IsolationRestoreReport:
        sockets = sum(self._attempt(failed, close_sockets, user_id, RESYNC) or 0 for user_id in isolated)
        entries = sum((self._attempt(failed, clear_caches, user_id) or (0, 0))[0] for user_id in isolated)
        with self._lock:
            remaining = tuple(self._sweep())
        report = IsolationRestoreReport(
            users=isolated,
            runs_ended=runs_ended,
            sockets_closed=sockets,
            cache_entries=entries,
            remaining=remaining,
            failed=tuple(failed),
        )
        attempts = len(failed)
        self._attempt(failed, self._record_emergency, report, reason)
        return report if len(failed) == attempts else replace(report, failed=tuple(failed))

    def _attempt(self, failed: list[str], step: Any, *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except Exception as error:  # noqa: BLE001 - an emergency goes on with its next step
            failed.append(type(error).__name__)
            _note_failure(error)
            return None

    async def _end_runs(self, user_id: str, failed: list[str]) -> bool:
        had_runs = False
        for factory in self.factories:
            try:
                had_runs |= bool(await factory.cleanup_user_context(user_id))
            except Exception as error:  # noqa: BLE001 - an emergency goes on with its next step
                failed.append(type(error).__name__)
                _note_failure(error)
        return had_runs

    def _record_emergency(self, report: IsolationRestoreReport, reason: str) -> None:
        if self.audit is None:
            return
        data = {
            "reason": reason,
            "runs_ended": report.runs_ended,
            "sockets_closed": report.sockets_closed,
            "cache_entries": report.cache_entries,
            "remaining": len(report.remaining),
            "failed": list(report.failed),
        }
        for user_id in report.users or (None,):
            self.audit.record(
                SecurityEvent(
                    name="emergency_isolation",
                    audit_class=AuditClass.ADMIN,
                    user_id=user_id,
                    severity=Severity.CRITICAL,
                    data=data,
                )
            )


def _note_failure(error: Exception) -> None:
    # Its text may hold anybody's data.
    logger.error("a step of an emergency isolation failed: %s", type(error).__name__)


def _shared_by_contexts() -> list[BoundaryViolation]:
    return [
        BoundaryViolation(
            boundary="context",
            code=finding.kind,
            severity=Severity.CRITICAL,
            detail=f"{finding.path}: {finding.detail}",
            users=tuple(dict.fromkeys(user for user in (finding.user_id, finding.other_user_id) if user is not None)),
        )
        for finding in audit_isolation()
    ]
