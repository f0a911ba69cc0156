"""Signatures that only look like them."""

from deepagents import DeepAgentState as Foreign
from langgraph.graph import StateGraph


class Agent:
    async def execute(self, state: Foreign, run_id: str, stream_updates: bool) -> None:
        """LangChain's."""

    async def execute_step(self, state, run_id):
        """Another method."""

    def check_entry_conditions(self, request, run_id):
        """Not a state."""

    def execute_core_logic(self, state: dict, run_id: str):
        """Annotated as something else."""


def collect(states: "list[Foreign]", graph: StateGraph) -> None:
    """A list of theirs."""
