"""Scenarios of tool calls and permission checks."""

from __future__ import annotations

import asyncio
from typing import Any

from isolane import (
    FairLimiter,
    PermissionBoundarySystem,
    PermissionEngine,
    ToolThreads,
    UnifiedToolDispatcherFactory,
    UserExecutionContext,
)

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks

ALL = PermissionEngine.for_tools({"everyone": ["*"]})


class Consents:
    """A permission service that takes its time."""

    async def authorize(self, context: UserExecutionContext, action: str, resources: tuple[str, ...]) -> bool:
        await ticks(2)
        return True


class Record:
    """Keeps what was recorded."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)


@uses("PermissionBoundarySystem.validate_execution_permissions")
async def a_permission_is_checked(world: World) -> None:
    record = Record()
    boundary = PermissionBoundarySystem(services=[Consents(), Consents()], audit=record)
    try:
        assert await boundary.validate_execution_permissions(world.context(), "read")
    finally:
        assert len(record.events) == 1, "recorded on every way out"


@uses("UnifiedToolDispatcher.execute_tool", "UnifiedToolDispatcher.dispatch_tool", "UnifiedToolDispatcher.cleanup")
async def tools_are_called(world: World) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=PermissionBoundarySystem(ALL, services=[Consents()]))
    dispatcher = factory.create_dispatcher(world.context())

    async def below() -> int:
        await ticks(2)
        return 7

    async def above() -> int:
        return int(await dispatcher.execute_tool("below")) + 1

    dispatcher.register_tool(below)
    dispatcher.register_tool(above)
    try:
        assert await dispatcher.execute_tool("above", timeout=30) == 8
        assert (await dispatcher.dispatch_tool("below")).result == 7
        await dispatcher.cleanup()
    finally:
        assert factory.get_metrics()["running"] == 0


@uses("UnifiedToolDispatcherFactory.create_scoped", "UnifiedToolDispatcherFactory.cleanup_all_dispatchers")
async def dispatchers_are_cleaned_up(world: World) -> None:
    factory = UnifiedToolDispatcherFactory(permissions=ALL)
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await ticks(1)

    async with factory.create_scoped(world.context(), tools=[endless]) as dispatcher:
        task = asyncio.ensure_future(dispatcher.execute_tool("endless"))
        try:
            await begun.wait()
            await factory.cleanup_all_dispatchers()
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert factory.get_metrics()["running"] == 0


@uses("ToolThreads.acquire", "ToolThreads.run")
async def a_thread_runs_a_call(world: World) -> None:
    threads = ToolThreads(1)
    assert isinstance(threads._limiter, FairLimiter)
    held = await threads.acquire(world.user, 30)
    world.after(3, held.release)
    permit = await threads.acquire(world.user, 30)
    ran = []
    try:
        await threads.run(permit, lambda: ran.append(7))
    finally:
        # The call may still be under way in its thread: its permit comes back when it is over.
        while threads.stats()["running"]:
            await asyncio.sleep(0)
