"""What an execution came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The outcome of one agent or one pipeline.

    Attributes:
        success: whether every agent returned.
        result: what the last agent returned.
        error: what an agent raised, if one did.
        run_id: the run.
        execution_time: seconds, by the monotonic clock.
        agent_name: the last agent that ran.
        results: what each agent returned, by name.
    """

    success: bool
    result: Any = None
    error: BaseException | None = None
    run_id: str = ""
    execution_time: float = 0.0
    agent_name: str = ""
    results: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
