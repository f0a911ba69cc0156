"""The same for ``isolane.compat``: its coroutines as the host's service would use them, with a pool like the host's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from isolane import PermissionEngine, UnifiedIDManager
from isolane.compat import execution_engine_factory as engines
from isolane.compat.agent_instance_factory import UserWebSocketEmitter as RunEmitter
from isolane.compat.agent_instance_factory import configure_agent_instance_factory
from isolane.compat.execution_context import AgentExecutionContext
from isolane.compat.request_scoped_tool_dispatcher import RequestScopedToolDispatcher
from isolane.compat.unified_tool_dispatcher import (
    UnifiedToolDispatcher,
    UnifiedToolDispatcherFactory,
    create_request_scoped_dispatcher,
)
from isolane.compat.user_execution_context import managed_user_context
from isolane.compat.websocket_bridge_factory import WebSocketBridgeFactory, WebSocketFactoryConfig

from tests.adversity.world import Session, World, ticks
from tests.compat.pool import Pool

Scenario = Callable[[World], Awaitable[None]]

COMPAT_SCENARIOS: dict[str, Scenario] = {}
COMPAT_COVERED: dict[str, set[str]] = {}


def uses(*names: str) -> Callable[[Scenario], Scenario]:
    def note(scenario: Scenario) -> Scenario:
        COMPAT_SCENARIOS[scenario.__name__] = scenario
        for name in names:
            COMPAT_COVERED.setdefault(name, set()).add(scenario.__name__)
        return scenario

    return note


def bridge_of(world: World) -> tuple[WebSocketBridgeFactory, str]:
    """Return a bridge with a socket in its pool, to be shut down with the world."""
    bridge, pool = WebSocketBridgeFactory(WebSocketFactoryConfig()), Pool()
    bridge.configure(pool)
    pool.add("connection-7", world.user)
    world.owed.append(bridge.shutdown)
    return bridge, "connection-7"


def new_run(world: World) -> str:
    return UnifiedIDManager.generate_run_id(f"thread-of-{world.user}")


async def one_execution(emitter: Any, run: str) -> None:
    await emitter.notify_agent_started("worker", run)
    await emitter.notify_agent_thinking("worker", run, "hm")
    await ticks(1)
    await emitter.notify_tool_executing("worker", run, "tool", {})
    await emitter.notify_tool_completed("worker", run, "tool", {"rows": 1})
    await emitter.notify_agent_completed("worker", run, {"rows": 1})
    await emitter.notify_agent_started("worker", run)
    await ticks(1)
    await emitter.notify_agent_error("worker", run, "as planned")


PUBLISHED = [
    f"UserWebSocketEmitter.notify_{name}"
    for name in (
        "agent_started",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "agent_completed",
        "agent_error",
    )
]


@uses(
    *PUBLISHED,
    "UserWebSocketEmitter.cleanup",
    "UserWebSocketEmitter.release",
    "WebSocketBridgeFactory.create_user_emitter",
    "WebSocketBridgeFactory.shutdown",
    "SocketLink.attach",
    "SocketLink.drain",
    "SocketLink.close",
    "SocketLink.stop",
    "RunSpans.started",
    "RunSpans.close",
)
async def an_emitter_of_a_pool_publishes(world: World) -> None:
    bridge, connection = bridge_of(world)
    emitter = await bridge.create_user_emitter(world.user, "thread-7", connection)
    try:
        await one_execution(emitter, new_run(world))
    finally:
        await emitter.cleanup()
    await bridge.shutdown()


@uses("WebSocketBridgeFactory.cleanup_user_context", "WebSocketBridgeFactory.cleanup_user_emitter")
async def a_connection_of_a_pool_is_let_go(world: World) -> None:
    bridge, connection = bridge_of(world)
    for cleanup in (
        lambda: bridge.cleanup_user_context(world.user, connection),
        lambda: bridge.cleanup_user_emitter(world.user),
    ):
        emitter = await bridge.create_user_emitter(world.user, "thread-7", connection)
        try:
            await emitter.notify_agent_started("worker", new_run(world))
            await ticks(1)
            await cleanup()
        finally:
            await emitter.cleanup()


@uses("WebSocketBridgeFactory.create_user_emitter", "WebSocketBridgeFactory.follow")
async def a_bridge_follows_a_context(world: World) -> None:
    bridge, connection = bridge_of(world)
    ctx = world.context().with_websocket_connection(connection)
    world.contexts.append(ctx)
    emitter = await bridge.create_user_emitter(world.user, ctx)
    await emitter.notify_agent_started("worker")
    await ticks(2)
    await ctx.cleanup()


@uses(*PUBLISHED, "UserWebSocketEmitter.cleanup")
async def an_emitter_of_a_run_publishes(world: World) -> None:
    emitter = RunEmitter(world.user, "thread-7", new_run(world), world.bridge)
    try:
        await emitter.notify_agent_started("worker")
        await ticks(1)
        await emitter.notify_agent_thinking("worker", "hm")
        await emitter.notify_tool_executing("worker", "tool", {})
        await ticks(1)
        await emitter.notify_tool_completed("worker", "tool", 1)
        await emitter.notify_agent_completed("worker", 1)
        await emitter.notify_agent_started("worker")
        await ticks(1)
        await emitter.notify_agent_error("worker", "as planned")
    finally:
        await emitter.cleanup()


def factory_of(world: World) -> engines.ExecutionEngineFactory:
    configure_agent_instance_factory(world.registry)
    factory = engines.ExecutionEngineFactory(world.bridge)

    async def shut_down() -> None:
        await factory.shutdown(0)
        metrics = factory.get_factory_metrics()
        assert (metrics["active_engines_count"], metrics["cleanup_errors"]) == (0, 0)
        assert factory._slots.stats()["running"] == 0

    world.owed.append(shut_down)
    return factory


@uses(
    "ExecutionEngineFactory.create_for_user",
    "ExecutionEngineFactory.create_execution_engine",
    "ExecutionEngineFactory.cleanup_engine",
    "ExecutionEngineFactory.cleanup_user_context",
    "ExecutionEngineFactory.cleanup_all_contexts",
    "ExecutionEngineFactory.shutdown",
    "UserExecutionEngine.execute_agent_pipeline",
)
async def engines_of_the_host_are_made_and_ended(world: World) -> None:
    factory = factory_of(world)
    first = await factory.create_for_user(world.context())
    second = await factory.create_execution_engine(world.context())
    try:
        ctx = world.contexts[-2]
        execution = AgentExecutionContext(
            run_id=ctx.run_id, thread_id=ctx.thread_id, user_id=ctx.user_id, agent_name="worker"
        )
        assert (await first.execute_agent_pipeline("worker", execution, {"n": 7})).success
    finally:
        await factory.cleanup_engine(first)
    await factory.cleanup_user_context(world.user)
    await factory.cleanup_engine(second)
    await factory.cleanup_all_contexts()
    factory.reopen()
    await factory.shutdown()


@uses(
    "configure_execution_engine_factory",
    "get_execution_engine_factory",
    "user_execution_engine",
    "UserExecutionEngine.execute_agent",
)
async def the_factory_of_the_process_makes_an_engine(world: World) -> None:
    configure_agent_instance_factory(world.registry)
    factory = await engines.configure_execution_engine_factory(world.bridge)
    world.owed.append(lambda: factory.shutdown(0))
    assert await engines.get_execution_engine_factory() is factory
    ctx = world.context()
    async with engines.user_execution_engine(ctx) as engine:
        execution = AgentExecutionContext(
            run_id=ctx.run_id, thread_id=ctx.thread_id, user_id=ctx.user_id, agent_name="worker"
        )
        assert (await engine.execute_agent(execution, {"n": 7})).success


@uses("managed_user_context")
async def a_managed_context_ends_with_its_block(world: World) -> None:
    session = Session()
    ctx = world.context().with_db_session(session)
    session.close = session.aclose  # type: ignore[attr-defined]
    ctx.register_cleanup_callback(lambda: ticks(2))
    async with managed_user_context(ctx):
        await ticks(2)
    assert ctx.status.value == "cleaned"
    await asyncio.sleep(0)


class Manager:
    """A WebSocket manager of the host's, which takes its time."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send_event(self, event_type: str, data: Any) -> None:
        await ticks(1)
        self.sent.append(event_type)


