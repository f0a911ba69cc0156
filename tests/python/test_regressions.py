"""What the existing service got wrong: a test for each failure that contexts, lanes, limits, engines and events cover.

The numbers are those of the service's list of 41 failures; each docstring says what happened there.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import isolane
import pytest
from isolane import (
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    ContextPolicy,
    EngineLimitError,
    ExecutionEngineFactory,
    FairLimiter,
    InvalidContextError,
    InvalidEvent,
    LimitTimeout,
    PlaceholderPolicy,
    RunClosed,
    UnifiedIDManager,
    UserContextFactory,
    UserExecutionContext,
    WebSocketBridgeFactory,
)
from isolane._core import EventCursor, end_stream, user_streams


class Echo(BaseAgent):
    async def execute_with_context(
        self, context: UserExecutionContext, request: Any, results: Mapping[str, Any]
    ) -> Any:
        return request


def all_numbers(cursor: EventCursor) -> list[int]:
    got = []
    while texts := cursor.read():
        got += [entry["n"] for text in texts for entry in json.loads(text).get("b", []) if "n" in entry]
    return got


def outcome(ctx: UserExecutionContext) -> str | None:
    return next(stream["outcome"] for stream in user_streams(ctx.user_id) if stream["run_id"] == ctx.run_id)


def idle(limiter: FairLimiter) -> bool:
    stats = limiter.stats()
    return (stats["running"], stats["queued"]) == (0, 0)


def test_1_a_real_user_whose_id_looks_like_a_placeholder_can_be_allowed():
    """`default_user` was locked out in production. There is an allow-list, and the error says which rule was hit."""
    with pytest.raises(InvalidContextError, match=r"begins with 'default_'.*PlaceholderPolicy\(allow=") as caught:
        UserExecutionContext("default_user", "thread-7", "run-7")
    assert caught.value.rule == "prefix"
    policy = ContextPolicy(placeholders=PlaceholderPolicy(allow=["default_user"]))
    assert UserExecutionContext("default_user", "thread-7", "run-7", policy=policy).user_id == "default_user"


def test_2_the_policy_is_given_once_and_not_read_from_the_environment(monkeypatch):
    """The constructor looked at ENVIRONMENT, so suites failed or passed by it."""
    for environment in ("test", "testing", "production"):
        monkeypatch.setenv("ENVIRONMENT", environment)
        with pytest.raises(InvalidContextError):
            UserExecutionContext("test_user", "thread-7", "run-7")
    policy = ContextPolicy(placeholders=PlaceholderPolicy(allow_test=True))
    assert UserExecutionContext("test_user", "thread-7", "run-7", policy=policy)


@pytest.mark.parametrize(
    "user", ["alice", "alice@example.com", "auth0|5f7c", "u-12345", "110169484474386276334", "Zoë Ünal"]
)
async def test_3_an_id_that_a_context_takes_is_taken_by_every_layer(user):
    """E-mail addresses passed the context and were refused by the sender, so all events of such users failed."""
    ctx = UserContextFactory.create_context(user)
    cursor = EventCursor(user)
    emitter = await WebSocketBridgeFactory().create_user_emitter(user, "thread-7", "conn-7")
    assert emitter.user_id == user
    async with ExecutionEngineFactory(limiter=FairLimiter()).user_execution_scope(ctx) as engine:
        assert (await engine.execute_agent(Echo, "x")).success
    assert 1 in all_numbers(cursor)
    cursor.detach()


@pytest.mark.parametrize("run", ["contemporary-run", "latest-dev", "attempt", "device-7", "testament"])
def test_4_no_id_is_refused_for_a_part_of_it(run):
    """A substring test for 'temp', 'test' and 'dev' flagged good ids."""
    assert UserExecutionContext("user-7", "thread-7", run).run_id == run


def test_5_run_ids_never_collide():
    """`{operation}_{ms}`: two thousand contexts had seven run ids."""
    runs: set[str] = set()

    def make() -> None:
        runs.update([UserContextFactory.create_context("user-7", "thread-7").run_id for _ in range(1_000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 4_000


async def test_6_clean_up_goes_by_ownership_and_not_by_ids(alice):
    """Ids of different patterns kept the clean-up from finding what it had to free: users were locked out."""
    factory = ExecutionEngineFactory(limiter=FairLimiter())
    odd = [("thread-7", UnifiedIDManager.generate_run_id("another-thread")), ("t|1", "run 1"), ("x" * 200, "ünïcode")]
    for _ in range(5):
        for thread, run in odd:
            ctx = UserExecutionContext(alice, thread, f"{run} of {alice}")
            async with factory.user_execution_scope(ctx) as engine:
                assert (await engine.execute_agent(Echo)).success
            await ctx.cleanup()
    assert factory.get_factory_metrics()["engines_active"] == 0


async def test_7_what_frees_and_routes_never_matches_by_resemblance(alice):
    """`ids_match_for_cleanup` was true for two users' ids of the same operation."""
    factory = ExecutionEngineFactory(limiter=FairLimiter())
    similar = f"{alice}x"
    engines = [await factory.create_for_user(UserContextFactory.create_context(user)) for user in (alice, similar)]
    await factory.cleanup_user_context(alice)
    assert [engine.is_active() for engine in engines] == [False, True]
    await engines[1].cleanup()


