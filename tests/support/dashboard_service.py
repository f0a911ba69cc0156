"""A service with a dashboard: agents that call each other and tools, flags, an audit log that can be made to refuse."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from isolane import AgentRegistry, BaseAgent
from isolane.fastapi import Ctx, Engine, Isolane, IsolaneSettings, Principal, setup
from isolane.fastapi.sockets import bearer_of
from isolane.observability.dashboard import dashboard_router
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import SecurityEvent
from starlette.requests import HTTPConnection

READER, OPERATOR, ANN, BOB = "rita-reader", "olga-operator", "ann-the-user-01", "bob-the-user-02"
SECRET = "what nobody may see on a dashboard"
KEY = {"ann": ANN, "bob": BOB}


def bearer(name: str) -> dict[str, str]:
    """The headers of somebody who is signed in."""
    return {"Authorization": f"Bearer {name}"}


def who(conn: HTTPConnection) -> Principal | None:
    """The token is the user's name."""
    token = bearer_of(conn.headers)
    return Principal(token) if token else None


class Revocable:
    """The dependency of the dashboard: who may look, which may change while a stream is open."""

    def __init__(self) -> None:
        self.may_look = {READER, OPERATOR}
        self.asked = 0

    def __call__(self, request: Request) -> Principal:
        self.asked += 1
        principal = who(request)
        if principal is None:
            raise HTTPException(401, "Sign in")
        if principal.user_id not in self.may_look:
            raise HTTPException(403, "Not for you")
        return principal


class Records:
    """An audit log in memory, which takes nothing while it is ``sick``."""

    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []
        self.sick = False
        self.seen: list[Any] = []
        self.watch: Any = None

    def record(self, event: SecurityEvent) -> None:
        if self.sick:
            raise AuditUnavailableError(str(event.audit_class), "the disk is full")
        if self.watch is not None:
            self.seen.append(self.watch())
        self.events.append(event)

    def named(self, name: str) -> list[SecurityEvent]:
        return [event for event in self.events if event.name == name]


class Look(BaseAgent):
    """Calls a tool, tells a thought, and waits if it is asked to."""

    name = "dash_look"

    async def execute_with_context(self, context, request, results) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name="dash_tool", params={"q": SECRET})
        await emitter.notify_tool_completed(tool_name="dash_tool", result={"text": SECRET})
        await emitter.notify_agent_thinking(SECRET)
        await asyncio.sleep(request.get("pause", 0))
        return {"text": SECRET}


class Break(BaseAgent):
    """Fails."""

    name = "dash_break"

    async def execute_with_context(self, context, request, results) -> Any:
        raise ValueError(SECRET)


def may(principal: Principal, action: str, target: str | None) -> bool:
    """Who may do something."""
    return principal.user_id == OPERATOR


def make_app(
    *,
    actions: bool = True,
    reveal: bool = True,
    auth: Any = None,
    authorize: Any = may,
    **more: Any,
) -> FastAPI:
    """The service. ``app.state.revocable`` is its dependency, ``app.state.records`` its audit log."""
    app = FastAPI()
    agents = AgentRegistry()
    agents.register(Look)
    agents.register(Break)
    app.state.revocable = Revocable()
    app.state.records = more.setdefault("audit", Records())
    settings = IsolaneSettings(
        **{"drain_seconds": 0.2, "max_engines_per_user": 50, "permits_per_user": 50, **more.pop("settings", {})}
    )
    isolane: Isolane = setup(app, settings, who, registry=agents, **more)
    options = {"authorize_action": authorize} if actions or reveal else {}
    app.include_router(
        dashboard_router(auth=auth or Depends(app.state.revocable), actions=actions, reveal=reveal, **options)
    )

    @app.post("/run/{agent}")
    async def run(agent: str, request: Request, ctx: Ctx, engine: Engine) -> dict[str, Any]:
        result = await engine.execute_agent_pipeline([agent], await request.json())
        return {"run_id": ctx.run_id, "success": result.success, "user": isolane is not None and ctx.user_id}

    @app.get("/flag")
    async def flag(ctx: Ctx) -> dict[str, Any]:
        snapshot = ctx.flags
        return {"on": snapshot is not None and snapshot.is_on("dash_flag")}

    return app
