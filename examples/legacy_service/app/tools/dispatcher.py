"""Calls tools by their names."""

from typing import Any

from ..cache import cache
from ..notes import notes_of


class ToolDispatcher:
    """The one dispatcher of the process."""

    def __init__(self) -> None:
        self.current_user = ""
        self.last_result: list[str] = []

    async def execute_tool(self, tool_name: str, parameters: dict[str, Any]) -> list[str]:
        """Call a tool for the current user."""
        if tool_name != "search_notes":
            raise LookupError(f"There is no tool {tool_name}")
        words = set(str(parameters["words"]).lower().split())
        key = " ".join(sorted(words))
        found = cache.get(f"search:{key}")
        if found is None:
            found = [note for note in await notes_of(self.current_user) if words & set(note.lower().split())]
            cache.set(f"search:{key}", found)
        self.last_result = found
        return found


tool_dispatcher = ToolDispatcher()


def get_tool_dispatcher() -> ToolDispatcher:
    """Return the one dispatcher."""
    return tool_dispatcher
