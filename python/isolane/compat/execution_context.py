"""The host's ``execution_context``: what one agent execution is asked, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from isolane._core import UnifiedIDManager, UserExecutionContext

__all__ = ["AgentExecutionContext", "AgentExecutionResult"]


@dataclass(slots=True)
class AgentExecutionContext:
    """One agent execution, as a caller asks for it.

    Attributes:
        run_id: the run.
        thread_id: the conversation.
        user_id: whose it is; an engine refuses that of another user.
        agent_name: which agent is to run.
        retry_count: how often it was tried before. Default 0.
        max_retries: how often the caller means to try. Nothing retries by itself. Default 3.
        timeout: seconds that the agent may take. Default: the engine's ``AGENT_EXECUTION_TIMEOUT``.
        metadata: the caller's.
        started_at: aware UTC datetime. Default: now.
        correlation_id: names the execution in logs. Default: generated.
    """

    run_id: str
    thread_id: str
    user_id: str
    agent_name: str
    retry_count: int = 0
    max_retries: int = 3
    timeout: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    correlation_id: str = field(default_factory=UnifiedIDManager.generate_request_id)


@dataclass(slots=True)
class AgentExecutionResult:
    """The outcome of one agent execution.

    Attributes:
        success: whether the agent returned.
        agent_name: which agent.
        user_context: the context of the request.
        error: what went wrong, as text.
        duration: seconds, waiting for a permit included.
        metadata: the caller's, as in the execution's context.
        metrics: figures that the agent reported.
        data: what the agent returned.
    """

    success: bool
    agent_name: str = ""
    user_context: UserExecutionContext | None = None
    error: str | None = None
    duration: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    data: Any = None