def test_8_two_users_who_name_a_thread_alike_share_nothing(alice, bob, read_plain):
    """A dictionary was keyed by the thread alone."""
    contexts = [UserExecutionContext(user, "my-thread", f"run-of-{user}") for user in (alice, bob)]
    for ctx in contexts:
        ctx.get_websocket_emitter().publish("mine", {"of": ctx.user_id})
    for ctx in contexts:
        assert [message["payload"] for message in read_plain(ctx.user_id, ctx.run_id)] == [{"of": ctx.user_id}]
        other = next(one for one in contexts if one is not ctx)
        assert read_plain(ctx.user_id, other.run_id) == []


def test_9_a_run_id_is_not_taken_for_a_user_id(context):
    """A run id was used for sending, and the messages were lost."""
    context.get_websocket_emitter().publish("mine")
    assert user_streams(context.run_id) == []
    with pytest.raises(ContextIsolationError):
        FairLimiter().slot(context.run_id, ctx=context)


@pytest.mark.parametrize("connected", [False, True])
def test_10_an_event_that_was_accepted_is_there_for_who_comes_later(context, connected):
    """Events for a user without a socket went into a queue that nobody read, and were reported as sent."""
    if connected:
        EventCursor(context.user_id).detach()
    numbers = [context.get_websocket_emitter().publish("mine") for _ in range(100)]
    late = EventCursor(context.user_id)
    late.subscribe(context.run_id)
    assert all_numbers(late) == numbers


async def test_11_every_message_has_what_the_browser_needs(context, read_plain):
    """`event_type` and `data` were sent where the browser wants `type` and `payload`: it dropped every message."""
    async with ExecutionEngineFactory(limiter=FairLimiter()).user_execution_scope(context) as engine:
        await engine.execute_agent(Echo, {"rows": 3})
    for message in read_plain(context.user_id, context.run_id):
        assert isinstance(message["type"], str)
        assert isinstance(message["agent_name"], str)
        assert message["run_id"] == context.run_id
        assert isinstance(message["timestamp"], str)
        assert isinstance(message["payload"], dict)
        assert "event_type" not in message
        assert "data" not in message


