"""Where a service is after its migration: one request from its validation to the end of its clean-up."""

from __future__ import annotations

from isolane._core import ExecutionStatus, UserExecutionContext
from isolane.engines.engine import UserExecutionEngine
from isolane.migration.states.machine import Machine, Table, rows

_WAY = (
    ("RequestValidation", "valid", "UserAuthentication"),
    ("RequestValidation", "invalid", "RequestRejected"),
    ("UserAuthentication", "authenticated", "ResourceCheck"),
    ("UserAuthentication", "refused", "RequestRejected"),
    ("ResourceCheck", "free", "ContextCreation"),
    ("ResourceCheck", "refused", "RequestRejected"),
    ("ContextCreation", "created", "FactoryInstantiation"),
    ("ContextCreation", "refused", "RequestRejected"),
    ("FactoryInstantiation", "instantiated", "SemaphoreAcquisition"),
    ("FactoryInstantiation", "refused", "ResourceRelease"),
    ("SemaphoreAcquisition", "acquired", "ExecutionStart"),
    ("SemaphoreAcquisition", "refused", "ResourceRelease"),
    ("ExecutionStart", "started", "AgentProcessing"),
    ("AgentProcessing", "spawned", "ChildAgentSpawn"),
    ("ChildAgentSpawn", "joined", "AgentProcessing"),
    ("AgentProcessing", "suspended", "SemaphoreAcquisition"),
    ("AgentProcessing", "answered", "ResultGeneration"),
    ("AgentProcessing", "failed", "ResourceRelease"),
    ("ChildAgentSpawn", "failed", "ResourceRelease"),
    ("ResultGeneration", "generated", "ExecutionComplete"),
    ("ExecutionComplete", "next_step", "SemaphoreAcquisition"),
    ("ExecutionComplete", "done", "ResourceRelease"),
    ("ResourceRelease", "released", "CacheCleanup"),
    ("CacheCleanup", "cleaned", "ConnectionCleanup"),
    ("ConnectionCleanup", "cleaned", "MetricsUpdate"),
    ("MetricsUpdate", "updated", "Ended"),
    ("RequestRejected", "told", "Ended"),
)


class RequestLifecycle(Machine):
    """One request in the target state. ``follow`` moves it by what its real context and engine say."""

    table = Table(
        name="RequestLifecycle",
        start="RequestValidation",
        moves=rows(*_WAY),
        groups={
            "ContextFactory": ("UserAuthentication", "ResourceCheck", "ContextCreation", "FactoryInstantiation"),
            "ExecutionEngine": (
                *("SemaphoreAcquisition", "ExecutionStart", "AgentProcessing", "ChildAgentSpawn"),
                *("ResultGeneration", "ExecutionComplete"),
            ),
            "CleanupOrchestrator": ("ResourceRelease", "CacheCleanup", "ConnectionCleanup", "MetricsUpdate"),
        },
    )

    def follow(self, context: UserExecutionContext, engine: UserExecutionEngine | None = None) -> str:
        """Go where the context and its engine are by now, each move by the table. Returns the state there.

        A context shows that its request was validated and its user authenticated; an engine that there was room for it;
        what the context's status says is where the execution is; a context that was cleaned up has been through the
        whole clean-up, in its order.

        Raises:
            IllegalMoveError: the request has ended, or is behind that already.
        """
        wanted = _place(context, engine)
        for trigger in self._path(wanted):
            self.move(trigger)
        return self.state

    def _path(self, wanted: str) -> list[str]:
        """The shortest way by the table; a way that is refused is none."""
        ways: dict[str, list[str]] = {self.state: []}
        queue = [self.state]
        while queue and wanted not in ways:
            here = queue.pop(0)
            for move in self.table.moves:
                if move.source == here and move.target not in ways and move.trigger not in {"refused", "invalid"}:
                    ways[move.target] = [*ways[here], move.trigger]
                    queue.append(move.target)
        # Not there: the first move says so.
        return ways.get(wanted, [f"to {wanted}"])


def _place(context: UserExecutionContext, engine: UserExecutionEngine | None) -> str:
    status = context.status
    if status is ExecutionStatus.CLEANED:
        return "Ended"
    if engine is None:
        return "FactoryInstantiation"
    if not engine.is_active():
        return "ResourceRelease"
    if status is ExecutionStatus.THROTTLED:
        return "SemaphoreAcquisition"
    if status is ExecutionStatus.EXECUTING:
        return "AgentProcessing"
    return "ExecutionComplete" if context.run_history else "SemaphoreAcquisition"
