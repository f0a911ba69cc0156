"""``AgentMigrationTemplate``: what an older agent becomes first. It is made for a context, and runs with its lock."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from isolane._core import UserExecutionContext, UserWebSocketEmitter, _refusal
from isolane.agents.base import BaseAgent
from isolane.agents.execution import run_in_span
from isolane.agents.result import ExecutionResult
from isolane.migration.agents.errors import ContextRequiredError


class AgentMigrationTemplate(BaseAgent):
    """A base class for agents that are moved from singletons to a context. Write ``_execute_agent_logic(request)``.

    ``create_with_context(context)`` makes one, and ``execute_with_isolation(request)`` runs it: under a permit of the
    user, with a run record, ``agent_started``, and one last event. It is an agent like any other as well: registered in
    an ``AgentRegistry``, engines run it.

    What it works with are those of its context, fetched when they are first used:
    ``_user_context``, ``_tool_dispatcher``, ``_websocket_emitter``, ``_database_session``.

    Class attributes:
        lock_seconds: how long it waits for the permit. Default 30. The others are those of ``BaseAgent``.
    """

    lock_seconds: ClassVar[float] = 30.0

    _bound: UserExecutionContext | None = None
    _inner: UserExecutionContext | None = None
    """The context of the execution that goes on, when it is not the one that the agent was made for."""

    @classmethod
    def create_with_context(cls, context: UserExecutionContext, agent_config: Mapping[str, Any] | None = None) -> Self:
        """Make an agent for the context. ``agent_config`` goes to ``apply_config``. Raises ``TypeError``."""
        if not isinstance(context, UserExecutionContext):
            raise TypeError(
                f"Expected UserExecutionContext, got: {type(context).__name__}. Of a legacy state, "
                "LegacyExecutionAdapter(state).create_temporary_context() makes one"
            )
        agent = cls()
        agent._bound = context
        if agent_config:
            agent.apply_config(agent_config)
        return agent

    def apply_config(self, agent_config: Mapping[str, Any]) -> None:
        """Take settings of this instance: each is set as an attribute that the class declares.

        Raises ``ValueError`` for one that it does not declare: it would be for nothing.
        """
        for name, value in agent_config.items():
            if name.startswith("_") or not hasattr(type(self), name) or callable(getattr(type(self), name)):
                known = sorted(_settings(type(self)))
                raise ValueError(
                    f"{type(self).__name__} has no setting {name!r}; it has: {', '.join(known) or 'none'}. Declare it "
                    "as a class attribute with its default"
                )
            setattr(self, name, value)

    @property
    def _user_context(self) -> UserExecutionContext:
        context = self._inner or self._bound or self._user_execution_context
        if context is None:
            raise ContextRequiredError(
                f"{type(self).__name__} has no context: make it with create_with_context(context), or run it with an "
                "engine"
            )
        return context

    @property
    def _tool_dispatcher(self) -> Any:
        return self._user_context.get_tool_dispatcher()

    @property
    def _websocket_emitter(self) -> UserWebSocketEmitter:
        return self._user_context.get_websocket_emitter()

    @property
    def _database_session(self) -> Any:
        return self._user_context.get_database_session()

    async def execute_with_isolation(
        self, request: Any, execution_metadata: Mapping[str, Any] | None = None
    ) -> ExecutionResult:
        """Run the agent once, within ``timeout_seconds``.

        Args:
            request: what it is to do.
            execution_metadata: kept with the run record.

        Returns what it came to; what the agent raises is the ``error`` of the result. The ``run_id`` of the result is
        that of the run record, ``execution_time`` is in seconds. A cancellation ends record and span, and is raised.
        Raises ``LimitTimeout`` when no permit is to be had, ``RunClosed`` when the context has ended.
        """
        context = self._user_context
        async with context.acquire_execution_lock(self.lock_seconds):
            execution = await run_in_span(
                context,
                self.name,
                lambda inner: self._logic_in(inner, request),
                timeout_seconds=self.timeout_seconds,
                metadata=execution_metadata,
            )
        return ExecutionResult(
            success=execution.error is None,
            result=execution.result,
            error=execution.error,
            run_id=execution.record,
            execution_time=context.get_run_duration(execution.record) or 0.0,
            agent_name=self.name,
        )

    async def execute_with_context(
        self,
        context: UserExecutionContext,
        request: Any,
        results: Mapping[str, Any],  # noqa: ARG002 - a template that needs them overrides this
    ) -> Any:
        """Run the agent in a step of an engine, which has the permit, the record and the events."""
        return await self._logic_in(context, request)

    async def _logic_in(self, context: UserExecutionContext, request: Any) -> Any:
        before = self._inner
        for other in (before, self._bound):
            if other is not None and other.user_id != context.user_id:
                raise _refusal(
                    f"this {type(self).__name__} works for another user: an instance serves one execution. Make one "
                    "for each with create_with_context(context), or register the class",
                    "bind",
                )
        self._inner = context
        try:
            return await self._execute_agent_logic(request)
        finally:
            self._inner = before

    @abstractmethod
    async def _execute_agent_logic(self, request: Any) -> Any:
        """Do the work, and return the result."""


def _settings(cls: type) -> set[str]:
    return {
        name
        for above in cls.__mro__
        if above not in {object, BaseAgent, AgentMigrationTemplate}
        for name, value in vars(above).items()
        if not name.startswith("_") and not callable(value) and not isinstance(value, (classmethod, property))
    }
