"""An application with isolane in it, as a team would write it."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from isolane import AgentRegistry, BaseAgent
from isolane.fastapi import Connection, Ctx, Emitter, Engine, IsolaneSettings, OptionalCtx, Principal, setup
from isolane.fastapi.sockets import bearer_of
from starlette.requests import HTTPConnection


class EchoAgent(BaseAgent):
    """Publishes what it was asked for, as often as it was asked for."""

    name = "echo"

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        for step in range(request.get("events", 1)):
            await emitter.notify_agent_thinking(f"{request['nonce']} step {step}", {"step_number": step})
            await asyncio.sleep(request.get("pause", 0))
        return {"nonce": request["nonce"], "user": context.user_id}


class SlowAgent(BaseAgent):
    """Goes on until it is cancelled."""

    name = "slow"
    timeout_seconds = 2.0

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name="wait", params={})
        await asyncio.sleep(60)


class FailingAgent(BaseAgent):
    """Fails."""

    name = "failing"

    async def execute_with_context(self, context, request, results) -> Any:
        raise ValueError("no such column")


class Session:
    """A real SQLite connection that counts whether it was closed."""

    opened = 0
    closed = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)

    def close(self) -> None:
        type(self).closed += 1
        self.connection.close()


def who(conn: HTTPConnection) -> Principal | None:
    """The token is the user's name."""
    token = bearer_of(conn.headers)
    return Principal(token) if token else None


def make_app(**settings: Any) -> FastAPI:
    """An application with the routes that the tests use."""
    app = FastAPI()
    agents = AgentRegistry()
    for agent in (EchoAgent, SlowAgent, FailingAgent):
        agents.register(agent)
    Session.opened = Session.closed = 0
    isolane = setup(
        app,
        IsolaneSettings(**{"drain_seconds": 0.2, **settings}),
        who,
        session_factory=lambda _context: Session(),
        registry=agents,
    )

    @app.post("/execute/{agent}")
    async def execute(agent: str, request: Request, engine: Engine) -> dict[str, Any]:
        result = await engine.execute_agent_pipeline(
            [agent, "echo"] if agent == "echo" else [agent], await request.json()
        )
        return {"success": result.success, "result": result.result, "error": str(result.error), "run_id": result.run_id}

    @app.post("/start/{agent}")
    async def start(agent: str, request: Request, ctx: Ctx, engine: Engine) -> dict[str, str]:
        ctx.detach()
        engine.start_agent_pipeline([agent], await request.json())
        return {"run_id": ctx.run_id, "thread_id": ctx.thread_id}

    @app.get("/who")
    async def whoami(ctx: OptionalCtx) -> dict[str, Any]:
        return {"user": ctx.user_id if ctx else None, "thread": ctx.thread_id if ctx else None}

    @app.get("/static")
    async def static() -> dict[str, int]:
        return {"lanes": isolane.introspect()["lanes"]["lanes"]}

    @app.get("/session")
    async def session(ctx: Ctx) -> dict[str, bool]:
        first, second = ctx.get_database_session(), ctx.get_database_session()
        child = ctx.create_child_context("part").get_database_session()
        return {"same": first is second is child, "open": Session.opened > Session.closed}

    @app.get("/stream")
    async def stream(ctx: Ctx) -> StreamingResponse:
        async def body():
            for _ in range(3):
                yield f"{ctx.user_id}:{ctx.status.value}\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(body())

    @app.post("/emit")
    async def emit(emitter: Emitter) -> dict[str, int]:
        return {"n": await emitter.send_custom_event("note", {"text": "hello"})}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return isolane.introspect()

    @app.websocket("/chat")
    async def chat(websocket: WebSocket, connection: Connection) -> None:
        await websocket.accept(subprotocol=websocket.scope["subprotocols"][0])
        async with connection.delivering(websocket):
            async for message in websocket.iter_json():
                run = await connection.start_run(message["thread_id"])
                run.engine.start_agent_pipeline(["echo"], message)

    @app.websocket("/wrong")
    async def wrong(websocket: WebSocket, ctx: Ctx) -> None:
        await websocket.accept()

    return app


@pytest.fixture
def app() -> FastAPI:
    return make_app()
