"""A service in which everything can go wrong that an alert is about, and that looks at its alerts often.

Run by ``uvicorn tests.support.alerting_service:make_app --factory`` in a process of its own, whose metrics are nobody
else's. The rules are the default ones with their thresholds; only the minute of ``few_users`` is a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

from fastapi import FastAPI, Request
from isolane import AgentRegistry, BaseAgent, ContaminationDetector
from isolane.fastapi import Ctx, Engine, IsolaneSettings, Principal, setup
from isolane.fastapi.sockets import bearer_of
from isolane.memory import charge
from isolane.observability import AlertManager, default_rules
from starlette.requests import HTTPConnection

GIGABYTE = 1024**3


def who(conn: HTTPConnection) -> Principal | None:
    """The token is the user's name."""
    token = bearer_of(conn.headers)
    return Principal(token) if token else None


class Sleeper(BaseAgent):
    """Takes as long as it is told."""

    name = "sleeper"

    async def execute_with_context(self, context, request, results) -> Any:
        await asyncio.sleep(request["seconds"])


class Failing(BaseAgent):
    """Fails."""

    name = "failing"

    async def execute_with_context(self, context, request, results) -> Any:
        raise ValueError("no such column")


class Talker(BaseAgent):
    """Publishes big events, as many as it is told."""

    name = "talker"

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        for at in range(request["events"]):
            await emitter.send_custom_event("page", {"at": at, "text": "x" * request["size"]})
            await asyncio.sleep(0)


def make_app() -> FastAPI:
    """The application."""
    app = FastAPI()
    agents = AgentRegistry()
    for agent in (Sleeper, Failing, Talker):
        agents.register(agent)
    rules = [dataclasses.replace(rule, for_seconds=1.0 if rule.for_seconds else 0.0) for rule in default_rules()]
    alerts = AlertManager(rules, every=0.1)
    detector = ContaminationDetector("observe")
    isolane = setup(
        app,
        IsolaneSettings(
            metrics_path="/metrics", drain_seconds=0.2, permits_total=3, permits_per_user=2, max_engines_per_user=20
        ),
        who,
        registry=agents,
        contamination=detector,
        alerts=alerts,
    )

    @app.post("/run/{agent}")
    async def run(agent: str, request: Request, engine: Engine) -> dict[str, Any]:
        result = await engine.execute_agent_pipeline([agent], await request.json())
        return {"success": result.success, "run_id": result.run_id}

    @app.post("/start/{agent}")
    async def start(agent: str, request: Request, ctx: Ctx, engine: Engine) -> dict[str, str]:
        ctx.detach()
        engine.start_agent_pipeline([agent], await request.json())
        return {"run_id": ctx.run_id}

    release = asyncio.Event()

    @app.post("/hold/{gigabytes}")
    async def hold(gigabytes: float, ctx: Ctx) -> bool:
        with charge(ctx, int(gigabytes * GIGABYTE)), contextlib.suppress(TimeoutError):
            await asyncio.wait_for(release.wait(), 20)
        return True

    @app.post("/release")
    async def let_go() -> bool:
        release.set()
        return True

    @app.get("/secret-of/{user}")
    async def secret_of(user: str, ctx: Ctx) -> dict[str, str]:
        # The leak: whoever asks gets what is somebody else's.
        return {"note": detector.mint(user)}

    @app.post("/drain")
    async def drain() -> bool:
        isolane.draining = True
        return True

    @app.get("/alerts")
    async def listed() -> dict[str, Any]:
        return {
            "active": [alert.to_dict() for alert in alerts.active],
            "history": [alert.to_dict() for alert in alerts.history],
            "statistics": isolane.introspect()["alerts"],
        }

    return app
