"""Classes of events: what is merged, skipped, shed, folded; ids of producers; waits for a delivery; failed events."""

import asyncio
import gc
import json
import threading
from typing import Any

import isolane
import pytest
from isolane import BudgetExceeded, DeliveryTimeout, FailedEvent, InvalidEvent, RunClosed, WebSocketBridgeFactory
from isolane._core import EventCursor, emitter_for_context, end_stream
from isolane.testing import manual_clock


@pytest.fixture
def clock():
    with manual_clock() as clock:
        yield clock


@pytest.fixture
def emitter(context):
    return emitter_for_context(context)


def read(ctx: isolane.UserExecutionContext, position: int | None = None, limit: int = 1_000) -> list[dict[str, Any]]:
    """The frames after the answer to the subscription."""
    cursor = EventCursor(ctx.user_id, max_connections=1_000)
    epoch = None
    if position is not None:
        epoch = next(stream["epoch"] for stream in isolane._core.user_streams(ctx.user_id))
    cursor.subscribe(ctx.run_id, epoch, position)
    frames = []
    while texts := cursor.read(limit):
        frames += [json.loads(text) for text in texts]
    cursor.detach()
    return frames[1:]


def items(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for frame in frames if frame["t"] == "ev" for item in frame["b"]]


def delta(emitter: isolane.UserWebSocketEmitter, text: str, message: str = "m1", **more: Any) -> int:
    return emitter.publish("text", {"delta": text, **more}, message_id=message)


# -- texts -------------------------------------------------------------------------------------------------------------


def test_adjacent_parts_of_a_text_are_read_as_one(context, emitter) -> None:
    for part in ('He said "', "hé", "\\", "\n", "\ud800", "!", ""):
        delta(emitter, part, at=part == "!")
    (item,) = items(read(context))
    assert (item["f"], item["n"], item.get("k"), item["p"]) == (1, 7, None, 2)
    message = item["ev"]
    # Everything but the text is that of the latest part.
    assert message["payload"] == {"message_id": "m1", "delta": 'He said "hé\\\n�!', "at": False}
    assert (message["seq"], message["event_id"]) == (7, item["id"])
    # Whoever has some of it gets the rest.
    assert [one["ev"]["payload"]["delta"] for one in items(read(context, 5))] == ["!"]


def test_parts_of_other_texts_and_with_other_events_between_are_not_joined(context, emitter) -> None:
    delta(emitter, "a")
    delta(emitter, "b", "m2")
    delta(emitter, "c", "m2")
    emitter.publish("note", {})
    delta(emitter, "d", "m2")
    emitter.publish("other_text", {"delta": "e"}, message_id="m2")
    got = items(read(context))
    assert [(item["f"], item["n"]) for item in got] == [(1, 1), (2, 3), (4, 4), (5, 5), (6, 6)]
    assert [item["ev"]["payload"].get("delta") for item in got] == ["a", "bc", None, "d", "e"]


def test_parts_of_two_executions_are_not_joined(context) -> None:
    children = [context.create_child_context(name) for name in ("one", "two")]
    for child in children:
        emitter_for_context(child).publish("text", {"delta": child.request_id}, message_id="m1")
    got = items(read(context))
    assert [item["ev"]["payload"]["delta"] for item in got] == [child.request_id for child in children]
    assert [item["ev"]["request_id"] for item in got] == [child.request_id for child in children]


def test_thoughts_are_never_joined(context, emitter) -> None:
    emitter.notify_agent_started("a")
    emitter.notify_agent_thinking("one", {"message_id": "m1", "delta": "x"})
    emitter.notify_agent_thinking("two", {"message_id": "m1", "delta": "y"})
    assert [item["ev"]["payload"].get("reasoning") for item in items(read(context))] == [None, "one", "two"]


def test_a_fold_keeps_the_whole_text_where_its_latest_part_is(context) -> None:
    emitter = emitter_for_context(context, max_events=4)
    emitter.notify_agent_started("a")
    for part in "abc":
        delta(emitter, part)
    emitter.publish("note", {})
    for part in "defgh":
        delta(emitter, part)
    frames = read(context)
    (snapshot,) = [frame for frame in frames if frame["t"] == "snap"]
    texts = [message["payload"]["delta"] for message in snapshot["b"] if message["type"] == "text"]
    rest = [item["ev"]["payload"]["delta"] for item in items(frames)]
    assert [message["type"] for message in snapshot["b"]] == ["agent_started", "note", "text"]
    assert texts == ["abcd"]
    assert rest == ["efgh"]
    assert snapshot["n"] == 6


