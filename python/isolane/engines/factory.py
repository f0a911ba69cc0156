"""``ExecutionEngineFactory``: slots, lifetimes and the clean-up of engines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

from isolane._core import (
    EngineBook,
    ExecutionStatus,
    FairLimiter,
    Fence,
    LimitRejected,
    Permit,
    UserExecutionContext,
    default_limiter,
    metric,
    set_end_code,
    stream_has_ended,
    sweep_lanes,
)
from isolane.agents.instances import AgentInstanceFactory
from isolane.contexts.factory import validate_user_context
from isolane.engines.engine import UserExecutionEngine
from isolane.engines.errors import EngineDrainingError, EngineLimitError, ExecutionEngineFactoryError
from isolane.engines.waits import RunEnd, RunObserver
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.limits import LimitTimeout
from isolane.memory.limits import MemoryGate

logger = logging.getLogger("isolane.engines")

FORCED = metric("isolane_forced_cleanups_total")

NO_PROCESS_LIMIT = 1_000_000
ENDED = frozenset(
    {ExecutionStatus.COMPLETED, ExecutionStatus.PARTIAL_FAILURE, ExecutionStatus.FAILED, ExecutionStatus.CLEANED}
)
REJECTIONS = {limit: metric("isolane_engine_limit_rejections_total").labels(limit) for limit in ("user", "process")}
DRAINING = "the service is shutting down and starts no more runs; try another instance"


class ExecutionEngineFactory:
    """Makes one engine per request, within the user's limit, and ends it when its time is over.

    Args:
        websocket_bridge: makes the emitters. Default: a ``WebSocketBridgeFactory`` of its own.
        max_engines_per_user: engines of one user at the same time.
        engine_timeout_seconds: how long an engine may live. Then its run is cancelled, fails and is cleaned up.
        idle_timeout: how many seconds an engine may live with nothing to run. Default: its whole life.
        cleanup_interval: seconds between audit sweeps, which find engines that the deadlines missed.
        agent_factory: makes the instances of agents.
        tool_dispatcher_factory: makes the tool dispatchers that agents get by ``context.get_tool_dispatcher()``.
        at_limit: ``reject`` raises at once, ``wait`` waits up to ``wait_timeout`` seconds for a slot, ``evict_idle``
            ends the user's engine that has been idle longest, and raises when each of them runs something.
        grace: seconds that a cancelled agent gets before the engine is closed by force. What such an agent does later
            raises ``RunFenced``.
        max_engines: engines of all users at the same time. Default: no limit.
        limiter: hands out the permits of the steps. Default: the limiter of the process.
        admission_timeout: seconds that a run may wait for the permit of its first step; later steps wait as long as the
            engine lives. Default: 2.
        loop_seconds: how much of the event loop's time the agents of one engine may use together; more ends them with
            ``LoopBudgetExceeded``. Default: no limit.
        memory: asked before an engine is made, such as a ``MemoryOptimizationManager``; a run waits for it up to
            ``wait_timeout`` seconds. Default: memory limits nobody.
    """

    def __init__(
        self,
        websocket_bridge: WebSocketBridgeFactory | None = None,
        *,
        max_engines_per_user: int = 2,
        engine_timeout_seconds: float = 300.0,
        cleanup_interval: float = 60.0,
        agent_factory: AgentInstanceFactory | None = None,
        tool_dispatcher_factory: Any = None,
        at_limit: Literal["reject", "wait", "evict_idle"] = "reject",
        wait_timeout: float = 2.0,
        grace: float = 5.0,
        max_engines: int | None = None,
        limiter: FairLimiter | None = None,
        admission_timeout: float | None = None,
        loop_seconds: float | None = None,
        memory: MemoryGate | None = None,
        idle_timeout: float | None = None,
    ) -> None:
        if at_limit not in {"reject", "wait", "evict_idle"}:
            raise ValueError(f"at_limit must be 'reject', 'wait' or 'evict_idle', got {at_limit!r}")
        if max_engines is not None and max_engines < 1:
            raise ValueError(f"max_engines must be at least 1, or None for no limit, got {max_engines!r}")
        for name, value in (
            ("engine_timeout_seconds", engine_timeout_seconds),
            ("cleanup_interval", cleanup_interval),
            ("loop_seconds", loop_seconds),
            ("idle_timeout", idle_timeout),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0 seconds, got {value!r}")
        if admission_timeout is not None and not admission_timeout >= 0:
            raise ValueError(f"admission_timeout must be 0 or more seconds, or None for 2, got {admission_timeout!r}")
        self.websocket_bridge = websocket_bridge if websocket_bridge is not None else WebSocketBridgeFactory()
        self.agent_factory = agent_factory if agent_factory is not None else AgentInstanceFactory()
        self.tool_dispatcher_factory = tool_dispatcher_factory
        self.limiter = limiter if limiter is not None else default_limiter()
        self.memory = memory
        self.max_engines_per_user = max_engines_per_user
        self.engine_timeout_seconds = engine_timeout_seconds
        self.cleanup_interval = cleanup_interval
        self.at_limit = at_limit
        self.wait_timeout = wait_timeout
        self.grace = grace
        self.admission_timeout = admission_timeout
        self.loop_seconds = loop_seconds
        self.idle_timeout = idle_timeout
        self.quarantine: Any = None
        """Asked before a run is started, such as a ``Quarantine``, which sets it."""
        self.run_observers: list[RunObserver] = []
        """Told of each run that begins and ends, such as the guard of a rollout."""
        self._slots = FairLimiter(  # noqa: SLF001 - its own
            max_engines or NO_PROCESS_LIMIT, max_engines_per_user, timeout=wait_timeout
        )._unmetered()
        self._book = EngineBook()
        self._engines: dict[int, UserExecutionEngine] = {}
        self._numbers: dict[UserExecutionEngine, int] = {}
        self._of_context: dict[int, list[UserExecutionEngine]] = {}
        """Living engines by the number of their context, which its copies have as well."""
        self._is_shared_over_workers = False
        """Whether the slots count over all workers: see ``isolane.cluster``."""
        self._rejections = 0
        self._cleanup_errors = 0
        self._draining = False
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._audit_timer: asyncio.TimerHandle | None = None
        self._timers_loop: asyncio.AbstractEventLoop | None = None
        self._armed_for = math.inf
        self._closing: set[asyncio.Task[Any]] = set()

    # -- making ----------------------------------------------------------------------------------------------------

    async def create_for_user(self, context: UserExecutionContext) -> UserExecutionEngine:
        """Make an engine for the context. A child context shares the engine of the context above it.

        Raises ``EngineLimitError`` when the user has ``max_engines_per_user`` engines,
        ``ExecutionEngineFactoryError`` when the context is not valid or the engine cannot be built,
        ``MemoryLimitExceededError`` when the gate of ``memory=`` refuses, ``ContextIsolationError`` for a planted
        violation, ``UserQuarantinedError`` while the user is in quarantine.
        """
        self._check_open()
        try:
            validate_user_context(context)
        except TypeError as error:
            raise ExecutionEngineFactoryError(f"Invalid user context: {error}") from error
        shared = self._engine_above(context)
        if shared is not None:
            return shared
        self._check_may_start(context)
        if self.memory is not None:
            # Before the slot: who waits for memory keeps nobody from running.
            await self.memory.admit(context, self.wait_timeout)
            self._check_open()
            self._check_may_start(context)
        slot = await self._reserve(context)
        if self.at_limit != "reject" or self._is_shared_over_workers:
            try:
                # A shutdown may have begun, or the run may have ended, while this one waited.
                self._check_open()
                self._check_may_start(context)
            except BaseException:
                slot.release()
                raise
        try:
            if self.tool_dispatcher_factory is not None:
                context.bind_tool_dispatcher_factory(self.tool_dispatcher_factory)
            emitter = await self.websocket_bridge.create_user_emitter(context.user_id, context)
            engine = UserExecutionEngine(
                context,
                self.agent_factory,
                emitter,
                _factory=self,
                _lifetime=self.engine_timeout_seconds,
                _loop_seconds=self.loop_seconds,
            )
        except BaseException as error:
            # The slot is reserved before anything is built and given back whatever fails.
            slot.release()
            self._book.failed()
            if isinstance(error, Exception):
                raise ExecutionEngineFactoryError(f"Engine creation failed: {error}") from error
            raise
        self._register(engine, slot)
        self._tell_run_start(context)
        return engine

    create_execution_engine = create_for_user

    def _register(self, engine: UserExecutionEngine, slot: Permit) -> int:
        """Give a new engine its number and its deadline. The slot is the book's from here on."""
        idle = math.inf if self.idle_timeout is None else self.idle_timeout
        if self._is_shared_over_workers:
            engine._slot_fence = slot.fence  # noqa: SLF001 - the engine's other half
        number = self._book.open(engine.context, slot, self.engine_timeout_seconds, idle)
        self._engines[number] = engine
        self._numbers[engine] = number
        self._of_context.setdefault(engine.context._lineage[-1], []).append(engine)  # noqa: SLF001 - see _engine_above
        self._arm_for(min(self.engine_timeout_seconds, idle))
        return number

    def _unregister(self, number: int, engine: UserExecutionEngine) -> None:
        self._engines.pop(number, None)
        context = engine.context._lineage[-1]  # noqa: SLF001 - see _engine_above
        engines = self._of_context.get(context, [])
        if engine in engines:
            engines.remove(engine)
        if not engines:
            self._of_context.pop(context, None)

    def shares_context(self, engine: UserExecutionEngine) -> bool:
        """Return whether another living engine belongs to the same context: then the stream goes on."""
        return self._is_shared(engine)

    def set_busy(self, engine: UserExecutionEngine, *, busy: bool) -> None:
        """Note that an engine runs something, or nothing any more. Called by the engine."""
        number = self._numbers.get(engine)
        if number is not None:
            self._book.set_busy(number, busy)

    def new_fence(self) -> Fence:
        """Make a fence for the contexts of one engine, whose refusals the metrics count. Called by the engine."""
        return self._book.fence()

    def note_late_release(self) -> None:
        """Count a permit that came back after it had been taken from its agent. Called by the engine."""
        self._book.late_release()

    @property
    def slots(self) -> FairLimiter:
        """Who may have an engine."""
        return self._slots

    def ask_other_workers(self) -> None:
        """Note that the slots count over all workers, and that these are asked for more. Called by who shares them."""
        self._is_shared_over_workers = True

    def refuse(self) -> None:
        """Make no more engines; those that run go on."""
        self._draining = True

    def reopen(self) -> None:
        """Make engines again after a shutdown."""
        self._draining = False

    def _check_may_start(self, context: UserExecutionContext) -> None:
        if self.quarantine is not None:
            self.quarantine.check(context.user_id)
        self._check_not_ended(context)

    @staticmethod
    def _check_not_ended(context: UserExecutionContext) -> None:
        if context.status in ENDED or stream_has_ended(context):
            raise ExecutionEngineFactoryError(
                "the run of this context has ended: make a context with a new run id for the next engine, "
                "or run both pipelines on one engine"
            )

    def _check_open(self) -> None:
        if self._draining:
            raise EngineDrainingError(DRAINING)

    def _engine_above(self, context: UserExecutionContext) -> UserExecutionEngine | None:
        """Return the engine of a context above this one, at any depth."""
        if context.operation_depth == 0:
            return None
        above = context._lineage[:-1]  # noqa: SLF001 - numbers without meaning for anybody else
        engines = (engine for number in above for engine in self._of_context.get(number, ()))
        # One that is about to end takes no more children in.
        return next((engine for engine in engines if engine in self._numbers), None)

    async def _slot(self, context: UserExecutionContext) -> Permit:
        if self.at_limit == "wait":
            return await self._slots.acquire(context.user_id, timeout=self.wait_timeout)
        while True:
            try:
                if self._is_shared_over_workers:
                    return await self._shared_slot(context)
                return self._slots.slot_nowait(context.user_id)
            except LimitRejected as error:
                if self.at_limit != "evict_idle" or error.limit not in {"user", "cluster"}:
                    raise
                number = self._book.idlest(context)
                idle = self._engines.get(number) if number is not None else None
                # One that ends already has given its slot back, or is about to.
                if idle is None or idle not in self._numbers:
                    raise
                await self._end(idle, "evicted", "the user began another run")

    async def _shared_slot(self, context: UserExecutionContext) -> Permit:
        """Return a slot that this worker may hand out by itself, or ask the others once, which takes a moment."""
        try:
            return self._slots.slot_nowait(context.user_id)
        except LimitRejected as error:
            if error.limit != "cluster":
                raise
        return await self._slots.acquire(context.user_id, timeout=self.wait_timeout, ask_once=True)

    async def _reserve(self, context: UserExecutionContext) -> Permit:
        try:
            return await self._slot(context)
        except (LimitRejected, LimitTimeout) as error:
            self._rejections += 1
            is_own = error.limit in {"user", "cluster"}
            REJECTIONS["user" if is_own else "process"].inc()
            whose = "The user" if is_own else "The service"
            limit = self.max_engines_per_user if is_own else error.running
            reached = "of all workers" if error.limit == "cluster" else f"({error.running}/{limit})"
            raise EngineLimitError(
                f"{whose} has reached maximum engine limit {reached}; "
                f"wait for a run to end and try again in {error.retry_after} s",
                "user" if is_own else error.limit,
                error.retry_after,
            ) from error

    @contextlib.asynccontextmanager
    async def user_execution_scope(self, context: UserExecutionContext) -> AsyncIterator[UserExecutionEngine]:
        """``async with factory.user_execution_scope(context) as engine``: made on entry, ended on exit."""
        shared = self._engine_above(context) is not None
        engine = await self.create_for_user(context)
        try:
            yield engine
        finally:
            if not shared:
                await self.cleanup_engine(engine)

    # -- ending ----------------------------------------------------------------------------------------------------

    async def cleanup_engine(self, engine: UserExecutionEngine | None) -> None:
        """End an engine. Idempotent, and never raises: what goes wrong is logged and counted."""
        if engine is not None:
            await self._end(engine, "closed", "the run ended")

    async def _end(self, engine: UserExecutionEngine, how: str, reason: str) -> None:
        number = self._numbers.pop(engine, None)
        if number is None:
            return
        engine.end_reason = "lifetime" if how == "expired" else how
        if how in {"cancelled", "rolled_back", "lease_lost"}:
            how = "closed"
        # The slot first: whatever the rest does, the user may start the next run.
        if how != "expired":
            self._book.close(number, how)
        expired = how == "expired"
        try:
            if expired:
                self._fail_context(engine)
            stopped = await engine._close(self.grace, reason)  # noqa: SLF001 - the engine's other half
            if not stopped:
                how = "forced"
                FORCED.inc()
                logger.warning("an engine was closed by force: its agents did not stop within %.1f s", self.grace)
        except Exception:
            self._cleanup_errors += 1
            logger.exception("the clean-up of an engine failed")
        finally:
            self._book.close(number, how)
            self._unregister(number, engine)
            if how == "forced":
                await self._clean_steps(engine)
            if expired or engine.context.is_detached:
                await self._end_context(engine, expired=expired)

    def _fail_context(self, engine: UserExecutionEngine) -> None:
        """A run whose time is over has failed, whatever its agents came to, unless another engine runs it as well."""
        if not self._is_shared(engine):
            engine.context._fail("lifetime")  # noqa: SLF001 - the core's other half

    async def _end_context(self, engine: UserExecutionEngine, *, expired: bool) -> None:
        if engine.context.is_detached or (expired and not self._is_shared(engine)):
            await self._clean(engine.context)

    def _is_shared(self, engine: UserExecutionEngine) -> bool:
        engines = self._of_context.get(engine.context._lineage[-1], ())  # noqa: SLF001 - see _engine_above
        if len(engines) == 1 and engines[0] is engine:
            return False
        return any(other is not engine and other in self._numbers for other in engines)

    async def _clean(self, context: UserExecutionContext) -> None:
        for error in await context.cleanup():
            self._cleanup_errors += 1
            logger.error("a clean-up callback failed", exc_info=error)

    async def _clean_steps(self, engine: UserExecutionEngine) -> None:
        """Clean up the contexts of agents that were left behind. Nothing may be held after that."""
        for child in list(engine._steps):  # noqa: SLF001 - the engine's other half
            await self._clean(child)
        held = engine._held()  # noqa: SLF001 - the engine's other half
        if held:
            self._book.leaked(held)
            logger.error("an engine that was cleaned up still holds %d permits or contexts", held)

    async def finish_background(self, engine: UserExecutionEngine) -> None:
        """End an engine whose background run is done, and its context if that was detached."""
        await self._end(engine, "closed", "the run ended")

    def finish_later(self, engine: UserExecutionEngine) -> None:
        """End an engine whose background run never began."""
        task = asyncio.ensure_future(self._end(engine, "closed", "the run was cancelled"))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def cancel_run(self, user_id: str, run_id: str, reason: str = "the run was cancelled") -> bool:
        """Cancel a run of the user: its agents are cancelled, and its stream ends as ``cancelled``.

        Agents that have not stopped after ``grace`` seconds are left behind by force. Whoever waits for the run gets
        ``RunCancelledError``. Returns whether an engine ran it; calling it again does nothing more.
        """
        engines = [
            engine
            for engine in self._engines.values()
            if (engine.context.user_id, engine.context.run_id) == (user_id, run_id)
        ]
        for engine in engines:
            # Also one that runs nothing at the moment: its stream ends as cancelled.
            engine._cancelled = engine._cancelled or reason  # noqa: SLF001 - the engine's other half
        await asyncio.gather(*(self._end(engine, "cancelled", reason) for engine in engines))
        return bool(engines)

    def _tell_run_start(self, context: UserExecutionContext) -> None:
        for observer in tuple(self.run_observers):
            try:
                observer.run_started(context)
            except Exception:
                logger.exception("an observer of runs failed; the run goes on")

    def tell_run_end(
        self, engine: UserExecutionEngine, error: BaseException | None, duration: float, waited: float
    ) -> None:
        """Tell who observes runs how one came out. Called by the engine."""
        end = RunEnd(engine.context, error, duration, min(waited, duration), engine.end_reason)
        for observer in tuple(self.run_observers):
            try:
                observer.run_ended(end)
            except Exception:
                logger.exception("an observer of runs failed; the others are told")

    async def roll_back_runs(self, belongs: Callable[[UserExecutionContext], bool], reason: str) -> int:
        """Cancel the runs whose context ``belongs`` says yes to: what they ran on was rolled back.

        Each open execution gets its one last event, ``agent_error`` with ``code`` ``rolled_back`` and ``retriable``,
        also when its agent does not care for its cancellation. Whoever waits for a run gets ``RunRolledBackError``.
        Returns how many engines that were.
        """
        engines = [engine for engine in self._numbers if belongs(engine.context)]
        for engine in engines:
            set_end_code(engine.context.user_id, engine.context.run_id, "rolled_back")
            engine._cancelled = engine._cancelled or reason  # noqa: SLF001 - the engine's other half
        await asyncio.gather(*(self._end(engine, "rolled_back", reason) for engine in engines))
        return len(engines)

    async def lose(self, limit: str, user_id: str, fence: int, *, is_slot: bool, cancel: bool) -> bool:
        """Say that a slot of this factory, or a permit of a step, has lost its lease: its engine ends, or is flagged.

        Args:
            limit: the name of the limit.
            user_id: whose it was; empty where that is not known.
            fence: the number of the slot or permit.
            is_slot: which of both.
            cancel: whether the run ends: its agents are cancelled, each open execution gets ``agent_error`` with
                ``code`` ``lease_lost``, and whoever waits for it gets ``LeaseLost``.

        Returns whether an engine had it. Called by what shares the limits with the other workers.
        """
        engines = [engine for engine in self._numbers if user_id in {"", engine.context.user_id}]
        found = [engine for engine in engines if engine._has(fence, is_slot)]  # noqa: SLF001 - the engine's other half
        reason = f"the run lost its place in the limit {limit} that all workers share"
        for engine in found:
            engine.lease_lost = engine.lease_lost or limit
            if cancel:
                set_end_code(engine.context.user_id, engine.context.run_id, "lease_lost")
                engine._cancelled = engine._cancelled or reason  # noqa: SLF001 - the engine's other half
                await self._end(engine, "lease_lost", reason)
        return bool(found)

    async def cleanup_user_context(self, user_id: str) -> bool:
        """End all engines of a user. Returns whether there were any."""
        engines = [engine for engine in self._engines.values() if engine.context.user_id == user_id]
        await asyncio.gather(*(self._end(engine, "closed", "the user's runs were ended") for engine in engines))
        return bool(engines)

    async def shutdown(self, drain: float = 25.0) -> None:
        """Make no more engines, wait up to ``drain`` seconds for those that run, then end them."""
        self._draining = True
        limit = time.monotonic() + drain
        while time.monotonic() < limit:
            running = [
                engine._until_ended(tasks)  # noqa: SLF001 - the engine's other half
                for engine in self._engines.values()
                if engine._tasks and (tasks := engine._still_running())  # noqa: SLF001
            ]
            if not running:
                break
            await asyncio.wait(running, timeout=limit - time.monotonic())
            for ended in running:
                ended.cancel()
        engines = list(self._numbers)
        closing = (self._end(engine, "closed", "the service is shutting down") for engine in engines)
        # One that fails or is cancelled does not keep the others from being closed.
        await asyncio.gather(*closing, return_exceptions=True)
        if self._closing:
            await asyncio.wait(self._closing)
        for timer in (self._deadline_timer, self._audit_timer):
            if timer is not None:
                timer.cancel()
        self._deadline_timer = self._audit_timer = self._timers_loop = None

    # -- time ------------------------------------------------------------------------------------------------------

    def _arm_for(self, lifetime: float) -> None:
        """Set the timers for an engine that is due in ``lifetime`` seconds, unless they ring before that anyway.

        So they do when they were set for an engine that came earlier and does not live longer.
        """
        is_armed = self._timers_loop is asyncio.get_running_loop() and self._deadline_timer is not None
        if not is_armed or lifetime < self._armed_for:
            self._armed_for = lifetime
            self._arm()

    def _arm(self) -> None:
        """Set the timer of the earliest deadline, and of the audit sweep while there are engines."""
        loop = asyncio.get_running_loop()
        due = self._book.next_due_in()
        if self._timers_loop is not loop:
            # Those of another loop may never ring again.
            self._timers_loop = loop
            if self._audit_timer is not None:
                self._audit_timer.cancel()
                self._audit_timer = None
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if due is not None:
            self._deadline_timer = loop.call_later(due, _weakly(self, ExecutionEngineFactory._on_deadline))
        if self._audit_timer is None and self._engines:
            self._audit_timer = loop.call_later(self.cleanup_interval, _weakly(self, ExecutionEngineFactory._on_audit))

    def _on_deadline(self) -> None:
        self._deadline_timer = None
        self._armed_for = math.inf
        self._expire(self._book.due())
        self._arm()

    def _on_audit(self) -> None:
        self._audit_timer = None
        self._expire([(number, "expired") for number in self._book.overdue(self.grace + 1.0)])
        sweep_lanes()
        self._arm()

    def _expire(self, due: Sequence[tuple[int, str]]) -> None:
        for number, how in due:
            engine = self._engines.get(number)
            if engine is None:
                # Nobody holds it, and yet it had a slot.
                self._book.leaked(1)
                self._book.close(number, "forced")
                continue
            reason = f"the run took longer than {self.engine_timeout_seconds:g} s"
            if how == "idle":
                reason = f"nothing ran for {self.idle_timeout:g} s"
            task = asyncio.ensure_future(self._end(engine, how, reason))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # -- figures ---------------------------------------------------------------------------------------------------

    def get_factory_metrics(self) -> dict[str, Any]:
        """Return counts: ``engines_created``, ``engines_active``, ``engines_cleaned``, ``total_users`` and more.

        Of the cleaned ones: ``engines_expired`` (their lifetime was over), ``engines_idle``, ``engines_evicted``,
        ``engines_forced`` (their agents did not stop). ``engines_leaked`` must be 0: what was still held after a
        clean-up. ``late_writes_refused`` and ``late_releases_refused`` are of agents that were left behind by force.
        """
        return {
            **self._book.metrics(),
            "user_limit_rejections": self._rejections,
            "slot_wait": self._slots.stats()["wait"],
            "cleanup_errors": self._cleanup_errors,
            "max_engines_per_user": self.max_engines_per_user,
            "engine_timeout_seconds": self.engine_timeout_seconds,
            "cleanup_interval": self.cleanup_interval,
        }

    def get_active_engines_summary(self) -> list[dict[str, Any]]:
        """Return the living engines, oldest first, with their ages and what they run."""
        summary = []
        for view in self._book.view():
            engine = self._engines.get(view["number"])
            runs = len(engine.active_runs) if engine is not None else 0
            status = engine.context.status.value if engine is not None else "cleaned"
            summary.append({**view, "active_runs": runs, "status": status})
        return summary

    def __repr__(self) -> str:
        return f"<ExecutionEngineFactory {len(self._engines)} engines>"


def _weakly(factory: ExecutionEngineFactory, method: Callable[[ExecutionEngineFactory], None]) -> Callable[[], None]:
    """A timer must not keep a factory alive that nobody else holds."""
    reference = weakref.ref(factory)

    def call() -> None:
        held = reference()
        if held is not None:
            method(held)

    return call
