"""What a cursor holds back: for acks, for its turn, for events that are more urgent; and how many commands it takes."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import zlib
from typing import Any

import pytest
from isolane import RunClosed
from isolane._core import (
    EventCursor,
    cancel_stream,
    emitter_for_context,
    emitter_for_user,
    end_stream,
    stream_state,
)
from isolane.fastapi import IsolaneSettings, Principal
from isolane.fastapi.sockets import Delivery
from isolane.testing import manual_clock

EVENTS = 512
"""Un-acked events over which a socket pauses."""


def read(cursor: EventCursor, limit: int = 64) -> list[dict[str, Any]]:
    return [json.loads(text) for text in cursor.read(limit)]


def read_all(cursor: EventCursor, limit: int = 64) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    while batch := read(cursor, limit):
        got += batch
    return got


def numbers(frames: list[dict[str, Any]]) -> list[int]:
    return [entry["n"] for frame in frames if frame["t"] == "ev" for entry in frame["b"]]


def ack(cursor: EventCursor, **positions: Any) -> None:
    assert cursor.handle(json.dumps({"t": "ack", "s": positions})) == "ack"


def acking(context, **options: Any) -> EventCursor:
    """A cursor that pauses without acks, and has subscribed."""
    cursor = EventCursor(context.user_id, acks=True, **options)
    cursor.subscribe(context.run_id)
    assert read(cursor, 1)[0]["t"] == "sub"
    return cursor


# -- acks --------------------------------------------------------------------------------------------------------------


def test_a_socket_pauses_at_512_events_and_an_ack_resumes_it(context):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    for _ in range(900):
        emitter.publish("mine")
    first = numbers(read_all(cursor))
    assert EVENTS < len(first) <= EVENTS + 64
    assert first == list(range(1, len(first) + 1))
    cursor.ping()
    assert [frame["t"] for frame in read_all(cursor)] == ["ping"], "control frames still go"
    ack(cursor, **{context.run_id: 128})
    assert read_all(cursor) == [], "it resumes at half of what made it pause"
    ack(cursor, **{context.run_id: 320})
    second = numbers(read_all(cursor))
    assert second[0] == first[-1] + 1
    ack(cursor, **{context.run_id: second[-1]})
    assert numbers(read_all(cursor)) == list(range(second[-1] + 1, 901))


def test_a_socket_pauses_at_256_kib(context):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    for _ in range(20):
        emitter.publish("mine", {"text": "x" * 30_000})
    got = numbers(read_all(cursor))
    assert 256 * 1024 // 30_000 <= len(got) <= 2 * 256 * 1024 // 30_000
    assert len(got) < 20
    while got[-1] < 20:
        ack(cursor, **{context.run_id: got[-1]})
        got += numbers(read_all(cursor))
    assert got == list(range(1, 21))


def test_a_socket_that_paused_reads_on_with_a_snapshot_when_the_log_has_folded(context):
    emitter = emitter_for_context(context, max_events=600)
    cursor = acking(context)
    for _ in range(2_000):
        emitter.publish("mine")
        cursor.read()
    ack(cursor, **{context.run_id: 500})
    after = read_all(cursor)
    assert after[0]["t"] == "snap"
    ack(cursor, **{context.run_id: numbers(after)[-1]})
    after += read_all(cursor)
    assert numbers(after) == list(range(after[0]["n"] + 1, 2_001))


@pytest.mark.parametrize("number", [-1, "32", 1.5, None, 10**6, 2**70])
def test_acks_that_make_no_sense_are_ignored_one_by_one(context, number):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    for _ in range(900):
        emitter.publish("mine")
    sent = numbers(read_all(cursor))
    ack(cursor, **{context.run_id: number, "unknown-run": 3})
    assert read(cursor) == []
    ack(cursor, **{"unknown-run": number, context.run_id: sent[-1]})
    assert read(cursor) != []


def test_acks_of_a_run_of_another_user_change_nothing(context, bob):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    for _ in range(900):
        emitter.publish("mine")
    read_all(cursor)
    foreign = EventCursor(bob, acks=True)
    ack(foreign, **{context.run_id: 512})
    assert read(cursor) == []


async def test_a_writer_that_waits_is_woken_by_the_ack_and_not_by_events(context):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    for _ in range(600):
        emitter.publish("mine")
    sent = numbers(read_all(cursor))
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0)
    ack(cursor, **{context.run_id: 1})
    await asyncio.sleep(0.01)
    assert not waiting.done()
    ack(cursor, **{context.run_id: sent[-1]})
    await asyncio.wait_for(waiting, 1)


def test_an_ack_is_due_after_a_critical_frame_or_32_events(context):
    with manual_clock() as clock:
        emitter = context.get_websocket_emitter()
        cursor = acking(context)
        for _ in range(31):
            emitter.publish("mine")
        read_all(cursor)
        clock.advance(100)
        assert cursor.ack_overdue() is None
        emitter.publish("mine")
        read_all(cursor)
        clock.advance(7)
        assert cursor.ack_overdue() == 7
        ack(cursor, **{context.run_id: 32})
        assert cursor.ack_overdue() is None
        emitter.notify_agent_started("data")
        assert cursor.ack_overdue() is None, "it was not sent yet"
        read_all(cursor)
        clock.advance(3)
        assert cursor.ack_overdue() == 3
        ack(cursor, **{context.run_id: 33})
        assert cursor.ack_overdue() is None


def test_a_client_without_acks_owes_none(context):
    emitter = context.get_websocket_emitter()
    for framed in (True, False):
        cursor = EventCursor(context.user_id, framed=framed, acks=not framed)
        cursor.subscribe(context.run_id)
        for _ in range(900):
            emitter.notify_agent_started("data")
            emitter.notify_agent_completed(1)
            cursor.read(1_000)
        assert cursor.ack_overdue() is None


async def test_the_last_events_of_a_run_are_acknowledged_after_its_end(context):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    emitter.notify_agent_started("data")
    emitter.notify_agent_completed(1)
    waiting = asyncio.ensure_future(emitter.wait(2, level="acked", timeout=5))
    end_stream(context)
    assert read_all(cursor)[-1]["t"] == "end"
    await asyncio.sleep(0.01)
    assert cursor.ack_overdue() is not None
    assert not waiting.done()
    ack(cursor, **{context.run_id: 2})
    await waiting
    assert cursor.ack_overdue() is None


async def test_an_event_counts_as_sent_when_the_writer_comes_back(context):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    emitter.publish("mine")
    waiting = asyncio.ensure_future(emitter.wait(1, level="sent", timeout=5))
    await asyncio.sleep(0.01)
    assert numbers(read(cursor)) == [1]
    await asyncio.sleep(0.01)
    assert not waiting.done(), "it was handed out, and nobody knows whether it was written"
    read(cursor)
    await waiting


async def test_the_last_events_of_a_socket_that_is_closed_count_as_sent(context):
    emitter = context.get_websocket_emitter()
    delivery = Delivery(IsolaneSettings(), Principal(context.user_id), framed=False)
    delivery.cursor.subscribe(context.run_id)
    emitter.publish("mine")

    async def send(message):
        if message["type"] == "websocket.send":
            delivery.cursor.close(4500)

    waiting = asyncio.ensure_future(emitter.wait(1, level="sent", timeout=5))
    await delivery.write(send)
    delivery.close()
    await waiting


def test_who_has_acknowledged_nothing_for_longest_is_replaced(alice, new_context):
    context = new_context(alice)
    emitter = context.get_websocket_emitter()
    with manual_clock() as clock:
        cursors = []
        for _ in range(3):
            clock.advance(1)
            cursors.append(acking(context))
        emitter.publish("mine")
        for cursor in cursors:
            read(cursor)
        clock.advance(1)
        for at in (0, 2):
            ack(cursors[at], **{context.run_id: 1})
        clock.advance(1)
        cursors[1].read()
        cursors.append(acking(context))
        assert [cursor.close_code for cursor in cursors] == [None, 4504, None, None]


def test_what_is_remembered_for_acks_is_bounded(context):
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    before = None
    for number in range(1, 20_001):
        emitter.publish("mine")
        cursor.read()
        if number % 32 == 0:
            ack(cursor, **{context.run_id: number})
        if number == 1_000:
            gc.collect()
            before = resident()
    # Far below what a record of each event would take.
    assert resident() - before < 4 << 20


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file of ours
        return int(file.read().split()[1]) * 4096


# -- turns -------------------------------------------------------------------------------------------------------------


def test_runs_take_turns_by_bytes_and_not_by_events(alice, new_context):
    large, small = new_context(alice), new_context(alice)
    cursor = EventCursor(alice)
    for ctx, size, count in ((large, 30_000, 10), (small, 200, 600)):
        emitter = ctx.get_websocket_emitter()
        for _ in range(count):
            emitter.publish("mine", {"text": "x" * size})
    read(cursor, 1)
    got = {large.run_id: 0, small.run_id: 0}
    while got[small.run_id] < 60_000:
        for frame in read(cursor):
            if frame["t"] == "ev":
                got[frame["s"]] += sum(len(json.dumps(entry)) for entry in frame["b"])
    # By events the large one would have had seventy times as much.
    assert 0.4 < got[large.run_id] / got[small.run_id] < 2.5


def test_no_run_waits_for_ever_behind_busy_ones(alice, new_context):
    contexts = [new_context(alice) for _ in range(20)]
    cursor = EventCursor(alice)
    emitters = [ctx.get_websocket_emitter() for ctx in contexts]
    read_all(cursor)
    for emitter in emitters:
        for _ in range(100):
            emitter.publish("mine", {"text": "x" * 1_000})
    first_seen: dict[str, int] = {}
    for at in range(40):
        for frame in read(cursor, 64):
            first_seen.setdefault(frame["s"], at)
    assert len(first_seen) == 20
    # A turn is 16 KiB, which is 16 of these events: four runs a read.
    assert max(first_seen.values()) <= 8


# -- what may wait -----------------------------------------------------------------------------------------------------


async def deferring(context) -> EventCursor:
    cursor = EventCursor(context.user_id, defers=True)
    cursor.subscribe(context.run_id)
    read_all(cursor)
    return cursor


async def seconds_until_read(cursor: EventCursor) -> tuple[float, list[int]]:
    began = time.monotonic()
    while not (got := numbers(read(cursor))):
        await asyncio.wait_for(cursor.wait(), 5)
    return time.monotonic() - began, got


@pytest.mark.parametrize(("priority", "least", "most"), [(1, 0.0, 0.2), (2, 0.0, 0.2), (3, 0.2, 0.9), (4, 0.9, 3.0)])
async def test_an_event_waits_no_longer_than_its_class(context, priority, least, most):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("mine", priority=priority)
    took, got = await seconds_until_read(cursor)
    assert got == [1]
    assert least <= took <= most


async def test_a_more_urgent_event_takes_those_along_that_wait(context):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("step", {"percent": 1}, priority=3)
    emitter.publish("trace", priority=4)
    waiting = asyncio.ensure_future(seconds_until_read(cursor))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    emitter.publish("mine")
    took, got = await waiting
    assert got == [1, 2, 3]
    assert took < 0.2


async def test_parts_of_a_text_are_written_at_once_and_then_together(context):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("text", {"delta": "a"}, message_id="m")
    assert numbers(read(cursor)) == [1], "the first one does not wait"
    for _ in range(5):
        emitter.publish("text", {"delta": "b"}, message_id="m")
    assert read(cursor) == []
    began = time.monotonic()
    await asyncio.wait_for(cursor.wait(), 2)
    (frame,) = read(cursor)
    assert time.monotonic() - began < 0.5
    assert [(entry["f"], entry["n"], entry["ev"]["payload"]["delta"]) for entry in frame["b"]] == [(2, 6, "bbbbb")]


async def test_a_publisher_of_what_may_wait_wakes_nobody_who_looks_anyway(context):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("step", priority=3)
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0.02)
    for _ in range(10):
        emitter.publish("step", priority=3)
        await asyncio.sleep(0)
    emitter.publish("trace", priority=4)
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await asyncio.wait_for(waiting, 2)


async def test_who_waits_for_debug_events_is_told_of_progress_in_time(context):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("trace", priority=4)
    waiting = asyncio.ensure_future(seconds_until_read(cursor))
    await asyncio.sleep(0.02)
    emitter.publish("step", priority=3)
    took, got = await waiting
    assert got == [1, 2]
    assert took < 0.8


async def test_the_end_and_control_frames_do_not_wait(context):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("trace", priority=4)
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0.01)
    cursor.ping()
    await asyncio.wait_for(waiting, 0.5)
    assert [frame["t"] for frame in read(cursor)] == ["ping"]
    end_stream(context)
    await asyncio.wait_for(cursor.wait(), 0.5)
    assert [frame["t"] for frame in read(cursor)] == ["ev", "end"]


@pytest.mark.parametrize("ticks", range(6))
async def test_a_timed_wait_that_is_cancelled_at_any_tick_leaves_nothing(context, ticks):
    emitter = context.get_websocket_emitter()
    cursor = await deferring(context)
    emitter.publish("step", priority=3)

    async def reader() -> None:
        await cursor.wait()

    task = asyncio.create_task(reader())
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    loop = asyncio.get_running_loop()
    timers = [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]
    assert timers == []
    _, got = await seconds_until_read(cursor)
    assert got == [1]


def test_many_loops_wait_for_what_many_threads_publish(context):
    emitters = [context.create_child_context("t").get_websocket_emitter() for _ in range(3)]
    count = 60
    results: list[int] = []

    async def consume() -> None:
        cursor = EventCursor(context.user_id, defers=True, max_connections=10)
        cursor.subscribe(context.run_id)
        seen: list[str] = []
        position = 0
        async with asyncio.timeout(30):
            while not seen or seen[-1] != "end":
                for frame in read(cursor):
                    if frame["t"] == "ev":
                        assert frame["b"][0]["f"] == position + 1
                        position = frame["b"][-1]["n"]
                    elif frame["t"] == "skip":
                        assert frame["f"] == position + 1
                        position = frame["n"]
                    seen.append(frame["t"])
                if seen[-1] != "end":
                    await cursor.wait()
        results.append(position)

    def consumer() -> None:
        asyncio.run(consume())

    def producer(emitter: Any) -> None:
        for at in range(count):
            emitter.publish("mine", priority=1 + at % 4)
            time.sleep(0.001)

    threads = [threading.Thread(target=consumer) for _ in range(3)]
    threads += [threading.Thread(target=producer, args=(emitter,)) for emitter in emitters]
    for thread in threads:
        thread.start()
    for thread in threads[3:]:
        thread.join(60)
    # What was last published may wait; the end does not.
    end_stream(context)
    for thread in threads[:3]:
        thread.join(60)
    assert results == [count * len(emitters)] * 3


# -- commands ----------------------------------------------------------------------------------------------------------


def test_64_commands_at_once_then_32_a_second(alice):
    with manual_clock() as clock:
        cursor = EventCursor(alice)
        sub = json.dumps({"t": "sub", "s": "unknown-run"})
        cancel = json.dumps({"t": "cancel", "s": "unknown-run"})
        for at in range(64):
            assert cursor.handle(sub if at % 2 else cancel) != "refused"
        clock.advance(1)
        for _ in range(32):
            assert cursor.handle(sub) == "sub"
        for _ in range(100):
            cursor.handle(json.dumps({"t": "pong"}))
            cursor.handle(json.dumps({"t": "ack", "s": {}}))
            cursor.handle(json.dumps({"t": "later"}))
        assert cursor.close_code is None, "only commands count"
        assert cursor.handle(sub) == "refused"
        assert cursor.close_code == 4029


def test_each_stream_of_the_welcome_may_be_asked_for_at_once(alice, new_context):
    contexts = [new_context(alice) for _ in range(150)]
    for ctx in contexts:
        ctx.get_websocket_emitter()
    cursor = EventCursor(alice)
    cursor.welcome(1_000)
    (welcome,) = read(cursor)
    assert len(welcome["streams"]) == 150
    for stream in welcome["streams"]:
        assert cursor.handle(json.dumps({"t": "sub", "s": stream["s"]})) == "sub"
    assert cursor.close_code is None


def test_a_client_that_asks_without_reading_is_asked_to_begin_anew(alice):
    with manual_clock() as clock:
        cursor = EventCursor(alice)
        while cursor.close_code is None:
            clock.advance(1)
            cursor.handle(json.dumps({"t": "sub", "s": "unknown-run"}))
        assert cursor.close_code == 4010


def test_a_wish_to_cancel_is_handed_out_and_answered(alice):
    cursor = EventCursor(alice)
    assert cursor.handle(json.dumps({"t": "cancel", "s": "run-1", "cid": "c7"})) == ("run-1", "c7")
    assert cursor.handle(json.dumps({"t": "cancel", "s": "run-1", "cid": 7})) == ("run-1", None)
    cursor.answer_cancel("run-1", "c7", "accepted")
    cursor.answer_cancel("run-1", None, "gone")
    assert read(cursor) == [
        {"v": 1, "t": "cancel", "s": "run-1", "cid": "c7", "state": "accepted"},
        {"v": 1, "t": "cancel", "s": "run-1", "state": "gone"},
    ]
    with pytest.raises(ValueError, match="accepted"):
        cursor.answer_cancel("run-1", None, "maybe")
    with pytest.raises(ValueError, match="names its run"):
        cursor.handle(json.dumps({"t": "cancel"}))


def test_a_stream_that_no_engine_runs_is_ended_as_cancelled(context, bob, read_plain):
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("data")
    emitter.notify_tool_executing("t", {})
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    assert stream_state(bob, context.run_id) == "gone"
    cancel_stream(bob, context.run_id, "no")
    assert stream_state(context.user_id, context.run_id) == "running"
    cancel_stream(context.user_id, context.run_id, "the user cancelled the run")
    cancel_stream(context.user_id, context.run_id, "again")
    assert stream_state(context.user_id, context.run_id) == "ended"
    frames = read_all(cursor)
    types = [entry["ev"]["type"] for frame in frames if frame["t"] == "ev" for entry in frame["b"]]
    assert types == ["agent_started", "tool_executing", "tool_completed", "agent_error"]
    assert (frames[-1]["t"], frames[-1]["outcome"]) == ("end", "cancelled")


# -- the forms ---------------------------------------------------------------------------------------------------------


def test_the_welcome_says_what_is_agreed(alice):
    cursor = EventCursor(alice, acks=True, compresses=True)
    cursor.welcome(15_000, reconnect_attempts=7)
    (welcome,) = read(cursor)
    assert welcome["reconnect"] == {"attempts": 7}
    assert welcome["ack"] == {"events": 32}
    assert welcome["z"] == "deflate-raw"
    plainer = EventCursor(alice)
    plainer.welcome(15_000)
    assert "z" not in read(plainer)[0]


def test_large_frames_of_a_socket_that_compresses_are_raw_deflate(context):
    emitter = context.get_websocket_emitter()
    packed, bare = (EventCursor(context.user_id, compresses=compresses) for compresses in (True, False))
    for cursor in (packed, bare):
        cursor.subscribe(context.run_id)
    emitter.publish("mine")
    assert [set(message) for message in packed.read_asgi()] == [{"type", "text"}] * 2, "small frames stay text"
    bare.read_asgi()
    for _ in range(40):
        emitter.publish("mine", {"text": "the same words again"})
    unpacked = [zlib.decompress(message["bytes"], wbits=-15).decode() for message in packed.read_asgi()]
    assert unpacked == [message["text"] for message in bare.read_asgi()]


def test_without_batching_a_frame_holds_one_event(context):
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id, batching=False)
    cursor.subscribe(context.run_id)
    for _ in range(40):
        emitter.publish("mine")
    assert [len(frame["b"]) for frame in read_all(cursor)[1:]] == [1] * 40


def test_skipped_events_are_declared(context):
    with manual_clock() as clock:
        emitter = context.get_websocket_emitter()
        cursor = EventCursor(context.user_id)
        cursor.subscribe(context.run_id)
        read_all(cursor)
        emitter.publish("trace", priority=4)
        emitter.publish("mine")
        emitter.publish("trace", priority=4)
        emitter.publish("trace", priority=4)
        clock.advance(6)
        ev, skip = read_all(cursor)
        assert [{key: entry.get(key) for key in "nfk"} for entry in ev["b"]] == [{"n": 2, "f": 1, "k": 1}]
        assert {key: skip[key] for key in ("t", "f", "n", "k")} == {"t": "skip", "f": 3, "n": 4, "k": 2}


def records(user: str, run: str, after: str = "") -> tuple[str | None, list[tuple[str, str, str | None]]]:
    cursor = EventCursor(user, records=True)
    mode = cursor.subscribe_after(run, after)
    got = []
    while batch := cursor.read_records():
        got += batch
    cursor.detach()
    return mode, got


def test_records_have_the_type_the_message_and_the_position(context, read_plain):
    emitter = context.get_websocket_emitter()
    emitter.notify_agent_started("data")
    emitter.publish('a "quoted" type', {"text": "line\nbreak"})
    emitter.notify_agent_completed(1)
    end_stream(context)
    mode, got = records(context.user_id, context.run_id)
    messages = read_plain(context.user_id, context.run_id)
    epoch = messages[0]["event_id"].split("_")[1]
    assert mode == "exact"
    assert [event for event, *_ in got] == ["agent_started", 'a "quoted" type', "agent_completed", "isolane.end"]
    assert [json.loads(data) for _, data, _ in got[:3]] == messages
    assert not any("\n" in data for _, data, _ in got)
    assert json.loads(got[3][1]) == {"outcome": "completed"}
    ids = [event_id for *_, event_id in got]
    assert ids == [f"{context.run_id}:{epoch}:{n}" for n in (1, 2, 3, "end")]
    for at in range(3):
        assert records(context.user_id, context.run_id, ids[at]) == ("exact", got[at + 1 :])
    assert records(context.user_id, context.run_id, ids[3]) == (None, [])
    for odd in (f"{context.run_id}:other:2", f"{context.run_id}:other:end", f"{context.run_id}:{epoch}:-1", "nonsense"):
        mode, again = records(context.user_id, context.run_id, odd)
        assert (mode, again) == ("reset", got)


def test_a_snapshot_has_one_position_at_its_end(context):
    emitter = emitter_for_context(context, max_events=4)
    for kind in ("a", "b", "c") * 5:
        emitter.publish(kind)
    _, got = records(context.user_id, context.run_id)
    ids = [event_id for *_, event_id in got]
    folded = next(at for at, event_id in enumerate(ids) if event_id is not None)
    assert got[0][0] == "isolane.snapshot", "what follows replaces what the client has"
    assert folded == 3
    assert ids[folded].endswith(":11")
    assert [json.loads(data)["seq"] for _, data, _ in got[folded + 1 :]] == [12, 13, 14, 15]
    assert records(context.user_id, context.run_id, ids[folded]) == ("exact", got[folded + 1 :])


def test_records_are_of_one_run_and_of_its_user(alice, bob, new_context):
    mine, other = new_context(alice), new_context(alice)
    cursor = EventCursor(alice, records=True)
    assert cursor.subscribe_after(mine.run_id, "") == "gone"
    mine.get_websocket_emitter().publish("mine")
    assert cursor.subscribe_after(mine.run_id, "") == "exact"
    other.get_websocket_emitter().publish("other")
    new_context(alice).get_websocket_emitter().publish("later")
    assert [event for event, *_ in cursor.read_records()] == ["mine"]
    foreign = EventCursor(bob, records=True)
    assert foreign.subscribe_after(mine.run_id, "") == "gone"
    assert foreign.read_records() == []


# -- clients that owe no ack, and runs that go away --------------------------------------------------------------------


def test_a_pause_asks_for_an_ack_that_is_not_due(context):
    """Few large events: none of them makes an ack due, and the client would wait for the server for ever."""
    emitter = context.get_websocket_emitter()
    cursor = acking(context)
    for _ in range(8):
        emitter.publish("mine", {"text": "x" * 60_000})
    frames = read_all(cursor)
    assert numbers(frames)[-1] < 8
    assert frames[-1]["t"] == "ping"


def test_acks_of_a_run_id_that_was_used_again_leave_no_debt(alice):
    cursor = EventCursor(alice, acks=True)
    first = emitter_for_user(alice, "thread-1", None)
    for _ in range(4):
        first.publish("mine", priority=1, run_id="run-used-again")
    read_all(cursor)
    first.publish("mine", priority=1, run_id="run-used-again")
    asyncio.run(_cleanup(first))
    emitter_for_user(alice, "thread-1", None).publish("mine", priority=1, run_id="run-used-again")
    assert numbers(read_all(cursor)) == [5, 1]
    ack(cursor, **{"run-used-again": 5})
    ack(cursor, **{"run-used-again": 1})
    with manual_clock() as clock:
        clock.advance(60)
        assert cursor.ack_overdue() is None


async def _cleanup(emitter: Any) -> None:
    await emitter.cleanup()


def test_a_cancelled_run_of_a_user_takes_no_more_events(alice):
    emitter = emitter_for_user(alice, "thread-1", None)
    emitter.publish("mine", run_id="run-cancelled")
    cancel_stream(alice, "run-cancelled", "the user cancelled it")
    with pytest.raises(RunClosed):
        emitter.publish("mine", run_id="run-cancelled")
    assert stream_state(alice, "run-cancelled") == "ended"
