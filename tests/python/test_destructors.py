"""What happens when the last reference to an object of the core goes away at an awkward moment.

While an exception unwinds the stack, the interpreter drops objects with the exception still set. Each case runs in a
process of its own: what goes wrong there is a crash.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest
from isolane import FairLimiter, lane_usage
from isolane._core import EventCursor

PREAMBLE = """
import asyncio
from isolane import FairLimiter, UserExecutionContext
from isolane._core import EventCursor

def call(*_): pass

def started():
    context = UserExecutionContext("ann", "thread-1", "run-1")
    return context, context.get_websocket_emitter()

async def waits(cursor):
    cursor.read()
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0.01)
    return waiting

async def main():
    limiter = FairLimiter(1, 1, timeout=30)
"""

WATCHED = """
    cursor, held = EventCursor("ann"), [started()[{which}]]
    waiting = await waits(cursor)
    try: call(held.pop(), 1 / 0)
    except ZeroDivisionError: pass
    await asyncio.wait_for(waiting, 2)
"""

CASES = {
    "a wait for a permit": """
    permit = await limiter.acquire("ann")
    try: call(limiter.acquire("ann"), 1 / 0)
    except ZeroDivisionError: pass
    assert limiter.stats()["queued"] == 0
""",
    "a permit that somebody waits for": """
    async def other():
        async with limiter.slot("ann"): return "got it"
    held = [await limiter.acquire("ann")]
    task = asyncio.create_task(other())
    await asyncio.sleep(0.01)
    try: call(held.pop(), 1 / 0)
    except ZeroDivisionError: pass
    assert await asyncio.wait_for(task, 2) == "got it"
""",
    "a context whose stream is watched": WATCHED.format(which=0),
    "an emitter whose stream is watched": WATCHED.format(which=1),
    "a cursor that is waited for": """
    held = [EventCursor("ann")]
    waiting = await waits(held[0])
    try: call(held.pop(), 1 / 0)
    except ZeroDivisionError: pass
    await asyncio.wait_for(waiting, 2)
""",
}


@pytest.mark.parametrize("case", CASES)
def test_an_object_may_be_dropped_while_an_exception_is_raised(case) -> None:
    script = f"{PREAMBLE}{CASES[case]}\nasyncio.run(main())\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_task_that_only_waits_is_not_collected() -> None:
    """Nobody holds the task but the queue of the limiter, as it is with a semaphore."""
    limiter = FairLimiter(1, 1, timeout=30)
    permit = await limiter.acquire("ann")
    ran = []

    async def work() -> None:
        async with limiter.slot("ann"):
            ran.append(True)

    asyncio.create_task(work())  # noqa: RUF006 - that nobody holds it is the point
    await asyncio.sleep(0.01)
    gc.collect()
    permit.release()
    await asyncio.sleep(0.05)
    assert ran == [True]


def test_a_permit_passes_by_any_number_of_waiters_of_a_closed_loop() -> None:
    limiter = FairLimiter(1, 1, queue=100_000, per_user_queue=100_000, timeout=1000)
    held = []

    async def wait() -> None:
        held.append(await limiter.acquire("ann"))
        held.extend(limiter.acquire("ann") for _ in range(50_000))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait())
    loop.close()
    assert limiter.stats()["queued"] == 50_000
    held[0].release()
    stats = limiter.stats()
    assert (stats["running"], stats["queued"]) == (0, 0)


def test_a_client_that_asks_and_does_not_read_is_closed() -> None:
    cursor = EventCursor("ann-asks")
    for number in range(5_000):
        cursor.subscribe(f"run-{number}")
    assert cursor.close_code == 4010
    assert len(cursor.read(10_000)) <= 512
    assert lane_usage("ann-asks")["connections"] == 1
