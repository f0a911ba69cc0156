"""The scenarios of the pools: admission, and anything that is opened with it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

WAITING = ("Leasing.__aenter__", "Leasing.__aexit__", "Gate.acquire", "Admission.acquire")
OPENING = (
    "BoundResource.__aenter__",
    "BoundResource.__aexit__",
    "Anything.open",
    "Anything.close",
    "Resource.open",
    "Resource.close",
    "Keeper.in_background",
)


class Connections:
    """An application's own pool of one: taking a second one fails, and so does giving back what was not taken."""

    def __init__(self) -> None:
        self.taken = False

    async def take(self) -> Connections:
        await ticks(2)
        assert not self.taken, "more are taken than were admitted"
        self.taken = True
        await ticks(1)
        return self

    async def give(self, thing: Connections) -> None:
        await ticks(2)
        assert thing.taken
        thing.taken = False

    def discard(self, thing: Connections) -> None:
        thing.taken = False


@uses(*WAITING)
async def a_connection_is_waited_for(world: World) -> None:
    held = await world.pools.connection("somebody-else", "database")
    world.after(3, held.release)
    async with world.pools.connection(world.user, "database"):
        await ticks(2)


@uses(*WAITING)
async def two_pools_are_waited_for(world: World) -> None:
    for name in ("database", "llm"):
        held = await world.pools.connection(f"holds-{name}", name)
        world.after(3, held.release)
    async with world.pools.connection(world.context(), "database", "llm"):
        await ticks(1)


@uses("Lease.__aenter__", "Lease.__aexit__")
async def a_lease_is_held_by_hand(world: World) -> None:
    async with await world.pools.connection(world.user, "database"):
        await ticks(2)


@uses(*OPENING)
async def a_thing_is_opened_and_closed(world: World) -> None:
    if not hasattr(world, "connections"):
        world.connections = Connections()  # type: ignore[attr-defined]
    mine: Connections = world.connections  # type: ignore[attr-defined]
    held = await world.pools.connection("somebody-else", "llm")
    world.after(2, held.release)
    async with world.pools.bind(world.user, "llm", mine.take, mine.give, discard=mine.discard) as thing:
        assert thing.taken
        await ticks(2)


@uses("PoolHealthMonitor.check", "ResourcePoolManager.check_health")
async def the_pools_are_checked(world: World) -> None:
    async def check() -> None:
        await ticks(3)

    world.pools.register_health_check("database", check)
    async with world.pools.connection(world.user, "database"):
        health = await world.pools.check_health("database")
    assert health["database"].state == "healthy"


@uses(
    "ResourcePoolManager.get_user_pool",
    "ResourcePoolManager.optimize_pool_sizes",
    "UserResourcePool.increase_capacity",
    "UserResourcePool.reduce_capacity",
)
async def the_sizes_are_fitted(world: World) -> None:
    pools = world.new_pools()
    for number in range(501):
        async with pools.connection(f"{world.user}-{number}", "database"):
            pass
    await pools.optimize_pool_sizes()
    pool = await pools.get_user_pool(world.user)
    assert await pool.reduce_capacity(1) == 1
    assert await pool.increase_capacity(2) == 2


@uses(
    "ResourcePoolManager.__aenter__",
    "ResourcePoolManager.__aexit__",
    "ResourcePoolManager.close",
    "PoolHealthMonitor.close",
    "Keeper.close",
)
async def the_pools_are_closed(world: World) -> None:
    closed: list[Any] = []

    async def check() -> None:
        await asyncio.get_running_loop().create_future()

    async def take() -> str:
        await ticks(1)
        return "thing"

    async def give(thing: str) -> None:
        await ticks(3)
        closed.append(thing)

    pools = world.new_pools()
    world.owed.append(lambda: pools.close(drain=0))
    async with pools:
        pools.register_health_check("database", check)
        async with pools.bind(world.user, "database", take, give):
            await ticks(1)
    assert closed == ["thing"]
