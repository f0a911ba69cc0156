"""WebSocket routes that send without a log: what a service writes that needs no client to be able to come back."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.websockets import WebSocket

from benches.python.peers.queue_emitter import WebSocketEvent


async def send_constant(websocket: WebSocket, text: str, messages: int, *, turns: bool) -> None:
    """The bare loop: nothing is made, looked up or kept. With `turns`, other tasks run after each message."""
    if turns:
        for _ in range(messages):
            await websocket.send_text(text)
            await asyncio.sleep(0)
    else:
        for _ in range(messages):
            await websocket.send_text(text)


class LiveQueueEmitter:
    """Publishes JSON into an `asyncio.Queue`, which one socket reads. No order of priorities: the cheapest queue."""

    def __init__(self, make_id: Callable[[int], str]) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.numbers = itertools.count(1)
        self.make_id = make_id

    def publish(self, event_type: str, payload: dict[str, Any]) -> int:
        seq = next(self.numbers)
        event = WebSocketEvent(
            self.make_id(seq), event_type, "user-7", "thread-7", "run-7", "bench", payload, datetime.now(UTC), seq
        )
        self.queue.put_nowait(event.to_json())
        return seq

    async def write(self, websocket: WebSocket, messages: int) -> None:
        for _ in range(messages):
            await websocket.send_text(await self.queue.get())
