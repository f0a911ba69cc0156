"""Tools: what agents may call, checked and shown, one dispatcher for each request."""

from __future__ import annotations

from isolane.tools.dispatcher import UnifiedToolDispatcher
from isolane.tools.errors import (
    ParameterProblem,
    ToolDispatcherClosedError,
    ToolDispatchError,
    ToolExecutionError,
    ToolLimitError,
    ToolNotFoundError,
    ToolParameterError,
    ToolRegistrationError,
    ToolSanitizeError,
    ToolTimeoutError,
)
from isolane.tools.factory import UnifiedToolDispatcherFactory
from isolane.tools.registry import ToolRegistry
from isolane.tools.request import DispatchStrategy, ToolDispatchRequest, ToolDispatchResponse
from isolane.tools.threads import ToolThreads
from isolane.tools.tool import Tool

UserToolDispatcher = UnifiedToolDispatcher
"""The name of the first design document for the same class."""

__all__ = [
    "DispatchStrategy",
    "ParameterProblem",
    "Tool",
    "ToolDispatchError",
    "ToolDispatchRequest",
    "ToolDispatchResponse",
    "ToolDispatcherClosedError",
    "ToolExecutionError",
    "ToolLimitError",
    "ToolNotFoundError",
    "ToolParameterError",
    "ToolRegistrationError",
    "ToolRegistry",
    "ToolSanitizeError",
    "ToolThreads",
    "ToolTimeoutError",
    "UnifiedToolDispatcher",
    "UnifiedToolDispatcherFactory",
    "UserToolDispatcher",
]
