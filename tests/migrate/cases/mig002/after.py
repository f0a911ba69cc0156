"""Agents that can be rewritten, and one that cannot."""

import logging

from app.agents.base import BaseAgent
from app.agents.state import DeepAgentState
from isolane import UserExecutionContext

log = logging.getLogger(__name__)


class Triage(BaseAgent):
    # The first one.
    async def execute_with_context(self, context: UserExecutionContext, request: str) -> str:
        """Sort."""
        log.info("run %s", context.run_id)  # for the log
        if True:
            await self.think(context.thread_id)
        answer = await self.ask(
            request,  # as it was typed
            user=context.user_id,
        )
        return self._shorten(context, answer)

    async def check_entry_conditions(self, context: UserExecutionContext, request: str) -> bool:
        return bool(request) and context.run_id == context.run_id

    def _shorten(self, context: UserExecutionContext, answer: str) -> str:
        return answer[:100] + context.thread_id


class Report(BaseAgent):
    async def execute(
        self,
        state: DeepAgentState,
        run_id: str,
        stream_updates: bool = False,
    ) -> None:
        state.report = await self.ask(state.user_request)


def title(context: UserExecutionContext, length: int = 10) -> str:
    return [context.user_id for _ in range(length)][0]
