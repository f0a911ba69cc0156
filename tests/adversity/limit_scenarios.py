"""The same for the faces of limits: suspended permits, permits as blocks, semaphores of the older names."""

from __future__ import annotations

import asyncio

from isolane import AdaptiveSemaphore, OptimizedSemaphoreManager, UserSemaphoreManager

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


@uses("Suspension.__aenter__", "Suspension.__aexit__", "Permit.__aenter__", "Permit.__aexit__")
async def a_permit_is_given_back_for_a_wait(world: World) -> None:
    ctx = world.context()
    async with await world.limiter.acquire(world.user, timeout=30, ctx=ctx) as permit:
        async with permit.suspend(30):
            held = world.limiter.slot_nowait(world.user)
            world.after(3, held.release)
            await ticks(1)
        assert permit.held
        await ticks(1)


@uses("ExecutionSlot.__aenter__", "ExecutionSlot.__aexit__")
async def a_slot_of_a_manager_is_waited_for(world: World) -> None:
    optimized, by_user = OptimizedSemaphoreManager(total=1, per_user=1), UserSemaphoreManager(1)
    for manager, slot in (
        (optimized.limiter, lambda: optimized.acquire_execution_slot(world.user, timeout=30)),
        (by_user.limiter, lambda: by_user.acquire_with_timeout(world.user, 30)),
    ):
        held = manager.slot_nowait(world.user)
        world.after(2, held.release)
        try:
            async with slot():
                await ticks(1)
        finally:
            held.release()
            manager.evict(0)
            stats = manager.stats()
            assert (stats["running"], stats["queued"]) == (0, 0)


@uses("AdaptiveSemaphore.acquire_adaptive", "AdaptiveSemaphore.__aenter__", "AdaptiveSemaphore.__aexit__")
async def an_adaptive_semaphore_is_waited_for(world: World) -> None:
    semaphore = AdaptiveSemaphore(base_capacity=1)

    async def holds() -> None:
        async with semaphore:
            await ticks(2)

    first = asyncio.create_task(holds())
    try:
        await ticks(1)
        if await semaphore.acquire_adaptive(30):
            try:
                await ticks(1)
            finally:
                semaphore.release_adaptive()
        async with semaphore:
            await ticks(1)
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
