"""Soaks: what one round does not show."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import random
import resource
from pathlib import Path

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    FairLimiter,
    UserContextFactory,
    UserExecutionContext,
)
from isolane._core import EventCursor, emitter_for_context, end_stream
from isolane.testing import manual_clock


class Publisher(BaseAgent):
    name = "publisher"

    async def execute_with_context(self, context, request, results):
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name="tool", params={"round": request})
        await asyncio.sleep(0)
        await emitter.notify_tool_completed(tool_name="tool", result=[request] * 10)
        return request


def resident_kib() -> int:
    gc.collect()
    # What was freed goes back to the system, where the C library can do that: a leak would else hide in it.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() // 1024


def test_contexts_leave_nothing_behind(rounds, found) -> None:
    def burst(count: int) -> None:
        for number in range(count):
            context = UserContextFactory.create_context(f"soak-{number % 500}", agent_context={"rows": [{"n": number}]})
            child = context.create_child_context("part")
            child.verify_isolation()
            context.agent_context["me"] = context

    burst(2_000)
    before = resident_kib()
    count = rounds(200_000)
    burst(count)
    grown = resident_kib() - before
    found(f"{grown} KiB more after {count} contexts, each with a child and a reference to itself")
    assert grown < 8_192, f"{grown} KiB more"


@pytest.mark.timeout(1_800)
async def test_engines_and_events_leave_nothing_behind(rounds, found) -> None:
    registry = AgentRegistry()
    registry.register(Publisher)
    factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry))

    async def burst(count: int) -> None:
        for number in range(count):
            context = UserContextFactory.create_context(f"soak-{number % 50}")
            async with factory.user_execution_scope(context) as engine:
                # Of one length, or longer numbers in the logs that are kept would look like a leak.
                result = await engine.execute_agent("publisher", number % 10)
                assert result.success
            await context.cleanup()

    # Until each user's logs are at their bound and the allocator has settled.
    await burst(rounds(50_000))
    before = resident_kib()
    count = rounds(200_000)
    await burst(count)
    grown = resident_kib() - before
    found(f"{grown} KiB more after {count} engines with 4 events each")
    metrics = factory.get_factory_metrics()
    assert metrics["engines_active"] == 0
    assert factory.limiter.stats()["running"] == 0
    # In the short form the logs are not yet at their bound.
    settled = count >= 20_000
    assert grown < (2_048 if settled else 32_768), f"{grown} KiB more"
    assert isolane.lane_stats()["bytes"] < 50 * (5 << 20)


@pytest.mark.timeout(1_800)
def test_events_leave_nothing_behind(rounds, found) -> None:
    """Runs of all lengths, read by clients that come, stall and go; ended logs are dropped when their time is over."""
    read = 0

    def burst(count: int) -> None:
        nonlocal read
        published = run = 0
        while published < count:
            run += 1
            user = f"soak-{run % 20}"
            context = UserContextFactory.create_context(user)
            emitter = emitter_for_context(context, max_events=50)
            cursor = EventCursor(user, framed=run % 2 == 0)
            cursor.subscribe(context.run_id)
            emitter.notify_agent_started("data")
            for number in range(run % 100):
                emitter.notify_tool_executing(tool_name=f"tool-{number % 7}", params={"n": number})
                emitter.notify_tool_completed(tool_name=f"tool-{number % 7}", result=["x" * (number % 50)] * 10)
                if run % 3 == 0:
                    read += len(cursor.read(10))
            published += 2 * (run % 100) + 2
            end_stream(context)
            if run % 2:
                read += len(cursor.read(1_000))
            if run % 20 == 0:
                clock.advance(301)
                isolane.sweep_lanes()

    with manual_clock() as clock:
        burst(rounds(400_000))
        before = resident_kib()
        count = rounds(2_000_000)
        burst(count)
        grown = resident_kib() - before
    found(f"{grown} KiB more after {count} events, {read} texts read")
    assert read > 0
    assert grown < (2_048 if count >= 1_000_000 else 16_384), f"{grown} KiB more"


async def test_random_cancellation_leaks_no_permit(rounds, found) -> None:
    limiter = FairLimiter(5, 3, queue=100_000, per_user_queue=100_000)
    dice = random.Random(7)
    peak = 0

    async def job(user: str) -> None:
        nonlocal peak
        async with limiter.slot(user, timeout=30):
            peak = max(peak, limiter.stats()["running"])
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)

    for _ in range(rounds(100)):
        tasks = [asyncio.create_task(job(f"user-{dice.randrange(7)}")) for _ in range(60)]
        for _ in range(30):
            await asyncio.sleep(0)
            dice.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        limiter.evict(0)
        stats = limiter.stats()
        assert (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0)
        assert stats["granted"] == stats["released"]
    found(f"{limiter.stats()['granted']} granted, {limiter.stats()['cancelled']} cancelled, peak {peak} of 5, 0 left")
    assert peak == 5


def test_a_planted_leak_is_found() -> None:
    """The positive control: contexts that somebody holds do show in the resident memory."""
    before = resident_kib()
    held = [
        UserExecutionContext("soak-holder", "thread-1", "run-1", agent_context={"x": str(number).zfill(4_000)})
        for number in range(20_000)
    ]
    assert resident_kib() - before > 16_384
    assert len(held) == 20_000


async def test_planted_engines_that_nobody_ends_are_found() -> None:
    """The positive control: engines in the factory, each with its slot, its context and its stream."""
    factory = ExecutionEngineFactory(max_engines_per_user=1_000)
    before = resident_kib()
    for number in range(20_000):
        context = UserContextFactory.create_context(f"soak-engines-{number % 100}")
        await factory.create_for_user(context)
    grown = resident_kib() - before
    assert factory.get_factory_metrics()["engines_active"] == 20_000
    await factory.shutdown(0)
    assert grown > 4_096, f"{grown} KiB more"


def test_planted_events_that_nothing_folds_are_found() -> None:
    """The positive control: logs with bounds that nothing reaches, of runs that do not end."""
    before = resident_kib()
    contexts = [UserContextFactory.create_context(f"soak-events-{number}") for number in range(200)]
    for context in contexts:
        emitter = emitter_for_context(context, max_events=1_000_000)
        for _ in range(200):
            emitter.publish("mine", {"text": "x" * 1_000})
    assert resident_kib() - before > 16_384
    assert len(contexts) == 200
