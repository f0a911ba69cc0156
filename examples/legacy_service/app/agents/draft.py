"""Writes a first answer."""

from .base import LegacyAgent, ask_model
from .state import DeepAgentState


class DraftAgent(LegacyAgent):
    """Asks the model, with what was found."""

    name = "draft"

    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> None:
        if stream_updates:
            await self.think(run_id, "Writing a first answer")
        prompt = f"{state.user_request} ({'; '.join(state.research_result or [])})"
        state.draft_result = await ask_model(prompt)
        self.transcript.append(state.draft_result)
        state.step_count += 1
