"""``DataProcessingAgent``: reads its user's data, and has a tool analyze it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from isolane._core import _refusal
from isolane.migration.agents.attributes import read
from isolane.migration.agents.template import AgentMigrationTemplate


@dataclass(frozen=True, slots=True)
class DataResult:
    """What a data-processing agent returns.

    Attributes:
        analysis: what the tool returned.
        user_id: whose data it is.
        processed_at: aware UTC datetime.
    """

    analysis: Any
    user_id: str
    processed_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class DataProcessingAgent(AgentMigrationTemplate):
    """Reads data of its user in one transaction, lets the connection go, and calls a tool with what it read.

    Write ``fetch_data(session, request)``. What it returns is looked at, a value or a list of rows: another user's
    ``user_id`` is a ``ContextIsolationError``, and the tool is not called. Iterators are not looked into.

    Class attributes:
        tool_name: the tool that analyzes. Default ``data_analyzer``.
        thinking: what the user is shown first; an empty text for nothing.
    """

    tool_name: ClassVar[str] = "data_analyzer"
    thinking: ClassVar[str] = "Analyzing data patterns..."

    @abstractmethod
    async def fetch_data(self, session: Any, request: Any) -> Any:
        """Return the data of ``self._user_context.user_id``: rows, or one value. ``session`` is in a transaction."""

    def tool_parameters(self, data: Any, request: Any) -> Mapping[str, Any]:  # noqa: ARG002 - for overriding
        """Return what the tool is called with. Default: ``{"data": data}``."""
        return {"data": data}

    async def _execute_agent_logic(self, request: Any) -> DataResult:
        context = self._user_context
        if self.thinking:
            await self._websocket_emitter.notify_agent_thinking(content=self.thinking)
        session = self._database_session
        # The transaction ends before the tool begins: a slow tool would hold a connection of all users' pool.
        async with session.begin():
            data = await self.fetch_data(session, request)
        check_rows(data, context.user_id)
        analysis = await self._tool_dispatcher.execute_tool(self.tool_name, self.tool_parameters(data, request))
        return DataResult(analysis, context.user_id)


def check_rows(data: Any, user_id: str) -> None:
    """Refuse rows that say they are another user's. Raises ``ContextIsolationError``."""
    rows = data if isinstance(data, (list, tuple, set, frozenset)) else (data,)
    for row in rows:
        owner = read(row, "user_id")
        if owner is not None and str(owner) != user_id:
            raise _refusal("a row that was read belongs to another user than the context", "access")
