"""The host's ``request_scoped_tool_dispatcher``: a dispatcher that is constructed for a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from isolane._core import UserExecutionContext
from isolane.compat.unified_tool_dispatcher import UnifiedToolDispatcher, UnifiedToolDispatcherFactory
from isolane.tools import ToolDispatchRequest, ToolDispatchResponse

__all__ = ["RequestScopedToolDispatcher"]


class RequestScopedToolDispatcher:
    """The tool calls of one request, constructed directly.

    Args:
        user_context: the context of the request.
        tools: tools of this dispatcher, beside those of the factory of the process.
        websocket_emitter: an emitter of isolane's, or a manager of the host's with ``send_event``. Default: isolane's
            log.

    Raises what ``UnifiedToolDispatcher.create_for_user`` raises.
    """

    def __init__(
        self,
        user_context: UserExecutionContext,
        tools: Iterable[Any] | None = None,
        websocket_emitter: Any = None,
    ) -> None:
        self._dispatcher: UnifiedToolDispatcher = UnifiedToolDispatcherFactory.create_for_request(
            user_context, websocket_emitter, tools
        )
        self.user_context = user_context
        self.websocket_emitter = websocket_emitter

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dispatcher, name)

    async def dispatch(self, tool_name: str, **parameters: Any) -> ToolDispatchResponse:
        """Call a tool with parameters by keyword."""
        return await self._dispatcher.dispatch_tool(tool_name, parameters)

    async def dispatch_tool(
        self,
        tool_name: str | ToolDispatchRequest,
        parameters: Mapping[str, Any] | None = None,
        state: Any = None,
        run_id: str | None = None,
    ) -> ToolDispatchResponse:
        """Call a tool. A state or a run of another request is answered as a tool that there is not."""
        return await self._dispatcher.dispatch_tool(tool_name, parameters, state, run_id)

    async def cleanup(self) -> None:
        """Take no more calls; cancel those that run."""
        await self._dispatcher.cleanup()

    def __repr__(self) -> str:
        return f"<RequestScopedToolDispatcher over {self._dispatcher!r}>"
