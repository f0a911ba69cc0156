"""A tool dispatcher as the second design document sketches it, in plain Python.

It looks the tool up, asks a permission list, awaits two events through a manager's method, awaits the tool and counts.
It checks no parameters, compares no owners, has no deadline and no record of a check.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


class Manager:
    """Takes events, as a socket manager does that has no socket to write to."""

    def __init__(self) -> None:
        self.taken = 0

    async def send_event(self, kind: str, data: dict[str, Any]) -> bool:
        self.taken += 1
        return bool(kind and data)


@dataclass
class Result:
    """What a call came to."""

    success: bool
    result: Any = None
    error: str | None = None
    tool_name: str = ""
    user_id: str = ""
    status: str = "success"
    execution_time_ms: float = 0.0
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class ToolDispatcher:
    """For one user's request."""

    def __init__(self, user_id: str, run_id: str, thread_id: str, permitted: set[str]) -> None:
        self.user_id, self.run_id, self.thread_id = user_id, run_id, thread_id
        self.permitted = permitted
        self.manager = Manager()
        self.tools: dict[str, Callable[..., Awaitable[Any]]] = {}
        self.metrics = {"tools_executed": 0, "successful_executions": 0, "permission_checks": 0, "total_ms": 0.0}

    def register_tool(self, name: str, tool: Callable[..., Awaitable[Any]]) -> None:
        self.tools[name] = tool

    async def execute_tool(self, name: str, parameters: dict[str, Any]) -> Result:
        start = time.time()
        tool = self.tools[name]
        self.metrics["permission_checks"] += 1
        if name not in self.permitted:
            return Result(success=False, error="denied", tool_name=name, user_id=self.user_id, status="error")
        self.metrics["tools_executed"] += 1
        about = {"tool_name": name, "run_id": self.run_id, "user_id": self.user_id, "thread_id": self.thread_id}
        now = datetime.now(UTC).isoformat()
        await self.manager.send_event("tool_executing", {**about, "parameters": parameters, "timestamp": now})
        result = await tool(**parameters)
        taken = (time.time() - start) * 1000
        self.metrics["successful_executions"] += 1
        self.metrics["total_ms"] += taken
        now = datetime.now(UTC).isoformat()
        done = {**about, "status": "success", "result": str(result)[:500], "execution_time_ms": taken, "timestamp": now}
        await self.manager.send_event("tool_completed", done)
        return Result(success=True, result=result, tool_name=name, user_id=self.user_id, execution_time_ms=taken)
