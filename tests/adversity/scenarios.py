"""For each public coroutine a use of it, written as a caller would write it: it gives back what it has taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from isolane import ExecutionEngineFactoryError
from isolane._core import EventCursor, end_stream
from isolane.contexts.closing import close_context
from isolane.fastapi.principal import Principal
from isolane.fastapi.scope import RequestScope
from isolane.fastapi.sse import EventStream, stream_bytes
from starlette.requests import HTTPConnection

from tests.adversity.world import Session, World, ticks

Scenario = Callable[[World], Awaitable[None]]

SCENARIOS: dict[str, Scenario] = {}
COVERED: dict[str, set[str]] = {}
"""Public awaitables, and the scenarios in which they are awaited."""


def uses(*names: str) -> Callable[[Scenario], Scenario]:
    def note(scenario: Scenario) -> Scenario:
        SCENARIOS[scenario.__name__] = scenario
        for name in names:
            COVERED.setdefault(name, set()).add(scenario.__name__)
        return scenario

    return note


# -- permits -----------------------------------------------------------------------------------------------------------


@uses("FairLimiter.acquire")
async def a_permit_is_waited_for(world: World) -> None:
    held = world.limiter.slot_nowait(world.user)
    world.after(3, held.release)
    with await world.limiter.acquire(world.user, timeout=30):
        await ticks(1)


@uses("FairLimiter.acquire")
async def a_permit_is_waited_for_in_a_run(world: World) -> None:
    ctx = world.context()
    held = world.limiter.slot_nowait(world.user)
    world.after(3, held.release)
    with await world.limiter.acquire(world.user, timeout=30, ctx=ctx):
        child = ctx.create_child_context("below")
        with await world.limiter.acquire(world.user, timeout=30, ctx=child, admitted=True):
            await ticks(1)


@uses("FairLimiter.slot", "Slot.__aenter__", "Slot.__aexit__")
async def a_slot_is_waited_for(world: World) -> None:
    held = world.limiter.slot_nowait(world.user)
    world.after(3, held.release)
    async with world.limiter.slot(world.user, timeout=30):
        await ticks(2)


@uses("FairLimiter.slot", "Slot.__aenter__", "Slot.__aexit__")
async def children_share_a_slot(world: World) -> None:
    ctx = world.context()

    async def child(name: str) -> None:
        async with world.limiter.slot(world.user, ctx=ctx.create_child_context(name), timeout=30):
            await ticks(2)

    async with world.limiter.slot(world.user, ctx=ctx, timeout=30):
        await asyncio.gather(*(child(name) for name in "abc"))


@uses("UserExecutionContext.acquire_execution_lock")
async def the_execution_lock_is_waited_for(world: World) -> None:
    ctx, other = world.context(), world.context()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            held = other.acquire_execution_lock()
            await held.__aenter__()
            stack.push_async_exit(held.__aexit__)
        first = other.create_child_context("below")
        async with first.acquire_execution_lock():
            await ticks(1)
    async with ctx.acquire_execution_lock():
        await ticks(1)


# -- contexts ----------------------------------------------------------------------------------------------------------


@uses("UserExecutionContext.cleanup", "close_context")
async def a_context_is_cleaned_up(world: World) -> None:
    ctx = world.context()
    ctx.bind_session_factory(lambda _: Session())
    ctx.get_database_session()
    ctx.get_websocket_emitter().notify_agent_started("data")
    called = []

    async def slow(name: str) -> None:
        called.append(name)
        await ticks(2)

    def failing() -> None:
        called.append("failing")
        raise LookupError("as planned")

    for name in ("first", "second"):
        ctx.register_cleanup_callback(lambda name=name: slow(name))
    ctx.register_cleanup_callback(failing)
    # Whatever the context cleans up, it does so whether this task is cancelled or not.
    world.after(40, lambda: _expect(called, ["failing", "second", "first"]) if called else None)
    errors = await ctx.cleanup()
    assert [type(error) for error in errors] == [LookupError]
    assert ctx.status.value == "cleaned"


def _expect(real: Any, expected: Any) -> None:
    assert real == expected


@uses("close_context")
async def callbacks_are_closed_by_themselves(world: World) -> None:
    ctx = world.context()
    await close_context(ctx, [(lambda: ticks(2), 5.0), (lambda: None, 5.0)], None)


# -- events ------------------------------------------------------------------------------------------------------------


@uses("EventCursor.wait")
async def a_reader_waits_for_an_event(world: World) -> None:
    ctx = world.context()
    emitter = ctx.get_websocket_emitter()
    cursor = EventCursor(world.user)
    world.after(3, lambda: emitter.publish("mine") and None)
    try:
        cursor.subscribe(ctx.run_id)
        cursor.read()
        await cursor.wait()
        assert cursor.read()
    finally:
        cursor.detach()


@uses(
    "UserWebSocketEmitter.notify_agent_started",
    "UserWebSocketEmitter.notify_agent_thinking",
    "UserWebSocketEmitter.notify_tool_executing",
    "UserWebSocketEmitter.notify_tool_completed",
    "UserWebSocketEmitter.notify_agent_completed",
    "UserWebSocketEmitter.notify_agent_error",
    "UserWebSocketEmitter.notify_custom",
    "UserWebSocketEmitter.send_custom_event",
    "UserWebSocketEmitter.cleanup",
)
async def all_events_are_published(world: World) -> None:
    emitter = world.context().get_websocket_emitter()
    try:
        await emitter.notify_agent_started("data")
        await ticks(1)
        await emitter.notify_agent_thinking("hm")
        await emitter.notify_tool_executing("tool", {})
        await ticks(1)
        await emitter.notify_tool_completed("tool", result=1)
        await emitter.notify_custom("mine", {})
        await emitter.send_custom_event("mine", {})
        await ticks(1)
        await emitter.notify_agent_completed(1)
        await emitter.notify_agent_started("data")
        await ticks(1)
        await emitter.notify_agent_error(error="as planned")
    finally:
        await emitter.cleanup()


@uses(
    "WebSocketBridgeFactory.create_user_emitter",
    "WebSocketBridgeFactory.cleanup_user_emitter",
    "WebSocketBridgeFactory.shutdown",
)
async def a_bridge_makes_and_closes_emitters(world: World) -> None:
    one = await world.bridge.create_user_emitter(world.user, world.context())
    two = await world.bridge.create_user_emitter(world.user, "thread-7", "connection-7")
    one.publish("mine")
    two.publish("mine", run_id=f"run-of-{world.user}")
    await ticks(1)
    assert await world.bridge.cleanup_user_emitter(world.user) == 2
    await ticks(1)
    await world.bridge.create_user_emitter(world.user, "thread-7", "connection-7")
    await world.bridge.shutdown()
    world.bridge.reopen()


# -- engines -----------------------------------------------------------------------------------------------------------


@uses("ExecutionEngineFactory.create_for_user", "ExecutionEngineFactory.cleanup_engine")
async def an_engine_is_made_and_ended(world: World) -> None:
    engine = await world.factory.create_for_user(world.context())
    try:
        await ticks(1)
    finally:
        await world.factory.cleanup_engine(engine)


@uses("ExecutionEngineFactory.create_for_user", "ExecutionEngineFactory.create_execution_engine")
async def an_engine_is_waited_for(world: World) -> None:
    first = await world.waiting_factory.create_execution_engine(world.context())
    world.after(3, lambda: world.waiting_factory.cleanup_engine(first))
    second = await world.waiting_factory.create_execution_engine(world.context())
    try:
        await ticks(1)
    finally:
        await world.waiting_factory.cleanup_engine(second)


@uses("ExecutionEngineFactory.create_for_user")
async def an_engine_cannot_be_made(world: World) -> None:
    ctx = world.context()
    await ticks(1)
    ctx.get_websocket_emitter()
    await ctx.cleanup()
    with contextlib.suppress(ExecutionEngineFactoryError):
        await world.factory.create_for_user(ctx)
        raise AssertionError("an engine for a context that has ended")
    await ticks(1)


@uses("ExecutionEngineFactory.user_execution_scope", "UserExecutionEngine.execute_agent")
async def an_agent_runs_in_a_scope(world: World) -> None:
    async with world.factory.user_execution_scope(world.context()) as engine:
        result = await engine.execute_agent("worker", 7)
        assert result.success


@uses("UserExecutionEngine.execute_agent_pipeline")
async def a_pipeline_waits_for_its_permit(world: World) -> None:
    held = world.limiter.slot_nowait("another-user-of-adversity")
    world.after(3, held.release)
    async with world.factory.user_execution_scope(world.context()) as engine:
        result = await engine.execute_agent_pipeline(["worker", "nesting"], world)
        assert result.success, result.error


@uses("UserExecutionEngine.start_agent_pipeline", "ExecutionEngineFactory.finish_background")
async def a_pipeline_runs_in_the_background(world: World) -> None:
    ctx = world.context().detach()
    engine = await world.factory.create_for_user(ctx)
    result = await engine.start_agent_pipeline(["worker", "nesting"], world)
    assert result.success
    assert ctx.status.value == "cleaned"


@uses("UserExecutionEngine.cleanup", "ExecutionEngineFactory.cleanup_engine")
async def an_engine_is_ended_while_its_agent_runs(world: World) -> None:
    engine = await world.factory.create_for_user(world.context())
    running = asyncio.get_running_loop().create_task(engine.execute_agent("worker", 7))
    try:
        await ticks(2)
    finally:
        await engine.cleanup()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@uses("ExecutionEngineFactory.cleanup_user_context")
async def all_engines_of_a_user_are_ended(world: World) -> None:
    engine = await world.factory.create_for_user(world.context())
    running = asyncio.get_running_loop().create_task(engine.execute_agent("worker", 7))
    await ticks(2)
    assert await world.factory.cleanup_user_context(world.user)
    with contextlib.suppress(asyncio.CancelledError):
        await running


@uses("ExecutionEngineFactory.shutdown")
async def a_factory_is_shut_down(world: World) -> None:
    engine = await world.factory.create_for_user(world.context())
    running = asyncio.get_running_loop().create_task(engine.execute_agent("worker", 7))
    await ticks(1)
    await world.factory.shutdown(drain=30)
    assert (await running).success
    world.factory.reopen()


# -- the application ---------------------------------------------------------------------------------------------------


@uses("IsolaneMiddleware.__call__", "get_context", "get_optional_context", "get_engine", "get_emitter")
async def a_request_runs_an_agent(world: World) -> None:
    await world.request()


@uses("handle", "IsolaneMiddleware.__call__")
async def a_request_is_refused(world: World) -> None:
    engines = [await world.isolane.factory.create_for_user(world.context()) for _ in range(2)]
    try:
        sent = await world.call("http", "/run", [{"type": "http.request", "body": b"", "more_body": False}])
        assert sent[0]["status"] == 429
    finally:
        for engine in engines:
            await engine.cleanup()


@uses("Isolane.health", "Isolane.ready")
async def the_probes_answer(world: World) -> None:
    await ticks(1)
    assert (await world.isolane.health(None)).status_code == 200
    assert (await world.isolane.ready(None)).status_code == 200


@uses("Isolane.running")
async def an_application_starts_and_stops(world: World) -> None:
    before = world.isolane.limiter
    async with world.isolane.running():
        await ticks(1)
        await world.request()
    assert before is world.isolane.limiter


@uses("EventSocket.__call__", "Delivery.write")
async def a_socket_is_served(world: World) -> None:
    ctx = world.context()
    emitter = ctx.get_websocket_emitter()
    emitter.publish("mine")
    world.after(6, lambda: emitter.publish("mine") and None)
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"t":"sub","s":"' + ctx.run_id + '"}'},
        {"type": "websocket.receive", "text": '{"t":"pong"}'},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent = await world.call("websocket", "/ws", messages, count=3)
    assert any('"t":"ev"' in message.get("text", "") for message in sent)


@uses("UserWebSocketEmitter.wait")
async def a_delivery_is_waited_for(world: World) -> None:
    ctx = world.context()
    emitter = ctx.get_websocket_emitter()
    number = emitter.publish("mine")
    cursor = EventCursor(world.user)
    cursor.subscribe(ctx.run_id)
    world.after(3, lambda: cursor.read() and None)
    world.after(4, lambda: cursor.read() and None)
    try:
        await emitter.wait(number, timeout=30)
    finally:
        cursor.detach()


@uses("ExecutionEngineFactory.cancel_run")
async def a_run_is_cancelled_by_its_user(world: World) -> None:
    ctx = world.context()
    engine = await world.factory.create_for_user(ctx)
    running = asyncio.get_running_loop().create_task(engine.execute_agent("worker", 7))
    try:
        await ticks(2)
        assert not await world.factory.cancel_run(f"not-{world.user}", ctx.run_id)
        await world.factory.cancel_run(world.user, ctx.run_id)
        assert not engine.is_active()
    finally:
        running.cancel()
        await asyncio.wait({running})
        await world.factory.cleanup_engine(engine)


@uses("open_stream", "stream_events", "EventStream.records")
async def an_event_stream_is_served(world: World) -> None:
    ctx = world.context()
    emitter = ctx.get_websocket_emitter()
    emitter.publish("mine")
    world.after(6, lambda: end_stream(ctx))
    sent = await world.call("http", f"/events/{ctx.run_id}", [], method="GET")
    assert b"isolane.end" in b"".join(message.get("body", b"") for message in sent)


@uses("stream_bytes", "EventStream.records")
async def an_event_stream_is_read_as_bytes(world: World) -> None:
    ctx = world.context()
    ctx.get_websocket_emitter().publish("mine")
    world.after(3, lambda: end_stream(ctx))
    stream = EventStream(world.isolane.settings, Principal(world.user), ctx.run_id)
    try:
        response = await stream_bytes(stream)
        async with contextlib.aclosing(response.body_iterator) as body:
            got = b"".join([chunk async for chunk in body])
        assert b"isolane.end" in got
    finally:
        stream.close()


@uses("UserConnection.start_run", "UserConnection.delivering", "get_connection")
async def a_socket_of_the_application_starts_runs(world: World) -> None:
    sent = await world.call("websocket", "/own", [{"type": "websocket.connect"}])
    assert sent[0]["type"] == "websocket.accept"


@uses(
    "RequestScope.principal",
    "RequestScope.require_principal",
    "RequestScope.context",
    "RequestScope.new_context",
    "RequestScope.engine",
    "RequestScope.close",
)
async def a_request_scope_is_used_by_hand(world: World) -> None:
    scope = RequestScope(world.isolane)
    conn = HTTPConnection(
        {
            "type": "http",
            "path": "/",
            "query_string": b"",
            "headers": [(b"x-user", world.user.encode())],
            "server": ("127.0.0.1", 1),
        }
    )
    try:
        assert await scope.require_principal(conn) == await scope.principal(conn)
        engine = await scope.engine(await scope.context(conn))
        await engine.execute_agent("worker", 7)
    finally:
        await asyncio.shield(asyncio.get_running_loop().create_task(scope.close()))
