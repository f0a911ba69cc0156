"""Emitters: the six events in both signatures, the message that browsers read, and what is refused."""

import asyncio
import collections
import gc
import itertools
import json
from datetime import datetime

import isolane
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolane import (
    ContextIsolationError,
    EventTooLarge,
    InvalidContextError,
    InvalidEvent,
    RunClosed,
    UserContextFactory,
    UserWebSocketEmitter,
    WebSocketBridgeFactory,
    WebSocketConfig,
)
from isolane.testing import manual_clock

ENVELOPE = [
    "type",
    "agent_name",
    "run_id",
    "timestamp",
    "message",
    "thread_id",
    "event_id",
    "request_id",
    "parent_request_id",
    "payload",
    "seq",
]


@pytest.fixture
def emitter(context) -> UserWebSocketEmitter:
    return context.get_websocket_emitter()


@pytest.fixture
def messages(context, read_plain):
    return lambda: read_plain(context.user_id, context.run_id)


# -- the two signatures ------------------------------------------------------------------------------------------------


async def test_the_first_seeds_signatures(context, emitter, messages):
    run = context.run_id
    numbers = [
        await emitter.notify_agent_started("data", run),
        await emitter.notify_agent_thinking("data", run, "reading"),
        await emitter.notify_tool_executing("data", run, "sql", {"q": 1}),
        await emitter.notify_tool_completed("data", run, "sql", [1]),
        await emitter.notify_agent_completed("data", run, {"rows": 3}),
        await emitter.notify_agent_started("data", run),
        await emitter.notify_agent_error("data", run, "broken"),
    ]
    assert numbers == [1, 2, 3, 4, 5, 6, 7]
    assert [(message["type"], message["agent_name"]) for message in messages()] == [
        (kind, "data")
        for kind in (
            "agent_started",
            "agent_thinking",
            "tool_executing",
            "tool_completed",
            "agent_completed",
            "agent_started",
            "agent_error",
        )
    ]


async def test_the_second_seeds_signatures(emitter, messages):
    await emitter.notify_agent_started("data", {"step": 1})
    await emitter.notify_agent_thinking("reading", {"step_number": 2, "reasoning": "no", "status": "no"})
    await emitter.notify_tool_executing("sql", {"q": 1})
    await emitter.notify_tool_completed("sql", [1])
    await emitter.notify_agent_completed({"rows": 3}, {"cost": 0.5})
    await emitter.notify_agent_started("data")
    await emitter.notify_agent_error("broken", {"code": 7})
    payloads = [message["payload"] for message in messages()]
    times = [payload.pop("execution_time_ms", None) for payload in payloads]
    assert payloads == [
        {"status": "started", "step": 1},
        {"reasoning": "reading", "status": "thinking", "step_number": 2},
        {"tool_name": "sql", "parameters": {"q": 1}, "status": "executing"},
        {"tool_name": "sql", "result": [1], "status": "completed"},
        {"status": "completed", "result": {"rows": 3}, "cost": 0.5},
        {"status": "started"},
        {"status": "error", "error_message": "broken", "code": 7},
    ]
    assert [time is not None for time in times] == [False, False, False, True, True, False, True]


async def test_keywords_decide_before_shapes(context, emitter, messages):
    await emitter.notify_agent_started(agent_type="data", metadata={"k": 1})
    await emitter.notify_agent_thinking(thinking="one", agent_name="data", run_id=context.run_id)
    await emitter.notify_agent_thinking(content="two")
    await emitter.notify_agent_thinking("three", metadata={"progress_percentage": 40})
    await emitter.notify_tool_executing(tool_name="sql", tool_input={"q": 1})
    await emitter.notify_tool_completed(tool_name="sql", tool_output=None)
    await emitter.notify_tool_executing(tool_name="sql", params=None)
    await emitter.notify_tool_completed("sql", result="text")
    await emitter.notify_agent_completed(result="text", agent_name="data")
    payloads = [message["payload"] for message in messages()]
    assert [payload.get("reasoning") for payload in payloads[1:4]] == ["one", "two", "three"]
    assert payloads[3]["progress_percentage"] == 40
    assert payloads[4]["parameters"] == {"q": 1}
    assert payloads[5]["result"] is None
    assert payloads[7]["result"] == "text"
    assert payloads[8]["result"] == "text"


async def test_a_result_that_is_none_is_sent_as_null(emitter, messages):
    await emitter.notify_agent_started("data")
    await emitter.notify_agent_completed(None)
    assert messages()[-1]["payload"]["result"] is None


