"""The host's ``user_execution_engine``: an engine that tells a host's emitter what its agents do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

from isolane._core import (
    ContextIsolationError,
    FairLimiter,
    Fence,
    InvalidContextError,
    LimitRejected,
    UserExecutionContext,
    UserWebSocketEmitter,
    default_limiter,
)
from isolane.agents.base import BaseAgent
from isolane.agents.instances import AgentInstanceFactory
from isolane.compat.agent_instance_factory import UserWebSocketEmitter as _HostEmitter
from isolane.compat.execution_context import AgentExecutionContext, AgentExecutionResult
from isolane.compat.protocols import AgentFactory
from isolane.contexts.factory import validate_user_context
from isolane.engines import ExecutionEngineFactory as _Factory
from isolane.engines import UserExecutionEngine as _Engine
from isolane.engines.engine import _call
from isolane.limits import LimitTimeout
from isolane.migration.agents.legacy import has_legacy_signature, run_legacy

__all__ = ["AgentExecutionContext", "AgentExecutionResult", "UserExecutionEngine"]

logger = logging.getLogger("isolane.compat")

MAX_CONCURRENT = 3
MAX_HISTORY = 100
GRACE_SECONDS = 5.0
UNDELIVERED = (ConnectionError, RuntimeError, ValueError)
"""What an emitter raises for an event that it could not send."""


def _append(history: list[Any], value: Any) -> None:
    history.append(value)
    del history[:-MAX_HISTORY]


class _NoFactory:
    """Stands in for the factory of an engine that was constructed directly: no slot, and no lifetime of its own."""

    admission_timeout: float | None = None
    run_observers: tuple[Any, ...] = ()
    """Nobody is told how its runs end."""

    @property
    def limiter(self) -> FairLimiter:
        return default_limiter()

    def shares_context(self, _engine: _Engine) -> bool:
        return False

    def set_busy(self, _engine: _Engine, *, busy: bool) -> None:
        """Nobody asks how long it has been idle."""

    def new_fence(self) -> Fence:
        return Fence()

    def note_late_release(self) -> None:
        """Nobody counts it."""

    async def cleanup_engine(self, engine: _Engine) -> None:
        await engine._close(GRACE_SECONDS, "the run ended")  # noqa: SLF001 - the engine's other half


class _OutOfTimeError(TimeoutError):
    """The agent took longer than it may, as opposed to a time limit of its own."""


class _HostAgent:
    """An agent of the host, which has ``execute``, under the name that isolane's agents have."""

    def __init__(self, execute: Callable[[UserExecutionContext, Any], Any]) -> None:
        self._execute = execute

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        result = self._execute(context, request)
        return await result if inspect.isawaitable(result) else result


class _SpanEmitter:
    """Publishes an execution into its own span of isolane's log, by the host's arguments."""

    def __init__(self, emitter: UserWebSocketEmitter) -> None:
        self._emitter = emitter

    async def notify_agent_started(self, agent_name: str) -> None:
        await self._emitter.notify_agent_started(agent_name=agent_name)

    async def notify_agent_thinking(self, agent_name: str, reasoning: str) -> None:
        await self._emitter.notify_agent_thinking(agent_name=agent_name, thinking=reasoning)

    async def notify_agent_completed(self, agent_name: str, result: Any, _execution_time_ms: float) -> None:
        await self._emitter.notify_agent_completed(agent_name=agent_name, result=result)

    async def notify_agent_error(self, agent_name: str, error: str) -> None:
        await self._emitter.notify_agent_error(agent_name=agent_name, error=error)


class _AnyAgent(BaseAgent):
    """Stands for an agent that the host knows by its name only: it needs no results of others."""

    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        """Never called: the agent's factory makes the instance."""
        raise NotImplementedError


