"""Never run: mypy reads it. What a user writes must type-check, and mistakes must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from fastapi import FastAPI
from isolane import (
    AgentRegistry,
    BaseAgent,
    ContaminationDetector,
    ContaminationReport,
    EventStats,
    ExecutionEngineFactory,
    ExecutionResult,
    FactoryStats,
    FairLimiter,
    HealthStatus,
    JwtVerifier,
    LoopLag,
    LoopLagMonitor,
    MemoryCharge,
    MemoryOptimizationManager,
    MemoryTicketStore,
    Permit,
    ResourceMetrics,
    Session,
    SessionRegistry,
    TTLCache,
    UserExecutionContext,
    UserExecutionEngine,
    UserSocket,
    UserWebSocketEmitter,
    VerifiedToken,
    WebSocketBridgeFactory,
    WebSocketEvent,
)
from isolane.compat import execution_engine_factory as compat_engines
from isolane.compat import user_execution_context as compat_contexts
from isolane.compat import websocket_bridge_factory as compat_sockets
from isolane.compat.execution_context import AgentExecutionContext, AgentExecutionResult
from isolane.fastapi import (
    Authenticated,
    Connection,
    Ctx,
    Emitter,
    Engine,
    Isolane,
    IsolaneSettings,
    JwtAuthenticator,
    Principal,
    Run,
    require_roles,
    setup,
)
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


async def bridge(context: UserExecutionContext) -> None:
    bridge = WebSocketBridgeFactory()
    event = WebSocketEvent("notice", context.user_id, {"at": 1}, priority=3)
    assert_type(await bridge.broadcast_to_user(context.user_id, event), bool)
    assert_type(await bridge.broadcast_to_user(context.user_id, {"type": "notice"}), bool)
    event.priority = 1  # type: ignore[misc]
    assert_type(bridge.get_factory_stats(), FactoryStats)
    assert_type(bridge.health_check(), HealthStatus)
    assert_type(context.get_websocket_emitter().get_event_stats(), EventStats)
    assert_type(bridge.connection_pool(context.user_id).get_connection(), UserSocket)
    assert_type(LoopLagMonitor().latest, list[LoopLag])


class Older(BaseAgent):
    """Of the older signature, which does not have to fit another one."""

    async def execute(self, state: object, run_id: str, stream_updates: bool) -> object:
        return state


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
    AgentRegistry().register(Agent())  # type: ignore[type-var]
    same: type[Agent] = AgentRegistry().register(Agent)
    assert same is Agent
    AgentRegistry().register(Older)


def who(_: HTTPConnection) -> Principal | None:
    return None


app = FastAPI()
assert_type(setup(app, IsolaneSettings(), who), Isolane)


@app.post("/run")
async def drop_in(context: compat_contexts.UserExecutionContext, bridge: object) -> None:
    assert_type(context, UserExecutionContext)
    assert_type(context.get_scoped_key("cache"), str)
    assert_type(context.create_child_context("part", additional_metadata={"a": 1}), UserExecutionContext)
    async with compat_contexts.managed_user_context(context) as managed:
        assert_type(managed, UserExecutionContext)
    factory = await compat_engines.configure_execution_engine_factory(bridge)
    assert_type(factory, compat_engines.ExecutionEngineFactory)
    async with compat_engines.user_execution_engine(context) as engine:
        execution = AgentExecutionContext(context.run_id, context.thread_id, context.user_id, "agent")
        assert_type(await engine.execute_agent(execution, {"n": 1}), AgentExecutionResult)
        await engine.execute_agent("agent", {"n": 1})  # type: ignore[arg-type]
    sockets = compat_sockets.get_websocket_bridge_factory()
    emitter = await sockets.create_user_emitter(context.user_id, context.thread_id, "connection")
    assert_type(emitter, compat_sockets.UserWebSocketEmitter)
    assert_type(await sockets.create_user_emitter(context.user_id, context), UserWebSocketEmitter)
    compat_contexts.register_shared_object()  # type: ignore[call-arg]


async def memory(context: UserExecutionContext, app: FastAPI) -> None:
    manager = MemoryOptimizationManager()
    ExecutionEngineFactory(memory=manager)
    setup(app, authenticate=lambda _: None, memory=manager)
    assert_type(context.context_cache, TTLCache)
    assert_type(list(context.context_cache), list[str])
    context.context_cache[5] = 1  # type: ignore[index]
    assert_type(context.get_resource_usage(), ResourceMetrics)
    assert_type(await context.create_task(manager.admit(context)), Any)
    assert_type(await manager.create_memory_optimized_context("user"), UserExecutionContext)
    with manager.charge(context, 5) as handle:
        assert_type(handle, MemoryCharge)


async def run(ctx: Ctx, engine: Engine, emitter: Emitter, connection: Connection) -> str:
    assert_type(ctx, UserExecutionContext)
    assert_type(engine, UserExecutionEngine)
    assert_type(emitter, UserWebSocketEmitter)
    assert_type(await connection.start_run("thread"), Run)
    return ctx.run_id


async def authentication(user: Authenticated, app: FastAPI, conn: HTTPConnection) -> None:
    verifier = JwtVerifier({"keys": []}, algorithms=["ES256"], issuer="issuer", audience="audience")
    JwtVerifier({"keys": []}, issuer="issuer", audience="audience")  # type: ignore[call-arg]
    assert_type(verifier.verify("token"), VerifiedToken)
    assert_type(user, Principal)
    sessions = SessionRegistry()
    assert_type(sessions.create(user), tuple[str, Session])
    isolane = setup(app, authenticate=JwtAuthenticator(verifier), sessions=sessions, ticket_store=MemoryTicketStore())
    assert_type(isolane.logout(user.user_id), int)
    assert_type(await require_roles("admin")(conn), Principal)


async def detects(context: UserExecutionContext, detector: ContaminationDetector) -> None:
    assert_type(detector.check_sync(context, {"rows": []}), ContaminationReport)
    assert_type(await detector.detect_data_contamination("ann", "text", boundary="tool_out"), ContaminationReport)
    assert_type(detector.mint(context), str)
    ContaminationDetector({"log": "off"}, grants=7)  # type: ignore[arg-type]