@pytest.mark.parametrize(
    ("call", "forms"),
    [
        (lambda e: e.notify_agent_thinking("a", "b"), "content, metadata=None"),
        (lambda e: e.notify_tool_executing("a", "b"), "tool_name, params"),
        (lambda e: e.notify_tool_completed("a", "b"), "tool_name, result"),
        (lambda e: e.notify_agent_completed("a", "b"), "result"),
        (lambda e: e.notify_agent_error("a", "b"), "error"),
    ],
)
def test_two_strings_that_fit_both_signatures_are_refused_with_both_forms(emitter, call, forms):
    with pytest.raises(TypeError, match="two strings fit both signatures") as caught:
        call(emitter)
    assert "(agent_name, run_id" in str(caught.value)
    assert forms in str(caught.value)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda e: e.notify_agent_started(), "needs the agent's name"),
        (lambda e: e.notify_agent_started("a", "b", "c"), "at most 2 arguments"),
        (lambda e: e.notify_agent_started("a", color="red"), "unexpected keyword argument 'color'"),
        (lambda e: e.notify_agent_started("a", agent_type="b"), "two values for 'agent_type'"),
        (lambda e: e.notify_tool_executing(params={}), "needs the tool's name"),
        (lambda e: e.notify_agent_error(), "needs the error"),
        (lambda e: e.notify_agent_started(7), "must be a string"),
        (lambda e: e.notify_agent_started("a", metadata=[1]), "metadata must be a dict"),
        (lambda e: e.publish("x", [1]), "dict"),
    ],
)
def test_wrong_calls_say_what_is_wrong(emitter, call, why):
    with pytest.raises(TypeError, match=why):
        call(emitter)
    assert emitter.get_event_stats()["stream_head"] == 0


def test_the_sketches_of_existing_code_with_named_steps_work(emitter):
    """Emitter B of the existing service names these arguments."""
    emitter.notify_agent_started(agent_name="data")
    assert emitter.get_event_stats()["stream_head"] == 1


# -- the message -------------------------------------------------------------------------------------------------------


async def test_a_message_has_the_shape_that_the_browser_reads(context, emitter, messages):
    child = context.create_child_context("data")
    await child.get_websocket_emitter().notify_agent_started("data", context.run_id)
    (message,) = messages()
    assert [key for key in ENVELOPE if key in message] == list(message)
    assert (message["type"], message["agent_name"], message["run_id"]) == ("agent_started", "data", context.run_id)
    assert (message["thread_id"], message["request_id"]) == (context.thread_id, child.request_id)
    assert (message["parent_request_id"], message["seq"]) == (context.request_id, 1)
    assert isinstance(message["message"], str)
    assert message["timestamp"].endswith("Z")
    assert datetime.fromisoformat(message["timestamp"]).utcoffset().total_seconds() == 0
    assert "user_id" not in message


async def test_event_ids_are_unique_and_numbers_are_dense(emitter, messages):
    await emitter.notify_agent_started("data")
    for _ in range(50):
        await emitter.notify_agent_thinking("hm")
    got = messages()
    assert [message["seq"] for message in got] == list(range(1, 52))
    assert len({message["event_id"] for message in got}) == 51


@given(
    st.dictionaries(
        st.sampled_from([*ENVELOPE, "v", "t", "status", "x"]), st.integers() | st.text(max_size=3), max_size=8
    )
)
def test_no_payload_key_reaches_the_envelope(payload):
    ctx = UserContextFactory.create_context("ann-of-envelopes")
    emitter = ctx.get_websocket_emitter()
    emitter.notify_agent_started("data", dict(payload))
    emitter.publish("mine", payload)
    cursor = isolane._core.EventCursor(ctx.user_id, framed=False, max_connections=1_000)
    cursor.subscribe(ctx.run_id)
    started, mine = [json.loads(text) for text in cursor.read()]
    assert (started["type"], started["run_id"], started["seq"]) == ("agent_started", ctx.run_id, 1)
    assert started["payload"]["status"] == "started"
    assert (mine["type"], mine["run_id"], mine["seq"]) == ("mine", ctx.run_id, 2)
    assert set(mine["payload"]) == set(payload)


