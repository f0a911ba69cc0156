"""An emitter over a dataclass, `json.dumps` and an `asyncio.PriorityQueue`."""

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PRIORITIES = {"agent_started": 1, "agent_completed": 1, "agent_error": 1, "tool_completed": 2, "tool_executing": 2}


@dataclass
class WebSocketEvent:
    """One event on its way to a socket."""

    event_id: str
    event_type: str
    user_id: str
    thread_id: str
    run_id: str
    agent_name: str
    payload: dict[str, Any]
    created_at: datetime
    seq: int

    def to_json(self) -> str:
        return json.dumps(
            {
                "type": self.event_type,
                "agent_name": self.agent_name,
                "run_id": self.run_id,
                "timestamp": self.created_at.isoformat(),
                "thread_id": self.thread_id,
                "event_id": self.event_id,
                "payload": self.payload,
                "seq": self.seq,
            }
        )


class QueueEmitter:
    """Publishes into a bounded queue. When that is full it drops the first event, which isolane never does."""

    def __init__(self, make_id: Callable[[int], str], size: int = 1000) -> None:
        self.queue: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue(size)
        self.numbers = itertools.count(1)
        self.make_id = make_id

    def publish(self, event_type: str, payload: dict[str, Any]) -> int:
        seq = next(self.numbers)
        event = WebSocketEvent(
            self.make_id(seq), event_type, "user-7", "thread-7", "run-7", "bench", payload, datetime.now(UTC), seq
        )
        if self.queue.full():
            self.queue.get_nowait()
        self.queue.put_nowait((PRIORITIES.get(event_type, 3), seq, event.to_json()))
        return seq

    async def notify_tool_executing(self, tool_name: str, parameters: dict[str, Any]) -> int:
        return self.publish("tool_executing", {"tool_name": tool_name, "parameters": parameters, "status": "executing"})

    async def notify_tool_completed(self, tool_name: str, result: dict[str, Any]) -> int:
        return self.publish("tool_completed", {"tool_name": tool_name, "result": result, "status": "completed"})


def counted_ids() -> Callable[[int], str]:
    """Ids that cost little: one random prefix and a counter, as isolane's."""
    prefix = uuid.uuid4().hex[:16]
    return lambda seq: f"evt_{prefix}_{seq}"


def random_ids() -> Callable[[int], str]:
    """Ids as most dataclasses make them: a UUID each."""
    return lambda _: str(uuid.uuid4())
