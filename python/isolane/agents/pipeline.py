"""Pipelines: agents in an order that their dependencies allow."""

from __future__ import annotations

from collections.abc import Sequence

from isolane.agents.base import BaseAgent
from isolane.agents.instances import AgentInstanceFactory


class PipelineOrderError(ValueError):
    """An agent would run before one whose result it needs. Nothing was run."""


def check_pipeline(
    agents: Sequence[str | type[BaseAgent]], factory: AgentInstanceFactory
) -> list[tuple[str, type[BaseAgent]]]:
    """Return names and classes in order, or raise before anything runs.

    Raises ``PipelineOrderError``, ``UnknownAgentError``, or ``ValueError`` for an empty pipeline.
    """
    if not agents:
        raise ValueError("a pipeline needs at least one agent")
    steps: list[tuple[str, type[BaseAgent]]] = []
    done: set[str] = set()
    for agent in agents:
        cls = factory.agent_class(agent)
        name = agent if isinstance(agent, str) else cls.name
        missing = [needed for needed in cls.requires if needed not in done]
        if missing:
            order = ", ".join([*missing, name])
            raise PipelineOrderError(
                f"agent {name!r} needs the result of {', '.join(map(repr, missing))} first; "
                f"run them in the order: {order}"
            )
        steps.append((name, cls))
        done.add(name)
    return steps
