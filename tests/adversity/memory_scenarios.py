"""The same for memory: what waits for it, what cleans it, and the tasks of a context."""

from __future__ import annotations

import asyncio

from isolane import MemoryOptimizationManager
from isolane.memory import charge

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

MB = 1024 * 1024


@uses("MemoryOptimizationManager.admit")
async def a_run_waits_for_memory(world: World) -> None:
    manager = MemoryOptimizationManager()
    manager.poll_seconds = 0
    ctx = world.context()
    handle = charge(ctx, 210 * MB)
    world.after(3, handle.release)
    await manager.admit(ctx, 30)
    world.waiting_factory.memory = manager
    async with world.waiting_factory.user_execution_scope(world.context()) as engine:
        await engine.execute_agent("worker", 7)


@uses(
    "MemoryOptimizationManager.create_memory_optimized_context",
    "MemoryOptimizationManager.optimize_context_memory",
    "MemoryOptimizationManager.force_memory_reclamation",
    "MemoryOptimizationManager.emergency_cache_clear",
    "MemoryTracker.can_allocate_user_context",
    "MemoryTracker.get_context_memory_usage",
    "MemoryTracker.is_over_limit",
    "MemoryTracker.register_context",
    "OptimizedCacheManager.compress_cache_data",
    "OptimizedCacheManager.emergency_cache_clear",
    "CleanupScheduler.run_immediate_cleanup",
)
async def a_context_is_optimized(world: World) -> None:
    manager = MemoryOptimizationManager()
    assert await manager.memory_tracker.can_allocate_user_context(world.user)
    ctx = await manager.create_memory_optimized_context(world.user)
    world.contexts.append(ctx)
    cache = ctx.context_cache
    cache["text"] = "the same words, " * 1_000
    with charge(ctx, 210 * MB):
        await manager.optimize_context_memory(ctx)
    await manager.memory_tracker.register_context(ctx)
    for number in range(3):
        cache.set(f"rows-{number}", [number] * 1_000, size=2_000)
    await manager.cache_manager.compress_cache_data(ctx)
    assert (await manager.memory_tracker.get_context_memory_usage(ctx)).bytes > 0
    assert not await manager.memory_tracker.is_over_limit(ctx)
    await ticks(1)
    await manager.cleanup_scheduler.run_immediate_cleanup()
    await manager.force_memory_reclamation()
    await manager.cache_manager.emergency_cache_clear(world.user)
    await manager.emergency_cache_clear(world.user)


@uses("CleanupScheduler.stop")
async def cleanings_are_stopped(world: World) -> None:
    manager = MemoryOptimizationManager(cleanup_interval=0.001)
    manager.cleanup_scheduler.start()
    try:
        await ticks(2)
    finally:
        await manager.cleanup_scheduler.stop()


@uses("start", "canceller")
async def tasks_end_with_their_context(world: World) -> None:
    ctx = world.context()

    async def ends_slowly() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await ticks(2)

    ctx.create_task(ends_slowly())
    child = ctx.create_child_context("below")
    child.create_task(ends_slowly())
    await ctx.create_task(ticks(1))
    await child.cleanup()
    await ctx.cleanup()