def test_12_a_socket_that_breaks_costs_no_event(context):
    """The first failed write closed the emitter for ever. Here a new socket goes on where the old one was."""
    emitter = context.get_websocket_emitter()
    first = EventCursor(context.user_id)
    first.subscribe(context.run_id)
    epoch = None
    seen: list[int] = []
    for at in range(10):
        emitter.publish("mine")
        if at == 4:
            frames = [json.loads(text) for text in first.read()]
            epoch = frames[0]["e"]
            seen += [entry["n"] for frame in frames[1:] for entry in frame["b"]]
            # What was read now is lost with the socket.
            emitter.publish("mine")
            first.read()
            first.detach()
    again = EventCursor(context.user_id)
    assert again.subscribe(context.run_id, epoch, seen[-1]) == "exact"
    assert seen + all_numbers(again) == list(range(1, 12))


async def test_13_clean_up_loses_nothing_that_was_published(context):
    """Clean-up threw away what was queued: 25 events of 50."""
    emitter = await WebSocketBridgeFactory().create_user_emitter(context.user_id, context)
    for _ in range(50):
        emitter.publish("mine")
    await emitter.cleanup()
    await context.cleanup()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    assert all_numbers(cursor) == list(range(1, 51))


@pytest.mark.parametrize(
    "way", ["returns", "raises", "raises a base exception", "is cancelled", "times out", "is dropped"]
)
async def test_14_every_execution_has_exactly_one_last_event(context, read_plain, way):
    """`agent_completed` was never sent, and a time-out raised in its own handler."""

    class Agent(BaseAgent):
        timeout_seconds = 0.01 if way == "times out" else 30

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            await context.get_websocket_emitter().notify_tool_executing("half", {})
            if way == "raises":
                raise ValueError("no")
            if way == "raises a base exception":
                raise GeneratorExit
            if way in {"is cancelled", "times out", "is dropped"}:
                await asyncio.sleep(60)

    factory = ExecutionEngineFactory(limiter=FairLimiter())
    with contextlib.suppress(GeneratorExit):
        async with factory.user_execution_scope(context) as engine:
            task = asyncio.ensure_future(engine.execute_agent(Agent))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if way == "is cancelled":
                engine.cancel()
            if way != "is dropped":
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    messages = read_plain(context.user_id, context.run_id)
    types = [message["type"] for message in messages]
    assert types[:2] == ["agent_started", "tool_executing"]
    assert types[2:] == ["tool_completed", "agent_completed" if way == "returns" else "agent_error"]
    assert idle(factory.limiter)


