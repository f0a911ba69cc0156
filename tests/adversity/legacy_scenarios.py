"""Scenarios of the older names: managers, bridges, the hybrid mode and the factory adapter."""

from __future__ import annotations

import asyncio
from typing import Any

from isolane import UserExecutionContext
from isolane.compat.agent_instance_factory import configure_agent_instance_factory
from isolane.compat.execution_context import AgentExecutionContext
from isolane.compat.execution_engine_factory import configure_execution_engine_factory
from isolane.compat.unified_emitter import UnifiedWebSocketEmitter
from isolane.contexts.caller import Caller, current_caller
from isolane.fastapi.scope import RequestScope
from isolane.migration.legacy import (
    BridgeSelector,
    HybridBridge,
    LegacyAgentBridge,
    LegacyEngineProxy,
    ModernWebSocketBridge,
    bind_context,
    configure_legacy,
    reset_legacy,
)
from isolane.migration.legacy.face import LegacyManagers
from isolane.migration.legacy.factory_adapter import FactoryAdapter
from isolane.migration.legacy.hub import LegacyHub, user_of_socket
from isolane.migration.legacy.identity import bound_here

from tests.adversity.compat_scenarios import uses as compat_uses
from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks
from tests.compat.pool import Socket


class Older:
    """The service's own manager, which takes its time."""

    async def send_to_user(self, user_id: str, message: dict[str, Any]) -> None:
        await ticks(1)


def connection_of(world: World) -> dict[str, Any]:
    return {
        "type": "http",
        "path": "/",
        "query_string": b"",
        "headers": [(b"x-user", world.user.encode())],
        "server": ("127.0.0.1", 1),
    }


@uses(
    "LegacyHub.who",
    "LegacyHub.send",
    "LegacyHub.send_to_all",
    "LegacyHub.begin",
    "LegacyManagers.disconnect_user",
    "user_of_socket",
    "bound_here",
)
async def an_older_manager_sends(world: World) -> None:
    hub = LegacyHub(world.bridge, broadcast="context_user")
    manager = LegacyManagers(lambda: hub)
    socket = Socket()
    try:
        assert await user_of_socket(socket) is None
        await hub.begin(hub.register(world.user, socket, await bound_here()))
        await ticks(1)
        with bind_context(world.context()):
            await hub.send(world.user, {"type": "note"}, None, "send_to_user")
            await ticks(1)
            await hub.send_to_all({"type": "note"}, None, "broadcast_message")
            started = {"type": "agent_started", "agent_name": "a", "run_id": f"run-of-{world.user}"}
            await hub.send(world.user, started, None, "send_to_user")
        await ticks(2)
        assert await manager.disconnect_user(world.user, socket) == 1
        await ticks(1)
    finally:
        hub.close()


@uses("Caller.resolve", "RequestScope.user_of")
async def somebody_is_asked_who_signed_in(world: World) -> None:
    scope = RequestScope(world.isolane)
    caller = Caller(scope, connection_of(world))
    token = current_caller.set(caller)
    try:
        await ticks(1)
        assert await caller.resolve() == world.user
        assert await scope.user_of(connection_of(world)) == world.user
        bound = await bound_here()
        assert bound is not None
        await ticks(1)
    finally:
        current_caller.reset(token)
        caller.close()


@uses(
    *(
        f"LegacyAgentBridge.notify_{name}"
        for name in (
            "agent_started",
            "agent_thinking",
            "tool_executing",
            "tool_completed",
            "agent_completed",
            "agent_error",
        )
    )
)
async def an_older_bridge_tells(world: World) -> None:
    configure_legacy(world.bridge, broadcast="deny")
    bridge, run = LegacyAgentBridge(), f"run-of-{world.user}"
    try:
        with bind_context(world.context()):
            await bridge.notify_agent_started(run, "a")
            await bridge.notify_agent_thinking(run, "a", "hm")
            await ticks(1)
            await bridge.notify_tool_executing(run, "a", "load")
            await bridge.notify_tool_completed(run, "a", "load", 1)
            await bridge.notify_agent_completed(run, "a", 1)
            await ticks(1)
            await bridge.notify_agent_error(run, "b", "as planned")
    finally:
        reset_legacy()


