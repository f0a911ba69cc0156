"""Soaks: what one round does not show."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
from pathlib import Path

import isolane
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    FairLimiter,
    UserContextFactory,
    UserExecutionContext,
)


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


async def test_engines_and_events_leave_nothing_behind(rounds, found) -> None:
    registry = AgentRegistry()
    registry.register(Publisher)
    factory = ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry))

    async def burst(count: int) -> None:
        for number in range(count):
            context = UserContextFactory.create_context(f"soak-{number % 50}")
            async with factory.user_execution_scope(context) as engine:
                result = await engine.execute_agent("publisher", number)
                assert result.success
            await context.cleanup()

    # Until each user's logs are at their bound and the allocator has settled.
    await burst(rounds(50_000))
    before = resident_kib()
    count = rounds(20_000)
    await burst(count)
    grown = resident_kib() - before
    found(f"{grown} KiB more after {count} engines with 4 events each")
    metrics = factory.get_factory_metrics()
    assert metrics["engines_active"] == 0
    assert factory.limiter.stats()["running"] == 0
    settled = count >= 20_000
    assert grown < (2_048 if settled else 16_384), f"{grown} KiB more"
    assert isolane.lane_stats()["bytes"] < 50 * (5 << 20)


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
