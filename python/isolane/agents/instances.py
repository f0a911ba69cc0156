"""Instances of agents: one for each execution."""

from __future__ import annotations

from isolane._core import UserExecutionContext
from isolane.agents.base import BaseAgent
from isolane.agents.registry import AgentRegistry


class AgentInstanceFactory:
    """Makes an instance of an agent for one execution of one user, and keeps none."""

    def __init__(self, registry: AgentRegistry | None = None) -> None:
        self.registry = registry if registry is not None else AgentRegistry()

    def agent_class(self, agent: str | type[BaseAgent]) -> type[BaseAgent]:
        """Return the class of an agent that is named or given. Raises ``UnknownAgentError`` or ``TypeError``."""
        if isinstance(agent, str):
            return self.registry.get(agent)
        if isinstance(agent, type) and issubclass(agent, BaseAgent):
            return agent
        raise TypeError(
            f"an agent is named by its registered name or its class, got {type(agent).__name__}; "
            "an instance cannot be run: it might serve two users"
        )

    def create(self, agent: str | type[BaseAgent], context: UserExecutionContext) -> BaseAgent:
        """Make a fresh instance for the context."""
        if not isinstance(context, UserExecutionContext):
            raise TypeError(f"Expected UserExecutionContext, got: {type(context).__name__}")
        return self.agent_class(agent)()
