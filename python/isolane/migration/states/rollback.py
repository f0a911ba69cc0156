"""What happens when something is wrong: how bad it is, what contains it, and which way leads back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from isolane.migration.states.integrity import IntegrityReport, check_data_integrity
from isolane.migration.states.machine import Machine, Table, rows

if TYPE_CHECKING:
    from isolane.migration.guard.guard import RolloutGuard
    from isolane.security.audit import AuditLogger, EncryptedAuditStorage

logger = logging.getLogger("isolane.migration")

Relief = Callable[[], bool | Awaitable[bool]]


class HealthMonitoring(Machine):
    """The rollout as its guard sees it: healthy, with a warning that is investigated, or critical and contained.

    A warning is first left to the service's own means (the adaptive limit, memory, pools), then to people. What nobody
    can mend is critical.
    """

    table = Table(
        name="HealthMonitoring",
        start="Monitoring",
        moves=rows(
            ("Monitoring", "healthy", "Healthy"),
            ("Monitoring", "warning", "InvestigateDegradation"),
            ("Monitoring", "critical", "ImmediateContainment"),
            ("Healthy", "look", "Monitoring"),
            ("InvestigateDegradation", "investigated", "AutoOptimize"),
            ("AutoOptimize", "success", "Recovered"),
            ("AutoOptimize", "failed", "EscalateToManual"),
            ("EscalateToManual", "called", "ManualIntervention"),
            ("ManualIntervention", "fixed", "Recovered"),
            ("ManualIntervention", "cannot_fix", "EscalateToCritical"),
            ("Recovered", "look", "Monitoring"),
            ("EscalateToCritical", "critical", "ImmediateContainment"),
            *(
                (name, "critical", "ImmediateContainment")
                for name in ("InvestigateDegradation", "AutoOptimize", "EscalateToManual", "ManualIntervention")
            ),
            ("ImmediateContainment", "contained", "AssessDataIntegrity"),
            ("AssessDataIntegrity", "damaged", "EmergencyRollback"),
            ("AssessDataIntegrity", "safe", "ControlledRollback"),
        ),
        groups={
            "Warning": (
                *("InvestigateDegradation", "AutoOptimize", "EscalateToManual", "ManualIntervention"),
                *("Recovered", "EscalateToCritical"),
            ),
            "Critical": ("ImmediateContainment", "AssessDataIntegrity", "EmergencyRollback", "ControlledRollback"),
        },
    )

    def look(self, guard: RolloutGuard) -> str:
        """Move by what the guard says, from wherever a look is possible. Returns the state after it."""
        health = guard.status().health
        if "look" in self.allowed:
            self.move("look")
        if health in self.allowed:
            self.move(health)
        return self.state


class RollbackProcedure(Machine):
    """One look at a rollout that may be in trouble, to its end.

    *Degraded*: the means that are given are tried in their order; when none helps, people are needed, and the rollout
    is paused. *Critical*: the flag is taken from everybody and the runs that have it on are cancelled; it is waited
    until they have ended; the data of users is checked: owners, logs, audit. Damage leads to the emergency way, which
    also throws the kill switch of the flags, for all processes where the guard has a writer, so that no part of the
    newer side goes on; else the way back is the controlled one.

    Args:
        guard: the guard of the rollout.
        audit: the audit log, as it is written or as it is stored, for the check of data. Default: it is not looked at.
        load_balancing: relieves a degraded service; returns whether it is well again. Default: nothing is tried.
        resource_optimization: the same, after it.
        actor: who runs this, for the record.
    """

    table = Table(
        name="RollbackProcedure",
        start="HealthCheck",
        moves=rows(
            ("HealthCheck", "healthy", "Healthy"),
            ("HealthCheck", "degraded", "PerformanceAnalysis"),
            ("HealthCheck", "critical", "ImmediateContainment"),
            ("PerformanceAnalysis", "analysed", "LoadBalancing"),
            ("LoadBalancing", "success", "Recovery"),
            ("LoadBalancing", "still_degraded", "ResourceOptimization"),
            ("ResourceOptimization", "success", "Recovery"),
            ("ResourceOptimization", "still_degraded", "EscalateToModerate"),
            ("ImmediateContainment", "contained", "UserIsolationRestore"),
            ("UserIsolationRestore", "restored", "DataIntegrityCheck"),
            ("DataIntegrityCheck", "damaged", "EmergencyRollback"),
            ("DataIntegrityCheck", "intact", "ControlledRevert"),
            ("EmergencyRollback", "reverted", "LegacyModeActivation"),
            ("ControlledRevert", "reverted", "GracefulFallback"),
        ),
        groups={
            "Degraded": (
                *("PerformanceAnalysis", "LoadBalancing", "ResourceOptimization"),
                *("Recovery", "EscalateToModerate"),
            ),
            "Critical": (
                *("ImmediateContainment", "UserIsolationRestore", "DataIntegrityCheck", "EmergencyRollback"),
                *("ControlledRevert", "LegacyModeActivation", "GracefulFallback"),
            ),
        },
    )

    def __init__(
        self,
        guard: RolloutGuard,
        *,
        audit: EncryptedAuditStorage | AuditLogger | None = None,
        load_balancing: Relief | None = None,
        resource_optimization: Relief | None = None,
        actor: str = "procedure",
    ) -> None:
        super().__init__()
        self._guard = guard
        self._audit = audit
        self._load_balancing = load_balancing
        self._resource_optimization = resource_optimization
        self._actor = actor
        self.integrity: IntegrityReport | None = None

    async def run(self) -> str:
        """Go through it. Returns the last state.

        That is ``Healthy``, ``Recovery``, ``EscalateToModerate``, ``GracefulFallback`` or ``LegacyModeActivation``.

        Raises:
            IllegalMoveError: it was run before.
        """
        health = self._guard.status().health
        if health == "healthy":
            return self.move("healthy")
        if health == "warning":
            self.move("degraded")
            return await self._relieve()
        self.move("critical")
        return await self._contain()

    async def _relieve(self) -> str:
        self.move("analysed")
        for relief in (self._load_balancing, self._resource_optimization):
            if await _helps(relief) and self._guard.status().health == "healthy":
                return self.move("success")
            self.move("still_degraded")
        await self._guard.pause(actor=self._actor, reason="it is degraded, and nothing that was tried helps")
        return self.state

    async def _contain(self) -> str:
        # Rolled back it is already, or it would not be critical; its runs may go on yet.
        self._guard.rollback("the rollout is critical", self._actor, mode="abort")
        self.move("contained")
        await self._guard.settled()
        self.move("restored")
        self.integrity = await check_data_integrity(self._audit)
        if self.integrity.ok:
            self.move("intact")
            return self.move("reverted")
        logger.critical("the data of users is damaged: %s", "; ".join(self.integrity.problems))
        self.move("damaged")
        await self._guard.kill("the data of users is damaged", actor=self._actor)
        return self.move("reverted")


async def _helps(relief: Relief | None) -> bool:
    if relief is None:
        return False
    try:
        answer = relief()
        return bool(answer if isinstance(answer, bool) else await answer)
    except Exception:
        logger.exception("what was to relieve the service failed")
        return False
