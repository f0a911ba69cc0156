"""Engines of a user, with the bookkeeping of `ExecutionEngineFactory`, in plain Python.

What it does for each engine: checks the context and its state, counts the user's engines against a limit, opens the
log of the run, makes an emitter and an engine with a unique id, notes it for lookups, arms a timer for the earliest
deadline; at the end it gives the slot back, ends the log, counts, and arms the timer again. It does not do: children
that share the engine of the context above them, cancelling and waiting for running agents, draining, a limit of the
process with a fair queue, or anything that other threads may do at the same time.
"""

import asyncio
import heapq
import itertools
import json
import uuid
import weakref
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from benches.python.peers.dataclass_context import DataclassContext
from benches.python.peers.queue_emitter import WebSocketEvent


class EngineLimitError(RuntimeError):
    """The user has as many engines as allowed."""


@dataclass(eq=False)
class RunLog:
    """The events of one run."""

    run_id: str
    events: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    head: int = 0
    ended: str | None = None


@dataclass(eq=False)
class Emitter:
    """Publishes into the log of one run."""

    context: DataclassContext
    log: RunLog

    def publish(self, event_type: str, payload: dict[str, Any]) -> int:
        self.log.head += 1
        context = self.context
        event = WebSocketEvent(
            *(f"evt_{self.log.head}", event_type, context.user_id, context.thread_id, context.run_id, "agent", payload),
            datetime.now(UTC),
            self.log.head,
        )
        self.log.events.append(event.to_json())
        return self.log.head


@dataclass(eq=False)
class Engine:
    """One user's engine."""

    number: int
    engine_id: str
    context: DataclassContext
    emitter: Emitter
    created_at: datetime
    deadline: float
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    active: bool = True


class EngineFactory:
    """Makes and ends engines within a limit for each user."""

    def __init__(self, per_user: int = 2, lifetime: float = 300.0) -> None:
        self.per_user = per_user
        self.lifetime = lifetime
        self.counts: dict[str, int] = {}
        self.logs: dict[tuple[str, str], RunLog] = {}
        self.engines: dict[int, Engine] = {}
        self.emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()
        self.deadlines: list[tuple[float, int]] = []
        self.numbers = itertools.count(1)
        self.timer: asyncio.TimerHandle | None = None
        self.created = self.cleaned = self.peak = 0

    async def create_for_user(self, context: DataclassContext) -> Engine:
        """Reserve a slot, then build. Raises `EngineLimitError` at the limit."""
        if not isinstance(context, DataclassContext):
            raise TypeError("not a context")
        user = context.user_id
        held = self.counts.get(user, 0)
        if held >= self.per_user:
            raise EngineLimitError(f"{held}/{self.per_user}")
        self.counts[user] = held + 1
        try:
            log = self._open(user, context.run_id)
            emitter = Emitter(context, log)
            self.emitters.add(emitter)
            number = next(self.numbers)
            deadline = asyncio.get_running_loop().time() + self.lifetime
            engine = Engine(number, f"engine_{uuid.uuid4()}", context, emitter, datetime.now(UTC), deadline)
        except BaseException:
            self._release(user)
            raise
        self.engines[number] = engine
        heapq.heappush(self.deadlines, (deadline, number))
        self.created += 1
        self.peak = max(self.peak, len(self.engines))
        self._arm()
        return engine

    async def cleanup_engine(self, engine: Engine) -> None:
        """End an engine. Calling it again does nothing."""
        if self.engines.pop(engine.number, None) is None:
            return
        engine.active = False
        user = engine.context.user_id
        self._release(user)
        for task in engine.tasks:
            task.cancel()
        log = engine.emitter.log
        log.ended = "completed"
        log.events.append(json.dumps({"type": "end", "run_id": log.run_id, "outcome": "completed", "n": log.head}))
        self.logs.pop((user, log.run_id), None)
        self.cleaned += 1
        self._arm()

    def _open(self, user: str, run_id: str) -> RunLog:
        log = self.logs.get((user, run_id))
        if log is None:
            log = self.logs[user, run_id] = RunLog(run_id)
        if log.ended is not None:
            raise RuntimeError("the run has ended")
        return log

    def _release(self, user: str) -> None:
        left = self.counts[user] - 1
        if left:
            self.counts[user] = left
        else:
            del self.counts[user]

    def _arm(self) -> None:
        """Set the timer of the earliest deadline, unless it is set."""
        while self.deadlines and self.deadlines[0][1] not in self.engines:
            heapq.heappop(self.deadlines)
        due = self.deadlines[0][0] if self.deadlines else None
        if self.timer is not None:
            if due is not None and self.timer.when() == due:
                return
            self.timer.cancel()
            self.timer = None
        if due is not None:
            self.timer = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        self.timer = None
        self._arm()