async def test_the_log_measures_how_long_agents_and_tools_take(emitter, messages):
    with manual_clock() as clock:
        await emitter.notify_agent_started("data")
        clock.advance(1)
        await emitter.notify_tool_executing("sql", {})
        clock.advance(2)
        await emitter.notify_tool_completed("sql", result=1, metadata={"execution_time_ms": 99, "rows": 7})
        clock.advance(4)
        await emitter.notify_agent_completed(1)
        payloads = [message["payload"] for message in messages()]
    assert payloads[2]["execution_time_ms"] == pytest.approx(2_000)
    assert payloads[2]["rows"] == 7
    assert payloads[3]["execution_time_ms"] == pytest.approx(7_000)


async def test_an_exception_becomes_its_text_and_its_type(emitter, messages):
    await emitter.notify_agent_started("data")
    await emitter.notify_agent_error(error=KeyError("lost"))
    payload = messages()[-1]["payload"]
    assert payload["error_type"] == "KeyError"
    assert "lost" in payload["error_message"]


async def test_a_payload_is_written_when_it_is_published(emitter, messages):
    rows = [1]
    payload = {"rows": rows}
    emitter.publish("mine", payload)
    rows.append(2)
    payload["late"] = True
    assert messages()[0]["payload"] == {"rows": [1]}


# -- awaitables --------------------------------------------------------------------------------------------------------


async def test_what_is_returned_is_complete_already_and_yields_the_number(emitter):
    turned = []
    asyncio.get_running_loop().call_soon(turned.append, 1)
    assert await emitter.notify_agent_started("data") == 1
    assert await emitter.send_custom_event("mine", {}) == 2
    assert emitter.publish("mine") == 3
    assert await emitter.notify_custom("mine") == 4
    assert await emitter.cleanup() is None
    assert turned == []


def test_an_event_is_published_whether_or_not_it_is_awaited_and_without_a_loop(emitter, messages):
    emitter.notify_agent_started("data")
    assert [message["type"] for message in messages()] == ["agent_started"]


async def test_the_awaitables_may_be_gathered(emitter):
    await emitter.notify_agent_started("data")
    assert await asyncio.gather(*(emitter.notify_agent_thinking(f"{at}") for at in range(5))) == [2, 3, 4, 5, 6]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "agent_error"]
)
def test_the_six_cannot_be_sent_as_custom_events(emitter, kind):
    with pytest.raises(InvalidEvent, match=f"use notify_{kind}"):
        emitter.send_custom_event(kind, {})


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\nb", "a\x00"])
def test_names_are_bounded_and_printable_everywhere(context, emitter, name):
    emitter.notify_agent_started("data")
    calls = [
        lambda: emitter.publish(name),
        lambda: emitter.notify_agent_started(name),
        lambda: emitter.notify_tool_executing(name, {}),
        lambda: emitter.notify_agent_thinking("x", agent_name=name),
        lambda: emitter.publish("mine", agent_name=name),
    ]
    for call in calls:
        with pytest.raises(InvalidEvent, match="1 to 128 characters"):
            call()
    stats = emitter.get_event_stats()
    assert stats["stream_head"] == 1
    assert stats["events_refused"] == len(calls)


def test_what_is_not_json_able_names_the_path_and_publishes_nothing(emitter):
    for payload, path in (
        ({"a": {"b": [1, object()]}}, r"a\.b\[1\] is not JSON-able"),
        ({"s": lambda: 1}, "s is not JSON-able"),
        ({("tuple", "key"): 1}, "key of type tuple"),
    ):
        with pytest.raises(InvalidEvent, match=path):
            emitter.publish("mine", payload)
    stats = emitter.get_event_stats()
    assert (stats["events_published"], stats["events_refused"], stats["stream_head"]) == (0, 3, 0)


async def test_a_bad_payload_fails_its_own_event_only(emitter, messages):
    await emitter.notify_agent_started("data")
    with pytest.raises(InvalidEvent):
        await emitter.notify_tool_executing("sql", {"bad": object()})
    await emitter.notify_agent_completed(1)
    assert [message["type"] for message in messages()] == ["agent_started", "agent_completed"]
    assert [message["seq"] for message in messages()] == [1, 2]


def test_an_event_over_64_kib_is_refused_with_its_size(emitter):
    emitter.publish("mine", {"text": "x" * 65_000})
    with pytest.raises(EventTooLarge, match="the limit is 65536") as caught:
        emitter.publish("mine", {"text": "x" * 65_536})
    assert (caught.value.size > 65_536, caught.value.limit) == (True, 65_536)
    assert isinstance(caught.value, ValueError)


