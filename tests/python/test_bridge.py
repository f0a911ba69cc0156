"""The bridge factory beside its emitters: what is told to users outside of runs, event records, statistics."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import isolane
import pytest
from isolane import (
    ContextIsolationError,
    EventStats,
    EventTooLarge,
    InvalidContextError,
    InvalidEvent,
    WebSocketBridgeFactory,
    WebSocketConfig,
    WebSocketEvent,
)
from isolane._core import EventCursor, end_stream, event_figures, user_streams
from isolane.events import notices
from isolane.testing import manual_clock


def plain(user: str) -> EventCursor:
    return EventCursor(user, framed=False)


def read(cursor: EventCursor) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    while texts := cursor.read(64):
        got += [json.loads(text) for text in texts]
    return got


@pytest.fixture
async def bridge():
    made = WebSocketBridgeFactory()
    yield made
    await made.shutdown()


# -- telling a user ----------------------------------------------------------------------------------------------------


async def test_every_socket_of_the_user_gets_a_notice_in_order_and_nobody_elses(bridge, alice, bob):
    first, second, foreign = EventCursor(alice), plain(alice), plain(bob)
    for at in range(5):
        assert await bridge.broadcast_to_user(alice, {"type": "notice", "payload": {"at": at}})
    messages = read(second)
    assert [(one["type"], one["payload"], one["thread_id"]) for one in messages] == [
        ("notice", {"at": at}, "broadcast") for at in range(5)
    ]
    assert len({one["run_id"] for one in messages}) == 1
    sub, *frames = read(first)
    assert (sub["t"], sub["s"]) == ("sub", messages[0]["run_id"])
    assert [entry["ev"] for frame in frames for entry in frame["b"]] == messages
    assert read(foreign) == []
    assert user_streams(bob) == []


async def test_a_notice_that_nobody_would_read_is_not_published(bridge, alice, new_context):
    assert not await bridge.broadcast_to_user(alice, {"type": "notice"})
    assert user_streams(alice) == []
    ctx = new_context(alice)
    assert not await bridge.broadcast_to_user(alice, {"type": "notice"}), "a context alone reads nothing"
    ctx.get_websocket_emitter()
    assert await bridge.broadcast_to_user(alice, {"type": "notice"}), "who waits for a run comes back to read"
    end_stream(ctx)
    assert not await bridge.broadcast_to_user(alice, {"type": "notice"}), "its own stream is no run"
    cursor = plain(alice)
    assert await bridge.broadcast_to_user(alice, {"type": "notice"})
    cursor.detach()
    assert not await bridge.broadcast_to_user(alice, {"type": "notice"})


async def test_notices_of_a_thread_have_a_stream_of_their_own(bridge, alice):
    cursor = plain(alice)
    for thread in ("thread-1", "thread-2", None, "thread-1"):
        assert await bridge.broadcast_to_user(alice, WebSocketEvent("notice", alice, thread_id=thread))
    threads = [(one["thread_id"], one["seq"]) for one in read(cursor)]
    assert sorted(threads) == [("broadcast", 1), ("thread-1", 1), ("thread-1", 2), ("thread-2", 1)]
    with pytest.raises(InvalidContextError):
        await bridge.broadcast_to_user(alice, WebSocketEvent("notice", alice, thread_id="default"))


async def test_the_stream_of_notices_ends_when_nothing_is_told(bridge, alice):
    cursor = EventCursor(alice)
    with manual_clock() as clock:
        await bridge.broadcast_to_user(alice, {"type": "notice"})
        clock.advance(notices.IDLE_SECONDS - 1)
        bridge.end_idle_notices()
        assert [stream["outcome"] for stream in user_streams(alice)] == [None]
        clock.advance(2)
        bridge.end_idle_notices()
        assert [stream["outcome"] for stream in user_streams(alice)] == ["completed"]
        await bridge.broadcast_to_user(alice, {"type": "notice"})
    assert [stream["outcome"] for stream in user_streams(alice)] == ["completed", None]
    assert [frame["t"] for frame in read(cursor)] == ["sub", "sub", "ev", "end", "ev"]


async def test_a_notice_ends_what_is_idle_of_others_and_what_was_used_lately_stays(bridge, new_user, monkeypatch):
    monkeypatch.setattr(notices, "MAX_USERS", 2)
    first, second, third = users = [new_user() for _ in range(3)]
    cursors = [plain(user) for user in users]

    async def tell(user: str) -> None:
        assert await bridge.broadcast_to_user(user, {"type": "notice"})

    def live() -> list[bool]:
        return [any(stream["outcome"] is None for stream in user_streams(user)) for user in users]

    with manual_clock() as clock:
        await tell(first)
        await tell(second)
        clock.advance(notices.IDLE_SECONDS - 1)
        await tell(first)
        clock.advance(2)
        await tell(first)
        assert live() == [True, False, False], "the other one was told nothing for a minute"
        await tell(second)
        await tell(first)
        await tell(third)
        assert live() == [True, False, True], "the one that was told nothing for longest makes room"
    assert [len(read(cursor)) for cursor in cursors] == [4, 2, 1]


async def test_streams_of_notices_are_bounded_by_threads_and_users(bridge, alice, new_user, monkeypatch):
    monkeypatch.setattr(notices, "MAX_USERS", 3)
    users = [new_user() for _ in range(5)]
    cursors = [plain(user) for user in users]
    for user in users:
        assert await bridge.broadcast_to_user(user, {"type": "notice"})
    assert [user_streams(user)[0]["outcome"] for user in users] == ["completed", "completed", None, None, None]
    assert [len(read(cursor)) for cursor in cursors] == [1] * 5
    cursor = plain(alice)
    for at in range(notices.MAX_THREADS + 2):
        await bridge.broadcast_to_user(alice, WebSocketEvent("notice", alice, thread_id=f"thread-{at}"))
    live = [stream["thread_id"] for stream in user_streams(alice) if stream["outcome"] is None]
    assert live == [f"thread-{at}" for at in range(2, notices.MAX_THREADS + 2)]
    assert len(read(cursor)) == notices.MAX_THREADS + 2


async def test_a_notice_of_another_user_is_refused(bridge, alice, bob):
    cursors = [plain(alice), plain(bob)]
    with pytest.raises(ContextIsolationError):
        await bridge.broadcast_to_user(bob, WebSocketEvent("notice", alice, {"secret": 1}))
    assert [read(cursor) for cursor in cursors] == [[], []]
    assert await bridge.broadcast_to_user(alice, WebSocketEvent("notice", alice, {"secret": 1}))
    assert [len(read(cursor)) for cursor in cursors] == [1, 0]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"payload": {}}, "type is missing"),
        ({"type": "notice", "user_id": "x"}, "unknown: user_id"),
        ({"type": " "}, "1 to 128 characters"),
        ({"type": "notice", "priority": 5}, "priority must be 1"),
        ({"type": "notice", "payload": {"at": [object()]}}, r"at\[0\] is not JSON-able"),
        ({"type": "agent_completed"}, "use notify_agent_completed"),
    ],
)
async def test_a_notice_that_is_not_well_formed_says_why(bridge, alice, event, told):
    cursor = plain(alice)
    with pytest.raises(InvalidEvent, match=told):
        await bridge.broadcast_to_user(alice, event)
    assert read(cursor) == []


async def test_a_bridge_that_was_shut_down_tells_nobody(alice):
    bridge = WebSocketBridgeFactory()
    cursor = plain(alice)
    await bridge.broadcast_to_user(alice, {"type": "notice"})
    await bridge.shutdown()
    assert [stream["outcome"] for stream in user_streams(alice)] == ["completed"]
    with pytest.raises(RuntimeError, match="shut down"):
        await bridge.broadcast_to_user(alice, {"type": "notice"})
    assert len(read(cursor)) == 1


async def test_notices_end_with_the_emitters_of_their_user(bridge, alice):
    cursor = plain(alice)
    await bridge.broadcast_to_user(alice, {"type": "notice"})
    assert await bridge.cleanup_user_emitter(alice) == 0
    assert [stream["outcome"] for stream in user_streams(alice)] == ["completed"]
    assert len(read(cursor)) == 1


async def test_the_bounds_of_the_bridge_hold_for_notices(alice):
    bridge = WebSocketBridgeFactory(WebSocketConfig(max_event_bytes=100))
    cursor = plain(alice)
    with pytest.raises(EventTooLarge):
        await bridge.broadcast_to_user(alice, {"type": "notice", "payload": {"text": "x" * 200}})
    assert read(cursor) == []
    await bridge.shutdown()


async def test_the_same_notice_is_told_once_and_a_progress_notice_is_the_latest(bridge, alice):
    cursor = plain(alice)
    event = WebSocketEvent("notice", alice)
    assert [await bridge.broadcast_to_user(alice, event) for _ in range(2)] == [True, True]
    for percent in (10, 90):
        await bridge.broadcast_to_user(alice, {"type": "percent", "priority": 3, "payload": {"percent": percent}})
    messages = read(cursor)
    assert [(one["event_id"] == event.event_id, one["payload"]) for one in messages] == [
        (True, {}),
        (False, {"percent": 90}),
    ]


# -- the record of an event --------------------------------------------------------------------------------------------


def test_a_record_says_what_it_is():
    before = datetime.now(UTC)
    event = WebSocketEvent("notice", "user-7", {"at": 1}, thread_id="thread-7", agent_type="pricing", priority=3)
    assert before <= event.created_at <= datetime.now(UTC)
    assert event.event_id != WebSocketEvent("notice", "user-7").event_id
    written = json.loads(event.to_json())
    assert written == {
        "type": "notice",
        "agent_name": "pricing",
        "timestamp": event.created_at.isoformat(),
        "thread_id": "thread-7",
        "event_id": event.event_id,
        "user_id": "user-7",
        "priority": 3,
        "payload": {"at": 1},
    }
    assert event.get_size_bytes() == len(event.to_json().encode())
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.priority = 1  # type: ignore[misc]


def test_a_payload_is_valid_when_it_can_be_published():
    assert WebSocketEvent("notice", "user-7", {"text": "ü" * 100}).validate_payload()
    wrong = WebSocketEvent("notice", "user-7", {"text": object()})
    assert not wrong.validate_payload()
    with pytest.raises(InvalidEvent, match=r"payload\.text is not JSON-able"):
        wrong.to_json()
    text = WebSocketEvent("notice", "user-7", {"text": "ü" * 100})
    assert not text.validate_payload(max_bytes=len('{"text":""}') + 199)
    assert text.validate_payload(max_bytes=len('{"text":""}') + 200)


@pytest.mark.parametrize("fields", [{"event_id": ""}, {"event_id": "a b"}, {"event_id": "x" * 129}, {"priority": 0}])
def test_a_record_with_a_wrong_field_is_not_made(fields):
    with pytest.raises(InvalidEvent):
        WebSocketEvent("notice", "user-7", **fields)


async def test_a_record_is_published_by_an_emitter(context, read_plain):
    event = WebSocketEvent("notice", context.user_id, {"at": 1}, agent_type="pricing")
    emitter = context.get_websocket_emitter()
    assert [emitter.publish(**event.as_arguments()) for _ in range(2)] == [1, 1], "one event has one number"
    assert await emitter.send_custom_event(**event.as_arguments()) == 1
    (message,) = read_plain(context.user_id, context.run_id)
    assert (message["type"], message["agent_name"], message["payload"]) == ("notice", "pricing", {"at": 1})
    assert message["event_id"] == event.event_id


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_of_an_emitter_by_type(context):
    emitter = context.get_websocket_emitter()
    before = datetime.now(UTC)
    emitter.notify_agent_started("pricing")
    for _ in range(3):
        emitter.publish("progress")
    with pytest.raises(InvalidEvent):
        emitter.publish("")
    stats = emitter.get_event_stats()
    assert isinstance(stats, EventStats)
    assert stats.event_type_counts == {"agent_started": 1, "progress": 3}
    assert (stats.events_published, stats.events_failed, stats.stream_head) == (4, 1, 4)
    assert (stats.events_sent, stats.queue_size) == (0, 4)
    assert stats.get_success_rate() == 0.8
    assert before <= stats.last_event_time <= datetime.now(UTC)
    cursor = plain(context.user_id)
    cursor.subscribe(context.run_id)
    cursor.read(3)
    assert emitter.get_event_stats().events_sent == 0, "it is sent when the writer comes back for more"
    cursor.read(3)
    assert emitter.get_event_stats().events_sent == 3
    cursor.read(3)
    emitter.publish("progress")
    stats = emitter.get_event_stats()
    assert (stats.events_sent, stats.queue_size, stats["stream_head"]) == (4, 1, 5)


def test_types_are_counted_by_name_for_the_latest_fifty(context):
    emitter = context.get_websocket_emitter()
    for at in range(60):
        emitter.publish(f"type-{at}")
    counts = emitter.get_event_stats().event_type_counts
    assert len(counts) == 51
    assert counts["other"] == 10
    assert {f"type-{at}" for at in range(10, 60)} | {"other"} == set(counts)


def test_own_statistics_are_recorded_into():
    stats = EventStats()
    assert (stats.get_success_rate(), stats.avg_processing_time_ms, stats.last_event_time) == (1.0, 0.0, None)
    for at in range(99):
        stats.record_event_sent(f"type-{at}", 0.001)
    stats.record_event_sent("type-0", 0.1)
    stats.record_event_failed("type-0", "no socket")
    assert (stats.events_sent, stats.events_failed, stats.get_success_rate()) == (100, 1, 100 / 101)
    assert len(stats.event_type_counts) == 57
    assert (stats.event_type_counts["type-0"], stats.event_type_counts["other"]) == (2, 43)
    assert 1.0 <= stats.latency_ms["p50"] <= 1.25 <= stats.latency_ms["longest"] == 100.0
    assert stats.avg_processing_time_ms == pytest.approx(1.99, abs=0.01)
    with pytest.raises(KeyError):
        stats["_recorded"]


def latency() -> tuple[int, float]:
    figures = event_figures()["latency"]
    return figures["count"], figures["longest"] or 0.0


def test_the_delay_from_publishing_to_a_socket_is_measured(context):
    emitter = context.get_websocket_emitter()
    with manual_clock() as clock:
        emitter.publish("early")
        clock.advance(5_000)
        cursor = plain(context.user_id)
        cursor.subscribe(context.run_id)
        count, longest = latency()
        assert len(cursor.read()) == 1
        assert latency() == (count, longest), "how old it is says when the client came"
        emitter.publish("live")
        clock.advance(1_000)
        emitter.publish("live")
        clock.advance(500)
        assert len(cursor.read()) == 2
        assert latency() == (count + 1, max(longest, 1_500.0)), "the oldest of what is read at once"


async def test_statistics_of_the_factory(bridge, alice, new_context):
    before = bridge.get_factory_stats()
    assert before.heartbeat_status == "healthy"
    cursor = plain(alice)
    ctx = new_context(alice)
    emitter = await bridge.create_user_emitter(alice, ctx)
    emitter.publish("own-type-of-this-test")
    assert len(cursor.read()) == 1
    after = bridge.get_factory_stats()
    changed = {
        field.name: getattr(after, field.name) - getattr(before, field.name)
        for field in dataclasses.fields(after)
        if isinstance(getattr(after, field.name), int)
    }
    assert {name: by for name, by in changed.items() if by} == {
        "emitters_created": 1,
        "emitters_active": 1,
        "sockets": 1,
        "streams": 1,
        "events_published": 1,
        "events_sent": 1,
    }
    assert after.event_type_counts["own-type-of-this-test"] == 1
    assert after.latency_ms["count"] == before.latency_ms["count"] + 1
    assert after.taken_at >= before.taken_at
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.sockets = 0  # type: ignore[misc]
    metrics = bridge.get_factory_metrics()
    assert metrics["heartbeat_status"] == "healthy"
    assert (metrics["emitters_created"], metrics["emitters_active"]) == (1, 1)


async def test_a_bridge_that_never_looked_does_not_know(bridge):
    assert bridge.get_factory_metrics()["heartbeat_status"] == "unknown"
    assert bridge.health_check().healthy
    assert bridge.get_factory_metrics()["heartbeat_status"] == "healthy"


async def test_publishing_from_many_threads_counts_every_type(bridge, alice, new_context):
    ctx = new_context(alice)
    emitter = await bridge.create_user_emitter(alice, ctx)

    def publish(name: str) -> None:
        for _ in range(200):
            emitter.publish(name)

    await asyncio.gather(*(asyncio.to_thread(publish, f"type-{at % 2}") for at in range(4)))
    assert emitter.get_event_stats().event_type_counts == {"type-0": 400, "type-1": 400}
    assert isolane.lane_usage(alice)["streams"] == 1
