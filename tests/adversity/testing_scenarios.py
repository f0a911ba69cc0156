"""Scenarios of what isolane gives to tests: cancelled, a test leaves nothing to the next."""

from __future__ import annotations

from typing import Any

from isolane.fastapi import IsolaneSettings
from isolane.testing import (
    CanaryKit,
    EventRecorder,
    FaultInjector,
    InMemoryTransport,
    IsolationLab,
    LabApplication,
    UserFactory,
)

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that takes its time at its start, its end, and between."""
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await ticks(2)
            await send({"type": f"lifespan.{what}.complete"})
    elif scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await ticks(1)
        await send({"type": "http.response.body", "body": b"{}"})
    else:
        await receive()
        await ticks(1)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await ticks(1)
            await send({"type": "websocket.send", "text": message["text"]})


@uses(
    "InMemoryTransport.__aenter__",
    "InMemoryTransport.__aexit__",
    "InMemoryTransport.request",
    "InMemoryTransport.get",
    "InMemoryTransport.post",
    "AsyncWsClient.__aenter__",
    "AsyncWsClient.__aexit__",
    "AsyncWsClient.receive",
    "AsyncWsClient.receive_json",
)
async def an_application_is_spoken_to(world: World) -> None:
    async with InMemoryTransport(echo) as transport:
        assert (await transport.get("/")).json() == {}
        assert (await transport.post("/", {"a": 1})).status == 200
        async with transport.websocket("/") as socket:
            socket.send("1")
            assert await socket.receive() == "1"
            socket.send_json([2])
            assert await socket.receive_json() == [2]


@uses("LabApplication.__aenter__", "LabApplication.__aexit__", "LabApplication.get", "LabApplication.post")
async def an_application_of_the_lab_is_spoken_to(world: World) -> None:
    users = UserFactory()
    app = LabApplication(IsolaneSettings(signal_drain=False, drain_seconds=0.0), users)
    async with app:
        assert (await app.get("/nothing", users("ann"))).status == 404
        assert (await app.post("/nothing")).status == 404


@uses("IsolationLab.run", "IsolationLab.check", "LabUser.aclose", "UserFactory.aclose")
async def a_lab_runs(world: World) -> None:
    users, kit, events = UserFactory(), CanaryKit(), EventRecorder()
    try:
        lab = IsolationLab(users, kit, events, count=2)

        async def work(user: Any) -> Any:
            user.context()
            await ticks(1)
            return kit.of(user)

        assert (await lab.run(work, rounds=1)).verdict == "clean"
        await lab.check(work, rounds=1)
    finally:
        events.close()
        world.owed.append(users.aclose)
    await users.aclose()


@uses("FaultInjector.cancel_at", "FaultInjector.cancel_everywhere")
async def work_is_cancelled(world: World) -> None:
    faults = FaultInjector()

    async def work() -> None:
        async with world.limiter.slot(world.user):
            await ticks(2)

    assert (await faults.cancel_at(work, 1)).was_cancelled
    async for outcome in faults.cancel_everywhere(work):
        last = outcome
    assert not last.was_cancelled