def test_the_line_for_people_counts_as_part_of_the_event(emitter):
    with pytest.raises((EventTooLarge, InvalidEvent)):
        emitter.publish("mine", {}, message="x" * 1_000_000)
    assert emitter.get_event_stats()["stream_head"] == 0


async def test_emitters_are_made_by_factories():
    with pytest.raises(TypeError, match="create_user_emitter"):
        UserWebSocketEmitter()
    with pytest.raises(TypeError, match="create_user_emitter"):
        UserWebSocketEmitter("ann", "thread-7", None)


async def test_the_emitter_of_a_context_owns_its_run_and_its_childrens_ids(context, new_context):
    child = context.create_child_context("data")
    emitter = context.get_websocket_emitter()
    assert (emitter.user_id, emitter.run_id) == (context.user_id, context.run_id)
    emitter.notify_agent_started("one", context.run_id)
    emitter.notify_agent_started("two", child.request_id)
    own = new_context(context.user_id)
    own.get_websocket_emitter()
    with pytest.raises(InvalidEvent, match="another run than this emitter's"):
        emitter.notify_agent_started("three", own.run_id)
    assert emitter.get_event_stats()["stream_head"] == 2


async def test_the_run_of_another_user_is_always_an_isolation_error(context, new_context, bob):
    foreign = new_context(bob)
    foreign.get_websocket_emitter().notify_agent_started("data")
    before = isolane.isolation_violations()
    bridge = WebSocketBridgeFactory()
    everywhere = await bridge.create_user_emitter(context.user_id, "thread-7", "conn-7")
    for emitter in (context.get_websocket_emitter(), everywhere):
        for publish in (
            lambda emitter=emitter: emitter.notify_agent_started("data", foreign.run_id),
            lambda emitter=emitter: emitter.publish("mine", {}, run_id=foreign.run_id),
        ):
            with pytest.raises(ContextIsolationError) as caught:
                publish()
            assert bob not in str(caught.value)
            assert foreign.run_id not in str(caught.value)
    after = isolane.isolation_violations()
    assert sum(after.values()) - sum(before.values()) == 4
    assert foreign.get_websocket_emitter().get_event_stats()["stream_head"] == 1


# -- factories ---------------------------------------------------------------------------------------------------------


async def test_an_emitter_for_a_user_opens_one_stream_for_each_run(alice, read_plain):
    bridge = WebSocketBridgeFactory()
    emitter = await bridge.create_user_emitter(alice, "thread-7", "conn-7")
    assert (emitter.run_id, emitter.connection_id) == (None, "conn-7")
    with pytest.raises(InvalidEvent, match="pass run_id"):
        emitter.notify_agent_started("data")
    runs = [f"{alice}-run-{at}" for at in range(2)]
    for run in runs:
        assert await emitter.notify_agent_started("data", run) == 1
        assert await emitter.notify_agent_completed("data", run, 1) == 2
    await emitter.cleanup()
    for run in runs:
        assert [message["seq"] for message in read_plain(alice, run)] == [1, 2]
    with pytest.raises(RunClosed):
        emitter.notify_agent_started("data", "another-run")
    with pytest.raises(InvalidContextError):
        (await bridge.create_user_emitter(alice, "thread-7")).notify_agent_started("data", "default")


async def test_the_bridge_refuses_bad_ids_and_contexts_of_others(context, bob):
    bridge = WebSocketBridgeFactory()
    with pytest.raises(InvalidContextError):
        await bridge.create_user_emitter("default", "thread-7", "conn-7")
    with pytest.raises(InvalidContextError):
        await bridge.create_user_emitter(bob, "", "conn-7")
    with pytest.raises(ContextIsolationError) as caught:
        await bridge.create_user_emitter(bob, context)
    assert context.user_id not in str(caught.value)
    assert bridge.get_factory_metrics()["emitters_created"] == 0


async def test_the_bridge_makes_no_emitter_for_a_context_that_ended(context):
    await context.cleanup()
    with pytest.raises((RunClosed, isolane.ContextStateError)):
        await WebSocketBridgeFactory().create_user_emitter(context.user_id, context)
    assert isolane._core.user_streams(context.user_id) == []


