"""Instances of agents, and the emitter of engines."""

from typing import Any


class UserWebSocketEmitter:
    def __init__(self, user_id: str, thread_id: str, run_id: str, websocket_bridge: Any) -> None:
        self.user_id, self.thread_id, self.run_id = user_id, thread_id, run_id
        self._bridge = websocket_bridge

    async def _notify(self, event_type: str, agent_name: str, **data: Any) -> bool:
        if not await self._bridge.notify(event_type, self.run_id, agent_name, **data):
            raise ConnectionError(f"{event_type} was not sent")
        return True

    async def notify_agent_started(self, agent_name: str, context: dict[str, Any] | None = None) -> bool:
        return await self._notify("agent_started", agent_name, context=context)

    async def notify_agent_thinking(
        self,
        agent_name: str,
        reasoning: str,
        step_number: int | None = None,
        progress_percentage: float | None = None,
    ) -> bool:
        step = {"step_number": step_number, "progress_percentage": progress_percentage}
        return await self._notify("agent_thinking", agent_name, reasoning=reasoning, **step)

    async def notify_agent_completed(
        self, agent_name: str, result: Any = None, execution_time_ms: float | None = None
    ) -> bool:
        return await self._notify("agent_completed", agent_name, result=result, execution_time_ms=execution_time_ms)

    async def notify_agent_error(
        self, agent_name: str, error: str, error_context: dict[str, Any] | None = None
    ) -> bool:
        return await self._notify("agent_error", agent_name, error=error, error_context=error_context)


class AgentInstanceFactory:
    def __init__(self, agent_registry: Any = None) -> None:
        self._registry = agent_registry

    def create_agent_instance(self, agent_name: str, user_context: Any) -> Any:
        del user_context
        cls = self._registry.get_agent_class(agent_name)
        if cls is None:
            raise LookupError(f"no agent {agent_name!r}")
        return cls()


_STATE = {"factory": AgentInstanceFactory()}


def configure_agent_instance_factory(agent_registry: Any = None) -> AgentInstanceFactory:
    _STATE["factory"] = AgentInstanceFactory(agent_registry)
    return _STATE["factory"]


def get_agent_instance_factory() -> AgentInstanceFactory:
    return _STATE["factory"]
