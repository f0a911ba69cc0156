"""The memory gate in a FastAPI application on a real uvicorn: what a client is told."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI
from isolane import MemoryLimits, MemoryOptimizationManager, UserExecutionContext, lane_stats, lane_usage
from isolane.fastapi import Ctx, Engine, IsolaneSettings, setup
from isolane.memory import charge

from tests.integrations.conftest import who
from tests.support.server import serving

MB = 1024 * 1024


def make_app(manager: MemoryOptimizationManager, kept: list[Any]) -> FastAPI:
    """An application in which a user can hold memory."""
    app = FastAPI()
    setup(app, IsolaneSettings(drain_seconds=0.2), who, memory=manager)

    @app.post("/hold/{megabytes}")
    async def hold(megabytes: int, ctx: Ctx) -> dict[str, int]:
        kept.append(charge(ctx, megabytes * MB))
        return {"held": kept[-1].nbytes}

    @app.post("/run")
    async def run(ctx: Ctx, engine: Engine) -> dict[str, Any]:
        ctx.context_cache["rows"] = ["row"] * 1_000
        usage = ctx.get_resource_usage()
        return {"user": ctx.user_id, "mb": usage.memory_usage_mb, "entries": len(ctx.context_cache)}

    return app


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


async def test_a_user_over_the_limit_is_told_to_come_back_and_others_are_served() -> None:
    kept: list[Any] = []
    app = make_app(MemoryOptimizationManager(), kept)
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.post("/run", headers=auth("mem-ann"))).json()["entries"] == 1
            await client.post("/hold/1100", headers=auth("mem-ann"))
            refused = await client.post("/run", headers=auth("mem-ann"))
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
            assert refused.json()["code"] == "memory_limit"
            assert "mem-ann" not in refused.text
            served = await client.post("/run", headers=auth("mem-bob"))
            assert (served.status_code, served.json()["user"]) == (200, "mem-bob")
            kept.clear()
            assert (await client.post("/run", headers=auth("mem-ann"))).status_code == 200
    counts = app.state.isolane.introspect()["memory"]
    assert (counts["refused"], set(counts)) == (1, {"bytes", "throttled", "refused", "alarms"})
    usage = lane_usage("mem-ann")
    assert usage is None or usage["bytes"] < MB, "the caches of the requests are gone"


async def test_a_process_over_the_limit_serves_nobody_until_it_falls() -> None:
    kept: list[Any] = []
    limits = MemoryLimits(process_refuse=lane_stats()["bytes"] + 500 * MB)
    app = make_app(MemoryOptimizationManager(limits), kept)
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await client.post("/hold/600", headers=auth("mem-ann"))
            refused = await client.post("/run", headers=auth("mem-bob"))
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert refused.json()["code"] == "overloaded"
            kept.clear()
            assert (await client.post("/run", headers=auth("mem-bob"))).status_code == 200


def test_counts_are_there_when_something_counts() -> None:
    class Gate:
        async def admit(self, context: UserExecutionContext, timeout: float) -> None:  # noqa: ASYNC109 - the gate's own
            """Lets everybody in."""

    for memory, counts in ((None, False), (Gate(), False), (MemoryOptimizationManager(), True)):
        isolane = setup(FastAPI(), IsolaneSettings(), who, memory=memory)
        assert ("memory" in isolane.introspect()) is counts