async def test_the_bridge_counts_and_cleans_up(context, bob, new_context):
    bridge = WebSocketBridgeFactory()
    emitter = await bridge.create_user_emitter(context.user_id, context)
    other = await bridge.create_user_emitter(bob, new_context(bob))
    assert bridge.get_user_emitter(context.user_id) is emitter
    assert bridge.get_factory_metrics()["emitters_active"] == 2
    assert await bridge.cleanup_user_emitter(context.user_id) == 1
    assert emitter.is_closed
    assert not other.is_closed
    assert bridge.get_user_emitter(context.user_id) is None
    assert await bridge.cleanup_user_emitter(context.user_id) == 0
    await bridge.shutdown()
    metrics = bridge.get_factory_metrics()
    assert (metrics["emitters_created"], metrics["emitters_active"], metrics["emitters_cleaned"]) == (2, 0, 2)
    with pytest.raises(RuntimeError, match="shut down"):
        await bridge.create_user_emitter(bob, "thread-7", None)


async def test_the_bounds_of_the_bridge_hold_for_its_emitters(context, read_plain):
    bridge = WebSocketBridgeFactory(WebSocketConfig(max_event_bytes=100, max_events_per_user=5))
    emitter = await bridge.create_user_emitter(context.user_id, context)
    with pytest.raises(EventTooLarge):
        emitter.publish("mine", {"text": "x" * 100})
    for at in range(20):
        emitter.publish("mine", {"at": at})
    got = [message["seq"] for message in read_plain(context.user_id, context.run_id)]
    assert got[-5:] == [16, 17, 18, 19, 20]
    assert len(got) == 6


async def test_two_emitters_of_one_user_do_not_take_each_others_events(alice, read_plain, new_context):
    """Failure 13: a sibling on the same connection shared a queue, a thread id, and the clean-up."""
    bridge = WebSocketBridgeFactory()
    one, two = new_context(alice), new_context(alice)
    first, second = [await bridge.create_user_emitter(alice, ctx) for ctx in (one, two)]
    for emitter in (first, second):
        await emitter.notify_agent_started("data")
    await first.cleanup()
    await second.notify_agent_completed(1)
    assert [message["thread_id"] for message in read_plain(alice, two.run_id)] == [two.thread_id] * 2
    assert [message["type"] for message in read_plain(alice, one.run_id)] == ["agent_started", "agent_error"]


async def test_a_cleaned_emitter_publishes_nothing_more(context):
    emitter = context.get_websocket_emitter()
    await emitter.notify_agent_started("data")
    await emitter.cleanup()
    await emitter.cleanup()
    for publish in (lambda: emitter.notify_agent_thinking("late"), lambda: emitter.publish("late")):
        with pytest.raises(RunClosed, match="before the engine or emitter is cleaned up"):
            publish()
    assert emitter.get_event_stats()["events_refused"] == 2


def test_representations_show_no_data(context):
    emitter = context.get_websocket_emitter()
    emitter.publish("mine", {"secret": "hunter2"})
    assert "hunter2" not in repr(emitter)
    assert context.user_id not in repr(emitter)


async def test_the_process_counts_its_events(context, emitter):
    before = collections.Counter(isolane.lane_stats())
    emitter.publish("mine")
    with pytest.raises(InvalidEvent):
        emitter.publish("mine", {"bad": object()})
    with pytest.raises(InvalidEvent):
        emitter.notify_agent_thinking("too early")
    after = collections.Counter(isolane.lane_stats())
    assert after["events_published"] - before["events_published"] == 1
    assert after["events_failed"] - before["events_failed"] == 2


def test_numbers_of_one_run_are_shared_by_its_emitters(context):
    emitters = [
        context.get_websocket_emitter(),
        *(context.create_child_context("x").get_websocket_emitter() for _ in range(3)),
    ]
    numbers = [emitter.publish("mine") for emitter in itertools.chain(emitters, emitters)]
    assert numbers == list(range(1, 9))


async def test_the_bridge_forgets_emitters_that_nobody_holds():
    bridge = WebSocketBridgeFactory()
    context = UserContextFactory.create_context("ann-of-many")
    first = await bridge.create_user_emitter(context.user_id, context)
    second = await bridge.create_user_emitter(context.user_id, context)
    for number in range(50):
        other = UserContextFactory.create_context(f"guest-{number}-of-many")
        await bridge.create_user_emitter(other.user_id, other)
    del other
    gc.collect()
    assert repr(bridge) == "<WebSocketBridgeFactory 2 emitters>"
    assert list(bridge._latest) == [context.user_id]
    # The end of an earlier emitter does not take the latest one away.
    del first
    gc.collect()
    assert bridge.get_user_emitter(context.user_id) is second
