"""Emitters with a queue for each socket, and one bridge for everybody's engines."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any


class UserWebSocketEmitter:
    def __init__(self, user_id: str, thread_id: str, websocket: Any) -> None:
        self.user_id = user_id
        self.thread_id = thread_id
        self._websocket = websocket
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1000)
        self._task = asyncio.create_task(self._deliver())

    async def _deliver(self) -> None:
        while True:
            await self._websocket.send_json(await self._queue.get())

    async def _notify(self, event_type: str, run_id: str, agent_name: str, **data: Any) -> None:
        now = datetime.now(UTC).isoformat()
        event = {"event_type": event_type, "thread_id": self.thread_id, "timestamp": now}
        await self._queue.put({**event, "data": {"agent_name": agent_name, "run_id": run_id, **data}})

    async def notify_agent_started(self, agent_name: str, run_id: str) -> None:
        await self._notify("agent_started", run_id, agent_name)

    async def notify_agent_thinking(self, agent_name: str, run_id: str, thinking: str) -> None:
        await self._notify("agent_thinking", run_id, agent_name, thinking=thinking)

    async def notify_tool_executing(self, agent_name: str, run_id: str, tool_name: str, tool_input: Any) -> None:
        await self._notify("tool_executing", run_id, agent_name, tool_name=tool_name, tool_input=tool_input)

    async def notify_tool_completed(self, agent_name: str, run_id: str, tool_name: str, tool_output: Any) -> None:
        await self._notify("tool_completed", run_id, agent_name, tool_name=tool_name, tool_output=tool_output)

    async def notify_agent_completed(self, agent_name: str, run_id: str, result: Any) -> None:
        await self._notify("agent_completed", run_id, agent_name, result=result)

    async def notify_agent_error(self, agent_name: str, run_id: str, error: str) -> None:
        await self._notify("agent_error", run_id, agent_name, error=error)

    async def cleanup(self) -> None:
        # What is still queued is lost.
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task


class WebSocketBridgeFactory:
    def __init__(self) -> None:
        self._pool: Any = None
        self._latest: UserWebSocketEmitter | None = None

    def configure(self, connection_pool: Any, agent_registry: Any, health_monitor: Any) -> None:
        if connection_pool is None:
            raise ValueError("connection_pool cannot be None")
        self._pool = connection_pool
        self._registry, self._monitor = agent_registry, health_monitor

    async def create_user_emitter(self, user_id: str, thread_id: str, connection_id: str) -> UserWebSocketEmitter:
        if self._pool is None:
            raise RuntimeError("Factory not configured - call configure() first")
        connection = await self._pool.get_connection(connection_id, user_id)
        if connection is None:
            raise RuntimeError(f"No active WebSocket connection {connection_id!r}")
        # The last one to come is taken for the owner of all that engines say from now on.
        self._latest = UserWebSocketEmitter(user_id, thread_id, connection.websocket)
        return self._latest

    async def notify(self, event_type: str, run_id: str, agent_name: str, **data: Any) -> bool:
        """Sends what an engine says to whoever came last."""
        if self._latest is None:
            return False
        await self._latest._notify(event_type, run_id, agent_name, **data)  # noqa: SLF001 - one module
        return True

    async def cleanup_user_context(self, user_id: str, connection_id: str) -> None:
        del user_id, connection_id
        if self._latest is not None:
            await self._latest.cleanup()
            self._latest = None


_FACTORY = WebSocketBridgeFactory()


def get_websocket_bridge_factory() -> WebSocketBridgeFactory:
    return _FACTORY
