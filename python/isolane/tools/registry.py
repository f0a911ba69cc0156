"""``ToolRegistry``: the tools of an application, registered when it starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from isolane.tools.errors import ToolRegistrationError
from isolane.tools.tool import Tool

MAX_TOOLS = 1_000
"""Most tools of a registry, and of a dispatcher beside it."""


class ToolRegistry:
    """Tools by name. They are shared by all users, so they must keep nothing of a call.

    Args:
        tools: functions, objects of LangChain's shape, or ``Tool``.
    """

    def __init__(self, tools: Iterable[Any] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self.register(tool)

    def register(self, tool: Any, **description: Any) -> Tool:
        """Add a tool; the keywords are those of ``Tool.of``.

        Raises ``ToolRegistrationError`` for what cannot be a tool, for a name that is taken, and for more than 1000.
        """
        made = Tool.of(tool, **description)
        add(self._tools, made)
        return made

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def tools(self) -> Mapping[str, Tool]:
        """Return the tools by name, as they are now."""
        return dict(self._tools)

    def __repr__(self) -> str:
        return f"<ToolRegistry {len(self._tools)} tools>"


def add(tools: dict[str, Tool], tool: Tool, beside: Mapping[str, Tool] | None = None) -> None:
    """Add a tool. A name that is taken stays with its first tool: another one must not slip in under it."""
    if tool.name in tools or (beside is not None and tool.name in beside):
        raise ToolRegistrationError(f"there is a tool {tool.name!r} already; register this one under another name=")
    if len(tools) >= MAX_TOOLS:
        raise ToolRegistrationError(
            f"there are {MAX_TOOLS} tools already; register tools once, when the service starts"
        )
    tools[tool.name] = tool
