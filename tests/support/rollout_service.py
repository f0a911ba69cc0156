"""A service in the middle of its migration: runs of some users go the old way, through a manager for everybody.

Each event asks the run's own context which way it goes, as code does that is spread over a service: if a run could
change its mind, its events would be on both ways.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from isolane import AgentRegistry, BaseAgent, UserExecutionContext
from isolane.fastapi import Ctx, Flags, IsolaneSettings, Principal, RunModes, setup
from isolane.fastapi.scope import request_scope
from isolane.fastapi.sockets import bearer_of
from isolane.migration.flags import MigrationFeatureFlags
from starlette.requests import HTTPConnection


def who(conn: HTTPConnection) -> Principal | None:
    """The token is the user's name."""
    token = bearer_of(conn.headers)
    return Principal(token) if token else None


class OldManager:
    """What the service had: one object, with the sockets of everybody."""

    def __init__(self) -> None:
        self.sockets: dict[str, list[WebSocket]] = defaultdict(list)

    async def send_to_user(self, user: str, message: dict[str, Any]) -> None:
        for socket in list(self.sockets[user]):
            await socket.send_json(message)


class Story:
    """One run: so many events, each by the way that the context says."""

    def __init__(self, app: FastAPI, request: dict[str, Any]) -> None:
        self.flags: MigrationFeatureFlags = app.state.isolane.rollout.flags
        self.manager: OldManager = app.state.manager
        self.gate: asyncio.Event = app.state.gate
        self.request = request

    async def tell(self, context: UserExecutionContext) -> None:
        for at in range(self.request["events"]):
            asked = (
                context.create_child_context(f"step_{at}") if at % 3 == 0 and self.request.get("children") else context
            )
            modes = self.flags.modes(asked)
            event = {
                "nonce": self.request["nonce"],
                "at": at,
                "bridge": modes.bridge,
                "revision": modes.revision,
                # What somebody would be told who does not ask the context.
                "now": self.flags.bridge_mode(context.user_id),
            }
            if modes.is_modern:
                context.get_websocket_emitter().publish("note", event)
            else:
                await self.manager.send_to_user(context.user_id, event)
            if at == self.request.get("gate"):
                await self.gate.wait()
            await asyncio.sleep(self.request.get("pause", 0))


def make_app(rollout: MigrationFeatureFlags | None = None, **settings: Any) -> FastAPI:
    """The service. Without flags, those that the environment names."""
    app = FastAPI()
    agents = AgentRegistry()

    class Telling(BaseAgent):
        name = "telling"

        async def execute_with_context(self, context, request, results) -> Any:
            await Story(app, request).tell(context)

    agents.register(Telling)
    defaults = {"drain_seconds": 0.2, "max_engines_per_user": 50, "permits_per_user": 50, "permits_total": 500}
    setup(app, IsolaneSettings(**{**defaults, **settings}), who, registry=agents, rollout=rollout)
    app.state.manager = OldManager()
    app.state.gate = asyncio.Event()
    tasks = set()

    @app.get("/mode")
    async def mode(modes: RunModes, flags: Flags) -> dict[str, Any]:
        decision = flags.decide("modern_execution")
        return {"pid": os.getpid(), "bridge": modes.bridge, "revision": modes.revision, "step": decision.step}

    @app.post("/run")
    async def run(request: Request, ctx: Ctx, modes: RunModes) -> dict[str, Any]:
        wanted = await request.json()
        if modes.is_modern:
            ctx.detach()
            engine = await request_scope(request).engine(ctx)
            engine.start_agent_pipeline(["telling"], wanted)
        else:
            # The old way outlives its request, whose context has no children after that.
            task = asyncio.create_task(Story(app, {**wanted, "children": False}).tell(ctx))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return {"run_id": ctx.run_id, "bridge": modes.bridge}

    @app.post("/go")
    async def go() -> None:
        app.state.gate.set()

    @app.websocket("/old")
    async def old(websocket: WebSocket) -> None:
        user = websocket.query_params["user"]
        await websocket.accept()
        app.state.manager.sockets[user].append(websocket)
        try:
            async for _ in websocket.iter_text():
                pass
        finally:
            app.state.manager.sockets[user].remove(websocket)

    return app
