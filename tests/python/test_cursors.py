"""Cursors: the frames of `isolane.v1`, plain mode, resuming, isolation, and clients of every speed."""

import asyncio
import contextlib
import gc
import itertools
import json
import threading
from typing import Any

import isolane
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from isolane import InvalidContextError, UserContextFactory
from isolane._core import EventCursor, bye_frame, emitter_for_context, end_stream
from isolane.testing import manual_clock


def read(cursor: EventCursor, limit: int = 64) -> list[dict[str, Any]]:
    return [json.loads(text) for text in cursor.read(limit)]


def read_all(cursor: EventCursor, limit: int = 64) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    while batch := read(cursor, limit):
        got += batch
    return got


def numbers(frames: list[dict[str, Any]]) -> list[int]:
    return [entry["n"] for frame in frames if frame["t"] == "ev" for entry in frame["b"]]


def say(**frame: Any) -> str:
    return json.dumps(frame)


# -- frames ------------------------------------------------------------------------------------------------------------


def test_the_welcome_lists_the_users_streams(alice, new_context):
    live, over = new_context(alice), new_context(alice)
    live.get_websocket_emitter().publish("mine")
    over.get_websocket_emitter()
    end_stream(over)
    cursor = EventCursor(alice)
    cursor.welcome(15_000)
    (welcome,) = read(cursor)
    assert (welcome["v"], welcome["t"], welcome["conn"], welcome["ping_ms"]) == (
        1,
        "welcome",
        cursor.connection_id,
        15_000,
    )
    streams = {stream["s"]: stream for stream in welcome["streams"]}
    assert set(streams) == {live.run_id, over.run_id}
    assert {key: streams[live.run_id][key] for key in ("n", "state", "thread_id")} == {
        "n": 1,
        "state": "running",
        "thread_id": live.thread_id,
    }
    assert streams[over.run_id]["state"] == "ended"
    assert cursor.read() == []


def test_a_subscription_is_answered_and_followed_by_the_events(context):
    emitter = context.get_websocket_emitter()
    for at in range(40):
        emitter.publish("mine", {"at": at})
    cursor = EventCursor(context.user_id)
    assert cursor.handle(say(t="sub", s=context.run_id)) == "sub"
    sub, *events = read_all(cursor)
    assert {key: sub[key] for key in ("v", "t", "s", "mode", "n", "head")} == {
        "v": 1,
        "t": "sub",
        "s": context.run_id,
        "mode": "exact",
        "n": 0,
        "head": 40,
    }
    assert [len(frame["b"]) for frame in events] == [16, 16, 8]
    assert all(
        (frame["v"], frame["t"], frame["s"], frame["e"]) == (1, "ev", context.run_id, sub["e"]) for frame in events
    )
    entry = events[0]["b"][0]
    assert (entry["n"], entry["f"], entry["p"], entry["id"]) == (1, 1, 2, entry["ev"]["event_id"])
    assert isinstance(entry["ts"], int)
    assert entry["ev"]["seq"] == 1
    assert numbers(events) == list(range(1, 41))


def test_a_frame_is_closed_at_64_kib(context):
    emitter = context.get_websocket_emitter()
    for _ in range(4):
        emitter.publish("mine", {"text": "x" * 30_000})
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    frames = read_all(cursor)[1:]
    assert [len(frame["b"]) for frame in frames] == [2, 2]


