"""What isolane asks of the host's own objects. Any class with these members will do; none has to be derived from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from isolane._core import UserExecutionContext


class PooledSocket(Protocol):
    """A WebSocket of the host, such as Starlette's."""

    async def send_text(self, data: str) -> None:
        """Send a text frame."""

    async def close(self, code: int = 1000) -> None:
        """Close the socket."""


class PooledConnection(Protocol):
    """What the host's pool holds for one socket. An attribute ``user_id``, if there is one, is compared."""

    @property
    def websocket(self) -> PooledSocket:
        """The socket."""


@runtime_checkable
class ConnectionPool(Protocol):
    """The host's pool of accepted sockets."""

    async def get_connection(self, connection_id: str, user_id: str) -> PooledConnection | None:
        """Return the connection, or ``None`` when it is not there."""


@runtime_checkable
class AgentClassRegistry(Protocol):
    """The host's registry of agents: classes, of which a fresh instance is made for each execution."""

    def get_agent_class(self, agent_name: str) -> type | None:
        """Return the class, or ``None`` when there is none of that name."""


@runtime_checkable
class AgentWebSocketBridge(Protocol):
    """The host's bridge. Each method answers whether the event was sent."""

    async def notify_agent_started(self, *, run_id: str, agent_name: str, context: Any = None) -> bool:
        """An agent execution begins."""

    async def notify_agent_thinking(
        self,
        *,
        run_id: str,
        agent_name: str,
        reasoning: str,
        step_number: int | None = None,
        progress_percentage: float | None = None,
    ) -> bool:
        """What the agent is thinking."""

    async def notify_tool_executing(
        self, *, run_id: str, agent_name: str, tool_name: str, parameters: Any = None
    ) -> bool:
        """A tool call begins."""

    async def notify_tool_completed(
        self,
        *,
        run_id: str,
        agent_name: str,
        tool_name: str,
        result: Any = None,
        execution_time_ms: float | None = None,
    ) -> bool:
        """A tool call ended."""

    async def notify_agent_completed(
        self, *, run_id: str, agent_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        """The agent execution ended well."""

    async def notify_agent_error(self, *, run_id: str, agent_name: str, error: str, error_context: Any = None) -> bool:
        """The agent execution failed."""


@runtime_checkable
class AgentFactory(Protocol):
    """The host's maker of agents. The agent has ``execute_with_context`` or ``execute``; both may be sync or async."""

    def create_agent_instance(self, agent_name: str, user_context: UserExecutionContext) -> Any:
        """Return an instance for one execution in the context, or an awaitable of it."""