def test_a_text_that_fills_the_snapshot_is_forgotten_and_counted(context) -> None:
    emitter = emitter_for_context(context, max_run_bytes=64 * 1024)
    before = isolane.lane_stats()["events_forgotten"]
    for _ in range(40):
        delta(emitter, "x" * 4_000)
    assert isolane.lane_stats()["events_forgotten"] > before
    assert isolane.lane_usage(context.user_id)["event_bytes"] <= 64 * 1024
    frames = read(context)
    assert items(frames)[-1]["n"] == 40


def test_a_text_that_lost_its_beginning_says_so(context) -> None:
    """A snapshot replaces what a client has: the rest of a text must not be taken for the whole."""
    emitter = emitter_for_context(context, max_run_bytes=64 * 1024)
    delta(emitter, "the beginning, ")
    for _ in range(40):
        delta(emitter, "x" * 2_000)
    (snapshot,) = [frame for frame in read(context) if frame["t"] == "snap"]
    (text,) = [message["payload"] for message in snapshot["b"] if message["type"] == "text"]
    assert text["truncated"] is True
    assert set(text["delta"]) <= {"x"}


@pytest.mark.parametrize("payload", [None, {}, {"delta": 1}, {"delta": None}, {"text": "a"}])
def test_a_part_of_a_text_needs_its_part(emitter, payload) -> None:
    with pytest.raises(InvalidEvent, match="delta"):
        emitter.publish("text", payload, message_id="m1")


# -- classes -----------------------------------------------------------------------------------------------------------


def test_of_progress_the_latest_of_a_key_is_read(context, emitter) -> None:
    emitter.publish("progress", {"v": 1}, priority=3)
    emitter.publish("progress", {"v": 2}, priority=3, key="other")
    emitter.publish("note", {})
    emitter.publish("progress", {"v": 3}, priority=3)
    emitter.publish("progress", {"v": 4}, priority=3)
    got = items(read(context))
    assert [(item["f"], item["n"], item.get("k", 0), item["p"]) for item in got] == [
        (1, 2, 1, 3),
        (3, 3, 0, 2),
        (4, 5, 1, 3),
    ]


def test_progress_of_one_execution_does_not_supersede_anothers(context) -> None:
    for name in ("one", "two"):
        emitter = emitter_for_context(context.create_child_context(name))
        emitter.publish("progress", {"v": name}, priority=3)
    assert [item["ev"]["payload"]["v"] for item in items(read(context))] == ["one", "two"]


def test_progress_and_debug_expire(context, clock) -> None:
    emitter = emitter_for_context(context, progress_ttl=20.0)
    emitter.publish("progress", {}, priority=3)
    emitter.publish("debug", {}, priority=4)
    emitter.publish("note", {})
    clock.advance(5)
    assert [item["n"] for item in items(read(context))] == [1, 2, 3]
    clock.advance(1)
    assert [(item["f"], item["n"], item.get("k", 0)) for item in items(read(context))] == [(1, 1, 0), (2, 3, 1)]
    clock.advance(15)
    assert [(item["f"], item["n"], item.get("k", 0)) for item in items(read(context))] == [(1, 3, 2)]


def test_a_reader_that_is_far_behind_is_sent_no_debug_and_told_so(context, emitter) -> None:
    for _ in range(60):
        emitter.publish("debug", {}, priority=4)
    assert len(items(read(context))) == 60
    for _ in range(5):
        emitter.publish("debug", {}, priority=4)
    frames = read(context)
    assert [(frame["t"], frame["f"], frame["n"], frame["k"]) for frame in frames] == [("skip", 1, 65, 65)]
    assert [item["n"] for item in items(read(context, 1))] == list(range(2, 66))


