"""Errors of tool calls. Their texts have nobody's data: what a tool raised is the ``__cause__``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ToolRegistrationError(ValueError):
    """Something cannot be registered as a tool."""


class ToolDispatchError(RuntimeError):
    """A tool call that did not come to a result.

    Attributes:
        tool_name: which tool.
        code: why, in one word.
        status_code: what a HTTP answer says.
    """

    code = "tool_failed"
    status_code = 500

    def __init__(self, tool_name: str, message: str) -> None:
        super().__init__(message)
        self.tool_name = tool_name


class ToolNotFoundError(ToolDispatchError, LookupError):
    """There is no such tool here."""

    code = "tool_not_found"
    status_code = 404

    def __init__(self, tool_name: str) -> None:
        super().__init__(tool_name, f"Tool {tool_name} not found in registry; get_available_tools() lists them")


@dataclass(frozen=True, slots=True)
class ParameterProblem:
    """What is wrong with one parameter.

    Attributes:
        path: where, such as ``rows[2].price``; empty for the parameters as a whole.
        message: what is wrong. It does not repeat the value.
        kind: the rule in one word, such as ``missing`` or ``int_parsing``.
    """

    path: str
    message: str
    kind: str


class ToolParameterError(ToolDispatchError, ValueError):
    """The parameters are not those that the tool takes. ``problems`` says where and why."""

    code = "invalid_parameters"
    status_code = 422

    def __init__(self, tool_name: str, problems: Sequence[ParameterProblem]) -> None:
        shown = "; ".join(f"{each.path or 'parameters'}: {each.message}" for each in problems[:8])
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""  # noqa: PLR2004 - as many as are shown
        super().__init__(tool_name, f"tool {tool_name} does not take these parameters: {shown}{more}")
        self.problems = tuple(problems)


class ToolTimeoutError(ToolDispatchError, TimeoutError):
    """The tool did not end within its time. ``timeout`` is in seconds."""

    code = "tool_timeout"
    status_code = 504

    def __init__(self, tool_name: str, timeout: float) -> None:
        super().__init__(
            tool_name, f"tool {tool_name} took longer than its {timeout:g} s; register it with a longer timeout"
        )
        self.timeout = timeout


class ToolExecutionError(ToolDispatchError):
    """The tool raised. ``error_type`` is the name of the class; the exception itself is the ``__cause__``."""

    code = "tool_failed"
    status_code = 502

    def __init__(self, tool_name: str, error_type: str) -> None:
        super().__init__(tool_name, f"tool {tool_name} failed: {error_type}")
        self.error_type = error_type


class ToolLimitError(ToolDispatchError):
    """Too many calls of this user are under way, or no thread was free in time. ``retry_after`` is in whole seconds."""

    code = "too_many_calls"
    status_code = 429

    def __init__(self, tool_name: str, message: str, retry_after: int) -> None:
        super().__init__(tool_name, message)
        self.retry_after = retry_after


class ToolSanitizeError(ToolDispatchError):
    """The sanitizer refused the parameters or the result. What it raised is the ``__cause__``."""

    code = "sanitizer_refused"
    status_code = 422

    def __init__(self, tool_name: str) -> None:
        super().__init__(tool_name, f"what tool {tool_name} was given or returned did not pass the sanitizer")


class ToolDispatcherClosedError(ToolDispatchError):
    """The dispatcher was cleaned up: its request is over."""

    code = "dispatcher_closed"
    status_code = 409

    def __init__(self, tool_name: str) -> None:
        super().__init__(
            tool_name, "this dispatcher was cleaned up with its request; ask the next request's context for one"
        )
