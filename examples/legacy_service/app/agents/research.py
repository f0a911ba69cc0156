"""Finds the user's notes that have to do with the question."""

from .base import LegacyAgent
from .state import DeepAgentState


class ResearchAgent(LegacyAgent):
    """Looks through the notes of the user."""

    name = "research"

    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> None:
        if stream_updates:
            await self.think(run_id, f"Looking for notes about: {state.user_request}")
        self.tool_dispatcher.current_user = state.user_id or "default_user"
        await self.send("tool_executing", run_id, {"tool_name": "search_notes"})
        found = await self.tool_dispatcher.execute_tool("search_notes", {"words": state.user_request})
        await self.send("tool_completed", run_id, {"tool_name": "search_notes", "result": found})
        state.research_result = found
        state.metadata["sources"].extend(found)
        state.step_count += 1
