"""What is asked of a dispatcher, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[str, Any] = MappingProxyType({})


class DispatchStrategy(StrEnum):
    """What kind of dispatcher it is. No kind skips a check.

    ``ADMIN`` alone runs tools of administration; ``ISOLATED`` hands tools deep copies and takes deep copies of their
    results; ``LEGACY`` is ``DEFAULT`` under the name that code which is being moved uses.
    """

    DEFAULT = "default"
    ADMIN = "admin"
    ISOLATED = "isolated"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class ToolDispatchRequest:
    """A tool call that is asked for.

    Attributes:
        tool_name: which tool.
        parameters: what it is called with, by name.
    """

    tool_name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolDispatchResponse:
    """What a tool call came to.

    Attributes:
        success: whether the tool returned.
        result: what it returned.
        error: why not, for the user: nobody's data is in it.
        metadata: ``tool_name``, ``code`` (``ok`` or why not, in one word), ``execution_time_ms``; ``problems`` of
            parameters and ``error_type`` of a tool that raised.
        exception: what was raised, for the process alone.
    """

    success: bool
    result: Any = None
    error: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    exception: BaseException | None = field(default=None, repr=False, compare=False)
