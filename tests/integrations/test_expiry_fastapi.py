"""A run that outlives its engine in a FastAPI application on a real uvicorn: what a client is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from isolane import AgentRegistry, BaseAgent, UserExecutionContext
from isolane.fastapi import Connection, Engine, IsolaneSettings, setup
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.integrations.conftest import who
from tests.support.server import serving


class Endless(BaseAgent):
    name = "endless"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> None:
        await asyncio.sleep(60)


def make_app() -> FastAPI:
    app, agents = FastAPI(), AgentRegistry()
    agents.register(Endless)
    setup(app, IsolaneSettings(engine_timeout_seconds=0.1, drain_seconds=0.2), who, registry=agents)

    @app.post("/run")
    async def run(engine: Engine) -> Any:
        return (await engine.execute_agent("endless")).result

    @app.post("/late")
    async def late(engine: Engine) -> Any:
        while engine.is_active():
            await asyncio.sleep(0.01)
        return (await engine.execute_agent("endless")).result

    @app.websocket("/talk")
    async def talk(websocket: WebSocket, connection: Connection) -> None:
        await websocket.accept()
        run = await connection.start_run()
        await run.engine.execute_agent("endless")

    return app


@pytest.mark.parametrize("path", ["/run", "/late"])
async def test_a_client_is_told_that_the_run_took_too_long(path: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    with serving(app) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post(path, headers={"Authorization": "Bearer exp-ann"}, timeout=30)
        body = answer.json()
        assert (answer.status_code, answer.headers["Retry-After"]) == (504, "5")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (body["code"], body["retriable"], body["retry_after_ms"]) == ("run_expired", True, 5000)
        assert "engine_timeout_seconds" not in answer.text, "advice for whoever runs the service"
        factory = app.state.isolane.factory
        # The answer does not wait for the end of the clean-up.
        async with asyncio.timeout(30):
            while factory.get_factory_metrics()["engines_active"]:
                await asyncio.sleep(0.01)
        metrics = factory.get_factory_metrics()
        assert (metrics["engines_expired"], metrics["engines_forced"]) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_socket_of_the_application_is_closed_with_a_code() -> None:
    with serving(make_app()) as port:
        async with connect(
            f"ws://127.0.0.1:{port}/talk", additional_headers={"Authorization": "Bearer exp-ben"}
        ) as socket:
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(socket.recv(), 30)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4029, "run_expired")
