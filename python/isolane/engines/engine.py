"""``UserExecutionEngine``: runs the agents of one request, one permit and one span for each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from isolane._core import (
    BudgetExceeded,
    ExecutionStatus,
    Fence,
    LimitRejected,
    LoopAccount,
    Permit,
    RunClosed,
    RunFenced,
    UnifiedIDManager,
    UserExecutionContext,
    UserWebSocketEmitter,
    _refusal,
    end_stream,
)
from isolane.agents.base import BaseAgent
from isolane.agents.execution import StepReference, current_step, publish_end, step_context, takes_results
from isolane.agents.instances import AgentInstanceFactory
from isolane.agents.pipeline import check_pipeline
from isolane.agents.result import ExecutionResult
from isolane.engines.errors import EngineClosedError, LeaseLost, RunCancelledError, RunExpiredError, RunRolledBackError
from isolane.engines.waits import RunWaits, add_wait, current_waits, waiting
from isolane.limits import LimitTimeout
from isolane.observability import seams

if TYPE_CHECKING:
    from isolane.engines.factory import ExecutionEngineFactory

DISBELIEVED = frozenset({"rolled_back", "lease_lost"})
"""Ends after which what an agent came to does not count, whether it stopped or not."""

ADMISSION_SECONDS = 2.0
"""Within this time the first permit of an engine must be had, unless the factory says otherwise."""


class UserExecutionEngine:
    """Runs agents for one user's request. Made by ``ExecutionEngineFactory``, which owns its slot and its lifetime.

    Attributes:
        engine_id: unique name.
        context: the context of the request.
        agent_factory: makes the instances.
        websocket_emitter: the emitter of the context.
        created_at: aware UTC datetime.
        end_reason: why it ended: ``closed``, ``cancelled``, ``rolled_back``, ``lease_lost``, ``lifetime``, ``idle`` or
            ``evicted``; ``None`` while it has not.
        lease_lost: the name of a limit that all workers share in which this engine has lost its place, and goes on
            all the same, because the setting ``lease_lost`` is ``flag``; ``None`` else.
    """

    _tells_expiry = True
    """Whether a caller is told why by ``RunExpiredError`` or ``RunCancelledError``, or by the bare cancellation."""

    def __init__(
        self,
        context: UserExecutionContext,
        agent_factory: AgentInstanceFactory,
        websocket_emitter: UserWebSocketEmitter,
        *,
        _factory: ExecutionEngineFactory | None = None,
        _lifetime: float = 300.0,
        _loop_seconds: float | None = None,
    ) -> None:
        if _factory is None:
            raise TypeError(
                "UserExecutionEngine is made by a factory, which gives it a slot and a lifetime: use "
                "await ExecutionEngineFactory().create_for_user(context)"
            )
        if websocket_emitter.user_id != context.user_id:
            raise _refusal("the emitter belongs to another user than the context", "bind")
        self.context = context
        self.agent_factory = agent_factory
        self.websocket_emitter = websocket_emitter
        self.engine_id = f"engine_{UnifiedIDManager.generate_request_id()[4:]}"
        self.created_at = datetime.now(UTC)
        self._factory = _factory
        self._deadline = time.monotonic() + _lifetime
        self._loop_seconds = _loop_seconds
        self._loop: LoopAccount | None = None
        self._admitted = False
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        """The tasks in which something of this engine runs. A caller's task lives on after that."""
        self._expired_tasks: set[asyncio.Task[Any]] = set()
        """Those that were cancelled once because the time was over, or the user wanted it."""
        self._watches: list[tuple[set[asyncio.Task[Any]], asyncio.Future[None]]] = []
        self._permits: set[Permit] = set()
        self._steps: set[UserExecutionContext] = set()
        """The contexts of the steps that have not ended."""
        self._fence: Fence | None = None
        self._closing: asyncio.Future[None] | None = None
        self.end_reason: str | None = None
        self.lease_lost: str | None = None
        self._slot_fence = 0
        """The number of its slot, by which a lease that is lost names it; 0 where slots are the worker's own."""
        self._background: asyncio.Task[ExecutionResult] | None = None
        self._executions = 0
        self._failures = 0
        self._timeouts = 0
        self._cancelled: str | None = None
        self._broken = False

    # -- running ---------------------------------------------------------------------------------------------------

    async def execute_agent(
        self,
        agent: str | type[BaseAgent] | Any,
        request: Any = None,
        *,
        results: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Run one agent, by its name or class.

        The older form ``execute_agent(execution_context, state)`` works as well: an object with an ``agent_name``
        (and a ``user_id``, which must be this engine's) and the request.

        Returns an ``ExecutionResult``; what the agent raises is its ``error``. Raises ``LimitTimeout`` or
        ``LimitRejected`` when no permit is to be had, ``EngineClosedError`` after the engine has ended, and
        ``RunExpiredError``, which is one, when its lifetime is over before the agent has ended.
        """
        named = getattr(agent, "agent_name", None)
        if isinstance(named, str) and not isinstance(agent, type):
            owner = getattr(agent, "user_id", self.context.user_id)
            if owner != self.context.user_id:
                raise _refusal("the execution context belongs to another user than the engine", "bind")
            agent = named
        ((name, cls),) = check_pipeline([agent], self.agent_factory) if results is None else [self._named(agent)]
        return await self._execute([(name, cls)], request, dict(results or {}))

    async def execute_agent_pipeline(
        self,
        agents: str | type[BaseAgent] | Sequence[str | type[BaseAgent]],
        request: Any = None,
        input_data: Any = None,
    ) -> ExecutionResult:
        """Run agents in order, each with the results of those it requires. Stops at the first that fails.

        The older form ``execute_agent_pipeline(agent_name, execution_context, input_data)`` works as well.

        Raises ``PipelineOrderError`` or ``UnknownAgentError`` before anything runs, and what ``execute_agent`` raises.
        """
        single = isinstance(agents, (str, type))
        steps = check_pipeline([agents] if single else list(agents), self.agent_factory)  # type: ignore[list-item,arg-type]
        return await self._execute(steps, request if input_data is None else input_data, {})

    def start_agent_pipeline(
        self, agents: str | type[BaseAgent] | Sequence[str | type[BaseAgent]], request: Any = None
    ) -> asyncio.Task[ExecutionResult]:
        """Run agents in the background; the engine closes itself and its context when they are done.

        For a run that outlives its HTTP request, call ``context.detach()`` first: otherwise the end of the response
        ends the run. Wrong orders and unknown agents raise here, before the task starts.
        """
        self._check_open()
        single = isinstance(agents, (str, type))
        steps = check_pipeline([agents] if single else list(agents), self.agent_factory)  # type: ignore[list-item,arg-type]
        if self._background is not None:
            raise RuntimeError("this engine runs a pipeline in the background already; make an engine for the next run")

        async def run() -> ExecutionResult:
            try:
                return await self._execute(steps, request, {})
            finally:
                await self._factory.finish_background(self)

        self._background = asyncio.create_task(run(), name=f"isolane {self.engine_id}")
        self._background.add_done_callback(self._background_done)
        return self._background

    def _background_done(self, task: asyncio.Task[ExecutionResult]) -> None:
        # The caller may drop the task; what it raises was published as the run's last events.
        if not task.cancelled():
            task.exception()
        if not self._closed:
            # Cancelled before its first step: its own `finally` has never run.
            self._cancelled = self._cancelled or "the run was cancelled"
            self._factory.finish_later(self)

    def cancel(self, reason: str = "the run was cancelled") -> None:
        """Cancel what the engine runs. Each open execution gets its last event, the stream ends as cancelled."""
        self._cancelled = self._cancelled or reason
        for task in list(self._tasks):
            task.cancel(reason)

    def _named(self, agent: str | type[BaseAgent]) -> tuple[str, type[BaseAgent]]:
        cls = self.agent_factory.agent_class(agent)
        return (agent if isinstance(agent, str) else cls.name), cls

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> EngineClosedError:
        if self.end_reason == "lifetime":
            reason = self._cancelled or "the run took longer than its engine may live"
            return RunExpiredError(f"{reason}; raise engine_timeout_seconds, or ask for less in one run")
        if self.end_reason == "rolled_back":
            return RunRolledBackError(f"{self._cancelled or 'the run was rolled back'}; begin another one")
        if self.end_reason == "lease_lost":
            reason = self._cancelled or "the run lost its place in a limit that all workers share"
            return LeaseLost(f"{reason}; begin another one", self.lease_lost or "engines")
        if self.end_reason == "cancelled":
            return RunCancelledError(f"{self._cancelled or 'the run was cancelled'}; begin another one")
        return EngineClosedError("the engine has ended; make one for the next request with create_for_user(context)")

    async def _execute(
        self, steps: Sequence[tuple[str, type[BaseAgent]]], request: Any, results: dict[str, Any]
    ) -> ExecutionResult:
        self._check_open()
        task = asyncio.current_task()
        if task is None or task in self._tasks:
            return await self._run_steps(steps, request, results)
        # What a step starts in a task of its own ends by the cancellation, as the step itself does.
        tells = self._tells_expiry and self._above() is self.context
        cancels = task.cancelling()
        self._tasks.add(task)
        if len(self._tasks) == 1:
            self._factory.set_busy(self, busy=True)
        started, waits = time.monotonic(), RunWaits()
        token = current_waits.set(waits)
        failed: BaseException | None = None
        try:
            is_traced = seams.tracing is not None and self._above() is self.context
            result = await (self._traced_steps if is_traced else self._run_steps)(steps, request, results)
            failed = result.error
        except asyncio.CancelledError as error:
            failed = error
            if tells and task in self._expired_tasks:
                self._expired_tasks.discard(task)
                # As asyncio.timeout does: who is cancelled from outside as well is told so.
                if task.uncancel() <= cancels:
                    raise self._closed_error() from error
            raise
        except Exception as error:
            failed = error
            raise
        finally:
            # A coroutine that nobody finishes is closed by the interpreter, outside of its context.
            with contextlib.suppress(ValueError):
                current_waits.reset(token)
            self._note_end(task, tells=tells)
            if self._factory.run_observers and self._above() is self.context:
                self._factory.tell_run_end(self, failed, time.monotonic() - started, waits.seconds)
            # Its traceback leads back to this frame.
            failed = None
        was_late = self._fence is not None and self._fence.is_up
        if tells and (was_late or self.end_reason in DISBELIEVED):
            # It ended after all, but too late, or what it came to is not to be believed.
            raise self._closed_error()
        return result

    async def _traced_steps(
        self, steps: Sequence[tuple[str, type[BaseAgent]]], request: Any, results: dict[str, Any]
    ) -> ExecutionResult:
        tracing = seams.tracing
        if tracing is None:
            return await self._run_steps(steps, request, results)
        span = tracing.run(self.context)
        try:
            result = await self._run_steps(steps, request, results)
        except BaseException as left:
            # The lifetime, and a rollback, end a run by a cancellation as well, and are errors.
            is_error = isinstance(left, asyncio.CancelledError) and (
                self.end_reason == "lifetime" or self.end_reason in DISBELIEVED
            )
            span.end(self._closed_error() if is_error else left)
            raise
        span.end(result.error)
        return result

    async def _run_steps(
        self, steps: Sequence[tuple[str, type[BaseAgent]]], request: Any, results: dict[str, Any]
    ) -> ExecutionResult:
        started = time.monotonic()
        result: Any = None
        name = ""
        # What older agents of one pipeline hand on to each other.
        carried: dict[str, Any] = {}
        try:
            for name, cls in steps:
                needed = {key: results[key] for key in cls.requires if key in results}
                result, error = await self._step(name, cls, cls._taken(request, carried), needed)
                if error is not None:
                    return self._result(started, name, results, error=error)
                results[name] = result
            return self._result(started, name, results, result=result)
        except Exception:
            self._broken = True
            raise

    def _note_end(self, task: asyncio.Task[Any], *, tells: bool) -> None:
        """Nothing of this engine runs in the task any more."""
        self._tasks.discard(task)
        if task in self._expired_tasks:
            # It ended in another way; the caller's own time limits must not count a cancellation that is over.
            self._expired_tasks.discard(task)
            if tells:
                task.uncancel()
        if not self._tasks:
            self._factory.set_busy(self, busy=False)
        for tasks, ended in self._watches:
            tasks.discard(task)
            if not tasks and not ended.done():
                ended.set_result(None)

    def _until_ended(self, tasks: set[asyncio.Task[Any]]) -> asyncio.Future[None]:
        """Return what is done when nothing of this engine runs in the tasks, whether they live on or not."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watch = (set(tasks), ended)
        self._watches.append(watch)
        ended.add_done_callback(lambda _: self._watches.remove(watch))
        return ended

    def _result(
        self,
        started: float,
        name: str,
        results: dict[str, Any],
        result: Any = None,
        error: BaseException | None = None,
    ) -> ExecutionResult:
        return ExecutionResult(
            success=error is None,
            result=result,
            error=error,
            run_id=self.context.run_id,
            execution_time=time.monotonic() - started,
            agent_name=name,
            results=MappingProxyType(dict(results)),
        )

    def _above(self) -> UserExecutionContext:
        """Return the context of the step in which this one is nested, or the request's."""
        step = current_step()
        if step is not None and (step.user_id, step.run_id) == (self.context.user_id, self.context.run_id):
            return step
        return self.context

    async def _step(
        self, name: str, cls: type[BaseAgent], request: Any, results: Mapping[str, Any]
    ) -> tuple[Any, BaseException | None]:
        """One execution: a permit, a child context, a run record, and a span with exactly one last event."""
        self._check_open()
        child = self._above().create_child_context(name)
        if self._fence is None:
            self._fence = self._factory.new_fence()
        self._fence.guard(child)
        self._steps.add(child)
        left = max(0.0, self._deadline - time.monotonic())
        admission = self._factory.admission_timeout
        timeout = left if self._admitted else min(ADMISSION_SECONDS if admission is None else admission, left)
        try:
            try:
                with waiting():
                    asked = self._factory.limiter.acquire(
                        child.user_id,
                        ctx=child,
                        timeout=timeout,
                        resources=cls.resources or None,
                        admitted=self._admitted,
                    )
                    tracing = seams.tracing
                    permit = await (asked if tracing is None else tracing.waited(asked, child, name))
            except (LimitRejected, LimitTimeout) as error:
                # The context may have been closed meanwhile, or fenced off.
                with contextlib.suppress(RuntimeError, ValueError):
                    self.context._record_refusal(name, error)  # noqa: SLF001 - what never began failed at nothing
                await self._publish_refusal(name, child, error)
                raise
            # Kept here as well, so that a close by force can return what an agent holds that ignores its cancellation.
            self._permits.add(permit)
            try:
                self._admitted = True
                run = self._run_agent if seams.tracing is None else self._traced_agent
                return await run(name, cls, child, request, results)
            finally:
                add_wait(permit.suspended_seconds)
                self._permits.discard(permit)
                if not permit.release() and self._fence.is_up:
                    self._factory.note_late_release()
        finally:
            self._steps.discard(child)
            await child.cleanup()

    async def _publish_refusal(
        self, name: str, child: UserExecutionContext, error: LimitRejected | LimitTimeout
    ) -> None:
        """Show that a step did not run: whoever only watches the stream would wait for it for ever."""
        self._executions += 1
        self._failures += 1
        with contextlib.suppress(RunClosed, BudgetExceeded):
            emitter = child.get_websocket_emitter()
            await emitter.notify_agent_started(agent_name=name)
            await emitter.notify_agent_error(
                agent_name=name,
                error="no capacity was free; try again",
                metadata={"retriable": True, "retry_after_ms": error.retry_after * 1000},
            )

    async def _traced_agent(
        self,
        name: str,
        cls: type[BaseAgent],
        child: UserExecutionContext,
        request: Any,
        results: Mapping[str, Any],
    ) -> tuple[Any, BaseException | None]:
        tracing = seams.tracing
        if tracing is None:
            return await self._run_agent(name, cls, child, request, results)
        span = tracing.agent(child, name)
        try:
            result, error = await self._run_agent(name, cls, child, request, results)
        except BaseException as left:
            span.end(left)
            raise
        span.end(error)
        return result, error

    async def _run_agent(
        self,
        name: str,
        cls: type[BaseAgent],
        child: UserExecutionContext,
        request: Any,
        results: Mapping[str, Any],
    ) -> tuple[Any, BaseException | None]:
        self._check_open()
        emitter = child.get_websocket_emitter()
        record = self.context.record_run_start(agent_type=name)
        self._executions += 1
        await emitter.notify_agent_started(agent_name=name)
        try:
            agent = self.agent_factory.create(cls, child)
            limit = asyncio.timeout(cls.timeout_seconds)
            try:
                async with limit:
                    result = await _call(
                        agent,
                        child,
                        request,
                        MappingProxyType(dict(results)),
                        drive=self._driver(name, cls.loop_seconds),
                    )
            except TimeoutError:
                if not limit.expired():
                    raise
                self._timeouts += 1
                raise TimeoutError(
                    f"agent {name!r} took longer than its {cls.timeout_seconds:g} s; raise its timeout_seconds"
                ) from None
        except asyncio.CancelledError:
            reason = self._cancelled = self._cancelled or "the run was cancelled"
            self._note_failure(record, asyncio.CancelledError(reason))
            emitter.close_open(reason)
            raise
        except Exception as error:  # noqa: BLE001 - whatever an agent raises is its result
            self._note_failure(record, error)
            await self._publish_end(emitter, name, error=error)
            return None, error
        if self.context.status.value not in {"cleaned", "completed", "failed", "partial_failure"}:
            # An agent that was left behind by force came to an end after all, and too late.
            with contextlib.suppress(RunFenced):
                self.context.record_run_success(record, result)
        await self._publish_end(emitter, name, result=result)
        return result, None

    def _driver(self, agent: str, loop_seconds: float | None = None) -> Callable[[Awaitable[Any]], Awaitable[Any]]:
        """Return what drives the coroutine of one execution and accounts for its steps."""
        if self._loop is None:
            self._loop = LoopAccount(self.context, loop_seconds=self._loop_seconds)
        return partial(self._loop.drive, agent=agent, loop_seconds=loop_seconds)

    def _note_failure(self, record: str, error: BaseException) -> None:
        self._failures += 1
        # The context may have been closed meanwhile, which counts the run as failed already.
        with contextlib.suppress(RuntimeError, ValueError):
            self.context.record_run_failure(record, error)

    async def _publish_end(
        self, emitter: UserWebSocketEmitter, name: str, *, result: Any = None, error: BaseException | None = None
    ) -> None:
        if self.end_reason in DISBELIEVED:
            # Whatever the agent came to: the run is not to be believed, and its last event says so.
            with contextlib.suppress(RunClosed):
                emitter.close_open(self._cancelled or self._closed_error().args[0])
            return
        await publish_end(emitter, name, result=result, error=error)

    # -- state -----------------------------------------------------------------------------------------------------

    def get_user_context(self) -> UserExecutionContext:
        """Return the context of the request."""
        return self.context

    @property
    def active_runs(self) -> Mapping[str, Any]:
        """Executions that have not ended, by id."""
        return self.context.active_runs

    def is_active(self) -> bool:
        """Whether the engine has not ended."""
        return not self._closed

    @property
    def seconds_left(self) -> float:
        """Seconds that the engine may still live."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def loop_account(self) -> dict[str, Any]:
        """What the agents of this engine have used of the event loop: see ``LoopAccount.figures``."""
        return (self._loop or LoopAccount(self.context)).figures()

    def get_user_execution_stats(self) -> dict[str, Any]:
        """Return counts of this engine, and the user's share of the permits."""
        return {
            "engine_id": self.engine_id,
            "user_id": self.context.user_id,
            "run_id": self.context.run_id,
            "is_active": self.is_active(),
            "status": self.context.status.value,
            "total_executions": self._executions,
            "failed_executions": self._failures,
            "timeout_executions": self._timeouts,
            "concurrent_executions": len(self.context.active_runs),
            "permits": self._factory.limiter.stats(self.context.user_id),
            "loop": self.loop_account,
            "seconds_left": self.seconds_left,
        }

    async def cleanup(self) -> None:
        """End the engine: its work is cancelled, its slot is freed, its stream ends. Calling it again does nothing."""
        await self._factory.cleanup_engine(self)

    async def _close(self, grace: float, reason: str) -> bool:
        """Stop what runs and end the stream. Returns whether everything stopped within ``grace`` seconds."""
        if self._closed:
            return True
        self._closed = True
        running = self._still_running()
        # Until it is known that they have: whoever waits here may be cancelled.
        stopped = not running
        try:
            if running:
                self._closing = asyncio.get_running_loop().create_future()
                ended = self._until_ended(running)
                if self.end_reason in {"lifetime", "cancelled", *DISBELIEVED}:
                    self._expired_tasks.update(running)
                self.cancel(reason)
                # For the executions, and not for the tasks: a caller may go on with something else.
                await asyncio.wait([ended], timeout=grace)
                stopped = ended.done()
                ended.cancel()
        finally:
            if not stopped:
                self._cut_off(reason)
            for permit in list(self._permits):
                permit.release()
            if not self._factory.shares_context(self):
                end_stream(self.context, self._outcome(), reason)
            if self._closing is not None and not self._closing.done():
                self._closing.set_result(None)
        return stopped

    async def _until_closed(self) -> None:
        """Wait for the end that somebody else has begun: it says how the stream ends."""
        if self._closing is not None and not self._closing.done():
            await asyncio.wait([self._closing])

    def _cut_off(self, reason: str) -> None:
        """From here on nothing takes effect that the agents do which are left behind."""
        fence = self._fence or self._factory.new_fence()
        if self._factory.shares_context(self):
            # The stream goes on without them, so the end of it does not close what they have open.
            for child in self._steps:
                with contextlib.suppress(RunClosed):
                    child.get_websocket_emitter().close_open(reason)
        else:
            fence.guard(self.context)
            # Also those that an agent took itself, in whatever task.
            self._factory.limiter._revoke(self.context)  # noqa: SLF001 - the limiter's other half
        fence.raise_()

    def _has(self, fence: int, is_slot: bool) -> bool:
        """Whether its slot, or a permit of one of its steps, has the number."""
        if is_slot:
            return self._slot_fence == fence
        return any(permit.fence == fence for permit in self._permits)

    def _held(self) -> int:
        """Count what an engine that was cleaned up must not hold."""
        return sum(permit.held for permit in self._permits) + sum(
            child.status is not ExecutionStatus.CLEANED for child in self._steps
        )

    def _still_running(self) -> set[asyncio.Task[Any]]:
        if not self._tasks:
            return set()
        try:
            current = asyncio.current_task()
        except RuntimeError:
            # The loop was thrown away, and its tasks with it: nothing runs any more.
            return set()
        return {task for task in self._tasks if task is not current and not task.done()}

    def _outcome(self) -> str | None:
        """Return how the stream ends, or ``None`` when that follows from its executions."""
        if self._cancelled:
            return "cancelled"
        if self._broken:
            return "partial" if self._executions > self._failures else "failed"
        return None

    def __repr__(self) -> str:
        state = "active" if self.is_active() else "ended"
        return f"<UserExecutionEngine {state}, {self._executions} executions, {len(self._tasks)} running>"


async def _call(
    agent: BaseAgent,
    context: UserExecutionContext,
    request: Any,
    results: Mapping[str, Any],
    *,
    drive: Callable[[Awaitable[Any]], Awaitable[Any]],
) -> Any:
    """Call the agent with the results if it takes them."""
    token = step_context.set(StepReference(context, getattr(agent, "name", None)))
    try:
        if takes_results(agent.execute_with_context):
            return await drive(agent.execute_with_context(context, request, results))
        return await drive(agent.execute_with_context(context, request))  # type: ignore[call-arg]
    finally:
        # A coroutine that nobody finishes is closed by the interpreter, outside of its context.
        with contextlib.suppress(ValueError):
            step_context.reset(token)
