"""Instances of agents: one for each execution."""

from __future__ import annotations

from types import MappingProxyType

from isolane._core import UserExecutionContext
from isolane.agents.base import BaseAgent
from isolane.agents.registry import AgentRegistry, Services, as_agent_class


class AgentInstanceFactory:
    """Makes an instance of an agent for one execution of one user, and keeps none.

    Args:
        registry: the classes of agents by name. Default: an empty one.
        services: what the constructors of older agents want, as in the registry, whose services they are added to.
            Modern agents have no parameters.
    """

    def __init__(
        self,
        registry: AgentRegistry | None = None,
        *,
        services: Services = MappingProxyType({}),
    ) -> None:
        self.registry = registry if registry is not None else AgentRegistry()
        self.services = MappingProxyType({**self.registry.services, **services})

    def agent_class(self, agent: str | type[BaseAgent]) -> type[BaseAgent]:
        """Return the class of an agent that is named or given. Raises ``UnknownAgentError`` or ``TypeError``."""
        if isinstance(agent, str):
            return self.registry.get(agent)
        cls = as_agent_class(agent)
        if cls is not None:
            return cls
        raise TypeError(
            f"an agent is named by its registered name or its class, got {type(agent).__name__}; "
            "an instance cannot be run: it might serve two users"
        )

    def create(self, agent: str | type[BaseAgent], context: UserExecutionContext) -> BaseAgent:
        """Make a fresh instance for the context."""
        if not isinstance(context, UserExecutionContext):
            raise TypeError(f"Expected UserExecutionContext, got: {type(context).__name__}")
        made = self.agent_class(agent)()
        if self.services and hasattr(type(made), "legacy_class"):
            made.services = self.services  # type: ignore[attr-defined]
        return made
