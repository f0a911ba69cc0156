"""Agents: the base class, the registry of classes, and pipelines of them."""

from isolane.agents.base import BaseAgent
from isolane.agents.instances import AgentInstanceFactory
from isolane.agents.pipeline import PipelineOrderError, check_pipeline
from isolane.agents.registry import AgentRegistry, UnknownAgentError
from isolane.agents.result import ExecutionResult

__all__ = [
    "AgentInstanceFactory",
    "AgentRegistry",
    "BaseAgent",
    "ExecutionResult",
    "PipelineOrderError",
    "UnknownAgentError",
    "check_pipeline",
]
