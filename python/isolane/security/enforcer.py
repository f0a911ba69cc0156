"""``IsolationEnforcer``: asks at the borders of a user's lane, and refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from isolane._core import (
    ContextIsolationError,
    MemoryLimitExceededError,
    UserExecutionContext,
)
from isolane.events.event import WebSocketEvent
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity
from isolane.security.queries import ForeignQueryError, QueryBoundary

Query = TypeVar("Query")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryViolation:
    """A border that something crossed, or would have.

    Attributes:
        boundary: which one: ``memory``, ``data_access``, ``websocket``, ``resources``, ``context`` or ``delivery``.
        code: which rule, in one word.
        severity: how bad it is.
        detail: what was found, without anybody's data.
        count: how often, where only that is known.
        users: whose data it concerns, as far as that is known. For operators.
    """

    boundary: str
    code: str
    severity: Severity
    detail: str
    count: int = 1
    users: tuple[str, ...] = ()


class ChecksDeliveries(Protocol):
    """Looks for data of others, as ``ContaminationDetector`` does."""

    def check_sync(self, context: Any, result: Any, *, boundary: str = ...) -> Any:
        """Return a report with ``violations`` and ``withheld``."""


class ChecksMemory(Protocol):
    """Knows how much users hold, as ``MemoryOptimizationManager`` does."""

    def check(self, context: UserExecutionContext) -> Any:
        """Raise ``MemoryLimitExceededError`` when the user may begin nothing more."""


class IsolationEnforcer:
    """Checks contexts, queries and events against the borders of their user, and refuses what crosses one.

    The wall of ownership, the owner tags and the limits ask by themselves, on every path; this is for what an
    application hands over by hand. Separation of files, address space and network is the operating system's: code in
    the same process can always get past Python objects.

    Args:
        detector: looks into events for data of others. Without one only their owner is compared.
        queries: reads queries. Default: one for the columns ``user_id`` and ``owner_id``.
        memory: knows how much a user holds. Without one ``enforce_resource_limits`` looks at nothing.
        audit: records each refusal. When it takes no records, the refusal stands and its error is raised instead.
    """

    def __init__(
        self,
        *,
        detector: ChecksDeliveries | None = None,
        queries: QueryBoundary | None = None,
        memory: ChecksMemory | None = None,
        audit: AuditSink | None = None,
    ) -> None:
        self.detector = detector
        self.queries = queries if queries is not None else QueryBoundary()
        self.memory = memory
        self.audit = audit

    def enforce_memory_isolation(self, context: UserExecutionContext) -> None:
        """Return if the context holds nothing of another user's.

        Raises:
            ContextIsolationError: it does; ``verify_isolation`` says what that finds.
        """
        try:
            context.verify_isolation()
        except ContextIsolationError as error:
            self._refuse("isolation_violation", context.user_id, "memory", "foreign_object", error)
            raise

    def enforce_data_access_boundaries(self, query: Query, user_id: str) -> Query:
        """Return the query itself if it can reach rows of the user only. It is never rewritten.

        Raises:
            ForeignQueryError: it may reach rows of others, or cannot be read; see ``QueryBoundary``.
        """
        try:
            self.queries.check(query, user_id)
        except ForeignQueryError as error:
            self._refuse("authz_fail", user_id, "data_access", error.code, error)
            raise
        return query

    def enforce_websocket_isolation(self, event: object) -> bool:
        """Return whether the event may go to its user: it has one, and nothing of another user's is in it."""
        if not isinstance(event, WebSocketEvent):
            return False
        if self.detector is None:
            return True
        report = self.detector.check_sync(event.user_id, event.payload, boundary="ws_out")
        # What could not be looked at passes where the scan point only observes; the report says which it is.
        return not report.violations and not report.withheld

    def enforce_resource_limits(self, context: UserExecutionContext) -> None:
        """Return if the user may begin something.

        Raises:
            MemoryLimitExceededError: the user, or all users, hold more than they may. Engines, permits and events have
                limits that refuse by themselves.
        """
        if self.memory is not None:
            self.memory.check(context)

    def detect_boundary_violations(self, context: UserExecutionContext) -> list[BoundaryViolation]:
        """Ask all of it of a context and return what is wrong, instead of raising. Nothing is recorded."""
        found = []
        for boundary, code, severity, ask in self._questions(context):
            try:
                ask()
            except (ContextIsolationError, MemoryLimitExceededError) as error:
                found.append(
                    BoundaryViolation(
                        boundary=boundary, code=code, severity=severity, detail=str(error), users=(context.user_id,)
                    )
                )
        return found

    def _questions(self, context: UserExecutionContext) -> list[tuple[str, str, Severity, Callable[[], object]]]:
        return [
            ("memory", "foreign_object", Severity.CRITICAL, context.verify_isolation),
            ("resources", "memory_limit", Severity.WARNING, lambda: self.enforce_resource_limits(context)),
        ]

    def _refuse(self, name: str, user_id: str, boundary: str, code: str, error: Exception) -> None:
        if self.audit is None:
            return
        is_breach = name == "isolation_violation"
        self.audit.record(
            SecurityEvent(
                name=name,
                audit_class=AuditClass.ISOLATION if is_breach else AuditClass.PERMISSION,
                user_id=user_id,
                severity=Severity.CRITICAL if is_breach else Severity.WARNING,
                data={"boundary": boundary, "code": code, "detail": str(error)},
            )
        )
