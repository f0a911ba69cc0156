"""Runs the agents."""

from typing import Any

from .agents import DraftAgent, ResearchAgent, ReviewAgent
from .agents.base import LegacyAgent
from .agents.state import DeepAgentState
from .tools.dispatcher import get_tool_dispatcher
from .websocket.manager import get_websocket_manager


class ExecutionEngine:
    """The one engine of the process: one state, one of each agent."""

    def __init__(self) -> None:
        tools = get_tool_dispatcher()
        self.state = DeepAgentState()
        self.agents: list[LegacyAgent] = [ResearchAgent(tools), DraftAgent(tools), ReviewAgent(tools)]

    async def run(self, user_id: str | None, thread_id: str, run_id: str, question: str) -> str:
        """Answer a question."""
        state = self.state
        state.user_id = user_id or "default_user"
        state.chat_thread_id = thread_id
        state.run_id = run_id
        state.user_request = question
        for agent in self.agents:
            await self.tell("agent_started", agent, {})
            try:
                if await agent.check_entry_conditions(state, run_id):
                    await agent.execute(state, state.run_id, True)
            except Exception as error:
                manager = await get_websocket_manager()  # type: ignore[misc]
                await manager.broadcast_message({"type": "agent_error", "run_id": run_id, "error": str(error)})
                raise
            await self.tell("agent_completed", agent, {"result": state.report_result, "request": state.user_request})
        return state.report_result or ""

    async def tell(self, event_type: str, agent: LegacyAgent, payload: dict[str, Any]) -> None:
        """Send an event of an agent."""
        message = {"type": event_type, "agent_name": agent.name, "run_id": self.state.run_id, "payload": payload}
        await get_websocket_manager().broadcast_message(message)


_engine: ExecutionEngine | None = None


def get_execution_engine() -> ExecutionEngine:
    """Return the one engine."""
    global _engine  # noqa: PLW0603
    if _engine is None:
        _engine = ExecutionEngine()
    return _engine