def test_critical_events_are_of_class_one_and_the_others_of_two(context):
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    emitter.notify_agent_started("data")
    emitter.notify_agent_thinking("hm")
    emitter.notify_tool_executing("t", {})
    emitter.notify_tool_completed("t", result=1)
    emitter.publish("mine")
    emitter.notify_agent_completed(1)
    assert [entry["p"] for frame in read_all(cursor)[1:] for entry in frame["b"]] == [1, 2, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("asked", "mode", "first"),
    [
        ({}, "exact", 1),
        ({"n": 0}, "exact", 1),
        ({"e": "own", "n": 0}, "exact", 1),
        ({"e": "own", "n": 7}, "exact", 8),
        ({"e": "own", "n": 10}, "exact", None),
        ({"e": "own", "n": 11}, "reset", 1),
        ({"e": "own", "n": 2**63}, "reset", 1),
        ({"e": "own", "n": 2**70}, "reset", 1),
        ({"e": "own", "n": -1}, "reset", 1),
        ({"e": "own", "n": 1.5}, "reset", 1),
        ({"e": "own", "n": "7"}, "reset", 1),
        ({"e": "own", "n": None}, "reset", 1),
        ({"e": "own"}, "reset", 1),
        ({"e": "other", "n": 7}, "reset", 1),
        ({"n": 7}, "reset", 1),
    ],
)
def test_resuming_answers_honestly(context, asked, mode, first):
    emitter = context.get_websocket_emitter()
    for _ in range(10):
        emitter.publish("mine")
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    epoch = read_all(cursor)[0]["e"]
    cursor = EventCursor(context.user_id)
    frame = {key: epoch if value == "own" else value for key, value in asked.items()}
    cursor.handle(say(t="sub", s=context.run_id, **frame))
    sub, *events = read_all(cursor)
    assert sub["mode"] == mode
    got = numbers(events)
    assert got == ([] if first is None else list(range(first, 11)))
    assert sub["n"] == (10 if first is None else first - 1)


def test_a_client_behind_the_fold_gets_a_snapshot_and_the_rest(context):
    emitter = emitter_for_context(context, max_events=5)
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    for at in range(3):
        emitter.publish("mine", {"at": at})
    epoch = read_all(cursor)[0]["e"]
    for at in range(3, 20):
        emitter.publish("mine", {"at": at})
    slow = read_all(cursor)
    assert [frame["t"] for frame in slow] == ["snap", "ev"]
    assert slow[0]["n"] == 15
    assert slow[0]["b"][-1]["payload"] == {"at": 14}
    assert numbers(slow) == [16, 17, 18, 19, 20]
    again = EventCursor(context.user_id)
    again.handle(say(t="sub", s=context.run_id, e=epoch, n=3))
    sub, snap, events = read_all(again)
    assert (sub["mode"], sub["n"], snap["n"], numbers([events])) == ("snapshot", 3, 15, [16, 17, 18, 19, 20])
    exact = EventCursor(context.user_id)
    exact.handle(say(t="sub", s=context.run_id, e=epoch, n=15))
    assert [frame["t"] for frame in read_all(exact)] == ["sub", "ev"]


def test_a_run_that_begins_later_is_subscribed_already(alice, new_context):
    cursor = EventCursor(alice)
    cursor.welcome(1)
    read(cursor)
    ctx = new_context(alice)
    ctx.get_websocket_emitter().publish("mine")
    sub, event = read_all(cursor)
    assert (sub["t"], sub["s"], sub["mode"], sub["n"]) == ("sub", ctx.run_id, "exact", 0)
    assert numbers([event]) == [1]


def test_a_run_id_used_again_resets_who_reads_it(alice):
    cursor = EventCursor(alice)
    modes = []
    for _ in range(2):
        ctx = isolane.UserExecutionContext(alice, "thread-7", f"{alice}-run")
        ctx.get_websocket_emitter().publish("mine")
        frames = read_all(cursor)
        modes += [frame["mode"] for frame in frames if frame["t"] == "sub"]
        assert numbers(frames) == [1]
        end_stream(ctx)
    assert modes[0] == "exact"
    # By now the first stream had been read to its end or not: in neither case does the client take 1 for old.
    assert modes[1] in {"exact", "reset"}
    assert len({frame["e"] for frame in read_all(cursor)}) <= 1


def test_the_end_is_sent_to_readers_and_again_to_whoever_asks(context):
    context.get_websocket_emitter().publish("mine")
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    end_stream(context)
    first = read_all(cursor)
    assert [frame["t"] for frame in first] == ["sub", "ev", "end"]
    assert (first[-1]["n"], first[-1]["outcome"]) == (1, "completed")
    assert cursor.read() == []
    cursor.handle(say(t="sub", s=context.run_id, e=first[-1]["e"], n=1))
    assert [frame["t"] for frame in read_all(cursor)] == ["sub", "end"]


