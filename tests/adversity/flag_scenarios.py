"""The same for the rollout: who is asked, and what follows a source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from isolane import FlagText, MigrationFeatureFlags

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

FULL = '{"schema": 1, "revision": %d, "flags": {"modern_execution": {"rollout": %d}}}'


@uses("MigrationFeatureFlags.should_use_modern_execution", "MigrationFeatureFlags.get_websocket_bridge_mode")
async def a_user_is_asked_about(world: World) -> None:
    flags = MigrationFeatureFlags(FULL % (1, 100_000))
    await ticks(1)
    assert await flags.should_use_modern_execution(world.user)
    assert await flags.get_websocket_bridge_mode(world.user) == "modern"


class Changing:
    """A source whose document changes at each turn of the loop."""

    def __init__(self) -> None:
        self.revision = 1
        self.watchers = 0

    def read(self) -> FlagText:
        return FlagText(FULL % (self.revision, 100_000 * (self.revision % 2)))

    async def watch(self, on_change: Callable[[], None]) -> None:
        self.watchers += 1
        try:
            while self.revision < 4:
                await asyncio.sleep(0)
                self.revision += 1
                on_change()
        finally:
            self.watchers -= 1


@uses("MigrationFeatureFlags.watch")
async def a_source_is_followed(world: World) -> None:
    source = Changing()
    flags = MigrationFeatureFlags(source)
    context = world.context()
    before = flags.modes(context)
    try:
        await flags.watch()
    finally:
        # Cancelled as well: nobody watches, what was read is in force, and the run is as it was.
        assert source.watchers == 0
        assert flags.engine.revision == source.revision
        assert flags.modes(context) == before
        await context.cleanup()
