"""Unchanged older agents behind a real server: users at once on their sockets, each with what is theirs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from isolane import AgentRegistry, PermissionEngine, UnifiedToolDispatcherFactory, UserExecutionContext
from isolane.fastapi import Engine, IsolaneSettings, Principal, setup
from isolane.migration.legacy import get_websocket_manager

from tests.support.server import serving

pytestmark = pytest.mark.filterwarnings("ignore::isolane.migration.deprecation.RemovedInV2Warning")

USERS = 6


class Older:
    """With a getter of a singleton, a broadcast, and a state that it changes."""

    name = "older"

    def __init__(self, llm_manager: Any, tool_dispatcher: Any) -> None:
        self.llm_manager = llm_manager
        self.tool_dispatcher = tool_dispatcher
        self.websocket_manager = get_websocket_manager()

    async def execute(self, state: Any, run_id: str, stream_updates: bool) -> dict[str, Any]:
        state.messages.append(state.user_request)
        await self.websocket_manager.broadcast_message(
            {"type": "agent_thinking", "content": f"thinking of {state.user_request}"}
        )
        await asyncio.sleep(0.01)
        rows = await self.tool_dispatcher.execute_tool("rows", {"what": state.user_request})
        return {"user": state.user_id, "llm": self.llm_manager, "rows": rows, "messages": state.messages}


async def rows(what: str, context: UserExecutionContext) -> str:
    return f"{what} of {context.user_id}"


async def who(connection: Any) -> Principal | None:
    name = connection.headers.get("x-user")
    return Principal(name) if name else None


def service() -> FastAPI:
    registry = AgentRegistry(services={"llm_manager": lambda context: f"llm of {context.user_id}"})
    registry.register(Older)
    tools = UnifiedToolDispatcherFactory([rows], permissions=PermissionEngine.for_tools({"everyone": ["rows"]}))
    app = FastAPI()
    setup(app, IsolaneSettings(), who, registry=registry, tools=tools)

    @app.post("/ask/{what}")
    async def ask(what: str, engine: Engine) -> dict[str, Any]:
        outcome = await engine.execute_agent("older", what)
        if not outcome.success:
            raise outcome.error
        return outcome.result

    return app


async def test_users_at_once_get_what_is_theirs_and_one_end_for_each_run() -> None:
    users = [f"user-{number}-of-older-agents" for number in range(USERS)]

    async def run(port: int, user: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        headers = {"x-user": user}
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers) as socket:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
                answers = [(await client.post(f"/ask/{user}-{number}")).json() for number in range(2)]
            events: list[dict[str, Any]] = []
            while sum(event["type"] == "agent_completed" for event in events) < 2:
                events.append(json.loads(await asyncio.wait_for(socket.recv(), 20)))
        return answers, events

    with serving(service()) as port:
        results = await asyncio.gather(*(run(port, user) for user in users))
    for user, (answers, events) in zip(users, results, strict=True):
        for number, answer in enumerate(answers):
            what = f"{user}-{number}"
            assert answer == {
                "user": user,
                "llm": f"llm of {user}",
                "rows": f"{what} of {user}",
                "messages": [what],
            }
        text = json.dumps(events)
        assert not any(other in text for other in users if other != user)
        runs: dict[str, list[str]] = {}
        for event in events:
            if event["type"].startswith(("agent_", "tool_")):
                runs.setdefault(event["run_id"], []).append(event["type"])
        assert (
            list(runs.values())
            == [["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]] * 2
        )
