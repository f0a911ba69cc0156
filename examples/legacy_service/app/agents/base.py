"""What the agents have in common."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..tools.dispatcher import ToolDispatcher
from ..websocket.manager import get_websocket_manager
from .state import DeepAgentState


async def ask_model(prompt: str) -> str:
    """Answer as a language model would: after a while. It only puts the prompt into a sentence, so no key is needed."""
    await asyncio.sleep(0.03)
    return f"About this: {prompt}"


class LegacyAgent(ABC):
    """One agent. The service makes each of them once."""

    name: ClassVar[str] = ""
    transcript: ClassVar[list[str]] = []

    def __init__(self, tool_dispatcher: ToolDispatcher) -> None:
        self.tool_dispatcher = tool_dispatcher
        self.websocket_manager = get_websocket_manager()

    async def check_entry_conditions(self, state: DeepAgentState, run_id: str) -> bool:
        """Say whether there is something to do."""
        return bool(run_id and state.user_request)

    @abstractmethod
    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> None:
        """Do the work, and write the result into the state."""

    async def think(self, run_id: str, thought: str) -> None:
        """Show what the agent is about to do."""
        await self.send("agent_thinking", run_id, {"thought": thought})

    async def send(self, event_type: str, run_id: str, payload: dict[str, Any]) -> None:
        """Send one event."""
        message = {"type": event_type, "agent_name": self.name, "run_id": run_id, "payload": payload}
        await self.websocket_manager.broadcast_message(message)
