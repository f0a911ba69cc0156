"""A guard in a running service: what goes wrong is rolled back in the file, and so in all processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI, Request
from isolane import AgentRegistry, BaseAgent, FileSource, FlagWriter, MigrationFeatureFlags, cli
from isolane.fastapi import Engine, IsolaneSettings, RunModes, setup
from isolane.migration.guard import RolloutGuard

from tests.support.rollout_service import who
from tests.support.server import serving

MODERN = "modern_execution"


class Fragile(BaseAgent):
    """Fails when it is asked to."""

    name = "fragile"

    async def execute_with_context(self, context, request, results) -> Any:
        if request["fail"]:
            raise ValueError("as planned")


class Sink:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.events]


def make_app(flags: MigrationFeatureFlags, guard: RolloutGuard, sink: Sink) -> FastAPI:
    app = FastAPI()
    agents = AgentRegistry()
    agents.register(Fragile)
    setup(app, IsolaneSettings(drain_seconds=0.2), who, registry=agents, rollout=flags, guard=guard, audit=sink)

    @app.post("/run")
    async def run(request: Request, engine: Engine, modes: RunModes) -> str:
        if modes.is_modern:
            await engine.execute_agent_pipeline(["fragile"], await request.json())
        return modes.execution

    return app


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


async def test_what_fails_is_rolled_back_everywhere_and_goes_on_when_it_is_resumed(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("isolane.fastapi.rollout.GUARD_SECONDS", 0.05)
    path = tmp_path / "flags.json"
    writer = FlagWriter(path)
    writer.set_rollout(MODERN, 100, actor="ann", create=True)
    flags = MigrationFeatureFlags(FileSource(path, poll_seconds=0.02))
    # Another process would have these: they know the file alone.
    elsewhere = MigrationFeatureFlags(FileSource(path, poll_seconds=0.02))
    elsewhere.watcher.start()
    sink, records = Sink(), []
    guard = RolloutGuard(flags, MODERN, writer=writer, on_rollback=records.append)

    async def run(http: httpx.AsyncClient, number: int, *, fail: bool) -> str:
        answer = await http.post("/run", json={"fail": fail}, headers={"Authorization": f"Bearer guarded-{number}"})
        return str(answer.json()) if answer.status_code == 200 else f"{answer.status_code}"

    with serving(make_app(flags, guard, sink)) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            for number in range(10):
                assert await run(http, number, fail=False) == "modern"
            tried = 0
            while await run(http, tried, fail=True) != "legacy":
                tried += 1
                assert tried < 200
            assert [record.metric for record in records] == ["run_error"]
            await until(lambda: elsewhere.engine.latched() != {})
            assert not elsewhere.is_on(MODERN, "guarded-1")
            held = writer.read().document["flags"][MODERN]
            assert (held["rollout"], held["rollback"]["metric"]) == (0, "run_error")
            await until(lambda: {"rollout_rolled_back", "rollout_changed"} <= set(sink.names()))

            assert cli.main(["rollout", "status", "--file", str(path)]) == 0
            assert "ROLLED BACK" in capsys.readouterr().out
            assert cli.main(["rollout", "set", MODERN, "100", "--file", str(path)]) == 1
            resume = ["rollout", "resume", MODERN, "--ack", "INC-1", "--actor", "ann", "--file", str(path)]
            assert await asyncio.to_thread(cli.main, resume) == 0
            await until(lambda: elsewhere.engine.latched() == {} and flags.engine.latched() == {})
            assert await run(http, 1, fail=False) == "legacy", "resumed, and at 0 % still"
            assert await asyncio.to_thread(cli.main, ["rollout", "set", MODERN, "100", "--file", str(path)]) == 0
            await until(lambda: flags.is_on(MODERN, "guarded-1"))
            assert await run(http, 1, fail=False) == "modern"
            # And it is watched as before.
            await until(lambda: guard.status().state != "rolled_back")
            for number in range(200):
                if await run(http, number, fail=True) == "legacy":
                    break
            await until(lambda: len(records) == 2)
    await elsewhere.watcher.stop()
    assert tried < 60


def test_an_application_with_a_guard_can_be_started_again(tmp_path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"schema": 1, "revision": 1, "flags": {MODERN: {"rollout": 100_000}}}))
    flags = MigrationFeatureFlags(path)
    guard = RolloutGuard(flags)
    app = make_app(flags, guard, Sink())
    for number in range(2):
        with serving(app) as port:
            for each in range(3):
                headers = {"Authorization": f"Bearer again-{each}"}
                answer = httpx.post(f"http://127.0.0.1:{port}/run", json={"fail": False}, headers=headers, timeout=30)
                assert answer.json() == "modern"
        # Neither deaf after the second start, nor hearing everything twice.
        assert guard.status().metrics["run_error"].seen == 3 * (number + 1)
