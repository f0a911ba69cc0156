"""The host's ``websocket_core.unified_emitter``: an emitter of one user over a manager."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from isolane._core import UserExecutionContext, monotonic
from isolane.compat.redaction import safe_error, safe_input, safe_output
from isolane.migration.legacy.errors import CrossUserSendError
from isolane.migration.legacy.face import LegacyManagers
from isolane.migration.legacy.hub import LegacyHub
from isolane.migration.legacy.identity import Bound
from isolane.migration.legacy.mappings import clean
from isolane.migration.legacy.process import process_hub

__all__ = ["CRITICAL_EVENTS", "UnifiedWebSocketEmitter"]

CRITICAL_EVENTS = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
"""The events that the host never drops. Here none is."""


class UnifiedWebSocketEmitter:
    """Publishes a user's events: into the user's lane, or by a manager of the host's that it is given.

    Each method returns ``True`` when the event was taken. What the host's manager raises passes.

    Args:
        manager: one of isolane's, which is not needed, or the host's, with ``emit_critical_event``.
        user_id: whose events they are.
        context: the run's. Without one the run is what the events say.

    Raises:
        CrossUserSendError: the context is another user's. Recorded.
        InvalidContextError: the user is no id.
    """

    CRITICAL_EVENTS = CRITICAL_EVENTS

    def __init__(
        self,
        manager: Any = None,
        user_id: str | None = None,
        context: UserExecutionContext | None = None,
        *,
        websocket_manager: Any = None,
        **_: Any,
    ) -> None:
        self.manager = manager if manager is not None else websocket_manager
        self.user_id = clean(user_id if user_id is not None else getattr(context, "user_id", None))
        self.context = context
        self.created_at = datetime.now(UTC)
        self._since = monotonic()
        self._sent = 0
        self._critical = 0
        self._failed = 0
        self._last: datetime | None = None
        if context is not None and clean(context.user_id) != self.user_id:
            self._hub().refuse(
                CrossUserSendError("the context belongs to another user than the emitter's", "bind", call="emitter"),
                Bound(self.user_id),
                "UnifiedWebSocketEmitter",
            )

    def _hub(self) -> LegacyHub:
        return self.manager.hub if isinstance(self.manager, LegacyManagers) else process_hub()

    # -- sending ---------------------------------------------------------------------------------------------------

    async def emit(self, event_type: str, data: Any = None, **more: Any) -> bool:
        """Publish an event. Raises ``CrossUserSendError`` where the code runs for another user."""
        payload = {**(data if isinstance(data, dict) else {} if data is None else {"data": data}), **more}
        hub = self._hub()
        bound = await hub.who(None)
        if bound is not None:
            hub.check(self.user_id, bound, "emit")
        try:
            taken = await self._send(hub, bound, event_type, payload)
        except BaseException:
            self._failed += 1
            raise
        if taken:
            self._sent += 1
            self._critical += event_type in CRITICAL_EVENTS
            self._last = datetime.now(UTC)
        else:
            self._failed += 1
        return taken

    async def _send(self, hub: LegacyHub, bound: Bound | None, event_type: str, payload: dict[str, Any]) -> bool:
        if self.manager is not None and not isinstance(self.manager, LegacyManagers):
            answer = await self.manager.emit_critical_event(user_id=self.user_id, event_type=event_type, data=payload)
            # The host's returns nothing, where it does not raise.
            return answer is None or bool(answer)
        own = self.context if isinstance(self.context, UserExecutionContext) else None
        message = {
            "type": event_type,
            "payload": payload,
            "agent_name": payload.get("agent_name"),
            "run_id": payload.pop("run_id", None),
            "thread_id": payload.pop("thread_id", None),
            "user_id": payload.pop("user_id", None),
        }
        whose = bound if bound is not None and bound.context is not None else Bound(self.user_id, own)
        read = hub.read(message, self.user_id, whose, "emit")
        return bool(hub.deliver(self.user_id, read, whose, "emit"))

    async def emit_agent_started(self, data: dict[str, Any]) -> bool:
        """As ``emit("agent_started", data)``."""
        return await self.emit("agent_started", data)

    async def emit_agent_thinking(self, data: dict[str, Any]) -> bool:
        """As ``emit("agent_thinking", data)``."""
        return await self.emit("agent_thinking", data)

    async def emit_tool_executing(self, data: dict[str, Any]) -> bool:
        """As ``emit("tool_executing", data)``."""
        return await self.emit("tool_executing", data)

    async def emit_tool_completed(self, data: dict[str, Any]) -> bool:
        """As ``emit("tool_completed", data)``."""
        return await self.emit("tool_completed", data)

    async def emit_agent_completed(self, data: dict[str, Any]) -> bool:
        """As ``emit("agent_completed", data)``."""
        return await self.emit("agent_completed", data)

    # -- the six and others ----------------------------------------------------------------------------------------

    async def notify_agent_started(self, agent_name: str, metadata: dict[str, Any] | None = None, **more: Any) -> bool:
        """An agent execution begins."""
        return await self.emit("agent_started", {**(metadata or {}), **more, "agent_name": agent_name})

    async def notify_agent_thinking(
        self, agent_name: str, reasoning: str | None = None, step_number: int | None = None, **more: Any
    ) -> bool:
        """What the agent is thinking."""
        said = {**more, "agent_name": agent_name, "reasoning": reasoning or more.pop("thought", "")}
        return await self.emit("agent_thinking", said if step_number is None else {**said, "step_number": step_number})

    async def notify_tool_executing(self, tool_name: str, parameters: Any = None, **more: Any) -> bool:
        """A tool call begins. Secrets in the parameters are redacted."""
        return await self.emit("tool_executing", {**more, "tool_name": tool_name, "parameters": safe_input(parameters)})

    async def notify_tool_completed(self, tool_name: str, result: Any = None, **more: Any) -> bool:
        """A tool call ended. Internals in the result are left out."""
        return await self.emit("tool_completed", {**more, "tool_name": tool_name, "result": safe_output(result)})

    async def notify_agent_completed(self, agent_name: str, result: Any = None, **more: Any) -> bool:
        """The agent execution ended well."""
        return await self.emit("agent_completed", {**more, "agent_name": agent_name, "result": safe_output(result)})

    async def notify_agent_error(self, error: Any, **more: Any) -> bool:
        """The agent execution failed."""
        return await self.emit("agent_error", {**more, "error_message": safe_error(str(error))})

    async def notify_progress_update(self, progress: float, message: str = "", **more: Any) -> bool:
        """How far something is."""
        return await self.emit("progress_update", {**more, "progress": progress, "message": message})

    async def notify_custom(self, event_type: str, data: Any = None) -> bool:
        """As ``emit``."""
        return await self.emit(event_type, data)

    # -- the rest --------------------------------------------------------------------------------------------------

    async def acquire(self) -> None:
        """Nothing to do: an emitter holds nothing."""

    async def release(self) -> None:
        """Nothing to do: an emitter holds nothing."""

    async def cleanup(self) -> None:
        """Nothing to do: an emitter holds nothing, and what it has sent is in the logs."""

    def get_stats(self) -> dict[str, Any]:
        """Return what it sent, under the host's keys."""
        return {
            "user_id": self.user_id,
            "total_events": self._sent,
            "critical_events": self._critical,
            "error_count": self._failed,
            "retry_count": 0,
            "last_event_time": self._last.isoformat() if self._last is not None else None,
            "uptime_seconds": monotonic() - self._since,
            "has_context": self.context is not None,
        }

    def __repr__(self) -> str:
        return f"<UnifiedWebSocketEmitter {self._sent} sent>"
