"""The getters of older singletons. What they return works at once and when it is awaited, and belongs to no user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

from isolane._core import UserExecutionContext, user_streams
from isolane.migration.deprecation import deprecated
from isolane.migration.legacy.errors import CrossUserSendError, LegacyContextError
from isolane.migration.legacy.face import LegacyManagers, returns_itself
from isolane.migration.legacy.identity import Bound, bound_here, bound_now
from isolane.migration.legacy.outcome import SendOutcome
from isolane.migration.legacy.process import current_application, process_hub


class LegacyManagerProxy(LegacyManagers):
    """The WebSocket manager of the process, as older code knows it. Truthy, and awaiting it gives itself.

    It has no sockets of one user: each call is for whom the code runs that makes it. Got where a user is bound, and
    used where none is, such as in a thread, it speaks for that user and no other.
    """

    def __init__(self, captured: str | None = None) -> None:
        super().__init__(process_hub, captured)

    def __await__(self) -> Generator[Any, None, LegacyManagerProxy]:
        return returns_itself(self)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same manager for the same user."""
        return isinstance(other, LegacyManagerProxy) and other._captured == self._captured

    def __hash__(self) -> int:
        return hash((LegacyManagerProxy, self._captured))

    def __repr__(self) -> str:
        return "<LegacyManagerProxy>"


