"""The three agents of the pipeline; they are registered as classes and made anew for each execution."""

from isolane import AgentRegistry

from examples.optimizer.agents.data import DataAgent
from examples.optimizer.agents.optimization import OptimizationAgent
from examples.optimizer.agents.report import ReportAgent

PIPELINE = (DataAgent.name, OptimizationAgent.name, ReportAgent.name)


def build_registry() -> AgentRegistry:
    """A registry that knows the pipeline's agents."""
    registry = AgentRegistry()
    for agent in (DataAgent, OptimizationAgent, ReportAgent):
        registry.register(agent)
    return registry