@pytest.mark.parametrize("limit", [1, 2, 3, 64])
def test_every_stream_is_read_to_its_end_whatever_the_size_of_a_read(alice, new_context, limit):
    cursor = EventCursor(alice)
    contexts = [new_context(alice) for _ in range(4)]
    for ctx in contexts:
        ctx.get_websocket_emitter().publish("mine")
    read_all(cursor)
    # All have been read to their heads; then some end at once, and others go on first.
    for at, ctx in enumerate(contexts):
        for _ in range(at % 2 * 5):
            ctx.get_websocket_emitter().publish("mine")
        end_stream(ctx)
    ends = [frame["s"] for frame in read_all(cursor, limit) if frame["t"] == "end"]
    assert sorted(ends) == sorted(ctx.run_id for ctx in contexts)


def test_busy_runs_take_turns(alice, new_context):
    cursor = EventCursor(alice)
    busy, quiet = new_context(alice), new_context(alice)
    for ctx, count in ((busy, 500), (quiet, 1)):
        for _ in range(count):
            ctx.get_websocket_emitter().publish("mine")
    seen = []
    for _ in range(3):
        seen += [frame["s"] for frame in read(cursor, 10) if frame["t"] == "ev"]
    assert quiet.run_id in seen


def test_a_ping_carries_the_latest_numbers(context):
    context.get_websocket_emitter().publish("mine")
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    read_all(cursor)
    cursor.ping()
    assert read(cursor) == [{"v": 1, "t": "ping", "head": {context.run_id: 1}}]
    assert cursor.handle(say(t="pong")) == "pong"


def test_bye_carries_its_code():
    assert json.loads(bye_frame(4001, 3_120)) == {"v": 1, "t": "bye", "code": 4001, "retry_ms": 3_120}


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "7", "null", '{"t":7}', "{}", '{"t":"sub"}', '{"t":"sub","s":7}', "[" * 5_000]
)
def test_a_frame_that_is_none_is_refused_without_repeating_it(alice, text):
    with pytest.raises(ValueError, match="frame") as caught:
        EventCursor(alice).handle(text)
    assert text not in str(caught.value) or len(text) < 3


def test_frames_of_later_versions_are_ignored(alice):
    cursor = EventCursor(alice)
    assert cursor.handle(say(t="ack", s=["run", 1])) == "ignored"
    assert cursor.handle(say(t="future", anything=[1])) == "ignored"
    assert cursor.read() == []


def test_asgi_messages_carry_the_same_texts(context):
    context.get_websocket_emitter().publish("mine")
    one, two = EventCursor(context.user_id), EventCursor(context.user_id)
    one.subscribe(context.run_id)
    two.subscribe(context.run_id)
    assert two.read_asgi() == [{"type": "websocket.send", "text": text} for text in one.read()]


# -- plain mode --------------------------------------------------------------------------------------------------------


def test_plain_mode_sends_bare_messages_and_nothing_else(alice, new_context):
    cursor = EventCursor(alice, framed=False)
    ctx = new_context(alice)
    emitter = emitter_for_context(ctx, max_events=3)
    for at in range(10):
        emitter.publish("mine", {"at": at})
    end_stream(ctx)
    assert cursor.subscribe("no-such-run") == "gone"
    got = read_all(cursor)
    assert all("t" not in message and "v" not in message for message in got)
    assert [message["seq"] for message in got] == [7, 8, 9, 10]
    assert [message["payload"]["at"] for message in got] == [6, 7, 8, 9]


def test_plain_mode_takes_positions_too(context):
    emitter = context.get_websocket_emitter()
    for _ in range(5):
        emitter.publish("mine")
    framed = EventCursor(context.user_id)
    framed.subscribe(context.run_id)
    epoch = read(framed)[0]["e"]
    cursor = EventCursor(context.user_id, framed=False)
    assert cursor.subscribe(context.run_id, epoch, 3) == "exact"
    assert [message["seq"] for message in read_all(cursor)] == [4, 5]