class LegacyAgentBridge:
    """The bridge of the process, as older agents know it: the six events of an execution, by run and agent.

    Each answers whether the event is in a log. The user is the one for whom the code runs.
    """

    def __init__(self, captured: str | None = None) -> None:
        self._captured = captured

    def __await__(self) -> Generator[Any, None, LegacyAgentBridge]:
        return returns_itself(self)

    async def notify_agent_started(self, run_id: str, agent_name: str, context: Any = None) -> bool:
        """An agent execution begins."""
        return await self._send("agent_started", run_id, agent_name, {"context": context})

    async def notify_agent_thinking(
        self,
        run_id: str,
        agent_name: str,
        reasoning: str,
        step_number: int | None = None,
        progress_percentage: float | None = None,
    ) -> bool:
        """What the agent is thinking."""
        said = {"reasoning": reasoning, "step_number": step_number, "progress_percentage": progress_percentage}
        return await self._send("agent_thinking", run_id, agent_name, said)

    async def notify_tool_executing(self, run_id: str, agent_name: str, tool_name: str, parameters: Any = None) -> bool:
        """A tool call begins."""
        return await self._send(
            "tool_executing", run_id, agent_name, {"tool_name": tool_name, "parameters": parameters}
        )

    async def notify_tool_completed(
        self, run_id: str, agent_name: str, tool_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        """A tool call ended. The log measures the time itself."""
        del execution_time_ms
        return await self._send("tool_completed", run_id, agent_name, {"tool_name": tool_name, "result": result})

    async def notify_agent_completed(
        self, run_id: str, agent_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        """The agent execution ended well. The log measures the time itself."""
        del execution_time_ms
        return await self._send("agent_completed", run_id, agent_name, {"result": result})

    async def notify_agent_error(self, run_id: str, agent_name: str, error: Any, error_context: Any = None) -> bool:
        """The agent execution failed."""
        said = {"error_message": str(error), "error_context": error_context}
        return await self._send("agent_error", run_id, agent_name, said)

    async def _send(self, kind: str, run_id: str, agent_name: str, payload: dict[str, Any]) -> bool:
        hub = process_hub()
        bound = await bound_here()
        if bound is None and self._captured is not None and _is_run_of(self._captured, run_id):
            # Kept for this user, and used where nobody is bound: for runs of the user, and for no others.
            bound = Bound(self._captured)
        if bound is None:
            raise LegacyContextError(
                "an agent's event needs the user whose run it is, and none is bound here: publish it in an agent "
                "that an engine runs, in a request of a signed-in user, or in `with bind_context(context)`"
            )
        said = {key: value for key, value in payload.items() if value is not None}
        message = {"type": kind, "run_id": run_id, "agent_name": agent_name, "payload": said}
        read = hub.read(message, bound.user_id, bound, f"notify_{kind}")
        return hub.deliver(bound.user_id, read, bound, f"notify_{kind}") is not SendOutcome.DROPPED

    def __repr__(self) -> str:
        return "<LegacyAgentBridge>"


class LegacyEngineProxy:
    """The execution engine of the process, as older code knows it. Each execution gets an engine of its user's own."""

    def __await__(self) -> Generator[Any, None, LegacyEngineProxy]:
        return returns_itself(self)

    async def execute_agent(self, context: Any, state: Any = None) -> Any:
        """Run an agent: ``(context, state)`` with an ``agent_name`` on the context, or ``(agent, request)``.

        Raises ``LegacyContextError`` where no run context is bound, ``CrossUserSendError`` for a context of another
        user, and what the engine raises.
        """
        return await self._run(lambda engine: engine.execute_agent(context, state), context)

    async def execute_agent_pipeline(self, agents: Any, context: Any = None, input_data: Any = None) -> Any:
        """Run agents in order, as the engine does."""
        return await self._run(lambda engine: engine.execute_agent_pipeline(agents, context, input_data), context)

    @staticmethod
    async def _run(execute: Callable[[Any], Awaitable[Any]], named: Any) -> Any:
        context = await _context_for("get_execution_engine().execute_agent")
        whose = getattr(named, "user_id", context.user_id)
        if isinstance(whose, str) and whose.strip() != context.user_id:
            process_hub().refuse(
                CrossUserSendError(
                    "the execution context belongs to another user than the one for whom this code runs",
                    "bind",
                    call="execute_agent",
                ),
                Bound(context.user_id, context),
                "execute_agent",
            )
        application = current_application()
        if application is not None:
            factory = application.factory
        else:
            from isolane.compat.execution_engine_factory import get_execution_engine_factory  # noqa: PLC0415

            factory = await get_execution_engine_factory()
        async with factory.user_execution_scope(context) as engine:
            return await execute(engine)

    def __repr__(self) -> str:
        return "<LegacyEngineProxy>"


class LegacyToolDispatcherProxy:
    """The dispatcher of tools, as older code knows it: that of the bound run, found when it is used."""

    def __await__(self) -> Generator[Any, None, LegacyToolDispatcherProxy]:
        return returns_itself(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        bound = bound_now()
        if bound is None or bound.context is None:
            raise LegacyContextError(_no_context("get_tool_dispatcher"))
        return getattr(bound.context.get_tool_dispatcher(), name)

    def __repr__(self) -> str:
        return "<LegacyToolDispatcherProxy>"


@deprecated("ISO-D003", symbol="get_websocket_manager")
def get_websocket_manager(*_: Any, **__: Any) -> LegacyManagerProxy:
    """Return the WebSocket manager of the process; ``await`` gives the same."""
    return LegacyManagerProxy(_captured())


@deprecated("ISO-D003", symbol="get_legacy_websocket_manager")
def get_legacy_websocket_manager(*_: Any, **__: Any) -> LegacyManagerProxy:
    """As ``get_websocket_manager``."""
    return LegacyManagerProxy(_captured())


@deprecated("ISO-D003", symbol="get_websocket_bridge")
def get_websocket_bridge(*_: Any, **__: Any) -> LegacyAgentBridge:
    """Return the bridge of the process; ``await`` gives the same."""
    return LegacyAgentBridge(_captured())


@deprecated("ISO-D003", symbol="get_agent_websocket_bridge")
def get_agent_websocket_bridge(*_: Any, **__: Any) -> LegacyAgentBridge:
    """As ``get_websocket_bridge``."""
    return LegacyAgentBridge(_captured())


@deprecated("ISO-D003", symbol="get_execution_engine")
def get_execution_engine(*_: Any, **__: Any) -> LegacyEngineProxy:
    """Return what runs agents; ``await`` gives the same. Each execution has an engine, for the bound context."""
    return LegacyEngineProxy()


@deprecated("ISO-D003", symbol="get_tool_dispatcher")
def get_tool_dispatcher(*_: Any, **__: Any) -> LegacyToolDispatcherProxy:
    """Return the dispatcher of tools; ``await`` gives the same. It is that of the bound context."""
    return LegacyToolDispatcherProxy()


def _is_run_of(user_id: str, run_id: object) -> bool:
    return any(stream["run_id"] == run_id for stream in user_streams(user_id))


def _captured() -> str | None:
    bound = bound_now()
    return None if bound is None else bound.user_id


async def _context_for(call: str) -> UserExecutionContext:
    bound = await bound_here()
    if bound is None or bound.context is None:
        raise LegacyContextError(_no_context(call))
    return bound.context


def _no_context(call: str) -> str:
    return (
        f"{call} needs a run context, and none is bound here: call it in an agent that an engine runs, in a path "
        "operation that takes `ctx: Ctx`, or in `with bind_context(context)`"
    )