def test_a_full_log_sheds_debug_then_old_progress_then_folds(context) -> None:
    emitter = emitter_for_context(context, max_events=5)
    before = isolane.lane_stats()
    emitter.publish("note", {"i": 1})
    emitter.publish("progress", {"i": 2}, priority=3)
    emitter.publish("debug", {"i": 3}, priority=4)
    emitter.publish("progress", {"i": 4}, priority=3)
    emitter.publish("note", {"i": 5})

    def look() -> list[tuple[Any, ...]]:
        return [
            ("snap", frame["n"], len(frame["b"]))
            if frame["t"] == "snap"
            else tuple((item["f"], item["n"], item.get("k", 0)) for item in frame["b"])
            for frame in read(context)
        ]

    emitter.publish("note", {"i": 6})
    assert isolane.lane_stats()["events_shed"] == before["events_shed"] + 1
    assert look() == [((1, 1, 0), (2, 4, 2), (5, 5, 0), (6, 6, 0))]
    emitter.publish("note", {"i": 7})
    assert isolane.lane_stats()["events_folded"] == before["events_folded"]
    emitter.publish("note", {"i": 8})
    assert isolane.lane_stats()["events_folded"] == before["events_folded"] + 1
    assert look() == [("snap", 1, 1), ((2, 4, 2), (5, 5, 0), (6, 6, 0), (7, 7, 0), (8, 8, 0))]