# -- isolation ---------------------------------------------------------------------------------------------------------


def test_foreign_and_unknown_streams_get_the_same_answer(context, bob):
    context.get_websocket_emitter().publish("mine", {"secret": "hunter2"})
    cursor = EventCursor(bob)
    own = EventCursor(context.user_id)
    own.subscribe(context.run_id)
    epoch = read(own)[0]["e"]
    for position in ({}, {"n": 0}, {"e": epoch, "n": 0}, {"e": epoch, "n": 1}, {"e": "x", "n": -1}):
        answers = []
        for run in (context.run_id, "unknown-run"):
            cursor.handle(say(t="sub", s=run, **position))
            (answer,) = read(cursor)
            assert answer.pop("s") == run
            answers.append(answer)
        assert answers[0] == answers[1] == {"v": 1, "t": "sub", "mode": "gone"}


def test_nothing_of_another_user_is_ever_read(alice, bob, new_context):
    cursors = {user: [EventCursor(user), EventCursor(user, framed=False)] for user in (alice, bob)}
    for user in (alice, bob) * 5:
        emitter = new_context(user).get_websocket_emitter()
        emitter.notify_agent_started("data")
        emitter.publish("mine", {"nonce": f"nonce of {user}"})
    for user, other in ((alice, bob), (bob, alice)):
        for cursor in cursors[user]:
            cursor.welcome(1)
            cursor.ping()
            text = "".join(cursor.read(1_000))
            assert text.count(f"nonce of {user}") == 5
            assert other not in text


def test_a_user_of_a_similar_name_is_another_user(alice, new_context):
    new_context(alice).get_websocket_emitter().publish("mine")
    for name in (alice.upper(), alice + " ", " " + alice, alice + "\u200b"):
        cursor = EventCursor(name)
        cursor.welcome(1)
        assert read(cursor)[0]["streams"] == []


def test_a_cursor_needs_a_real_user():
    with pytest.raises(InvalidContextError):
        EventCursor("default")


# -- connections -------------------------------------------------------------------------------------------------------


def test_the_fourth_connection_replaces_the_one_that_read_longest_ago(alice, bob):
    with manual_clock() as clock:
        other = EventCursor(bob)
        cursors = []
        for _ in range(3):
            clock.advance(1)
            cursors.append(EventCursor(alice))
        clock.advance(1)
        cursors[0].read()
        cursors.append(EventCursor(alice))
        assert [cursor.close_code for cursor in cursors] == [None, 4504, None, None]
        assert isolane.lane_usage(alice)["connections"] == 3
        cursors[2].detach()
        cursors.append(EventCursor(alice))
        assert [cursor.close_code for cursor in cursors] == [None, 4504, None, None, None]
        assert other.close_code is None


def test_the_first_close_code_counts(alice):
    cursor = EventCursor(alice)
    cursor.close(4001)
    cursor.close(4504)
    assert cursor.close_code == 4001


def test_a_closed_socket_frees_its_cursor_and_nothing_else(context):
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    emitter.publish("mine")
    cursor.detach()
    cursor.detach()
    del cursor
    emitter.publish("mine")
    usage = isolane.lane_usage(context.user_id)
    assert (usage["connections"], usage["streams"]) == (0, 1)
    again = EventCursor(context.user_id)
    again.subscribe(context.run_id)
    assert numbers(read_all(again)[1:]) == [1, 2]


def test_a_cursor_that_nobody_holds_frees_itself(alice):
    cursor = EventCursor(alice)
    assert isolane.lane_usage(alice)["connections"] == 1
    del cursor
    gc.collect()
    assert isolane.lane_usage(alice)["connections"] == 0


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_wait_ends_when_there_is_something_to_read(context):
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    read_all(cursor)
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    emitter.publish("mine")
    await asyncio.wait_for(waiting, 1)
    assert numbers(read_all(cursor)) == [1]


async def test_a_wait_answers_at_once_when_there_is_something_already(context):
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    turned: list[int] = []
    asyncio.get_running_loop().call_soon(turned.append, 1)
    cursor.welcome(1)
    assert await cursor.wait() is None
    assert turned == []


