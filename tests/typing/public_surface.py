"""Never run: mypy reads it. What a user writes must type-check, and mistakes must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from fastapi import FastAPI
from isolane import (
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    ExecutionResult,
    FairLimiter,
    Permit,
    UserExecutionContext,
    UserExecutionEngine,
    UserWebSocketEmitter,
    WebSocketBridgeFactory,
)
from isolane.fastapi import Connection, Ctx, Emitter, Engine, Isolane, IsolaneSettings, Principal, Run, setup
from starlette.requests import HTTPConnection


class Agent(BaseAgent):
    name = "agent"
    requires = ("other",)

    async def execute_with_context(
        self, context: UserExecutionContext, request: dict[str, int], results: Mapping[str, Any]
    ) -> int:
        emitter = context.get_websocket_emitter()
        assert_type(emitter, UserWebSocketEmitter)
        assert_type(await emitter.notify_agent_thinking("hm", {"step_number": 1}), int)
        assert_type(emitter.publish("note", {"a": 1}), int)
        return request["n"]


async def core(context: UserExecutionContext) -> None:
    assert_type(context.user_id, str)
    assert_type(context.agent_context, dict[str, Any])
    assert_type(context.create_child_context("part"), UserExecutionContext)
    context.user_id = "x"  # type: ignore[misc]
    factory = ExecutionEngineFactory(WebSocketBridgeFactory(), max_engines_per_user=2)
    async with factory.user_execution_scope(context) as engine:
        assert_type(engine, UserExecutionEngine)
        assert_type(await engine.execute_agent_pipeline(["agent"], {"n": 1}), ExecutionResult)
    limiter = FairLimiter(10, 2)
    async with limiter.slot(context.user_id, timeout=1.0, ctx=context) as permit:
        assert_type(permit, Permit)
    limiter.slot(7)  # type: ignore[arg-type]
    AgentRegistry().register(Agent())  # type: ignore[arg-type]


def who(_: HTTPConnection) -> Principal | None:
    return None


app = FastAPI()
assert_type(setup(app, IsolaneSettings(), who), Isolane)


@app.post("/run")
async def run(ctx: Ctx, engine: Engine, emitter: Emitter, connection: Connection) -> str:
    assert_type(ctx, UserExecutionContext)
    assert_type(engine, UserExecutionEngine)
    assert_type(emitter, UserWebSocketEmitter)
    assert_type(await connection.start_run("thread"), Run)
    return ctx.run_id
