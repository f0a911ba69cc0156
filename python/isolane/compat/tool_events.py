"""Events of tool calls to a WebSocket manager of the host's, in order, by its ``send_event(type, data)``."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from isolane._core import UserExecutionContext
from isolane.compat.redaction import safe_error, safe_input

logger = logging.getLogger("isolane.compat")

MAX_RESULT_CHARACTERS = 500
SEND_SECONDS = 5.0
"""How long the manager may take for one event; then it is dropped, logged and not counted as sent."""
MAX_WAITING = 1_000
"""Events that wait for the manager. One more is dropped and logged."""


class ManagerEvents:
    """Stands for an emitter of isolane's, and hands what it is told to a manager of the host's.

    Publishing is synchronous here and awaited there: a task sends one after another, and a call waits for its own.
    """

    def __init__(self, manager: Any, context: UserExecutionContext) -> None:
        self._manager = manager
        self._context = context
        self._began: dict[str, list[float]] = {}
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.sent = 0
        self.dropped = 0

    @property
    def user_id(self) -> str:
        """Whose events they are."""
        return self._context.user_id

    def notify_tool_executing(self, *, tool_name: str, params: Any, metadata: Any = None) -> None:
        """A tool call begins."""
        del metadata
        self._began.setdefault(tool_name, []).append(time.monotonic())
        try:
            shown = safe_input(params)
        except ValueError:
            # What has no JSON form is left out of the event; the call goes on.
            shown = None
        self._put("tool_executing", tool_name, parameters=shown)

    def notify_tool_completed(
        self, *, tool_name: str, result: Any = None, error: str | None = None, metadata: Any = None
    ) -> None:
        """A tool call ended."""
        del metadata
        began = self._began.get(tool_name)
        took = (time.monotonic() - began.pop(0)) * 1000 if began else 0.0
        if not began:
            self._began.pop(tool_name, None)
        came_to: Mapping[str, Any] = (
            {"status": "error", "error": safe_error(error)}
            if error is not None
            else {"status": "success", "result": _text(result)}
        )
        self._put("tool_completed", tool_name, **came_to, execution_time_ms=took)

    def close_open(self, reason: str, *, spans: bool = True) -> None:
        """Nothing is open there: each call shows its own end."""

    def _put(self, event_type: str, tool_name: str, **data: Any) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            logger.warning("an event was not sent: %d wait for the manager already", MAX_WAITING)
            return
        # The ids last: nothing that a caller gives can take their place.
        ids = {
            "tool_name": tool_name,
            "run_id": self._context.run_id,
            "user_id": self._context.user_id,
            "thread_id": self._context.thread_id,
            "timestamp": datetime.now(UTC).isoformat(),
        }
        self._waiting.append((event_type, {**data, **ids}))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._waiting:
            event_type, data = self._waiting.popleft()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    sending = self._manager.send_event(event_type, data)
                    if inspect.isawaitable(sending):
                        await sending
            except Exception as error:  # noqa: BLE001 - a manager that fails is no failure of the tool
                self.dropped += 1
                logger.warning("an event was not delivered: %s: %s", type(error).__name__, error)
            else:
                self.sent += 1

    async def flush(self) -> None:
        """Wait until the manager has what it was told. A cancellation ends the waiting, and not the sending."""
        task = self._task
        if task is not None and not task.done():
            await asyncio.wait([task])

    async def close(self) -> None:
        """Send what waits, and stop: within 5 s."""
        task = self._task
        if task is None or task.done():
            return
        try:
            await asyncio.wait([task], timeout=SEND_SECONDS)
        finally:
            task.cancel()


def _text(result: Any) -> str:
    text = str(result)
    return text[:MAX_RESULT_CHARACTERS]
