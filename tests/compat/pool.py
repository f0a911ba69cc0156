"""A host's pool of sockets, as the tests want them: sockets that fail when they are told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Socket:
    """A socket of the host: takes text, and fails as it is told to."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tries = 0
        self.failures: list[BaseException] = []
        self.stuck = False
        self.closed_with: int | None = None
        self.client_state = SimpleNamespace(name="CONNECTED")

    async def send_text(self, data: str) -> None:
        self.tries += 1
        if self.stuck:
            await asyncio.sleep(3600)
        if self.failures:
            raise self.failures.pop(0)
        await asyncio.sleep(0)
        self.texts.append(data)

    async def close(self, code: int = 1000) -> None:
        self.closed_with = code
        self.client_state.name = "DISCONNECTED"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]


class Pool:
    """A pool of the host: looked up by connection and user."""

    def __init__(self) -> None:
        self.connections: dict[tuple[str, str], Any] = {}
        self.asked = 0

    def add(self, connection_id: str, user_id: str, websocket: Any = None) -> Any:
        websocket = websocket if websocket is not None else Socket()
        self.connections[connection_id, user_id] = SimpleNamespace(websocket=websocket, user_id=user_id)
        return websocket

    async def get_connection(self, connection_id: str, user_id: str) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        return self.connections.get((connection_id, user_id))


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def run_of_an_agent(emitter: Any, run: str, agent: str = "data") -> None:
    """Publish one execution, WHOLE."""
    await emitter.notify_agent_started(agent, run)
    await emitter.notify_agent_thinking(agent, run, "reading")
    await emitter.notify_tool_executing(agent, run, "load", {"path": "usage.csv"})
    await emitter.notify_tool_completed(agent, run, "load", {"rows": 3})
    await emitter.notify_agent_completed(agent, run, {"rows": 3})


WHOLE = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]
