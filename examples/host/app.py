"""A service as it stands: sockets in a pool of its own, agents of its own, a run for each request.

Written against the existing service's module names. To run it on isolane, replace `examples.host.legacy` in the import
lines by `isolane.compat`; nothing else changes. Start it with `python -m uvicorn examples.host.app:app`.

Users sign in by naming themselves, which is good enough for an example on the loopback and for nothing else.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from examples.host.legacy.agent_instance_factory import configure_agent_instance_factory
from examples.host.legacy.execution_engine_factory import (
    ExecutionEngineFactoryError,
    configure_execution_engine_factory,
    user_execution_engine,
)
from examples.host.legacy.unified_id_manager import UnifiedIDManager
from examples.host.legacy.user_execution_context import (
    InvalidContextError,
    UserExecutionContext,
    managed_user_context,
)
from examples.host.legacy.websocket_bridge_factory import UserWebSocketEmitter, get_websocket_bridge_factory


@dataclass
class PooledConnection:
    """One accepted socket."""

    user_id: str
    websocket: WebSocket


class ConnectionPool:
    """The sockets of this process."""

    def __init__(self) -> None:
        self._connections: dict[str, PooledConnection] = {}

    def add(self, user_id: str, websocket: WebSocket) -> str:
        connection_id = f"conn-{uuid.uuid4().hex}"
        self._connections[connection_id] = PooledConnection(user_id, websocket)
        return connection_id

    def remove(self, connection_id: str) -> None:
        self._connections.pop(connection_id, None)

    async def get_connection(self, connection_id: str, user_id: str) -> PooledConnection | None:
        connection = self._connections.get(connection_id)
        return connection if connection is not None and connection.user_id == user_id else None


@dataclass
class Job:
    """What the agents of one run work on."""

    text: str
    emitter: UserWebSocketEmitter
    pause: float = 0.0
    results: dict[str, Any] = field(default_factory=dict)


class CountingAgent:
    """Counts words, with a tool."""

    async def execute(self, context: UserExecutionContext, job: Job) -> dict[str, int]:
        emitter, run = job.emitter, context.run_id
        await emitter.notify_agent_thinking("counting", run, "splitting the text")
        await emitter.notify_tool_executing("counting", run, "split", {"text": job.text, "api_key": "not-for-browsers"})
        await asyncio.sleep(job.pause)
        words = job.text.split()
        if not words:
            raise ValueError("the text has no words")
        await emitter.notify_tool_completed("counting", run, "split", {"words": len(words)})
        return {"words": len(words), "letters": sum(map(len, words))}


class ReportAgent:
    """Writes a sentence about what was counted."""

    async def execute(self, context: UserExecutionContext, job: Job) -> str:
        counted = job.results["counting"]
        await job.emitter.notify_agent_thinking("report", context.run_id, "writing")
        return f"{context.user_id}: {counted['words']} words of {counted['letters']} letters"


class AgentRegistry:
    """The classes of the agents."""

    classes: dict[str, type] = {"counting": CountingAgent, "report": ReportAgent}  # noqa: RUF012 - never written to

    def get_agent_class(self, agent_name: str) -> type | None:
        return self.classes.get(agent_name)


class RunRequest(BaseModel):
    text: str
    thread_id: str
    connection_id: str
    pause: float = 0.0


pool = ConnectionPool()


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    agents = AgentRegistry()
    bridge = get_websocket_bridge_factory()
    bridge.configure(pool, agents, None)
    configure_agent_instance_factory(agents)
    engines = await configure_execution_engine_factory(bridge)
    yield
    await engines.shutdown()


app = FastAPI(lifespan=lifespan)
User = Annotated[str, Query(alias="user")]


@app.exception_handler(InvalidContextError)
async def invalid(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(ExecutionEngineFactoryError)
async def no_engine(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 429)


@app.post("/runs")
async def run(body: RunRequest, user: User) -> dict[str, Any]:
    """Count the words of a text and report on them; the browser sees each step."""
    run_id = UnifiedIDManager.generate_run_id(body.thread_id)
    context = UserExecutionContext.from_request(
        user, body.thread_id, run_id, websocket_client_id=body.connection_id, agent_context={"text": body.text}
    )
    emitter = await get_websocket_bridge_factory().create_user_emitter(user, body.thread_id, body.connection_id)
    job = Job(body.text, emitter, body.pause)
    try:
        async with managed_user_context(context), user_execution_engine(context) as engine:
            for agent in ("counting", "report"):
                outcome = await engine.execute_agent_pipeline(agent, context, job)
                if not outcome.success:
                    raise HTTPException(502, outcome.error)
                job.results[agent] = outcome.data
    finally:
        await emitter.cleanup()
    return {"run_id": run_id, "report": job.results["report"]}


@app.websocket("/ws")
async def events(websocket: WebSocket, user: User) -> None:
    """The browser's socket. Its first message says what it is called in the pool."""
    await websocket.accept()
    connection_id = pool.add(user, websocket)
    await websocket.send_json({"type": "connected", "payload": {"connection_id": connection_id}})
    try:
        async for _ in websocket.iter_text():
            pass
    finally:
        pool.remove(connection_id)
        await get_websocket_bridge_factory().cleanup_user_context(user, connection_id)