async def tool(query: str) -> str:
    await ticks(2)
    return query


@uses(
    "UnifiedToolDispatcher.create_scoped",
    "UnifiedToolDispatcher.execute_tool",
    "UnifiedToolDispatcher.dispatch_tool",
    "UnifiedToolDispatcher.dispatch",
    "UnifiedToolDispatcher.cleanup",
    "UnifiedToolDispatcherFactory.cleanup_all_dispatchers",
    "RequestScopedToolDispatcher.dispatch",
    "RequestScopedToolDispatcher.dispatch_tool",
    "RequestScopedToolDispatcher.cleanup",
    "ManagerEvents.flush",
    "ManagerEvents.close",
    "create_request_scoped_dispatcher",
)
async def tools_of_the_host_are_called(world: World) -> None:
    factory = UnifiedToolDispatcherFactory.configure(PermissionEngine.for_tools({"everyone": ["*"]}))
    world.owed.append(factory.cleanup_all_dispatchers)
    ctx, manager = world.context(), Manager()
    async with create_request_scoped_dispatcher(ctx, manager, [tool]) as dispatcher:
        assert (await dispatcher.execute_tool("tool", {"query": "x"})).success
        assert (await dispatcher.dispatch_tool("tool", {"query": "x"})).success
        assert (await dispatcher.dispatch("tool", query="x")).success
    assert manager.sent == ["tool_executing", "tool_completed"] * 3
    async with UnifiedToolDispatcher.create_scoped(ctx, tools=[tool]) as dispatcher:
        assert (await dispatcher.execute_tool("tool", {"query": "x"})).success
    scoped = RequestScopedToolDispatcher(ctx, [tool], manager)
    assert (await scoped.dispatch("tool", query="x")).success
    assert (await scoped.dispatch_tool("tool", {"query": "x"}, None, ctx.run_id)).success
    await scoped.cleanup()
    await factory.cleanup_all_dispatchers()
