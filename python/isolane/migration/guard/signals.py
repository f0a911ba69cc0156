"""What an application tells a guard: its runs, their events, and violations of isolation."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from isolane._core import ContextIsolationError, LimitRejected, UserExecutionContext, monotonic, run_deliveries
from isolane.engines.waits import RunEnd
from isolane.limits import LimitTimeout
from isolane.security.events import SecurityEvent

if TYPE_CHECKING:
    from isolane.engines.factory import ExecutionEngineFactory
    from isolane.security.contamination import ContaminationDetector
    from isolane.security.findings import ContaminationReport

Cohort = Literal["modern", "legacy"]

MAX_RUNS = 10_000
"""Runs whose events are followed; of more the one that began first is no longer."""
AFTERMATH_SECONDS = 30.0
"""How long the events of a run are followed after its end."""
MAX_CAUSES = 16
"""Exceptions behind an exception that are looked at."""


class Application(Protocol):
    """What a guard is attached to: ``Isolane``, or something with a factory of engines."""

    @property
    def factory(self) -> ExecutionEngineFactory:
        """Makes the engines."""


class Told(Protocol):
    """The guard, as its signals know it."""

    def observe(self, metric: str, bad: bool | int, cohort: Cohort = "modern", *, seen: int = 1) -> object:
        """Take in observations."""

    def observe_run(self, duration: float, cohort: Cohort = "modern") -> object:
        """Take in the duration of a run."""

    def run_began(self, factory: ExecutionEngineFactory, context: UserExecutionContext) -> None:
        """Hear that an engine was made for a run."""

    def is_modern(self, context: UserExecutionContext) -> bool:
        """Return whether the run has the flag on, as it began."""

    def is_modern_user(self, user_id: str) -> bool:
        """Return whether the user's next run would have the flag on."""

    @property
    def slow_after(self) -> float:
        """A run is slow after so many seconds."""


@dataclass(slots=True)
class _Run:
    cohort: Cohort
    counted: tuple[int, int, int, int] = (0, 0, 0, 0)
    gone_at: float | None = None
    """When it was first seen without an engine."""


def is_violation(error: BaseException | None) -> bool:
    """Return whether an exception is one of isolation, or was caused by one.

    A legacy call that was refused because its user has just gone, or that would have gone to all users, met nobody.
    """
    left, seen = [error], 0
    while left and seen < MAX_CAUSES:
        each = left.pop()
        if each is None:
            continue
        seen += 1
        if isinstance(each, ContextIsolationError) and getattr(each, "is_breach", True):
            return True
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return False


class Signals:
    """Follows one application for one guard."""

    def __init__(self, guard: Told, application: Application) -> None:
        self._guard = guard
        self.factory = application.factory
        self._runs: OrderedDict[tuple[str, str], _Run] = OrderedDict()
        self.forgotten = 0
        self._undo: list[Callable[[], None]] = []
        self.factory.run_observers.append(self)
        self._undo.append(lambda: self.factory.run_observers.remove(self))
        self._listen(getattr(application, "contamination", None), getattr(application, "audit", None))

    def _listen(self, detector: ContaminationDetector | None, audit: Any) -> None:
        if detector is not None:
            self._undo.append(detector.add_listener(self._contaminated))
        if callable(getattr(audit, "add_observer", None)):
            self._undo.append(audit.add_observer(self._recorded))

    def close(self) -> None:
        """Hear of nothing more."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    # -- runs --------------------------------------------------------------------------------------------------------

    def run_started(self, context: UserExecutionContext) -> None:
        """An engine was made for a run."""
        self._guard.run_began(self.factory, context)
        key = (context.user_id, context.run_id)
        if key in self._runs:
            return
        if len(self._runs) >= MAX_RUNS:
            self._runs.popitem(last=False)
            self.forgotten += 1
        self._runs[key] = _Run(self._cohort(context))

    def run_ended(self, end: RunEnd) -> None:
        """One call of an engine came to its end."""
        cohort = self._cohort(end.context)
        key = (end.context.user_id, end.context.run_id)
        run = self._runs.get(key)
        if run is not None:
            self._count(key, run)
        if is_violation(end.error):
            self._guard.observe("isolation_violation", True, cohort)
        active = max(0.0, end.duration - end.waited)
        if isinstance(end.error, LimitRejected | LimitTimeout):
            # There was no room for it, so nothing of it ran.
            return
        if _was_cancelled(end):
            # It says nothing of errors, and of its duration that it was at least so long.
            if active > self._guard.slow_after and end.end_reason not in {"rolled_back", "lease_lost"}:
                self._guard.observe_run(active, cohort)
            return
        self._guard.observe("run_error", end.error is not None, cohort)
        self._guard.observe_run(active, cohort)

    def _cohort(self, context: UserExecutionContext) -> Cohort:
        return "modern" if self._guard.is_modern(context) else "legacy"

    # -- events ------------------------------------------------------------------------------------------------------

    def count_events(self) -> None:
        """Take in what became of the events of runs since the last time."""
        now, alive = monotonic(), self._alive()
        for key, run in list(self._runs.items()):
            known = self._count(key, run)
            if key in alive:
                run.gone_at = None
                continue
            run.gone_at = now if run.gone_at is None else run.gone_at
            if not known or now - run.gone_at > AFTERMATH_SECONDS:
                del self._runs[key]

    def _alive(self) -> set[tuple[str, str]]:
        """Runs that have an engine: one may be called again and again, and another one not at all."""
        engines = self.factory._numbers  # noqa: SLF001 - what it was told of is compared with what is there
        return {(engine.context.user_id, engine.context.run_id) for engine in tuple(engines)}

    def _count(self, key: tuple[str, str], run: _Run) -> bool:
        figures = run_deliveries(*key)
        if figures is None:
            return False
        if any(now < before for now, before in zip(figures, run.counted, strict=True)):
            # The run id was used again, and has another log.
            run.counted = (0, 0, 0, 0)
        handed, late, critical, dropped = (now - was for now, was in zip(figures, run.counted, strict=True))
        run.counted = figures
        if handed:
            self._guard.observe("slow_event", late, run.cohort, seen=handed)
        if critical:
            self._guard.observe("dropped_event", dropped, run.cohort, seen=critical)
        return True

    # -- violations ----------------------------------------------------------------------------------------------------

    def _contaminated(self, report: ContaminationReport, user_id: str | None) -> None:
        if report.violations:
            self._guard.observe("isolation_violation", True, self._cohort_of(user_id))

    def _recorded(self, event: SecurityEvent) -> None:
        if event.name == "isolation_violation":
            self._guard.observe("isolation_violation", True, self._cohort_of(event.user_id))

    def _cohort_of(self, user_id: str | None) -> Cohort:
        """Whose run it was: where that is not known, the one that can be ended."""
        if user_id is None:
            return "modern"
        keys = [key for key in self._alive() if key[0] == user_id]
        cohorts = {run.cohort for key in keys if (run := self._runs.get(key)) is not None}
        if cohorts:
            return "modern" if "modern" in cohorts else "legacy"
        return "modern" if self._guard.is_modern_user(user_id) else "legacy"


def _was_cancelled(end: RunEnd) -> bool:
    """Whether somebody ended it, which is no error of its own; that its lifetime was over is one."""
    return end.end_reason != "lifetime" and (
        end.end_reason in {"cancelled", "rolled_back", "lease_lost", "evicted", "idle", "closed"}
        or isinstance(end.error, asyncio.CancelledError)
    )
