"""The guard of a rollout in a FastAPI application on a real uvicorn: what clients see when it rolls back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from isolane import (
    AgentRegistry,
    BaseAgent,
    FlagWriter,
    GuardPolicy,
    MigrationFeatureFlags,
    RolloutGuard,
    UserExecutionContext,
)
from isolane._core import log_accounts
from isolane.fastapi import Ctx, Engine, IsolaneSettings, setup
from websockets.asyncio.client import ClientConnection, connect

from tests.integrations.conftest import who
from tests.support.server import serving

FLAG = "modern_execution"


class Endless(BaseAgent):
    name = "endless"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> None:
        await asyncio.sleep(60)


class Quick(BaseAgent):
    name = "quick"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        if request == "break":
            raise ValueError("no such column")
        return request


def make_app(path: Path) -> tuple[FastAPI, RolloutGuard]:
    app, agents = FastAPI(), AgentRegistry()
    for agent in (Endless, Quick):
        agents.register(agent)
    flags = MigrationFeatureFlags(path)
    guard = RolloutGuard(flags, policy=GuardPolicy(min_samples=5), writer=FlagWriter(path))
    settings = IsolaneSettings(drain_seconds=0.2, max_engines_per_user=8)
    setup(app, settings, who, registry=agents, rollout=flags, guard=guard)

    @app.post("/run/{agent}")
    async def run(agent: str, engine: Engine, request: str = "") -> dict[str, Any]:
        result = await engine.execute_agent(agent, request)
        return {"ok": result.success}

    @app.post("/leak")
    async def leak() -> None:
        guard.observe("isolation_violation", True)

    @app.post("/end")
    async def end() -> bool:
        return await app.state.isolane.factory.cleanup_user_context("guard-leo")

    @app.get("/modern")
    async def modern(ctx: Ctx) -> bool:
        return guard.is_modern(ctx)

    return app, guard


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    flag = {"rollout": 100_000, "deny": ["guard-leo"]}
    path.write_text(json.dumps({"schema": 1, "revision": 1, "flags": {FLAG: flag}}))
    return path


def written(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["flags"][FLAG]


def auth(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


async def until_error(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] in {"agent_error", "agent_completed"}:
                return message


async def test_after_a_violation_each_modern_run_ends_with_one_event_and_the_next_one_goes_the_older_way(
    path: Path,
) -> None:
    app, guard = make_app(path)
    with serving(app) as port:
        base = f"127.0.0.1:{port}"
        async with (
            httpx.AsyncClient(base_url=f"http://{base}", timeout=30) as client,
            connect(f"ws://{base}/ws", additional_headers=auth("guard-mia")) as socket,
        ):
            assert (await client.get("/modern", headers=auth("guard-mia"))).json() is True
            modern = asyncio.create_task(client.post("/run/endless", headers=auth("guard-mia")))
            legacy = asyncio.create_task(client.post("/run/endless", headers=auth("guard-leo")))
            factory = app.state.isolane.factory
            async with asyncio.timeout(30):
                while factory.get_factory_metrics()["engines_active"] < 2:
                    await asyncio.sleep(0.01)
            assert (await client.post("/leak")).status_code == 200
            answer = await modern
            body = answer.json()
            assert (answer.status_code, body["code"], body["retriable"]) == (503, "rolled_back", True)
            last = await until_error(socket)
            assert last["type"] == "agent_error"
            assert (last["payload"]["code"], last["payload"]["retriable"]) == ("rolled_back", True)
            assert not legacy.done()
            assert (await client.get("/modern", headers=auth("guard-mia"))).json() is False
            assert (await client.post("/run/quick", headers=auth("guard-mia"))).json() == {"ok": True}
            status = guard.status().to_dict()
            assert (status["state"], status["health"]) == ("rolled_back", "critical")
            assert all(account["balanced"] for account in log_accounts())
            async with asyncio.timeout(30):
                while "rollback" not in written(path):
                    await asyncio.sleep(0.02)
            assert (await client.post("/end")).json() is True
            await legacy


async def test_errors_of_real_requests_roll_back_and_those_of_the_older_side_do_not(path: Path) -> None:
    app, guard = make_app(path)
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for _ in range(10):
                await client.post("/run/quick?request=break", headers=auth("guard-leo"))
            status = guard.status()
            assert status.state != "rolled_back"
            assert (status.metrics["run_error"].legacy_bad, status.metrics["run_error"].seen) == (10, 0)
            for _ in range(10):
                await client.post("/run/quick?request=break", headers=auth("guard-mia"))
                if guard.status().state == "rolled_back":
                    break
            record = guard.status().record
            assert record is not None
            assert (record.metric, record.mode, record.stage) == ("run_error", "drain", 100_000)
            assert (await client.get("/modern", headers=auth("guard-mia"))).json() is False
