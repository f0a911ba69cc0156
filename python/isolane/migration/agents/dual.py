"""``BaseAgent.execute``: an agent that was made by hand, on its context or on one made of its legacy state."""

from __future__ import annotations

from functools import partial
from typing import Any

from isolane._core import UserExecutionContext
from isolane.agents.base import BaseAgent
from isolane.agents.execution import run_in_span, takes_results
from isolane.migration.agents.errors import ContextRequiredError, FrozenLegacyState


async def execute(agent: BaseAgent, request: Any = None) -> Any:
    """Run an agent with what its constructor was given. See ``BaseAgent.execute``."""
    context, adapter = agent._user_execution_context, agent._legacy_state  # noqa: SLF001 - its other half
    if context is not None:
        return await _run(agent, context, request)
    if adapter is None:
        raise ContextRequiredError(
            f"{type(agent).__name__} must be initialized with an execution context: pass user_execution_context=, and "
            "call super().__init__(**kwargs); or run the class with an engine, which gives it a context"
        )
    temporary = adapter.create_temporary_context()
    try:
        result = await _run(agent, temporary, request)
    except BaseException:
        await temporary.cleanup()
        raise
    for error in await temporary.cleanup():
        # A state that could only be compared: its writer is told no earlier.
        if isinstance(error, FrozenLegacyState):
            raise error
    return result


async def _run(agent: BaseAgent, context: UserExecutionContext, request: Any) -> Any:
    async with context.acquire_execution_lock():
        execution = await run_in_span(
            context, agent.name, partial(_call, agent, request), timeout_seconds=agent.timeout_seconds
        )
    if execution.error is not None:
        raise execution.error
    return execution.result


async def _call(agent: BaseAgent, request: Any, context: UserExecutionContext) -> Any:
    if takes_results(agent.execute_with_context):
        return await agent.execute_with_context(context, request, {})
    return await agent.execute_with_context(context, request)  # type: ignore[call-arg]
