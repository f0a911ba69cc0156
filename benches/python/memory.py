"""`python -m benches.python.memory KIND COUNT`: prints how many bytes of memory each of many objects takes.

The resident memory of a new process before and after: `tracemalloc` does not see what the core allocates. The first
tenth of the objects is not counted, so that arenas, tables and imports are there already.
"""

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolane import (
    FairLimiter,
    UserContextFactory,
    UserExecutionContext,
    WebSocketBridgeFactory,
    WebSocketConfig,
    _core,
    lane_stats,
    sweep_lanes,
)

from benches.python.cases.data import PAYLOAD
from benches.python.peers.dataclass_context import DataclassContext
from benches.python.reading import read_all

Make = Callable[[int], Any]
"""Makes the object with a number; what it returns is kept."""


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _context(number: int) -> UserExecutionContext:
    return UserExecutionContext("user-7c21", "thread-5d0a", f"run-{number:08}")


def _read_context(number: int) -> UserExecutionContext:
    context = _context(number)
    read_all(context)
    return context


def _own_lane(number: int) -> UserExecutionContext:
    return UserExecutionContext(f"user-{number:08}", "thread-5d0a", f"run-{number:08}")


def _dataclass(number: int) -> DataclassContext:
    return DataclassContext("user-7c21", "thread-5d0a", f"run-{number:08}")


def _idle_lane(number: int) -> None:
    """The context is dropped, the lane stays."""
    UserExecutionContext(f"user-{number:08}", "thread-5d0a", "run-93ab")


_bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))


async def _run_with_events(number: int) -> None:
    context = UserContextFactory.create_context(f"user-{number:08}")
    emitter = await _bridge.create_user_emitter(context.user_id, context)
    async with context.acquire_execution_lock():
        for _ in range(3):
            emitter.publish("agent_progress", PAYLOAD)
    await emitter.cleanup()
    await context.cleanup()


def _lane_after_a_run(number: int) -> None:
    """A run with a permit and events, whose log is over its retention."""
    _loop.run_until_complete(_run_with_events(number))
    if number % 1000 == 0:
        sweep_lanes()


_loop = asyncio.new_event_loop()

_limiter = FairLimiter(max_users=10_000_000)


def _limiter_user(number: int) -> None:
    """A user who came once."""
    _limiter.slot_nowait(f"user-{number:08}").release()


def _limiter_user_with_statistics(number: int) -> None:
    """A user whose percentiles are kept."""
    for _ in range(8):
        _limiter_user(number)


KINDS: dict[str, Make] = {
    "context": _context,
    "context-read": _read_context,
    "context-lane": _own_lane,
    "dataclass": _dataclass,
    "lane": _idle_lane,
    "lane-after-run": _lane_after_a_run,
    "limiter-user": _limiter_user,
    "limiter-user-active": _limiter_user_with_statistics,
}


def bytes_each(make: Make, count: int) -> float:
    """Bytes of one object when there are many."""
    _core.set_max_idle_lanes(10 * count)
    first = count // 10
    if make in {_limiter_user, _limiter_user_with_statistics}:
        # The lanes are there already: what the limiter remembers is to be seen.
        for number in range(first + count):
            _idle_lane(number)
    held: list[Any] = [None] * (first + count)
    for number in range(first):
        held[number] = make(number)
    gc.collect()
    sweep_lanes()
    before = resident()
    for number in range(first, first + count):
        held[number] = make(number)
    gc.collect()
    sweep_lanes()
    return (resident() - before) / count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.python.memory", description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    print(bytes_each(KINDS[options.kind], options.count))
    print(lane_stats(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
