"""``RolloutGuard``: acts on what the core decides about a rollout."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from isolane._core import FlagEngine, GuardCore, UserExecutionContext, set_late_after
from isolane.engines.factory import ExecutionEngineFactory
from isolane.migration.guard.document import RolloutDocument, RolloutWriter
from isolane.migration.guard.policy import GuardPolicy, Mode
from isolane.migration.guard.records import GuardStatus, RollbackRecord, status_of
from isolane.migration.guard.signals import Application, Cohort, Signals
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

logger = logging.getLogger("isolane.migration")

GUARD = "guard"
"""The actor of what nobody did by hand."""


class RolloutGuard:
    """Watches the rollout of one flag: advances it when there is reason to, rolls it back when there is proof of harm.

    It hears of runs by ``attach`` or ``record_run``, and acts at once: a rollback takes the flag from everybody in this
    process before the call that brought the proof returns. ``tick`` is to be called about once a second, which
    ``setup(guard=...)`` does: it follows the document, counts events, and takes the next step of the ladder when it is
    due. It never begins a rollout: ``advance`` does.

    Args:
        flags: what decides: ``MigrationFeatureFlags`` or a ``FlagEngine``.
        flag: the flag. Default: ``modern_execution``.
        policy: what is accepted. Default: the ``guard`` of the flag in the document, else ``GuardPolicy()``.
        mode: what becomes of runs that are under way at a rollback: ``drain`` lets them finish, ``abort`` cancels
            them. After a violation of isolation they are always cancelled. Default: ``drain``, or what the document
            says.
        audit: records each step, as class ``admin``, and each rollback, as class ``isolation``. Default: that of the
            application it is attached to.
        writer: writes steps and rollbacks where all processes read them, such as ``FlagWriter``. Without one they are
            this process's alone, and a restart forgets them.
        on_rollback: called with the record of each rollback of this process, after the flag is off. What it raises is
            logged.

    Raises:
        FlagConfigError: the policy is not valid: a misspelt metric would always pass.
    """

    def __init__(
        self,
        flags: Any,
        flag: str = "modern_execution",
        policy: GuardPolicy | None = None,
        *,
        mode: Mode | None = None,
        audit: AuditSink | None = None,
        writer: RolloutWriter | None = None,
        on_rollback: Callable[[RollbackRecord], object] | None = None,
    ) -> None:
        engine = flags if isinstance(flags, FlagEngine) else getattr(flags, "engine", None)
        if not isinstance(engine, FlagEngine):
            raise TypeError(f"flags must be MigrationFeatureFlags or a FlagEngine, got {type(flags).__name__}")
        self.flags = flags
        self.flag = flag
        self.engine = engine
        self.audit = audit
        self.on_rollback = on_rollback
        self._document = RolloutDocument(engine, flag, writer)
        text, place = self._policy(policy, mode)
        self._core = GuardCore(flag, text, place)
        self.alpha: float = json.loads(text).get("alpha", GuardPolicy().alpha)
        """How likely a metric that holds its bound may end the rollout: ``1 / alpha`` is evidence enough."""
        self._signals: list[Signals] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unwritten: tuple[RollbackRecord, str] | None = None
        """What is to be written, also as JSON."""
        self._is_writing = False
        self._is_stepping = False
        self._is_latched = False
        self._aborts = False
        """Whether the engine was told of the rollback, or told of it."""
        self._is_missing = False
        """Whether it was told that no document has the flag."""
        self._lock = threading.RLock()
        """Between what the engine was told and what is noted here of it: violations are reported from any thread."""
        self._follow()

    def _policy(self, policy: GuardPolicy | None, mode: Mode | None) -> tuple[str, str]:
        if policy is not None:
            return policy.to_json(mode or "drain"), ""
        written = dict(self._document.of_flag().get("guard", {}))
        if mode is not None:
            written["mode"] = mode
        return json.dumps(written), f"/flags/{self.flag}/guard"

    # -- what it is told -----------------------------------------------------------------------------------------------

    def observe(
        self, metric: str, bad: bool | int, cohort: Cohort = "modern", *, seen: int = 1
    ) -> RollbackRecord | None:
        """Take in observations of a metric. Returns the record when that rolled the flag back.

        Args:
            metric: ``isolation_violation``, ``run_error``, ``slow_run``, ``slow_event`` or ``dropped_event``.
            bad: whether it was bad, or how many of ``seen`` were.
            cohort: ``modern`` for what happened with the flag on. What happened with it off is what ``slow_run`` is
                held against; a violation of isolation there is only counted, because going back would not end it.
            seen: how many observations that are.

        Raises:
            ValueError: there is no such metric or cohort, or more are bad than there are.
        """
        return self._act(self._core.observe(metric, int(bad), seen, cohort))

    def observe_run(self, duration: float, cohort: Cohort = "modern") -> RollbackRecord | None:
        """Take in how many seconds a run took, without what it waited for, as ``slow_run``.

        Raises:
            ValueError: it is not a duration: negative, infinite or not a number.
        """
        return self._act(self._core.observe_run(duration, cohort))

    def observe_delay(self, delay: float, cohort: Cohort = "modern") -> RollbackRecord | None:
        """Take in how many seconds an event was on its way to a socket, as ``slow_event``.

        Raises:
            ValueError: it is not a duration: negative, infinite or not a number.
        """
        return self._act(self._core.observe_delay(delay, cohort))

    def record_run(
        self, duration: float, *, error: bool = False, waited: float = 0.0, cohort: Cohort = "modern"
    ) -> RollbackRecord | None:
        """Take in a run that isolane did not execute, such as one of the legacy cohort.

        Args:
            duration: seconds, by a monotonic clock.
            error: whether it ended in an error that is not its user's cancellation.
            waited: seconds of it that it waited for something it cannot help, such as a model.
            cohort: ``modern`` for a run with the flag on.

        Raises:
            ValueError: a duration is negative, infinite or not a number, or the run waited longer than it took.
        """
        if not math.isfinite(duration) or not 0 <= waited <= duration:
            raise ValueError(
                "a duration must be 0 or more seconds, and finite, and the wait at most as long; got "
                f"duration={duration}, waited={waited}: measure both with a monotonic clock"
            )
        slow = self.observe_run(duration - waited, cohort)
        return self.observe("run_error", error, cohort) or slow

    def is_modern(self, context: UserExecutionContext) -> bool:
        """Return whether a run has the flag on: as it was when its context was made, whatever holds now."""
        return self.engine.pin(context).is_on(self.flag)

    def is_modern_user(self, user_id: str) -> bool:
        """Return whether the next run of a user would have the flag on."""
        return self.engine.is_on(self.flag, user_id)

    @property
    def slow_after(self) -> float:
        """A run is slow after so many seconds."""
        return self._core.limits[0]

    # -- the application -----------------------------------------------------------------------------------------------

    def attach(self, application: Application) -> None:
        """Hear of the runs of an application, of their events, and of violations of isolation.

        Doing it again is nothing. Heard of are the runs of ``application.factory``; the reports of
        ``application.contamination`` and the events of ``application.audit``, if there are any. An event of this
        process is slow by the policy of the guard attached last.
        """
        if any(signals.factory is application.factory for signals in self._signals):
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        if self.audit is None:
            self.audit = getattr(application, "audit", None)
        set_late_after(self._core.limits[1])
        self._signals.append(Signals(self, application))

    def write_by(self, writer: RolloutWriter) -> None:
        """Write steps and rollbacks by this writer, unless the guard was made with one."""
        if self._document.writer is None:
            self._document.writer = writer

    def detach(self) -> None:
        """Hear of nothing more. What is known stays."""
        for signals in self._signals:
            signals.close()
        self._signals.clear()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def tick(self) -> tuple[str, ...]:
        """Follow the document, count events, write what is unwritten, and take the next step if it is due.

        Called about once a second. With a writer on a running loop the step is written in the background. Returns why
        the rollout does not advance; empty when it does.
        """
        self._follow()
        for signals in tuple(self._signals):
            signals.count_events()
        if self._unwritten is not None:
            self._persist()
        came_from = self._document.rollout
        due = self._core.tick()
        if not isinstance(due, int):
            return self._missing() + tuple(due)
        if not self._is_stepping:
            self._is_stepping = True
            self._do(partial(self._step_alone, due, came_from), "the next step")
        return ()

    def _missing(self) -> tuple[str, ...]:
        """Why nobody is watched, where the document does not have the flag: it may be misspelt."""
        is_missing = self.engine.revision > 0 and self.flag not in self.engine.flags()
        if is_missing and not self._is_missing:
            logger.error(
                "the document of flags has no %s: its guard watches nobody, and has nothing to roll back", self.flag
            )
        self._is_missing = is_missing
        return (f"the document has no flag {self.flag}",) if is_missing else ()

    def _step_alone(self, rollout: int, came_from: int) -> None:
        try:
            self._step(rollout, GUARD, "the step before was healthy", came_from)
        finally:
            self._is_stepping = False

    async def advance(self, *, actor: str, reason: str = "", force: bool = False) -> int:
        """Take the next step by hand. Returns the rollout, in parts of 100 000.

        Args:
            actor: who does it.
            reason: why.
            force: also without the samples and the dwell of this step. What speaks against the rollout still holds it.

        Raises:
            RuntimeError: something holds it, it is rolled back, or it is at 100 %.
            FlagChangeRefusedError: somebody else has changed the rollout meanwhile.
            AuditUnavailableError: it cannot be recorded, so it is not done.
            OSError: it cannot be written.
        """
        self._follow()
        came_from = self._document.rollout
        rollout = self._core.next_by_hand(force)
        await self._beside(partial(self._step, rollout, _named(actor), reason, came_from))
        return rollout

    def _step(self, rollout: int, actor: str, reason: str, came_from: int) -> None:
        self._record("rollout_advanced", AuditClass.ADMIN, Severity.INFO, {"to": rollout, "by": actor, "why": reason})
        try:
            self._document.set_rollout(rollout, actor, reason, came_from)
        finally:
            # Also when it was refused: the source has something that is not known here.
            self._reload()

    async def pause(self, *, actor: str, reason: str = "") -> None:
        """Keep the rollout where it is. What would roll it back still does.

        Raises:
            AuditUnavailableError: it cannot be recorded, so it is not done.
        """
        data = {"by": _named(actor), "why": reason}
        self._record("rollout_paused", AuditClass.ADMIN, Severity.INFO, data)
        self._core.pause()

    async def resume(self, flag: str | None = None, *, actor: str, ack: str = "") -> None:
        """End a pause, or let a flag that was rolled back be rolled out again, from 0 on: ``advance`` begins it.

        The same users are first again, because the salt stays.

        Args:
            flag: this guard's flag, for those who want to be sure. Default: it.
            actor: who does it.
            ack: what was found out, such as the number of the incident. Needed after a rollback.

        Raises:
            RuntimeError: it is neither paused nor rolled back.
            ValueError: it is another flag, or ``ack`` is missing.
            AuditUnavailableError: it cannot be recorded, so it is not done.
            OSError: it cannot be written.
        """
        if flag not in {None, self.flag}:
            raise ValueError(f"this guard watches {self.flag!r}, not {flag!r}")
        data = {"by": _named(actor), "ack": ack}
        self._follow()
        if self._core.record is None:
            if not self._core.status()["paused"]:
                raise RuntimeError("the rollout is neither paused nor rolled back, so there is nothing to resume")
            self._record("rollout_resumed", AuditClass.ADMIN, Severity.INFO, data)
            self._core.resume()
            return
        if not ack.strip():
            raise ValueError("a rollback is resumed with ack=: what was found out, such as the number of the incident")
        await self._beside(partial(self._resume, ack, actor, data))

    def _resume(self, ack: str, actor: str, data: dict[str, Any]) -> None:
        self._record("rollout_resumed", AuditClass.ADMIN, Severity.WARNING, data)
        self._document.resume(ack, actor)
        self._unwritten = None
        self._reload(then=lambda: self.engine.release(self.flag))

    # -- rolling back --------------------------------------------------------------------------------------------------

    def rollback(self, reason: str, actor: str, *, mode: Mode | None = None) -> RollbackRecord | None:
        """Take the flag from everybody at once. Returns the record, or ``None`` when it was rolled back before.

        Args:
            reason: why.
            actor: who does it.
            mode: what becomes of runs that are under way. Default: that of the guard.
        """
        return self._act(self._core.roll_back(reason, _named(actor), mode or self._core.limits[2]))

    async def kill(self, reason: str, *, actor: str) -> None:
        """Turn every flag off: in this process at once, and for all where the writer has ``kill``, as ``FlagWriter``.

        Does not raise when it cannot be written or recorded: it is in force here, and the log says so. It is taken back
        by ``isolane rollout resume`` in the file, and by ``engine.unkill()`` or a restart in the process.

        Args:
            reason: why.
            actor: who does it.

        Raises:
            ValueError: ``actor`` is empty.
        """
        data = {"by": _named(actor), "why": reason}
        self.engine.kill()
        logger.critical("all flags are turned off by %s: %s", actor, reason)
        try:
            self._record("rollout_killed", AuditClass.ISOLATION, Severity.CRITICAL, data)
        except AuditUnavailableError:
            logger.exception("the kill switch is on and that is not in the audit log")
        try:
            await self._beside(partial(self._document.kill, actor, reason))
        except Exception:
            logger.exception("the kill switch is on in this process, and could not be written for the others")

    def _act(self, told: tuple[str, bool] | None) -> RollbackRecord | None:
        if told is None:
            return None
        text, is_first = told
        record = RollbackRecord.parse(text)
        with self._lock:
            if is_first:
                # Before anything that could fail: from here on nobody begins a run with the flag on.
                self.engine.latch(self.flag, text)
                self._is_latched = True
            # One that follows is of runs that must end, in the other processes too.
            self._unwritten = (record, text) if self._document.writer is not None else None
        logger.error("%s is rolled back by %s: %s: %s", self.flag, record.actor, record.metric, record.reason)
        self._note_rollback(record)
        if record.mode == "abort":
            self._abort()
        self._persist()
        if self.on_rollback is not None:
            try:
                self.on_rollback(record)
            except Exception:
                logger.exception("on_rollback failed; the flag is rolled back all the same")
        return record

    def _note_rollback(self, record: RollbackRecord) -> None:
        try:
            self._record("rollout_rolled_back", AuditClass.ISOLATION, Severity.CRITICAL, record.to_dict())
        except AuditUnavailableError:
            # A rollback does not wait for a disk.
            logger.exception("a rollback is in force and not in the audit log")

    def _abort(self) -> None:
        self._aborts = True
        for signals in tuple(self._signals):
            self._end_runs(signals.factory, self.is_modern)

    def _end_runs(self, factory: ExecutionEngineFactory, belongs: Callable[[UserExecutionContext], bool]) -> None:
        reason = f"the run was cancelled because {self.flag} was rolled back"
        self._spawn(partial(factory.roll_back_runs, belongs, reason), "the end of the runs")

    def run_began(self, factory: ExecutionEngineFactory, context: UserExecutionContext) -> None:
        """End a run whose engine is made after an abort, with the flag that its context had before it."""
        if self._aborts and self.is_modern(context):
            self._end_runs(factory, lambda other: other is context)

    def _persist(self) -> None:
        with self._lock:
            unwritten = self._unwritten
            if unwritten is None or self._is_writing:
                return
            self._is_writing = True
        self._do(partial(self._write, unwritten), "the rollback")

    def _write(self, unwritten: tuple[RollbackRecord, str]) -> None:
        record, text = unwritten
        try:
            self._document.roll_back(json.loads(text), record.actor, record.reason)
            with self._lock:
                if self._unwritten is unwritten:
                    self._unwritten = None
        finally:
            self._is_writing = False

    # -- the rest ------------------------------------------------------------------------------------------------------

    def status(self) -> GuardStatus:
        """Return how the rollout stands."""
        self._follow()
        return status_of(
            self._core.status(),
            is_written=self._unwritten is None,
            forgotten_runs=sum(signals.forgotten for signals in self._signals),
        )

    async def settled(self) -> None:
        """Wait until what was begun in the background is done: writes, and runs that are cancelled."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _follow(self) -> None:
        """Take over what the document says, whoever wrote it."""
        with self._lock:
            written = self.engine.latched().get(self.flag)
            if written is None and self._is_latched:
                # Somebody has resumed it.
                self._is_latched = self._aborts = False
                self._unwritten = None
                if self._core.record is not None:
                    self._core.resume()
            elif written is not None and self._core.record is None:
                self._is_latched = True
                self._restore(written)
            elif written is not None:
                self._follow_abort()
            self._core.follow(self._document.rollout, self.engine.revision)

    def _follow_abort(self) -> None:
        """End the runs of this process as well, when another one has found after its rollback that they must end."""
        held = self._document.of_flag().get("rollback")
        if isinstance(held, Mapping) and held.get("mode") == "abort":
            told = self._core.roll_back(str(held.get("reason", "")), str(held.get("actor", "elsewhere")), "abort")
            if told is not None:
                self._abort()

    def _restore(self, written: str) -> None:
        try:
            is_new = self._core.restore(written)
        except ValueError:
            # Not a guard's record: somebody wrote it by hand.
            is_new = self._core.roll_back(written[:1_000], "elsewhere", "drain") is not None
        if not is_new:
            return
        logger.warning("%s was rolled back elsewhere or before: %s", self.flag, written[:1_000])
        record = json.loads(self._core.record or "{}")
        if record.get("mode") == "abort":
            # What was found there is as true of the runs here.
            self._abort()

    def _reload(self, then: Callable[[], object] | None = None) -> None:
        if self._document.writer is not None:
            refresh = getattr(self.flags, "refresh", None)
            if callable(refresh):
                refresh()
        if then is not None:
            then()
        self._follow()

    def _record(self, name: str, audit_class: AuditClass, severity: Severity, data: dict[str, Any]) -> None:
        if self.audit is not None:
            data = {"flag": self.flag, **data}
            self.audit.record(SecurityEvent(name=name, audit_class=audit_class, severity=severity, data=data))

    async def _beside(self, work: Callable[[], None]) -> None:
        """Do what may wait for a disk in a thread; without a writer there is none."""
        if self._document.writer is None:
            work()
        else:
            await asyncio.to_thread(work)

    def _do(self, work: Callable[[], None], what: str) -> None:
        """Do what may wait for a disk: in a thread beside the loop that runs, or here where there is none."""

        async def beside() -> None:
            await asyncio.to_thread(work)

        if self._document.writer is None or not self._spawn(beside, what):
            self._try(work, what)

    def _try(self, work: Callable[[], None], what: str) -> None:
        try:
            work()
        except Exception:
            # A full disk, a lock that is held, an audit log that is sick: whoever brought the proof is not to fail.
            logger.exception("%s of %s could not be written; it is tried again", what, self.flag)

    def _spawn(self, begin: Callable[[], Coroutine[Any, Any, Any]], what: str) -> bool:
        """Run something on the loop that runs here, or on that of the application. Returns whether there is one."""
        try:
            self._keep(asyncio.get_running_loop().create_task(begin()), what)
        except RuntimeError:
            loop = self._loop
            if loop is None or not loop.is_running():
                return False
            loop.call_soon_threadsafe(lambda: self._keep(loop.create_task(begin()), what))
        return True

    def _keep(self, task: asyncio.Task[Any], what: str) -> None:
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                logger.error("%s of %s failed; it is tried again", what, self.flag, exc_info=task.exception())

        task.add_done_callback(done)

    def __repr__(self) -> str:
        return f"<RolloutGuard of {self.flag}, {self._core.status()['state']}>"


def _named(actor: str) -> str:
    if not actor.strip():
        raise ValueError("actor is empty: say who does it")
    return actor
