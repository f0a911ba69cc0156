"""The host's ``agents.supervisor.agent_instance_factory``: instances of agents, and the emitter that engines use.

The emitter publishes through a bridge of the host's, or into isolane's logs when it is given one of isolane's bridge
factories.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, cast

from isolane._core import ContextIsolationError, UserExecutionContext
from isolane.agents.instances import AgentInstanceFactory as ModernFactory
from isolane.agents.registry import AgentRegistry, Services, UnknownAgentError
from isolane.compat.protocols import AgentClassRegistry, AgentWebSocketBridge
from isolane.compat.redaction import safe_error, safe_input, safe_output
from isolane.compat.run_spans import RunSpans
from isolane.contexts.factory import UserContextFactory, validate_user_context
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.migration.agents.legacy import has_legacy_signature
from isolane.migration.agents.shim import LegacyAgentShim, is_legacy_agent

__all__ = [
    "AgentInstanceFactory",
    "UserWebSocketEmitter",
    "configure_agent_instance_factory",
    "get_agent_instance_factory",
]


class AgentInstanceFactory(ModernFactory):
    """Makes an instance of an agent for one execution of one user, and keeps none.

    Agents are isolane's, in its ``AgentRegistry``, or the host's: classes that have ``execute(context, state)`` and no
    arguments, or ``execute(state, run_id, stream_updates)``, in any registry with ``get_agent_class``. ``services`` are
    those of ``isolane.AgentInstanceFactory``.
    """

    def __init__(
        self,
        agent_registry: AgentRegistry | AgentClassRegistry | None = None,
        *,
        services: Services = MappingProxyType({}),
    ) -> None:
        super().__init__(agent_registry if isinstance(agent_registry, AgentRegistry) else None, services=services)
        self._host_registry = None if isinstance(agent_registry, AgentRegistry) else agent_registry

    def create_agent_instance(self, agent_name: str, user_context: UserExecutionContext) -> Any:
        """Make a fresh instance for the context.

        Raises ``UnknownAgentError``, and ``TypeError`` for what is no context or when the registry holds an instance.
        """
        if self._host_registry is None:
            return self.create(agent_name, user_context)
        validate_user_context(user_context)
        agent = self._host_registry.get_agent_class(agent_name)
        if agent is None:
            raise UnknownAgentError(f"no agent {agent_name!r} is registered; the registry has no class of that name")
        made: Any = agent
        if not isinstance(made, type):
            raise TypeError(
                f"the registry must hold the class of agent {agent_name!r}, not an instance, which users would share"
            )
        if not is_legacy_agent(made) or not has_legacy_signature(cast("Any", made).execute):
            return agent()
        shim = LegacyAgentShim.of(made)()
        shim.services = self.services
        return shim


class UserWebSocketEmitter:
    """Publishes the agent events of one run.

    The notifying methods return ``True`` when the bridge took the event. An event that it did not take raises
    ``ConnectionError``, an error of the bridge ``RuntimeError`` with the error as its cause; ``notify_agent_error``
    returns ``False`` in both cases, so that reporting a failure does not hide it. ``ContextIsolationError`` passes.

    Args:
        user_id: whose run it is.
        thread_id: the conversation.
        run_id: the run.
        websocket_bridge: a bridge of the host's, or a ``WebSocketBridgeFactory`` of isolane.

    Raises ``ValueError`` without a bridge and ``InvalidContextError`` for bad ids.
    """

    def __init__(
        self, user_id: str, thread_id: str, run_id: str, websocket_bridge: AgentWebSocketBridge | WebSocketBridgeFactory
    ) -> None:
        if websocket_bridge is None:
            raise ValueError(
                "websocket_bridge cannot be None: pass the bridge of the service, or isolane's WebSocketBridgeFactory()"
            )
        UserContextFactory.create_context(user_id, thread_id, run_id)
        self.user_id = user_id
        self.thread_id = thread_id
        self.run_id = run_id
        self.created_at = datetime.now(UTC)
        self._websocket_bridge = websocket_bridge
        self._sent = 0
        self._failed = 0
        self._last_event_time: datetime | None = None
        self._bridge: AgentWebSocketBridge = (
            _LogBridge(user_id, thread_id, run_id)
            if isinstance(websocket_bridge, WebSocketBridgeFactory)
            else websocket_bridge
        )

    async def notify_agent_started(self, agent_name: str, context: dict[str, Any] | None = None) -> bool:
        """An agent execution begins."""
        bridge = self._bridge
        return await self._send(
            "agent_started",
            lambda: bridge.notify_agent_started(run_id=self.run_id, agent_name=agent_name, context=context),
        )

    async def notify_agent_thinking(
        self,
        agent_name: str,
        reasoning: str,
        step_number: int | None = None,
        progress_percentage: float | None = None,
    ) -> bool:
        """What the agent is thinking."""
        bridge = self._bridge
        return await self._send(
            "agent_thinking",
            lambda: bridge.notify_agent_thinking(
                run_id=self.run_id,
                agent_name=agent_name,
                reasoning=reasoning,
                step_number=step_number,
                progress_percentage=progress_percentage,
            ),
        )

    async def notify_tool_executing(
        self, agent_name: str, tool_name: str, parameters: dict[str, Any] | None = None
    ) -> bool:
        """A tool call begins."""
        bridge = self._bridge
        return await self._send(
            "tool_executing",
            lambda: bridge.notify_tool_executing(
                run_id=self.run_id, agent_name=agent_name, tool_name=tool_name, parameters=parameters
            ),
        )

    async def notify_tool_completed(
        self, agent_name: str, tool_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        """A tool call ended."""
        bridge = self._bridge
        return await self._send(
            "tool_completed",
            lambda: bridge.notify_tool_completed(
                run_id=self.run_id,
                agent_name=agent_name,
                tool_name=tool_name,
                result=result,
                execution_time_ms=execution_time_ms,
            ),
        )

    async def notify_agent_completed(
        self, agent_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        """The agent execution ended well."""
        bridge = self._bridge
        return await self._send(
            "agent_completed",
            lambda: bridge.notify_agent_completed(
                run_id=self.run_id, agent_name=agent_name, result=result, execution_time_ms=execution_time_ms
            ),
        )

    async def notify_agent_error(
        self, agent_name: str, error: str, error_context: dict[str, Any] | None = None
    ) -> bool:
        """The agent execution failed."""
        bridge = self._bridge
        try:
            return await self._send(
                "agent_error",
                lambda: bridge.notify_agent_error(
                    run_id=self.run_id, agent_name=agent_name, error=error, error_context=error_context
                ),
            )
        except ContextIsolationError:
            raise
        except (ConnectionError, RuntimeError):
            return False

    async def _send(self, event_type: str, send: Callable[[], Awaitable[bool]]) -> bool:
        try:
            taken = await send()
        except ContextIsolationError:
            self._failed += 1
            raise
        except Exception as error:
            self._failed += 1
            raise RuntimeError(f"{event_type} could not be published: {type(error).__name__}: {error}") from error
        if not taken:
            self._failed += 1
            raise ConnectionError(f"{event_type} was not taken by the bridge: the user's socket may be gone")
        self._sent += 1
        self._last_event_time = datetime.now(UTC)
        return True

    def adopt_execution(self, agent_name: str, context: UserExecutionContext) -> bool:
        """Let the next execution of an agent be the span of ``context`` in isolane's log, as engines want it.

        Returns ``False`` when one of the same name is open in the log. With a bridge of the host's, which knows no
        spans, there is nothing to do.
        """
        if isinstance(self._bridge, _LogBridge):
            # The engine's stream is opened first: it is the engine's to end.
            context.get_websocket_emitter()
            return self._bridge.spans.adopt(agent_name, context)
        return True

    def get_emitter_status(self) -> dict[str, Any]:
        """Return whose it is and what it sent."""
        return {
            "user_id": self.user_id,
            "thread_id": self.thread_id,
            "run_id": self.run_id,
            "event_count": self._sent,
            "failed_count": self._failed,
            "last_event_time": self._last_event_time.isoformat() if self._last_event_time is not None else None,
            "created_at": self.created_at.isoformat(),
            "has_websocket_bridge": True,
        }

    async def cleanup(self) -> None:
        """Close what is open in isolane's logs. A bridge of the host's is left alone."""
        if isinstance(self._bridge, _LogBridge):
            await self._bridge.spans.close()

    def __repr__(self) -> str:
        return f"<UserWebSocketEmitter {self._sent} sent>"


class _LogBridge:
    """isolane's log of one run, as a bridge of the host's."""

    def __init__(self, user_id: str, thread_id: str, run_id: str) -> None:
        self._ids = (user_id, thread_id, run_id)
        self._spans: RunSpans | None = None

    @property
    def spans(self) -> RunSpans:
        """The executions, from the first event on."""
        if self._spans is None:
            self._spans = RunSpans(*self._ids)
        return self._spans

    async def notify_agent_started(self, *, run_id: str, agent_name: str, context: Any = None) -> bool:
        del run_id  # the spans are this run's
        await self.spans.started(agent_name, **({} if context is None else {"context": safe_input(context)}))
        return True

    async def notify_agent_thinking(
        self,
        *,
        run_id: str,
        agent_name: str,
        reasoning: str,
        step_number: int | None = None,
        progress_percentage: float | None = None,
    ) -> bool:
        metadata = {"step_number": step_number, "progress_percentage": progress_percentage}
        await self.spans.of(agent_name).notify_agent_thinking(
            agent_name=agent_name, run_id=run_id, thinking=reasoning, metadata=metadata
        )
        return True

    async def notify_tool_executing(
        self, *, run_id: str, agent_name: str, tool_name: str, parameters: Any = None
    ) -> bool:
        await self.spans.of(agent_name).notify_tool_executing(
            agent_name=agent_name, run_id=run_id, tool_name=tool_name, tool_input=safe_input(parameters)
        )
        return True

    async def notify_tool_completed(
        self,
        *,
        run_id: str,
        agent_name: str,
        tool_name: str,
        result: Any = None,
        execution_time_ms: float | None = None,
    ) -> bool:
        # The log measures the time itself.
        del execution_time_ms
        await self.spans.of(agent_name).notify_tool_completed(
            agent_name=agent_name, run_id=run_id, tool_name=tool_name, tool_output=safe_output(result)
        )
        return True

    async def notify_agent_completed(
        self, *, run_id: str, agent_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        del execution_time_ms
        await self.spans.of(agent_name).notify_agent_completed(
            agent_name=agent_name, run_id=run_id, result=safe_output(result)
        )
        self.spans.ended(agent_name)
        return True

    async def notify_agent_error(self, *, run_id: str, agent_name: str, error: str, error_context: Any = None) -> bool:
        metadata = {} if error_context is None else {"error_context": safe_input(error_context)}
        await self.spans.of(agent_name).notify_agent_error(
            agent_name=agent_name, run_id=run_id, error=safe_error(error), metadata=metadata
        )
        self.spans.ended(agent_name)
        return True


_factory: AgentInstanceFactory | None = None
_factory_lock = threading.Lock()


def configure_agent_instance_factory(
    agent_registry: AgentRegistry | AgentClassRegistry | None = None,
) -> AgentInstanceFactory:
    """Replace the factory of the process, for engines that are made from now on. Returns it."""
    global _factory  # noqa: PLW0603 - the host's own way
    with _factory_lock:
        _factory = AgentInstanceFactory(agent_registry)
        return _factory


def get_agent_instance_factory() -> AgentInstanceFactory:
    """Return the factory of the process, made on first use. It holds classes of agents and no user's data."""
    global _factory  # noqa: PLW0603 - the host's own way
    with _factory_lock:
        if _factory is None:
            _factory = AgentInstanceFactory()
        return _factory