@pytest.mark.parametrize("event", ["publish", "open", "end", "close", "replace", "ping", "detach"])
async def test_a_wait_ends_for_whatever_concerns_the_socket(alice, new_context, event):
    ctx = new_context(alice)
    emitter = ctx.get_websocket_emitter()
    cursor = EventCursor(alice)
    cursor.subscribe(ctx.run_id)
    read_all(cursor)
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0)
    others = []
    {
        "publish": lambda: emitter.publish("mine"),
        "open": lambda: new_context(alice).get_websocket_emitter(),
        "end": lambda: end_stream(ctx),
        "close": lambda: cursor.close(4001),
        "replace": lambda: others.extend(EventCursor(alice) for _ in range(3)),
        "ping": cursor.ping,
        "detach": cursor.detach,
    }[event]()
    await asyncio.wait_for(waiting, 1)


async def test_a_second_wait_ends_the_first(context):
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    read_all(cursor)
    first = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(cursor.wait())
    await asyncio.wait_for(first, 1)
    # The first one's end must not take the second one's waker with it.
    del first
    gc.collect()
    assert not second.done()
    emitter.publish("mine")
    await asyncio.wait_for(second, 1)


@pytest.mark.parametrize("ticks", range(13))
@pytest.mark.parametrize("publish_at", [None, 2, 5])
async def test_a_wait_cancelled_at_any_tick_loses_no_event(context, ticks, publish_at):
    emitter = context.get_websocket_emitter()
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)
    read_all(cursor)

    async def reader() -> None:
        await cursor.wait()

    task = asyncio.create_task(reader())
    published = 0
    for tick in range(ticks):
        await asyncio.sleep(0)
        if tick == publish_at:
            published = emitter.publish("mine")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    emitter.publish("mine")
    await asyncio.wait_for(cursor.wait(), 1)
    assert numbers(read_all(cursor)) == list(range(1, published + 2))
    # Nobody is parked any more: a new wait parks, and is woken.
    waiting = asyncio.ensure_future(cursor.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    emitter.publish("mine")
    await asyncio.wait_for(waiting, 1)


def test_publishing_in_other_threads_wakes_a_reader_in_a_loop(context):
    emitters = [context.create_child_context("t").get_websocket_emitter() for _ in range(4)]
    cursor = EventCursor(context.user_id)
    cursor.subscribe(context.run_id)

    def publish(emitter: isolane.UserWebSocketEmitter) -> None:
        for _ in range(150):
            emitter.publish("mine")

    async def main() -> list[int]:
        seen: list[int] = []
        threads = [threading.Thread(target=publish, args=(emitter,)) for emitter in emitters]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(20):
            while len(seen) < 600:
                await cursor.wait()
                seen += numbers(read(cursor, 50))
        for thread in threads:
            thread.join()
        return seen

    assert asyncio.run(main()) == list(range(1, 601))


# -- clients of every speed --------------------------------------------------------------------------------------------


class Client:
    """The client's rule, as the wire's contract has it."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.position: dict[str, tuple[str, int]] = {}
        self.covered: dict[str, list[int]] = {}
        self.ends: dict[str, tuple[int, str]] = {}
        self.connect()

    def connect(self) -> None:
        self.cursor = EventCursor(self.user, max_connections=1_000)
        self.cursor.welcome(1)
        welcome, *rest = read(self.cursor)
        for stream in welcome["streams"]:
            self.subscribe(stream["s"])
        for frame in rest:
            self.take(frame)

    def subscribe(self, run: str) -> None:
        epoch, number = self.position.get(run, (None, 0))
        self.cursor.handle(say(t="sub", s=run, **({} if epoch is None else {"e": epoch, "n": number})))

    def read(self, limit: int) -> bool:
        frames = read(self.cursor, limit)
        for frame in frames:
            self.take(frame)
        return bool(frames)

    def take(self, frame: dict[str, Any]) -> None:
        run = frame.get("s")
        if frame["t"] == "sub":
            assert frame["mode"] != "gone"
            epoch, number = self.position.get(run, (frame["e"], 0))
            if frame["mode"] == "reset" or epoch != frame["e"]:
                self.position[run], self.covered[run] = (frame["e"], 0), []
            else:
                assert number == frame["n"] or number == 0
                self.position[run] = (epoch, frame["n"] if number == 0 else number)
        elif frame["t"] == "snap":
            assert all(message["run_id"] == run and message["seq"] <= frame["n"] for message in frame["b"])
            shown = [message["seq"] for message in frame["b"]]
            assert shown == sorted(set(shown))
            assert frame["n"] > self.position[run][1]
            self.position[run] = (frame["e"], frame["n"])
            self.covered[run] = list(range(1, frame["n"] + 1))
        elif frame["t"] == "ev":
            epoch, number = self.position[run]
            assert frame["e"] == epoch
            for entry in frame["b"]:
                assert (entry["ev"]["run_id"], entry["ev"]["seq"]) == (run, entry["n"])
                assert entry["ev"]["payload"].get("owner", self.user) == self.user
                if entry["n"] <= number:
                    continue
                assert entry["f"] == number + 1, "a hole"
                number = entry["n"]
                self.covered.setdefault(run, []).append(number)
            self.position[run] = (epoch, number)
        elif frame["t"] == "end":
            self.ends[run] = (frame["n"], frame["outcome"])


_examples = itertools.count()


class DeliveryMachine(RuleBasedStateMachine):
    """Two users, several runs with tiny logs, clients that read, stall, reconnect and lose what they had."""

    def __init__(self) -> None:
        super().__init__()
        number = next(_examples)
        self.users = (f"ann-{number}-of-delivery", f"ben-{number}-of-delivery")
        self.clients = [Client(user) for user in self.users for _ in range(2)]
        self.runs: list[isolane.UserExecutionContext] = []
        self.emitters: dict[str, isolane.UserWebSocketEmitter] = {}
        self.ended: set[str] = set()

    @rule(user=st.integers(0, 1), bound=st.integers(1, 9))
    def begin(self, user: int, bound: int) -> None:
        ctx = UserContextFactory.create_context(self.users[user])
        self.emitters[ctx.run_id] = emitter_for_context(ctx, max_events=bound)
        self.runs.append(ctx)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), count=st.integers(1, 12), kind=st.sampled_from(["a", "b", "c"]))
    def publish(self, data: st.DataObject, count: int, kind: str) -> None:
        ctx = data.draw(st.sampled_from(self.runs))
        if ctx.run_id not in self.ended:
            for _ in range(count):
                self.emitters[ctx.run_id].publish(kind, {"owner": ctx.user_id})

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ctx = data.draw(st.sampled_from(self.runs))
        end_stream(ctx)
        self.ended.add(ctx.run_id)

    @rule(at=st.integers(0, 3), limit=st.sampled_from([1, 2, 5, 64]))
    def read(self, at: int, limit: int) -> None:
        self.clients[at].read(limit)

    @rule(at=st.integers(0, 3))
    def reconnect(self, at: int) -> None:
        self.clients[at].cursor.detach()
        self.clients[at].connect()

    @rule(at=st.integers(0, 3))
    def reload(self, at: int) -> None:
        client = self.clients[at]
        client.cursor.detach()
        client.position.clear()
        client.covered.clear()
        client.ends.clear()
        client.connect()

    def teardown(self) -> None:
        for ctx in self.runs:
            end_stream(ctx)
        for client in self.clients:
            while client.read(7):
                pass
            own = [ctx for ctx in self.runs if ctx.user_id == client.user]
            assert {run for run in client.position if client.covered.get(run)} <= {ctx.run_id for ctx in own}
            for ctx in own:
                head = self.emitters[ctx.run_id].get_event_stats()["stream_head"]
                assert client.covered.get(ctx.run_id, []) == list(range(1, head + 1))
                assert client.ends[ctx.run_id] == (head, "completed")
            client.cursor.detach()


DeliveryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestDelivery = DeliveryMachine.TestCase
