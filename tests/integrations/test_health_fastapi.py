"""What an application's operator sees of the delivery of events and of the loop, on a real uvicorn."""

# ruff: noqa: ASYNC251 - blocking the loop is what is looked for

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from isolane import AgentRegistry, BaseAgent
from isolane._core import EventCursor, user_streams
from isolane.fastapi import Engine, IsolaneSettings, setup
from isolane.testing import manual_clock

from tests.integrations.conftest import who
from tests.support.server import serving


class BlockingAgent(BaseAgent):
    """Holds the loop for 200 ms."""

    name = "blocking"

    async def execute_with_context(self, context, request, results) -> Any:
        await asyncio.sleep(0)
        time.sleep(0.2)
        await asyncio.sleep(0)
        return "done"


def make_app(**settings: Any) -> FastAPI:
    app = FastAPI()
    registry = AgentRegistry()
    registry.register(BlockingAgent)
    isolane = setup(app, IsolaneSettings(drain_seconds=0.2, **settings), who, registry=registry)

    @app.post("/block")
    async def block(engine: Engine) -> dict[str, Any]:
        result = await engine.execute_agent("blocking")
        return {"success": result.success, "run_id": result.run_id}

    @app.post("/tell/{user}")
    async def tell(user: str, event: dict[str, Any]) -> bool:
        return await isolane.bridge.broadcast_to_user(user, event)

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return isolane.introspect()

    return app


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_an_agent_that_blocks_the_applications_loop_is_named_to_the_operator(loop):
    app = make_app()
    with serving(app, loop=loop) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = (await client.post("/block", headers=auth("ann-of-lag"))).json()
            assert answer["success"]
            lags: list[dict[str, Any]] = []
            while not lags:
                figures = (await client.get("/stats")).json()
                of_run = (lag for lag in figures["loop"]["lag"]["latest"] if lag["blockers"])
                lags = [lag for lag in of_run if any(block["run_id"] == answer["run_id"] for block in lag["blockers"])]
                await asyncio.sleep(0.05)
        block = next(block for block in lags[0]["blockers"] if block["run_id"] == answer["run_id"])
        assert (block["user_id"], block["agent"], block["file"]) == ("ann-of-lag", "blocking", __file__)
        assert lags[0]["seconds"] >= 0.05
        assert figures["loop"]["lag"]["late"] >= 1
        assert figures["health"]["healthy"] in {True, False}
        assert figures["emitters"]["heartbeat_status"] == "healthy"
        isolane = app.state.isolane
        assert isolane.lag.is_running
        assert isolane.bridge.health.is_running
    assert not isolane.lag.is_running
    assert not isolane.bridge.health.is_running


async def test_what_measures_stops_with_the_application_and_starts_again():
    app = make_app(cleanup_interval=0.02)
    isolane = app.state.isolane
    for _ in range(2):
        async with app.router.lifespan_context(app):
            assert (isolane.lag.is_running, isolane.bridge.health.is_running) == (True, True)
            assert isolane.bridge.health.status.figures["loop_lag"] is not None
        assert (isolane.lag.is_running, isolane.bridge.health.is_running) == (False, False)


async def test_the_application_ends_streams_of_notices_that_are_idle():
    app = make_app(cleanup_interval=0.02)
    user = "cid-of-notices"
    cursor = EventCursor(user, framed=False)
    with manual_clock() as clock:
        async with app.router.lifespan_context(app):
            assert await app.state.isolane.bridge.broadcast_to_user(user, {"type": "notice"})
            clock.advance(61)
            while [stream["outcome"] for stream in user_streams(user)] != ["completed"]:
                await asyncio.sleep(0.01)
    assert len(cursor.read()) == 1


async def test_a_notice_reaches_every_socket_of_its_user_and_nobody_elses():
    with serving(make_app()) as port:
        address = f"ws://127.0.0.1:{port}/ws"

        def connect(user: str, *protocols: str):
            return websockets.connect(address, subprotocols=[*(protocols or ("events",)), f"bearer.{user}"])

        async with (
            connect("ann-of-notices") as plain,
            connect("ann-of-notices", "isolane.v1") as framed,
            connect("bob-of-notices") as foreign,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            assert json.loads(await framed.recv())["t"] == "welcome"
            for at in range(3):
                event = {"type": "maintenance", "payload": {"at": at}}
                assert (await client.post("/tell/ann-of-notices", json=event)).json() is True
            assert (await client.post("/tell/nobody-of-notices", json=event)).json() is False
            messages = [json.loads(await asyncio.wait_for(plain.recv(), 5)) for _ in range(3)]
            assert [(one["type"], one["payload"]) for one in messages] == [
                ("maintenance", {"at": at}) for at in range(3)
            ]
            got: list[dict[str, Any]] = []
            while len(got) < 3:
                frame = json.loads(await asyncio.wait_for(framed.recv(), 5))
                got += [entry["ev"] for entry in frame.get("b", [])]
            assert got == messages
            assert (await client.post("/tell/bob-of-notices", json={"type": "hello"})).json() is True
            assert json.loads(await asyncio.wait_for(foreign.recv(), 5))["type"] == "hello", "the first that came"
            delay = (await client.get("/stats")).json()["events"]["latency"]
            assert delay["count"] >= 4
            assert 0 <= delay["p50"] <= delay["p99"] <= delay["longest"]
