"""The same for what operators look at: the dashboard's stream and actions, and a scrape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isolane import MigrationFeatureFlags
from isolane._core import user_pseudonym
from isolane.fastapi.metrics import _scrape
from isolane.observability.dashboard.access import Permission, Viewer
from isolane.observability.dashboard.actions import Actions, Command
from isolane.observability.dashboard.stream import Board
from starlette.requests import Request

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

FULL = '{"schema": 1, "revision": 1, "flags": {"modern_execution": {"rollout": 100000}}}'
OPERATOR = Viewer("operator", "operator")


@uses("Board.stream")
async def the_dashboard_is_watched(world: World) -> None:
    board = Board(world.isolane)

    async def renewed() -> dict[str, Any]:
        return {}

    streams = [board.stream({"actions": False}, renewed) for _ in range(2)]
    try:
        for stream in streams:
            assert (await anext(stream)).startswith(b"retry:")
            await ticks(1)
            assert (await anext(stream)).startswith(b"event: overview\ndata: {")
        # Somebody looks now and then: the next overview is a second away.
        await ticks(2)
        assert board.streams == len(streams)
    finally:
        for stream in streams:
            await stream.aclose()
        assert (board.streams, board._producer) == (0, None)


@uses("Permission.allows", "Actions.reveal")
async def a_user_is_revealed(world: World) -> None:
    async def authorize(principal: str, action: str, target: str | None) -> bool:
        await ticks(2)
        return principal == "operator"

    permission, actions = Permission(authorize), Actions(world.isolane, None)  # type: ignore[arg-type] - not looked at
    user = user_pseudonym(world.context().user_id)
    assert await permission.allows(OPERATOR, "reveal", user)
    assert not await permission.allows(Viewer("reader", "reader"), "reveal", user)
    await ticks(1)
    assert await actions.reveal(Command(OPERATOR, "reveal", user)) == {"user": user, "name": world.user}


@uses("Actions.rollback")
async def a_flag_is_rolled_back_on_the_dashboard(world: World) -> None:
    flags = MigrationFeatureFlags(FULL)
    rollout = SimpleNamespace(flags=flags, guard=None, source=None)
    isolane: Any = SimpleNamespace(rollout=rollout, audit=None)
    await ticks(2)
    assert flags.engine.is_on("modern_execution", world.user)
    done = await Actions(isolane, None).rollback(  # type: ignore[arg-type] - not looked at
        Command(OPERATOR, "rollback", "modern_execution", "why")
    )
    assert done["rolled_back"]
    assert not flags.engine.is_on("modern_execution", world.user)
    await ticks(2)


@uses()
async def the_metrics_are_scraped(world: World) -> None:
    del world
    await ticks(1)
    answer = await _scrape(Request({"type": "http", "method": "GET", "path": "/metrics", "headers": []}))
    assert b"isolane_contexts_active" in answer.body
