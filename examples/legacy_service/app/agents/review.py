"""Looks the answer over, and adds where it comes from."""

from .base import LegacyAgent, ask_model
from .state import DeepAgentState


class ReviewAgent(LegacyAgent):
    """Finishes the answer."""

    name = "review"

    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> None:
        if stream_updates:
            await self.think(run_id, "Looking the answer over")
        checked = await ask_model(state.draft_result or "")
        state.report_result = f"{checked}\nSources: {len(state.metadata['sources'])}"
        state.messages.append({"role": "assistant", "content": state.report_result})
        state.step_count += 1