@uses("LegacyEngineProxy.execute_agent", "LegacyEngineProxy.execute_agent_pipeline")
async def an_older_engine_runs_an_agent(world: World) -> None:
    configure_agent_instance_factory(world.registry)
    factory = await configure_execution_engine_factory(world.bridge)
    world.owed.append(factory.shutdown)
    engine = LegacyEngineProxy()
    for run in (engine.execute_agent, lambda told, state: engine.execute_agent_pipeline("worker", told, state)):
        context = world.context()
        told = AgentExecutionContext(context.run_id, context.thread_id, world.user, "worker")
        with bind_context(context):
            await run(told, 7)


@uses(
    "ModernWebSocketBridge.create_user_emitter",
    "ModernWebSocketBridge.notify_agent_event",
    "ModernWebSocketBridge.cleanup_user_session",
)
async def a_modern_bridge_tells(world: World) -> None:
    bridge = ModernWebSocketBridge(world.bridge)
    context = world.context()
    await bridge.create_user_emitter(world.user, context)
    try:
        with bind_context(context):
            await bridge.notify_agent_event(world.user, {"type": "note"})
            await ticks(1)
    finally:
        await bridge.cleanup_user_session(world.user)


@uses(
    "HybridBridge.create_user_emitter",
    "HybridBridge.notify_agent_event",
    "HybridBridge.cleanup_user_session",
    "HybridBridge.close",
    "BridgeSelector.create_user_emitter",
)
async def a_hybrid_bridge_hands_over(world: World) -> None:
    class Modes:
        def bridge_mode(self, user: str | UserExecutionContext, /) -> Any:
            return "hybrid"

    selector = BridgeSelector(Modes(), Older(), ModernWebSocketBridge(world.bridge))
    bridge: HybridBridge = selector.hybrid
    context = world.context()
    try:
        emitter = await selector.create_user_emitter(world.user, context)
        assert emitter is not None
        await emitter.notify_agent_started("a")
        with bind_context(context):
            await bridge.notify_agent_event(world.user, {"type": "note"})
        await ticks(2)
        await emitter.notify_agent_completed(1)
        await bridge.create_user_emitter(world.user, context)
        await context.cleanup()
        await bridge.cleanup_user_session(world.user)
        await bridge.close()
    finally:
        await asyncio.shield(asyncio.get_running_loop().create_task(bridge.close()))


@uses("FactoryAdapter.get_execution_engine", "FactoryAdapter.get_websocket_bridge")
async def a_factory_adapter_gives_an_engine(world: World) -> None:
    adapter = FactoryAdapter(world.factory, world.bridge, "factory_only")
    context = world.context()
    engine = await adapter.get_execution_engine(context)
    try:
        await adapter.get_websocket_bridge(context)
        await ticks(1)
    finally:
        await world.factory.cleanup_engine(engine)


@compat_uses(
    *(
        f"UnifiedWebSocketEmitter.{name}"
        for name in (
            "acquire",
            "cleanup",
            "emit",
            "emit_agent_completed",
            "emit_agent_started",
            "emit_agent_thinking",
            "emit_tool_completed",
            "emit_tool_executing",
            "notify_agent_completed",
            "notify_agent_error",
            "notify_agent_started",
            "notify_agent_thinking",
            "notify_custom",
            "notify_progress_update",
            "notify_tool_completed",
            "notify_tool_executing",
            "release",
        )
    )
)
async def an_emitter_of_a_manager_publishes(world: World) -> None:
    configure_legacy(world.bridge, broadcast="deny")
    try:
        emitter = UnifiedWebSocketEmitter(None, world.user, world.context())
        await emitter.acquire()
        await emitter.notify_agent_started("a")
        await emitter.notify_agent_thinking("a", "hm")
        await ticks(1)
        await emitter.notify_tool_executing("load", agent_name="a")
        await emitter.notify_tool_completed("load", 1, agent_name="a")
        await emitter.notify_progress_update(0.5)
        await emitter.notify_agent_completed("a", 1)
        await ticks(1)
        for emit in (
            emitter.emit_agent_started,
            emitter.emit_agent_thinking,
            emitter.emit_tool_executing,
            emitter.emit_tool_completed,
            emitter.emit_agent_completed,
        ):
            await emit({"agent_name": "b", "tool_name": "load"})
        await emitter.notify_custom("note")
        await emitter.emit("note")
        await emitter.notify_agent_error("as planned", agent_name="c")
        await emitter.release()
        await emitter.cleanup()
        await ticks(1)
    finally:
        reset_legacy()
