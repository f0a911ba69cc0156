"""Engines: one per request, with a slot, a lifetime and the steps of its agents."""

from isolane.engines.engine import UserExecutionEngine
from isolane.engines.errors import (
    EngineClosedError,
    EngineDrainingError,
    EngineLimitError,
    ExecutionEngineFactoryError,
    LeaseLost,
    RunCancelledError,
    RunExpiredError,
    RunRolledBackError,
)
from isolane.engines.factory import ExecutionEngineFactory
from isolane.engines.waits import RunEnd, RunObserver, RunWaits, waiting

__all__ = [
    "EngineClosedError",
    "EngineDrainingError",
    "EngineLimitError",
    "ExecutionEngineFactory",
    "ExecutionEngineFactoryError",
    "LeaseLost",
    "RunCancelledError",
    "RunEnd",
    "RunExpiredError",
    "RunObserver",
    "RunRolledBackError",
    "RunWaits",
    "UserExecutionEngine",
    "waiting",
]