async def test_15_programming_errors_surface(context):
    """A NameError was caught by a retry loop and reported to the user as a connection issue."""
    emitter = context.get_websocket_emitter()
    with pytest.raises(TypeError):
        emitter.notify_agent_started()
    with pytest.raises(InvalidEvent):
        emitter.notify_agent_thinking("before the start")

    class Broken(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
            return undefined_name  # type: ignore[name-defined]  # noqa: F821 - the point

    async with ExecutionEngineFactory(limiter=FairLimiter()).user_execution_scope(context) as engine:
        assert isinstance((await engine.execute_agent(Broken)).error, NameError)


def test_16_a_payload_cannot_change_the_envelope(context, read_plain):
    """Thinking events went out with type 'reasoning', because payload keys overwrote the envelope."""
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("data")
    emitter.notify_agent_thinking("x", {"type": "reasoning", "run_id": "forged", "seq": 99, "thread_id": "forged"})
    message = read_plain(context.user_id, context.run_id)[-1]
    assert (message["type"], message["run_id"], message["seq"]) == ("agent_thinking", context.run_id, 2)
    assert message["payload"]["type"] == "reasoning"


def test_17_no_option_trades_delivery_for_speed(context):
    """'Performance mode' turned the retries off. Here a reader that falls behind is told what it gets instead."""
    emitter = isolane._core.emitter_for_context(context, max_events=5)
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    for _ in range(50):
        emitter.publish("mine")
    frames = [json.loads(text) for text in cursor.read()]
    (snap,) = [frame for frame in frames if frame["t"] == "snap"]
    numbers = [entry["n"] for frame in frames if frame["t"] == "ev" for entry in frame["b"]]
    assert numbers == list(range(snap["n"] + 1, 51))


async def test_18_a_good_tool_call_is_not_shown_as_an_error(context, read_plain):
    """The execution time went into the parameter of the error: every good call had status 'error'."""
    emitter = context.get_websocket_emitter()
    await emitter.notify_agent_started("data")
    await emitter.notify_tool_executing("t", {})
    await emitter.notify_tool_completed("t", result={"rows": 3})
    payload = read_plain(context.user_id, context.run_id)[-1]["payload"]
    assert (payload["status"], payload["result"]) == ("completed", {"rows": 3})
    assert isinstance(payload["execution_time_ms"], (int, float))
    assert "error" not in payload


async def test_19_a_callback_that_cleans_up_does_not_deadlock(context):
    """Callbacks were awaited under a lock that they needed themselves."""
    factory = ExecutionEngineFactory(limiter=FairLimiter())
    engine = await factory.create_for_user(context)
    context.register_cleanup_callback(engine.cleanup)
    context.register_cleanup_callback(context.cleanup)
    context.register_cleanup_callback(lambda: factory.cleanup_user_context(context.user_id))
    assert await asyncio.wait_for(context.cleanup(), 5) == ()
    assert not engine.is_active()


def test_20_a_dead_reader_of_one_user_stops_nobody(alice, bob, new_context):
    """A dead socket hung the pool of all users."""
    stuck = EventCursor(alice)
    emitters = [new_context(user).get_websocket_emitter() for user in (alice, bob)]
    for _ in range(5_000):
        for emitter in emitters:
            emitter.publish("mine", {"text": "x" * 100})
    assert isolane.lane_usage(alice)["event_bytes"] < 4 << 20
    assert [emitter.get_event_stats()["stream_head"] for emitter in emitters] == [5_000, 5_000]
    stuck.detach()


async def test_21_an_engine_whose_clean_up_fails_frees_its_slot(alice, monkeypatch, caplog):
    """It stayed registered and counted against the limit of two."""
    factory = ExecutionEngineFactory(limiter=FairLimiter(), max_engines_per_user=1)

    async def fail(*_: Any) -> bool:
        raise OSError("no")

    for _ in range(3):
        engine = await factory.create_for_user(UserContextFactory.create_context(alice))
        monkeypatch.setattr(engine, "_close", fail)
        await engine.cleanup()
    assert factory.get_factory_metrics()["engines_active"] == 0
    assert "the clean-up of an engine failed" in caplog.text


async def test_22_a_refused_engine_is_not_registered(alice):
    """The engine was registered before it was validated: two registered, one usable."""
    factory = ExecutionEngineFactory(limiter=FairLimiter())
    bad = UserContextFactory.create_context(alice)
    bad.agent_context["foreign"] = SimpleNamespace(user_id="somebody else")
    for _ in range(5):
        with pytest.raises(ContextIsolationError):
            await factory.create_for_user(bad)
    engines = [await factory.create_for_user(UserContextFactory.create_context(alice)) for _ in range(2)]
    assert factory.get_factory_metrics()["engines_created"] == 2
    for engine in engines:
        await engine.cleanup()


async def test_23_engines_made_in_the_same_moment_are_all_known_and_all_cleaned(alice):
    """Keys ended in milliseconds: of five engines of one moment one was registered."""
    factory = ExecutionEngineFactory(limiter=FairLimiter(), max_engines_per_user=50)
    engines = [await factory.create_for_user(UserContextFactory.create_context(alice)) for _ in range(50)]
    assert len({engine.engine_id for engine in engines}) == 50
    assert factory.get_factory_metrics()["engines_active"] == 50
    await factory.cleanup_user_context(alice)
    assert factory.get_factory_metrics()["engines_active"] == 0
    assert not any(engine.is_active() for engine in engines)


async def test_24_a_run_cancelled_while_it_waits_leaves_no_active_run(context):
    """It stayed in `active_runs`, and had no last event."""
    limiter = FairLimiter(1, 1)
    factory = ExecutionEngineFactory(limiter=limiter)
    with limiter.slot_nowait("another-user"):
        async with factory.user_execution_scope(context) as engine:
            task = asyncio.create_task(engine.execute_agent(Echo))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert context.status.value == "throttled"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert context.active_runs == {}
            assert context.status.value == "active"
    assert idle(limiter)


async def test_25_a_limit_is_neither_reset_nor_widened(alice):
    """Semaphores were held weakly, so a limit was reset; and what was not acquired was released."""
    import gc  # noqa: PLC0415 - only here

    limiter = FairLimiter(10, 2)
    held = [limiter.slot_nowait(alice) for _ in range(2)]
    gc.collect()
    for _ in range(20):
        with pytest.raises(LimitTimeout):
            async with limiter.slot(alice, timeout=0):
                pass
    assert limiter.try_slot(alice) is None
    for permit in held * 3:
        permit.release()
    got = [limiter.try_slot(alice) for _ in range(3)]
    assert [permit is not None for permit in got] == [True, True, False]
    # And the records of users who left do not pile up.
    for at in range(1_000):
        limiter.slot_nowait(f"user-{at}-of-failure-25").release()
    limiter.evict(0)
    assert limiter.stats()["users"] == 1


async def test_26_a_shared_factory_mixes_no_users(alice, bob, read_plain):
    """User A's socket manager was stored on a global factory, and user B's emitter was bound to it."""
    factory = ExecutionEngineFactory(limiter=FairLimiter())

    async def use(user: str) -> UserExecutionContext:
        ctx = UserContextFactory.create_context(user)
        async with factory.user_execution_scope(ctx) as engine:
            assert engine.websocket_emitter.user_id == user
            await asyncio.sleep(0)
            await engine.execute_agent(Echo, f"of {user}")
        return ctx

    for ctx in await asyncio.gather(use(alice), use(bob)):
        results = [message["payload"].get("result") for message in read_plain(ctx.user_id, ctx.run_id)]
        assert results == [None, f"of {ctx.user_id}"]


def test_29_a_write_to_the_merged_metadata_is_an_error_and_not_lost(context):
    """`ctx.metadata[k] = v` wrote to a throw-away copy."""
    with pytest.raises(TypeError):
        context.metadata["k"] = 1


def test_30_nested_state_is_not_shared(alice, bob):
    """Users who shared a dictionary saw each other's data."""
    template: dict[str, Any] = {"options": {"rows": []}}
    one, two = (UserContextFactory.create_context(user, agent_context=template) for user in (alice, bob))
    one.agent_context["options"]["rows"].append("hunter2")
    assert two.agent_context == {"options": {"rows": []}}
    assert template == {"options": {"rows": []}}


def test_31_handles_are_bound_and_not_copied(context):
    """Anything put into `agent_context` was deep-copied: locks broke children, sessions were copied."""
    session = SimpleNamespace(lock=threading.Lock(), close=lambda: None)
    context.bind_session_factory(lambda ctx: session)
    bound = context.with_db_session(session)
    child = bound.create_child_context("op")
    assert child.db_session is session
    assert child.get_database_session() is session
    json.dumps(child.to_dict())
    context.agent_context["lock"] = threading.Lock()
    with pytest.raises(InvalidContextError, match="bindings"):
        context.create_child_context("op")


def test_32_the_isolation_check_can_fail(alice, bob):
    """It tested `hasattr(dict, '__dict__')`, which is never true."""
    one, two = (UserContextFactory.create_context(user) for user in (alice, bob))
    shared: dict[str, Any] = {}
    one.agent_context["d"] = two.agent_context["d"] = shared
    assert one.verify_isolation()
    with pytest.raises(ContextIsolationError):
        two.verify_isolation()
    del two.agent_context["d"]
    assert two.verify_isolation()


def test_33_making_a_context_does_not_get_slower_with_the_heap():
    """Leak detection in the constructor counted every object there is: 1.3 to 9 ms."""

    def best() -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(300):
                UserExecutionContext("user-7", "thread-7", "run-7")
            times.append((time.perf_counter() - begun) / 300)
        return min(times)

    before = best()
    heap = [[] for _ in range(500_000)]
    after = best()
    del heap
    # Walking half a million objects takes milliseconds; a context takes microseconds.
    assert after < max(20 * before, 0.000_5)


@pytest.mark.parametrize("value", [None, 0, "", b"", b"x", False, [], 1.5])
def test_34_the_error_about_a_bad_id_is_about_the_bad_id(value):
    """A log line that sliced `user_id[:8]` raised a TypeError and hid the real one."""
    for make in (UserExecutionContext, UserExecutionContext.from_request, UserContextFactory.create_context):
        with pytest.raises(InvalidContextError, match="Required field 'user_id'"):
            make(value, "thread-7", "run-7")


async def test_35_callbacks_belong_to_the_request_and_whatever_is_awaitable_is_awaited(context):
    """Copies dropped the callbacks, and lambdas that return coroutines were never awaited."""
    ran = []

    async def close() -> None:
        await asyncio.sleep(0)
        ran.append("closed")

    context.with_db_session(SimpleNamespace()).register_cleanup_callback(lambda: close())  # noqa: PLW0108 - the point
    await context.with_websocket_connection("ws-1").cleanup()
    await context.cleanup()
    assert ran == ["closed"]


def test_36_what_lives_as_long_as_a_connection_ends_with_it(alice):
    """Each connection leaked a handler; then one shared handler sent all events to the last client."""
    for _ in range(50):
        cursors = [EventCursor(alice), EventCursor(alice)]
        assert isolane.lane_usage(alice)["connections"] == 2
        for cursor in cursors:
            cursor.detach()
    assert isolane.lane_usage(alice)["connections"] == 0
    ctx = UserContextFactory.create_context(alice)
    one, two = EventCursor(alice), EventCursor(alice)
    for cursor in (one, two):
        cursor.subscribe(ctx.run_id)
    ctx.get_websocket_emitter().publish("mine")
    assert all_numbers(one) == all_numbers(two) == [1]


def test_37_a_socket_needs_to_know_no_thread_to_get_its_events(alice):
    """The thread is unknown when a socket connects, and routing by thread found nobody."""
    cursor = EventCursor(alice)
    for thread in ("thread-a", "thread-b"):
        ctx = UserContextFactory.create_context(alice, thread)
        ctx.get_websocket_emitter().publish("mine")
        end_stream(ctx)
    assert all_numbers(cursor) == [1, 1]


async def test_38_contexts_of_many_messages_do_not_pile_up(alice):
    """Each message made a context that nobody closed."""
    import gc  # noqa: PLC0415 - only here

    for _ in range(300):
        ctx = UserContextFactory.create_context(alice, "my-thread")
        await ctx.cleanup()
    del ctx
    gc.collect()
    assert isolane.lane_usage(alice)["handles"] == 0


async def test_39_pydantic_models_datetimes_and_enums_are_sent(context, read_plain):
    """They killed the connection. Here they have a form, and what has none fails its own event."""
    import datetime as dt  # noqa: PLC0415 - only here
    import enum  # noqa: PLC0415 - only here

    class Color(enum.Enum):
        RED = "red"

    emitter = context.get_websocket_emitter()
    emitter.publish("mine", {"at": dt.date(2026, 11, 22), "color": Color.RED, "error": ValueError("no")})
    with pytest.raises(InvalidEvent, match="mine_too is not JSON-able"):
        emitter.publish("mine", {"mine_too": object()})
    emitter.publish("mine")
    assert [message["payload"] for message in read_plain(context.user_id, context.run_id)] == [
        {"at": "2026-11-22", "color": "red", "error": "ValueError: no"},
        {},
    ]


def test_40_both_names_of_a_parameter_are_taken():
    """Renames broke callers for days."""
    one = UserExecutionContext("user-7", "thread-7", "run-7", websocket_client_id="ws-1")
    two = UserExecutionContext("user-7", "thread-7", "run-7", websocket_connection_id="ws-1")
    assert one.websocket_client_id == two.websocket_client_id == one.websocket_connection_id == "ws-1"
    assert one.create_child_context("op").request_id.endswith("_op")
    assert one.create_child_context(operation_name="op").operation_depth == 1
    assert one.create_child_context(agent_name="op").operation_depth == 1
    assert one.create_child_context_supervisor("op", {"k": 1, "audit_id": 2}).agent_context["k"] == 1


def test_no_text_of_an_error_names_another_user(alice, bob, new_context):
    """Errors are logged and shown: what they say is the caller's own."""
    foreign = new_context(bob, agent_context={"secret": "hunter2"})
    foreign_emitter = foreign.get_websocket_emitter()
    foreign_emitter.publish("mine", {"secret": "hunter2"})
    own = new_context(alice)
    own.agent_context["foreign"] = foreign
    emitter = new_context(alice).get_websocket_emitter()
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait(bob)
    attempts = [
        own.verify_isolation,
        lambda: isolane.validate_user_context(own),
        lambda: UserExecutionContext(alice, "thread-7", foreign.run_id).get_websocket_emitter(),
        lambda: emitter.publish("mine", {}, run_id=foreign.run_id),
        lambda: emitter.notify_agent_started("data", foreign.run_id),
        lambda: limiter.slot_nowait(alice),
        lambda: limiter.slot(alice, ctx=foreign),
        lambda: asyncio.run(WebSocketBridgeFactory().create_user_emitter(alice, foreign)),
    ]
    for attempt in attempts:
        with pytest.raises((ContextIsolationError, isolane.LimitRejected)) as caught:
            attempt()
        for text in (str(caught.value), repr(caught.value), str(caught.value.args)):
            assert bob not in text
            assert foreign.run_id not in text
            assert "hunter2" not in text
    held.release()


async def test_engines_refused_and_streams_closed_say_what_to_do(context):
    """The texts are a part of the surface: they say what was wrong and how to mend it."""
    factory = ExecutionEngineFactory(limiter=FairLimiter(), max_engines_per_user=1)
    async with factory.user_execution_scope(context):
        with pytest.raises(EngineLimitError, match=r"wait for a run to end and try again in \d+ s"):
            await factory.create_for_user(UserContextFactory.create_context(context.user_id))
    with pytest.raises(RunClosed, match="publish before"):
        context.get_websocket_emitter().publish("late")
    registry = AgentRegistry()
    with pytest.raises(isolane.UnknownAgentError, match="none yet"):
        registry.get("x")


@pytest.mark.skipif(sys.platform != "linux", reason="left out: reads /proc")
def test_many_runs_do_not_grow_the_process(alice):
    """Logs, lanes, limits and records are all bounded: the memory of the process stays where it is."""
    from isolane.testing import manual_clock  # noqa: PLC0415 - only here

    def resident() -> int:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - the kernel's
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def work(rounds: int) -> None:
        for _ in range(rounds):
            with manual_clock() as clock:
                for _ in range(200):
                    ctx = UserContextFactory.create_context(alice)
                    emitter = ctx.create_child_context("op").get_websocket_emitter()
                    emitter.notify_agent_started("data")
                    for _ in range(5):
                        emitter.publish("mine", {"text": "x" * 1_000})
                    end_stream(ctx)
                clock.advance(301)
                isolane.sweep_lanes()

    work(3)
    before = resident()
    work(10)
    # Ten times two thousand events of a kilobyte would be twelve megabytes.
    assert resident() - before < 6 << 20
    assert user_streams(alice) == []