def test_what_is_critical_survives_a_flood_of_debug(context) -> None:
    emitter = emitter_for_context(context, max_events=50)
    for _ in range(40):
        emitter.publish("milestone", {}, priority=1)
        for _ in range(100):
            emitter.publish("debug", {}, priority=4)
    got = items(read(context))
    assert [item["ev"]["type"] for item in got if item["p"] == 1] == ["milestone"] * 40
    assert all(item["n"] - item["f"] == item.get("k", 0) for item in got)
    assert isolane.lane_usage(context.user_id)["event_bytes"] < 100_000


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"priority": 0}, "priority"),
        ({"priority": 5}, "priority"),
        ({"priority": -(2**40)}, "priority"),
        ({"key": "k"}, "priority=3"),
        ({"key": "k", "priority": 4}, "priority=3"),
        ({"key": "", "priority": 3}, "key"),
        ({"message_id": "m", "priority": 3}, "priority 2"),
        ({"message_id": "m" * 129}, "message_id"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "a b"}, "event_id"),
        ({"event_id": "é"}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(context, emitter, arguments, word) -> None:
    with pytest.raises(InvalidEvent, match=word):
        emitter.publish("text", {"delta": "a"}, **arguments)
    assert read(context) == []


# -- ids of producers --------------------------------------------------------------------------------------------------


def test_an_event_that_is_published_again_is_not_appended_again(context, emitter) -> None:
    assert emitter.publish("note", {"i": 1}, event_id="mine-1") == 1
    assert emitter.publish("note", {}) == 2
    assert emitter.publish("other", {"i": 2}, event_id="mine-1", priority=1) == 1
    got = items(read(context))
    assert (got[0]["id"], got[0]["ev"]["event_id"]) == ("mine-1", "mine-1")
    assert len(got) == 2
    end_stream(context)
    assert emitter.publish("note", {}, event_id="mine-1") == 1, "as before, also after the end"
    with pytest.raises(RunClosed):
        emitter.publish("note", {}, event_id="mine-2")


def test_the_latest_thousand_ids_are_remembered(context, emitter) -> None:
    for number in range(1_001):
        emitter.publish("note", {}, event_id=f"id-{number}")
    assert emitter.publish("note", {}, event_id="id-1") == 2
    assert emitter.publish("note", {}, event_id="id-0") == 1_002


# -- waits -------------------------------------------------------------------------------------------------------------


async def test_a_wait_ends_when_a_socket_was_written_the_event(context, emitter) -> None:
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    first, second = emitter.publish("note", {}), emitter.publish("note", {})
    waiting = asyncio.ensure_future(_wait(emitter, second))
    cursor.read(1)
    cursor.read(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    await emitter.wait(first)
    # The writer comes back for more: what it was handed is written.
    cursor.read(1)
    await waiting
    with pytest.raises(DeliveryTimeout) as error:
        await emitter.wait(second, "acked", timeout=0.01)
    assert isinstance(error.value, TimeoutError)
    assert (error.value.level, error.value.number, error.value.reached) == ("acked", second, 0)


async def _wait(emitter: isolane.UserWebSocketEmitter, number: int, **how: Any) -> None:
    await emitter.wait(number, **how)


async def test_a_wait_ends_when_a_client_has_acknowledged_the_event(context, emitter) -> None:
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    numbers = [emitter.publish("note", {}) for _ in range(3)]
    waiting = [asyncio.ensure_future(_wait(emitter, number, level="acked")) for number in numbers]
    while cursor.read():
        pass
    cursor.handle(json.dumps({"t": "ack", "s": {context.run_id: 2}}))
    await asyncio.gather(*waiting[:2])
    assert not waiting[2].done()
    cursor.handle(json.dumps({"t": "ack", "s": {context.run_id: 3}}))
    await waiting[2]
    await emitter.wait(1, "acked")


async def test_a_wait_that_is_cancelled_or_dropped_leaves_nothing(context, emitter) -> None:
    number = emitter.publish("note", {})
    for _ in range(3):
        waiting = [asyncio.ensure_future(_wait(emitter, number, timeout=30)) for _ in range(900)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(got, asyncio.CancelledError) for got in await asyncio.gather(*waiting, return_exceptions=True)
        )
        held = [emitter.wait(number, timeout=30) for _ in range(1_000)]
        with pytest.raises(BudgetExceeded):
            emitter.wait(number)
        del held
        gc.collect()


async def test_a_wait_for_a_log_that_is_dropped_ends(context, emitter, clock) -> None:
    number = emitter.publish("note", {})
    waiting = asyncio.ensure_future(_wait(emitter, number))
    await asyncio.sleep(0)
    end_stream(context)
    clock.advance(301)
    isolane.sweep_lanes()
    with pytest.raises(RunClosed):
        await waiting
    with pytest.raises(RunClosed):
        emitter.wait(number)


async def test_a_wait_is_woken_from_another_thread(context, emitter) -> None:
    number = emitter.publish("note", {})
    waiting = asyncio.ensure_future(_wait(emitter, number, timeout=60))
    await asyncio.sleep(0)

    def deliver() -> None:
        cursor = EventCursor(context.user_id)
        cursor.subscribe(context.run_id)
        while cursor.read():
            pass

    thread = threading.Thread(target=deliver)
    thread.start()
    await waiting
    thread.join()


async def test_a_wait_for_what_was_not_published_is_refused(new_user, emitter) -> None:
    with pytest.raises(InvalidEvent, match="not published"):
        emitter.wait(1)
    emitter.publish("note", {})
    with pytest.raises(InvalidEvent):
        emitter.wait(0)
    with pytest.raises(ValueError, match="level"):
        emitter.wait(1, "read")
    of_user = await WebSocketBridgeFactory().create_user_emitter(new_user(), "thread-1", "conn-1")
    with pytest.raises(InvalidEvent, match="run_id"):
        of_user.wait(1)
    number = of_user.publish("note", {}, run_id="run-of-a-wait")
    with pytest.raises(DeliveryTimeout):
        await of_user.wait(number, timeout=0, run_id="run-of-a-wait")
    await of_user.cleanup()


# -- failed events -----------------------------------------------------------------------------------------------------


def test_failed_events_are_kept_without_their_payload(context, emitter, new_context) -> None:
    assert emitter.failed_events == []
    with pytest.raises(InvalidEvent):
        emitter.notify_agent_thinking("a secret thought")
    with pytest.raises(InvalidEvent):
        emitter.publish("note", {"a": ["a secret", object()]}, event_id="mine-1")
    first, second = emitter.failed_events
    assert isinstance(first, FailedEvent)
    assert (first.event_type, first.event_id) == ("agent_thinking", "")
    assert (second.event_type, second.event_id) == ("note", "mine-1")
    assert second.reason.startswith("InvalidEvent: ")
    assert "secret" not in repr(emitter.failed_events) + first.reason + second.reason
    assert first.time <= second.time
    # They are the user's: another one's are not among them.
    assert emitter_for_context(new_context()).failed_events == []
    assert len(emitter_for_context(context.create_child_context("a")).failed_events) == 2


def test_the_latest_256_failed_events_are_kept(emitter) -> None:
    for number in range(300):
        with pytest.raises(InvalidEvent):
            emitter.publish("note", {}, event_id=f"id-{number}", priority=9)
    kept = emitter.failed_events
    assert [failed.event_id for failed in kept] == [f"id-{number}" for number in range(44, 300)]
