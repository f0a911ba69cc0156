"""A service with a dashboard, for tests in a browser: agents that call others and tools, and routes that make load."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from isolane import AgentRegistry, BaseAgent, MigrationFeatureFlags, RolloutGuard, UserExecutionContext
from isolane.fastapi import Ctx, Isolane, IsolaneSettings, Principal, setup
from isolane.fastapi.scope import request_scope
from isolane.fastapi.sockets import bearer_of
from isolane.observability.dashboard import dashboard_router
from starlette.requests import HTTPConnection

READER = "rita-the-reader"
OPERATOR = "olga-the-operator"
LOOK_UP, SUM_UP, HOLD, BREAK = "look_up", "sum_up", "hold", "break_off"


def who(conn: HTTPConnection) -> Principal | None:
    """The token is the user's name."""
    token = bearer_of(conn.headers)
    return Principal(token) if token else None


def operator(request: Request) -> Principal:
    """Who may look."""
    principal = who(request)
    if principal is None or principal.user_id not in (READER, OPERATOR):
        raise HTTPException(401, "Sign in as an operator")
    return principal


class LookUp(BaseAgent):
    """Calls two tools."""

    name = LOOK_UP

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        for tool in ("read_prices", "read_stock"):
            await emitter.notify_tool_executing(tool_name=tool, params={})
            await asyncio.sleep(request.get("pause", 0))
            await emitter.notify_tool_completed(tool_name=tool, result={"rows": 3})
        return "found"


class SumUp(BaseAgent):
    """Needs what the other found."""

    name = SUM_UP
    required_agents = (LOOK_UP,)

    async def execute_with_context(self, context, request, results) -> Any:
        await context.get_websocket_emitter().notify_agent_thinking("adding", {"step_number": 1})
        await asyncio.sleep(request.get("pause", 0))
        return "summed"


class Hold(BaseAgent):
    """Goes on until the service lets it go."""

    name = HOLD

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name="wait_for_it", params={})
        await request["gate"].wait()


class BreakOff(BaseAgent):
    """Fails."""

    name = BREAK

    async def execute_with_context(self, context, request, results) -> Any:
        raise ValueError("a text that nobody may see on the dashboard")


def make_app(
    *,
    actions: bool = True,
    rollout: MigrationFeatureFlags | None = None,
    guard: RolloutGuard | None = None,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> FastAPI:
    """The service. ``OPERATOR`` may do everything that is on, ``READER`` may look."""
    app = FastAPI()
    agents = AgentRegistry()
    for agent in (LookUp, SumUp, Hold, BreakOff):
        agents.register(agent)
    defaults = {"drain_seconds": 0.2, "max_engines_per_user": 50, "permits_per_user": 50, "permits_total": 500}
    isolane = setup(
        app,
        IsolaneSettings(**{**defaults, **settings}),
        who,
        registry=agents,
        rollout=rollout,
        guard=guard,
        **(more or {}),
    )

    def may(principal: Principal, action: str, target: str | None) -> bool:
        return principal.user_id == OPERATOR

    app.include_router(
        dashboard_router(isolane, auth=Depends(operator), actions=actions, reveal=actions, authorize_action=may)
    )
    _add_load(app)
    return app


def _add_load(app: FastAPI) -> None:
    gate = asyncio.Event()
    app.state.gate = gate

    @app.post("/execute/{agent}")
    async def execute(agent: str, request: Request, ctx: Ctx) -> dict[str, Any]:
        engine = await request_scope(request).engine(ctx)
        wanted = {**(await request.json()), "gate": gate}
        agents = [LOOK_UP, SUM_UP] if agent == SUM_UP else [agent]
        result = await engine.execute_agent_pipeline(agents, wanted)
        return {"success": result.success, "run_id": result.run_id}

    @app.post("/start/{agent}")
    async def start(agent: str, request: Request, ctx: Ctx) -> dict[str, Any]:
        ctx.detach()
        engine = await request_scope(request).engine(ctx)
        wanted = {**(await request.json()), "gate": gate}
        engine.start_agent_pipeline([LOOK_UP, SUM_UP] if agent == SUM_UP else [agent], wanted)
        return {"run_id": ctx.run_id}

    @app.post("/release")
    async def release() -> None:
        gate.set()

    @app.post("/load")
    async def load(request: Request) -> dict[str, Any]:
        wanted = await request.json()
        held: Isolane = app.state.isolane
        return await fill(held, wanted["users"], wanted["runs"])


async def fill(isolane: Isolane, users: int, runs: int) -> dict[str, Any]:
    """Run so many runs of so many users to their ends. Their logs stay for as long as the settings say."""
    failed = 0
    for user in range(users):
        for run in range(runs):
            context = UserExecutionContext(f"load-{user:04}", f"thread-{run}", f"load-{user:04}-{run}")
            async with isolane.factory.user_execution_scope(context) as engine:
                result = await engine.execute_agent_pipeline([LOOK_UP, SUM_UP], {})
                failed += not result.success
    return {"runs": users * runs, "failed": failed}