class UserExecutionEngine(_Engine):
    """Runs agents for one user's request, and tells the emitter.

    Made by ``ExecutionEngineFactory``, which gives it a slot and a lifetime, or constructed directly: then it has
    neither, and lasts until ``cleanup()``. Agents run under permits of the user and the process either way.

    Args:
        context: the context of the request.
        agent_factory: has ``create_agent_instance(agent_name, context)``, sync or async, or is isolane's factory.
        websocket_emitter: has the host's ``notify_*`` methods, or is isolane's.

    Raises ``TypeError`` for what is not a context, ``ValueError`` without a factory or an emitter, and
    ``ContextIsolationError`` for an emitter of another user.

    Attributes:
        execution_stats: counts, and the latest 100 waiting and running times in seconds.
        max_concurrent: executions of this engine at the same time.
        run_history: the latest 100 results, oldest first.
    """

    AGENT_EXECUTION_TIMEOUT = 30.0
    _tells_expiry = False

    def __init__(
        self, context: UserExecutionContext, agent_factory: AgentFactory | AgentInstanceFactory, websocket_emitter: Any
    ) -> None:
        validate_user_context(context)
        given: object = agent_factory
        if given is None:
            raise ValueError("AgentInstanceFactory cannot be None; pass get_agent_instance_factory()")
        if websocket_emitter is None:
            raise ValueError(
                "UserWebSocketEmitter cannot be None; make one for the user, thread and run of the context"
            )
        owner = getattr(websocket_emitter, "user_id", None)
        # The host's emitters need not say whose they are; one that does is compared.
        checked = SimpleNamespace(user_id=owner if isinstance(owner, str) else context.user_id)
        super().__init__(
            context,
            cast("AgentInstanceFactory", agent_factory),
            cast("Any", checked),
            _factory=cast("_Factory", _NoFactory()),
            _lifetime=math.inf,
        )
        self.websocket_emitter = websocket_emitter
        self.max_concurrent = MAX_CONCURRENT
        self.semaphore = asyncio.Semaphore(self.max_concurrent)
        self.run_history: list[AgentExecutionResult] = []
        self.execution_stats: dict[str, Any] = {
            "total_executions": 0,
            "concurrent_executions": 0,
            "queue_wait_times": [],
            "execution_times": [],
            "failed_executions": 0,
            "timeout_executions": 0,
            "dead_executions": 0,
        }
        self.database_session_manager: Any = None
        self.redis_manager: Any = None

    def _adopted(self, factory: _Factory, lifetime: float) -> None:
        """Belong to a factory from now on, for ``lifetime`` seconds."""
        self._factory = factory
        self._deadline = time.monotonic() + lifetime

    # -- running ---------------------------------------------------------------------------------------------------

    async def execute_agent(  # type: ignore[override]
        self, context: AgentExecutionContext, state: Any = None
    ) -> AgentExecutionResult:
        """Run one agent. ``state`` is handed to it as its request.

        Returns a result with ``success=False`` when the agent took longer than it may. Raises ``TypeError`` for what
        is no execution, ``ValueError`` for one of another user or without a real run id, ``RuntimeError`` when the
        agent raised or could not be made, ``LimitTimeout`` or ``LimitRejected`` when no permit is to be had,
        ``EngineClosedError`` after the end.
        """
        self._check_open()
        self._check_execution(context, state)
        began = time.monotonic()
        # A step inside a step runs on its outer one's turn: it must not wait for itself.
        nested = self._above() is not self.context
        async with contextlib.nullcontext() if nested else self.semaphore:
            outcome = await self._execute([(context.agent_name, _AnyAgent)], (context, state, began), {})
        if isinstance(outcome.result, AgentExecutionResult):
            result = outcome.result
        else:
            result = AgentExecutionResult(
                outcome.success,
                context.agent_name,
                self.context,
                None if outcome.error is None else str(outcome.error) or type(outcome.error).__name__,
                metadata=dict(context.metadata),
                data=outcome.result,
            )
        result.duration = time.monotonic() - began
        _append(self.run_history, result)
        if outcome.error is not None and not isinstance(outcome.error, _OutOfTimeError):
            raise RuntimeError(f"Agent execution failed: {outcome.error}") from outcome.error
        return result

    async def execute_agent_pipeline(  # type: ignore[override]
        self, agent_name: str, execution_context: UserExecutionContext, input_data: Any = None
    ) -> AgentExecutionResult:
        """Run one agent for the request of a context. What goes wrong is in the result: nothing but a cancel raises."""
        began = time.monotonic()
        try:
            return await self.execute_agent(
                AgentExecutionContext(
                    execution_context.run_id, execution_context.thread_id, execution_context.user_id, agent_name
                ),
                input_data,
            )
        except Exception as error:  # noqa: BLE001 - the host's callers look at the result
            return AgentExecutionResult(
                success=False,
                agent_name=agent_name,
                user_context=self.context,
                error=str(error) or type(error).__name__,
                duration=time.monotonic() - began,
            )

    def _check_execution(self, context: AgentExecutionContext, state: Any) -> None:
        if not hasattr(context, "agent_name"):
            raise TypeError(
                f"execute_agent takes an AgentExecutionContext, got {type(context).__name__}; "
                "to run an agent by its name, use execute_agent_pipeline(agent_name, context, input_data)"
            )
        # A state of the host, and a context in its place, say whose they are.
        owner = getattr(state, "user_id", None)
        if context.user_id != self.context.user_id or (isinstance(owner, str) and owner != self.context.user_id):
            raise InvalidContextError(
                "the execution or its state belongs to another user than the engine. Make an engine for its user",
                "user_id",
            )
        run_id: object = context.run_id
        if not isinstance(run_id, str) or run_id.strip().lower() in {"", "registry"}:
            raise InvalidContextError(
                f"run_id must be that of a real run, got: {str(run_id)[:40]!r}. Pass context.run_id", "run_id"
            )
        if run_id != self.context.run_id:
            logger.warning("an execution of run %.40s runs in the engine of run %.40s", run_id, self.context.run_id)

    async def _run_agent(
        self,
        name: str,
        cls: type[BaseAgent],  # noqa: ARG002 - the host names agents
        child: UserExecutionContext,
        request: Any,
        results: Mapping[str, Any],
    ) -> tuple[Any, BaseException | None]:
        self._check_open()
        execution, state, asked_at = request
        stats = self.execution_stats
        _append(stats["queue_wait_times"], time.monotonic() - asked_at)
        emitter = self._emitter_of(name, child)
        record = self.context.record_run_start(agent_type=name)
        self._executions += 1
        stats["total_executions"] += 1
        stats["concurrent_executions"] += 1
        began = time.monotonic()
        try:
            await self._tell(emitter.notify_agent_started, name)
            await self._tell(emitter.notify_agent_thinking, name, f"{name} is working on the request")
            result = await self._within_its_time(name, child, execution, state, results)
        except asyncio.CancelledError:
            reason = self._cancelled = self._cancelled or "the run was cancelled"
            stats["dead_executions"] += 1
            self._note_failure(record, asyncio.CancelledError(reason))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._tell_end(emitter.notify_agent_error, name, reason)
            raise
        except Exception as error:  # noqa: BLE001 - whatever an agent raises is its result
            stats["failed_executions"] += 1
            if isinstance(error, _OutOfTimeError):
                self._timeouts += 1
                stats["timeout_executions"] += 1
            self._note_failure(record, error)
            await self._tell_end(emitter.notify_agent_error, name, str(error) or type(error).__name__)
            return None, error
        finally:
            stats["concurrent_executions"] -= 1
            _append(stats["execution_times"], time.monotonic() - began)
        if isinstance(result, AgentExecutionResult) and not result.success:
            failure = result.error or "the agent reported a failure"
            stats["failed_executions"] += 1
            self._note_failure(record, RuntimeError(failure))
            await self._tell_end(emitter.notify_agent_error, name, failure)
            return result, None
        with contextlib.suppress(RuntimeError, ValueError):
            # The context may have been closed meanwhile, which ends its runs.
            self.context.record_run_success(record, result)
        data = result.data if isinstance(result, AgentExecutionResult) else result
        await self._tell_end(emitter.notify_agent_completed, name, data, (time.monotonic() - began) * 1000)
        return result, None

    async def _within_its_time(
        self,
        name: str,
        child: UserExecutionContext,
        execution: AgentExecutionContext,
        state: Any,
        results: Mapping[str, Any],
    ) -> Any:
        agent = await self._make(name, child)
        seconds = execution.timeout
        if seconds is None and isinstance(agent, BaseAgent) and agent.timeout_seconds != BaseAgent.timeout_seconds:
            seconds = agent.timeout_seconds
        seconds = self.AGENT_EXECUTION_TIMEOUT if seconds is None else seconds
        if not hasattr(agent, "execute_with_context"):
            legacy = has_legacy_signature(agent.execute)
            agent = _HostAgent(partial(run_legacy, agent, results=results, name=name) if legacy else agent.execute)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await _call(agent, child, state, MappingProxyType(dict(results)), drive=self._driver(name))
        except TimeoutError:
            if not limit.expired():
                raise
            raise _OutOfTimeError(
                f"agent {name!r} took longer than its {seconds:g} s; give it a longer timeout"
            ) from None

    async def _make(self, name: str, child: UserExecutionContext) -> Any:
        create = getattr(self.agent_factory, "create_agent_instance", None)
        if create is None:
            return self.agent_factory.create(name, child)
        agent = create(name, child)
        return await agent if inspect.isawaitable(agent) else agent

    # -- telling ---------------------------------------------------------------------------------------------------

    def _emitter_of(self, name: str, child: UserExecutionContext) -> Any:
        """Return what publishes one execution. In isolane's log that is one span, whoever publishes into it."""
        emitter: object = self.websocket_emitter
        if isinstance(emitter, UserWebSocketEmitter):
            return _SpanEmitter(child.get_websocket_emitter())
        adopt = getattr(self.websocket_emitter, "adopt_execution", None)
        if isinstance(self.websocket_emitter, _HostEmitter) and adopt is not None and not adopt(name, child):
            return _SpanEmitter(child.get_websocket_emitter())
        return self.websocket_emitter

    async def _tell(self, notify: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Publish an event. One that found no connection is no failure of the run: it is logged."""
        try:
            await notify(*arguments)
        except ConnectionError as error:
            logger.warning("an event was not delivered: %s", error)

    async def _tell_end(self, notify: Callable[..., Awaitable[Any]], name: str, what: Any, *arguments: Any) -> None:
        """Publish the last event of an execution; when ``what`` cannot be sent, say so in its place."""
        try:
            await self._tell(notify, name, what, *arguments)
        except ContextIsolationError:
            raise
        except UNDELIVERED as error:
            # Only a completion has its time behind what it came to.
            bare = {"result_omitted": str(error)} if arguments else type(error).__name__
            try:
                await self._tell(notify, name, bare, *arguments)
            except UNDELIVERED as again:
                logger.warning("the last event of an execution was not delivered: %s", again)

    async def _publish_refusal(
        self,
        name: str,
        child: UserExecutionContext,
        error: LimitRejected | LimitTimeout,  # noqa: ARG002 - its text names the user's limits
    ) -> None:
        self._executions += 1
        self._failures += 1
        self.execution_stats["failed_executions"] += 1
        emitter = self._emitter_of(name, child)
        await self._tell(emitter.notify_agent_started, name)
        await self._tell_end(emitter.notify_agent_error, name, "no capacity was free; try again")

    # -- state -----------------------------------------------------------------------------------------------------

    def get_user_execution_stats(self) -> dict[str, Any]:
        """Return the counts of ``execution_stats`` with averages, beside those of isolane's engine."""
        waits, times = self.execution_stats["queue_wait_times"], self.execution_stats["execution_times"]
        return {
            **super().get_user_execution_stats(),
            **self.execution_stats,
            "queue_wait_times": [*waits],
            "execution_times": [*times],
            "avg_queue_wait_time": sum(waits) / len(waits) if waits else 0.0,
            "avg_execution_time": sum(times) / len(times) if times else 0.0,
            "max_concurrent": self.max_concurrent,
        }

    async def _close(self, grace: float, reason: str) -> bool:
        if self._closed:
            return True
        try:
            return await super()._close(grace, reason)
        finally:
            cleanup = getattr(self.websocket_emitter, "cleanup", None)
            result = cleanup() if cleanup is not None else None
            if inspect.isawaitable(result):
                async with asyncio.timeout(GRACE_SECONDS):
                    await result
