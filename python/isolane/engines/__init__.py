"""Engines: one per request, with a slot, a lifetime and the steps of its agents."""

from isolane.engines.engine import UserExecutionEngine
from isolane.engines.errors import (
    EngineClosedError,
    EngineDrainingError,
    EngineLimitError,
    ExecutionEngineFactoryError,
    RunCancelledError,
    RunExpiredError,
)
from isolane.engines.factory import ExecutionEngineFactory

__all__ = [
    "EngineClosedError",
    "EngineDrainingError",
    "EngineLimitError",
    "ExecutionEngineFactory",
    "ExecutionEngineFactoryError",
    "RunCancelledError",
    "RunExpiredError",
    "UserExecutionEngine",
]
