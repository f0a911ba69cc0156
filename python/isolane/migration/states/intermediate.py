"""Where a service is during its migration: both patterns end in modern execution, and validations decide."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isolane._core import UserExecutionContext
from isolane.contexts.factory import validate_user_context
from isolane.migration.states.current import kind_of
from isolane.migration.states.integrity import IntegrityCheck, check_audit, check_owners, stored
from isolane.migration.states.machine import Machine, Table, rows

if TYPE_CHECKING:
    from isolane.migration.guard.guard import RolloutGuard
    from isolane.security.audit import AuditLogger, EncryptedAuditStorage

logger = logging.getLogger("isolane.migration")

CHECKS = ("ContextValidation", "IsolationCheck", "PerformanceCheck", "SecurityAudit")
"""The validations, in their order."""


class CompatibilityMode(Machine):
    """One request while both patterns are accepted: a legacy state is adapted, and both are executed the modern way."""

    table = Table(
        name="CompatibilityMode",
        start="DetectContextType",
        moves=rows(
            ("DetectContextType", "legacy", "LegacyAdapter"),
            ("DetectContextType", "modern", "DirectModern"),
            ("DetectContextType", "neither", "Refused"),
            ("LegacyAdapter", "adapted", "TemporaryContext"),
            ("LegacyAdapter", "refused", "Refused"),
            ("TemporaryContext", "begun", "ModernExecution"),
            ("DirectModern", "begun", "ModernExecution"),
            ("ModernExecution", "ended", "CleanupDecision"),
            ("CleanupDecision", "was_legacy", "LegacyCleanup"),
            ("CleanupDecision", "was_modern", "ModernCleanup"),
            ("LegacyCleanup", "cleaned", "Ended"),
            ("ModernCleanup", "cleaned", "Ended"),
        ),
    )

    def detect(self, request: object) -> str:
        """Say by what a request brought how it is taken in. Returns the state after it.

        Raises:
            IllegalMoveError: that was said before.
        """
        return self.move(kind_of(request))

    def decide_cleanup(self) -> str:
        """Take the clean-up that belongs to how the request was taken in. Returns the state after it.

        Raises:
            IllegalMoveError: it has not been executed.
        """
        was_legacy = any(move.target == "LegacyAdapter" for move in self.history)
        return self.move("was_legacy" if was_legacy else "was_modern")


@dataclass(frozen=True, slots=True)
class Validation:
    """What one validation found.

    Attributes:
        name: which one.
        problems: what is wrong, without anybody's data; empty when nothing is.
        checked: how much was looked at. Nothing looked at is no success.
    """

    name: str
    problems: tuple[str, ...]
    checked: int

    @property
    def ok(self) -> bool:
        """Nothing is wrong, and something was looked at."""
        return not self.problems and self.checked > 0


Check = Callable[[], Validation | Awaitable[Validation]]


class ValidationLayer(Machine):
    """The validations of a migration, one after the other. The first that fails ends it.

    Args:
        checks: for each of ``ContextValidation``, ``IsolationCheck``, ``PerformanceCheck`` and ``SecurityAudit`` a
            function, which may be a coroutine function. One that raises has failed.

    Raises:
        ValueError: a validation is missing or unknown.
    """

    table = Table(
        name="ValidationLayer",
        start="ContextValidation",
        moves=rows(
            ("ContextValidation", "passed", "IsolationCheck"),
            ("IsolationCheck", "passed", "PerformanceCheck"),
            ("PerformanceCheck", "passed", "SecurityAudit"),
            ("SecurityAudit", "passed", "ProductionReady"),
            *((name, "failed", "RollbackRequired") for name in CHECKS),
        ),
    )

    def __init__(self, checks: Mapping[str, Check]) -> None:
        super().__init__()
        if set(checks) != set(CHECKS):
            raise ValueError(f"checks must be exactly {', '.join(CHECKS)}; got {', '.join(sorted(checks)) or 'none'}")
        self._checks = dict(checks)
        self.results: tuple[Validation, ...] = ()

    async def run(self) -> str:
        """Run the validations. Returns ``ProductionReady`` or ``RollbackRequired``."""
        while not self.is_over:
            name = self.state
            result = await self._check(name)
            self.results = (*self.results, result)
            self.move("passed" if result.ok else "failed")
        return self.state

    async def _check(self, name: str) -> Validation:
        try:
            found = self._checks[name]()
            return await found if inspect.isawaitable(found) else found
        except Exception as error:
            logger.exception("%s could not be done, so it has failed", name)
            return Validation(name, (f"it could not be done: {type(error).__name__}",), 0)


class MigrationPhase(Machine):
    """The phase between the two patterns, which validations end.

    ``validate`` runs real checks: the contexts that are given are validated one by one; all live contexts are swept for
    what they share; the guard must have enough data, and nothing that speaks against the rollout; the audit log is
    verified as a whole.

    Args:
        guard: the guard of the rollout.
        audit: the audit log, as it is written or as it is stored. Without one nothing was looked at, and that fails.
    """

    table = Table(
        name="MigrationPhase",
        start="CompatibilityMode",
        moves=rows(
            ("CompatibilityMode", "validate", "ValidationLayer"),
            ("ValidationLayer", "passed", "ProductionReady"),
            ("ValidationLayer", "failed", "RollbackRequired"),
        ),
    )

    def __init__(self, guard: RolloutGuard, audit: EncryptedAuditStorage | AuditLogger | None = None) -> None:
        super().__init__()
        self._guard = guard
        self._audit = audit
        self.results: tuple[Validation, ...] = ()

    async def validate(self, *contexts: UserExecutionContext) -> str:
        """Validate. Returns ``ProductionReady`` or ``RollbackRequired``.

        Raises:
            IllegalMoveError: it was validated before.
        """
        self.move("validate")
        layer = ValidationLayer(
            {
                "ContextValidation": lambda: self._contexts(contexts),
                "IsolationCheck": lambda: _as_validation("IsolationCheck", check_owners()),
                "PerformanceCheck": self._performance,
                "SecurityAudit": self._security,
            }
        )
        end = await layer.run()
        self.results = layer.results
        return self.move("passed" if end == "ProductionReady" else "failed")

    @staticmethod
    def _contexts(contexts: tuple[UserExecutionContext, ...]) -> Validation:
        problems = []
        for context in contexts:
            try:
                validate_user_context(context)
                context.verify_isolation()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a context is what is asked for
                problems.append(f"a context is not valid: {type(error).__name__}")
        return Validation("ContextValidation", tuple(problems), len(contexts))

    def _performance(self) -> Validation:
        metrics = self._guard.status().metrics
        watched = {name: metric for name, metric in metrics.items() if metric.state != "off" and not metric.dry_run}
        problems = [
            f"{name} is {metric.state}: {metric.bad} of {metric.seen} were bad"
            for name, metric in watched.items()
            if metric.state != "healthy"
        ]
        return Validation("PerformanceCheck", tuple(problems), sum(metric.seen for metric in watched.values()))

    async def _security(self) -> Validation:
        if self._audit is None:
            return Validation("SecurityAudit", ("there is no audit log",), 0)
        return _as_validation("SecurityAudit", await asyncio.to_thread(check_audit, stored(self._audit)))


def _as_validation(name: str, check: IntegrityCheck) -> Validation:
    return Validation(name, check.problems, check.checked)
