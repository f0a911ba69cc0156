"""Scenarios of older agents, of agents that are made by hand, and of templates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import MappingProxyType, SimpleNamespace
from typing import Any

from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    PermissionEngine,
    UnifiedToolDispatcherFactory,
    UserExecutionContext,
)
from isolane.agents.execution import publish_end, run_in_span
from isolane.migration.agents import AgentMigrationTemplate, CollaborativeAgent, DataProcessingAgent
from isolane.migration.agents.dual import execute
from isolane.migration.agents.legacy import run_legacy
from isolane.migration.agents.shim import LegacyAgentShim

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


class Older:
    """An agent of the older service, with a clean-up that takes its time."""

    name = "older"

    async def check_entry_conditions(self, state: Any, run_id: str) -> bool:
        await ticks(1)
        return True

    async def execute(self, state: Any, run_id: str, stream_updates: bool) -> Any:
        state.step_count += 1
        await ticks(2)
        return state

    async def cleanup(self, state: Any, run_id: str) -> None:
        await ticks(1)


class ByHand(BaseAgent):
    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await context.get_websocket_emitter().notify_tool_executing(tool_name="tool", params={})
        await ticks(2)
        return request


def is_at_rest(ctx: UserExecutionContext) -> bool:
    return not ctx.active_runs


@uses("LegacyAgentShim.execute_with_context", "run_legacy")
async def an_older_agent_is_run(world: World) -> None:
    registry = AgentRegistry()
    registry.register(Older)
    factory = ExecutionEngineFactory(
        world.bridge, agent_factory=AgentInstanceFactory(registry), limiter=world.limiter, max_engines_per_user=1
    )
    world.owed.append(lambda: factory.shutdown(0))
    ctx = world.context()
    async with factory.user_execution_scope(ctx) as engine:
        outcome = await engine.execute_agent_pipeline(["older"], {"user_request": "x"})
        assert outcome.success, outcome.error
    plain = world.context()
    assert (await LegacyAgentShim.of(Older)().execute_with_context(plain, "x", MappingProxyType({}))).step_count == 1
    assert (await run_legacy(Older(), plain, "x", {})).step_count == 1


@uses("BaseAgent.execute", "execute", "run_in_span", "publish_end")
async def an_agent_is_made_by_hand(world: World) -> None:
    ctx = world.context()
    state = SimpleNamespace(user_id=world.user, thread_id="thread-7", run_id=f"run-of-{world.user}", messages=[1])
    try:
        assert await ByHand(user_execution_context=ctx).execute(7) == 7
        assert await execute(ByHand(user_execution_context=ctx), 7) == 7
        assert await ByHand(deep_agent_state=state).execute(7) == 7
        assert (await run_in_span(ctx, "span", lambda _: asyncio.sleep(0, 7), timeout_seconds=60)).result == 7
        emitter = ctx.get_websocket_emitter()
        await emitter.notify_agent_started(agent_name="by hand")
        await publish_end(emitter, "by hand", result=1)
    finally:
        assert is_at_rest(ctx)


class Rows(DataProcessingAgent):
    async def fetch_data(self, session: Any, request: Any) -> Any:
        await ticks(1)
        return [request]


class Whole(CollaborativeAgent):
    sub_agents = (Rows,)

    async def _process_collaborative_result(self, request: Any, results: Any) -> Any:
        await ticks(1)
        return [result.result.analysis for result in results]


class Transactions:
    """A session with transactions, of which none may be left open."""

    open = 0

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


async def data_analyzer(data: list[Any]) -> int:
    await ticks(2)
    return len(data)


@uses(
    "AgentMigrationTemplate.execute_with_isolation",
    "AgentMigrationTemplate.execute_with_context",
    "CollaborativeAgent.delegate",
    "DataProcessingAgent.fetch_data",
)
async def templates_are_run(world: World) -> None:
    ctx, session = world.context(), Transactions()
    ctx.bind_session_factory(lambda _: session)
    everything = PermissionEngine.for_tools({"everyone": ["*"]})
    ctx.bind_tool_dispatcher_factory(UnifiedToolDispatcherFactory([data_analyzer], permissions=everything))
    try:
        result = await Whole.create_with_context(ctx).execute_with_isolation(7)
        assert result.result.primary_result == [1], result.error
        outcome, _ = await Whole.create_with_context(ctx).delegate(Rows, 7)
        assert outcome.success
        inner: AgentMigrationTemplate = Whole()
        await ctx.get_websocket_emitter().notify_agent_started(agent_name="step")
        assert (await inner.execute_with_context(ctx, 7, {})).primary_result == [1]
        await ctx.get_websocket_emitter().notify_agent_completed(agent_name="step", result=1)
    finally:
        assert session.open == 0
        assert is_at_rest(ctx)
