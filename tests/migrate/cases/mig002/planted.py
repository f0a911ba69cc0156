"""Signatures with the legacy state."""

from __future__ import annotations

from typing import Optional, Union

from app.agents.state import DeepAgentState


class Agent:
    async def execute(self, state: DeepAgentState, run_id: str, stream_updates: bool) -> None:  # MIG002
        state.result = run_id

    async def check_entry_conditions(self, state, run_id):  # MIG002
        return bool(state.user_request)

    def summarize(self, current: "DeepAgentState") -> str:  # MIG002
        return current.user_id

    def later(self, *, state: Optional[DeepAgentState]) -> None:  # MIG002
        print(state)


@staticmethod
def helper(state: DeepAgentState | None, other: int) -> None:  # MIG002
    print(state, other)


def quoted(state: Union["DeepAgentState", None]) -> None:  # MIG002
    print(state)
