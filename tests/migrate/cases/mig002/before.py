"""Agents that can be rewritten, and one that cannot."""

import logging

from app.agents.base import BaseAgent
from app.agents.state import DeepAgentState

log = logging.getLogger(__name__)


class Triage(BaseAgent):
    # The first one.
    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> str:
        """Sort."""
        log.info("run %s", run_id)  # for the log
        if stream_updates:
            await self.think(state.thread_id)
        answer = await self.ask(
            state.user_request,  # as it was typed
            user=state.user_id,
        )
        return self._shorten(state, answer)

    async def check_entry_conditions(self, state: DeepAgentState, run_id: str) -> bool:
        return bool(state.user_prompt) and run_id == state.run_id

    def _shorten(self, state: DeepAgentState, answer: str) -> str:
        return answer[:100] + state.chat_thread_id


class Report(BaseAgent):
    async def execute(
        self,
        state: DeepAgentState,
        run_id: str,
        stream_updates: bool = False,
    ) -> None:
        state.report = await self.ask(state.user_request)


def title(state: DeepAgentState, length: int = 10) -> str:
    return [state.user_id for _ in range(length)][0]
