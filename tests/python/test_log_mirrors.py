"""Logs of runs that are stored as they grow, and mirrors of them in other workers.

A mirror cannot be in the process that writes: what is taken here is given to another process, which answers in JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import textwrap
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from isolane import RunClosed
from isolane._core import (
    EventCursor,
    InvalidEvent,
    LogAppend,
    LogMirror,
    LogReplica,
    UserWebSocketEmitter,
    cluster_user_key,
    emitter_for_user,
    stream_is_mirrored,
    stream_state,
    user_streams,
)
from isolane.events import DeliveryTimeout


def fresh(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex}"


@pytest.fixture
def replica() -> Iterator[LogReplica]:
    # What other tests left is not looked at.
    replica = LogReplica()
    replica.take(1 << 30)
    yield replica
    replica.close()


def of_run(appends: list[LogAppend], run: str) -> list[LogAppend]:
    return [append for append in appends if append.run_id == run]


async def taken(replica: LogReplica, run: str) -> list[LogAppend]:
    """Wait until something of a run is to be taken, and take it."""
    async with asyncio.timeout(30):
        while True:
            await replica.wait()
            if found := of_run(replica.take(), run):
                return found


def started(user: str, **bounds: Any) -> UserWebSocketEmitter:
    return emitter_for_user(user, "thread-1", **bounds)


def packed(append: LogAppend) -> dict[str, Any]:
    snapshot = append.snapshot
    return {
        "user_id": append.user_id,
        "run_id": append.run_id,
        "thread_id": append.thread_id,
        "epoch": append.epoch,
        "entries": [[number, data.hex()] for number, data in append.entries],
        "snapshot": None if snapshot is None else [snapshot[0], snapshot[1].hex()],
        "upto": append.upto,
        "ended": append.ended,
    }


def elsewhere(code: str, *appends: LogAppend) -> Any:
    """Run ``code`` in another worker. It has ``appends``, and what it puts into ``answer`` comes back."""
    program = """
import asyncio, gc, json, sys
from isolane._core import *
from isolane import _core
appends = json.loads(sys.stdin.readline())
answer = {}
for each in appends:
    each["entries"] = [(number, bytes.fromhex(data)) for number, data in each["entries"]]
    if each["snapshot"]:
        each["snapshot"] = (each["snapshot"][0], bytes.fromhex(each["snapshot"][1]))
first = appends[0]
names = first["user_id"], first["run_id"], first["thread_id"], first["epoch"]
user, run, thread, epoch = names

def frames(cursor):
    texts = []
    for _ in range(50):
        texts += cursor.read()
    return [json.loads(text) for text in texts]

def error_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return [type(error).__name__, str(error)]

async def main():
    global answer
""" + textwrap.indent(textwrap.dedent(code), "    ")
    program += "\nasyncio.run(main())\nprint(json.dumps(answer))\n"
    said = json.dumps([packed(append) for append in appends])
    done = subprocess.run(
        [sys.executable, "-c", program], input=said, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_what_is_published_is_taken_once_and_in_order(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    (first,) = await taken(replica, run)
    assert (first.user_id, first.thread_id, first.after, first.upto) == (user, "thread-1", 0, 1)
    assert first.whole
    assert first.ended is None
    assert first.snapshot is None
    assert [number for number, _ in first.entries] == [1]
    assert isinstance(first.entries[0][1], bytes)
    for _ in range(3):
        await emitter.notify_agent_thinking("agent", run, "so it is")
    await emitter.notify_agent_completed("agent", run, {"answer": 42})
    (then,) = await taken(replica, run)
    assert [number for number, _ in then.entries] == [2, 3, 4, 5]
    assert (then.after, then.upto, then.whole) == (1, 5, False)
    assert of_run(replica.take(), run) == []
    await emitter.cleanup()
    (last,) = await taken(replica, run)
    assert (last.entries, last.upto, last.ended) == ([], 5, "completed")
    assert run in repr(last) or "LogAppend" in repr(last)


async def test_what_is_critical_is_taken_at_once_and_the_rest_with_what_follows() -> None:
    replica = LogReplica(batch_ms=60_000)
    try:
        replica.take(1 << 30)
        user, run = fresh("user"), fresh("run")
        emitter = started(user)
        await emitter.notify_agent_started("agent", run)
        await taken(replica, run)
        waiting = asyncio.ensure_future(replica.wait())
        await emitter.notify_agent_thinking("agent", run, "it can wait")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await emitter.notify_agent_completed("agent", run, {})
        async with asyncio.timeout(30):
            await waiting
        (append,) = of_run(replica.take(), run)
        assert [number for number, _ in append.entries] == [2, 3]
    finally:
        replica.close()


async def test_what_waits_a_little_is_told_when_its_time_has_come() -> None:
    replica = LogReplica(batch_ms=30)
    try:
        replica.take(1 << 30)
        run = fresh("run")
        emitter = started(fresh("user"))
        await emitter.notify_agent_started("agent", run)
        await taken(replica, run)
        # Parked before there is anything, and anew once there is something that may wait.
        waiting = asyncio.ensure_future(taken(replica, run))
        await asyncio.sleep(0)
        await emitter.notify_agent_thinking("agent", run, "later")
        (append,) = await waiting
        assert append.upto == 2
    finally:
        replica.close()


async def test_a_wait_that_is_cancelled_leaves_nothing(replica: LogReplica) -> None:
    for _ in range(20):
        waiting = asyncio.ensure_future(replica.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    run = fresh("run")
    await started(fresh("user")).notify_agent_started("agent", run)
    assert await taken(replica, run)
    # Nor does one that was never awaited.
    waits = replica.wait()
    seen = weakref.ref(replica)
    del waits
    gc.collect()
    assert seen() is replica


async def test_there_is_one_replica_and_it_follows_what_was_there_before_it(replica: LogReplica) -> None:
    with pytest.raises(RuntimeError, match="has a LogReplica already"):
        LogReplica()
    run = fresh("run")
    emitter = started(fresh("user"))
    await emitter.notify_agent_started("agent", run)
    replica.close()
    replica.close()
    with pytest.raises(RuntimeError, match="was closed"):
        replica.wait()
    await emitter.notify_agent_thinking("agent", run, "nobody stores it")
    assert replica.take() == []
    later = LogReplica()
    try:
        (append,) = of_run(later.take(1 << 30), run)
        assert append.upto == 2
        assert later.figures()["logs"] >= 1
    finally:
        later.close()


async def test_an_event_can_be_waited_for_until_it_is_stored(replica: LogReplica) -> None:
    run = fresh("run")
    emitter = started(fresh("user"))
    number = await emitter.notify_agent_started("agent", run)
    waiting = asyncio.ensure_future(_wait(emitter, number, run))
    (append,) = await taken(replica, run)
    await asyncio.sleep(0)
    assert not waiting.done(), "what was taken is not stored"
    with pytest.raises(DeliveryTimeout):
        await emitter.wait(number, level="stored", timeout=0.001, run_id=run)
    assert replica.figures()["behind"] >= 1
    assert replica.stored(run, append.epoch, append.upto)
    async with asyncio.timeout(30):
        await waiting
    await emitter.wait(number, level="stored", run_id=run)
    assert not replica.stored(run, "another", 1)
    assert not replica.stored(fresh("run"), append.epoch, 1)
    # What was not taken cannot be stored, whoever says so.
    number = await emitter.notify_agent_thinking("agent", run, "more")
    waiting = asyncio.ensure_future(_wait(emitter, number, run))
    await asyncio.sleep(0)
    replica.close()
    with pytest.raises(RunClosed):
        await waiting
    with pytest.raises(InvalidEvent, match="nothing stores events here"):
        await emitter.wait(number, level="stored", run_id=run)


async def _wait(emitter: UserWebSocketEmitter, number: int, run: str) -> None:
    await emitter.wait(number, level="stored", run_id=run)


async def test_what_a_store_did_not_take_is_taken_once_more(replica: LogReplica) -> None:
    run = fresh("run")
    emitter = started(fresh("user"))
    await emitter.notify_agent_started("agent", run)
    (first,) = await taken(replica, run)
    replica.stored(run, first.epoch, 1)
    await emitter.notify_agent_thinking("agent", run, "one")
    (lost,) = await taken(replica, run)
    assert replica.again(run, first.epoch)
    (once_more,) = await taken(replica, run)
    assert once_more.entries == lost.entries
    assert not once_more.whole
    assert replica.rewind(run, first.epoch)
    (all_of_it,) = await taken(replica, run)
    assert all_of_it.whole
    assert all_of_it.entries == first.entries + lost.entries
    assert not replica.rewind(run, "another")
    assert not replica.again(fresh("run"), first.epoch)


async def test_a_log_that_folded_meanwhile_is_taken_from_its_snapshot(replica: LogReplica) -> None:
    run = fresh("run")
    emitter = started(fresh("user"), max_events=10)
    await emitter.notify_agent_started("agent", run)
    for number in range(40):
        await emitter.notify_agent_thinking("agent", run, f"thought {number}")
    (append,) = await taken(replica, run)
    assert append.snapshot is not None
    upto, _ = append.snapshot
    assert upto > 20
    assert [number for number, _ in append.entries] == list(range(upto + 1, 42))
    answer = elsewhere(
        """
        cursor = EventCursor(user)
        mirror = LogMirror(*names)
        # Without the snapshot there is a gap.
        answer["gap"] = mirror.append(first["entries"]), mirror.position
        answer["reset"] = mirror.reset(*first["snapshot"], first["entries"]), mirror.position
        answer["again"] = mirror.reset(*first["snapshot"], first["entries"]), mirror.position
        shown = [frame for frame in frames(cursor) if frame["t"] in ("snap", "ev")]
        answer["types"] = [message["type"] for message in shown[0]["b"]]
        answer["last"] = shown[-1]["b"][-1]["n"]
        """,
        append,
    )
    assert answer["gap"] == [False, 0]
    assert answer["reset"] == answer["again"] == [True, 41]
    assert answer["types"][0] == "agent_started"
    assert answer["last"] == 41


async def test_what_a_store_keeps_becomes_less_now_and_then(replica: LogReplica) -> None:
    run = fresh("run")
    emitter = started(fresh("user"), max_events=10)
    await emitter.notify_agent_started("agent", run)
    kept, most, snapshots = 0, 0, 0
    for number in range(200):
        await emitter.notify_agent_thinking("agent", run, f"thought {number}")
        for append in of_run(replica.take(1 << 30), run):
            kept += len(append.entries)
            most = max(most, kept)
            if append.snapshot is not None:
                snapshots += 1
                kept = append.upto - append.snapshot[0]
            replica.stored(run, append.epoch, append.upto)
    assert most <= 40
    # And not with each event.
    assert 5 <= snapshots <= 20


async def test_a_mirror_reads_like_the_log_itself(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    await emitter.notify_tool_executing("agent", run, "search", {"q": "ünïcode"})
    await emitter.notify_tool_completed("agent", run, "search", {"hits": 3})
    (append,) = await taken(replica, run)
    await emitter.notify_agent_completed("agent", run, {"answer": 42})
    await emitter.cleanup()
    (last,) = await taken(replica, run)
    cursor_here = _read_here(user, run)
    answer = elsewhere(
        """
        mirror = LogMirror(*names, worker="w1")
        mirror.append(first["entries"])
        answer["state"] = stream_state(user, run), stream_is_mirrored(user, run)
        answer["streams"] = user_streams(user)
        answer["seen"] = [mirror.user_id, mirror.run_id, mirror.thread_id, mirror.epoch, mirror.worker, mirror.outcome]
        framed, plain, records = EventCursor(user), EventCursor(user, framed=False), EventCursor(user, records=True)
        answer["is_read"] = [mirror.is_read]
        framed.welcome(1000)
        answer["welcome"] = frames(framed)[0]["streams"]
        framed.subscribe(run, epoch, 1)
        plain.subscribe(run)
        records.subscribe_after(run, f"{run}:{epoch}:2")
        answer["is_read"].append(mirror.is_read)
        mirror.append(appends[1]["entries"])
        mirror.end(appends[1]["ended"])
        mirror.end(appends[1]["ended"])
        answer["framed"] = frames(framed)
        answer["plain"] = frames(plain)
        answer["records"] = records.read_records()
        state = stream_state(user, run), stream_is_mirrored(user, run)
        answer["over"] = [*state, mirror.outcome, mirror.reached("sent")]
        answer["late"] = error_of(mirror.append, first["entries"])
        again = EventCursor(user)
        again.subscribe(run)
        answer["whole"] = frames(again)
        del mirror
        gc.collect()
        answer["kept"] = stream_state(user, run)
        """,
        append,
        last,
    )
    epoch = append.epoch
    assert answer["state"] == ["running", True]
    assert [(stream["run_id"], stream["head"], stream["worker"]) for stream in answer["streams"]] == [(run, 3, "w1")]
    assert answer["seen"] == [user, run, "thread-1", epoch, "w1", None]
    assert answer["is_read"] == [False, True]
    assert answer["welcome"] == [{"s": run, "e": epoch, "n": 3, "state": "running", "thread_id": "thread-1"}]
    framed = answer["framed"]
    assert [frame["t"] for frame in framed] == ["sub", "ev", "end"]
    assert (framed[0]["mode"], framed[0]["n"]) == ("exact", 1)
    assert [entry["n"] for entry in framed[1]["b"]] == [2, 3, 4]
    assert framed[2]["outcome"] == "completed"
    assert [message["seq"] for message in answer["plain"]] == [1, 2, 3, 4]
    assert [record[2] for record in answer["records"]] == [f"{run}:{epoch}:{at}" for at in (3, 4, "end")]
    assert answer["over"] == ["ended", False, "completed", 4]
    assert answer["late"] is None, "what it has is passed over"
    # The same frames, to the byte of each message.
    assert answer["whole"] == cursor_here
    assert answer["kept"] == "ended", "an ended log stays for its retention"


def _read_here(user: str, run: str) -> list[Any]:
    cursor = EventCursor(user)
    cursor.subscribe(run)
    read = []
    while texts := cursor.read():
        read += [json.loads(text) for text in texts]
    return read


async def test_a_client_that_is_ahead_of_a_mirror_goes_on_exactly(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    (append,) = await taken(replica, run)
    await emitter.notify_agent_thinking("agent", run, "one")
    await emitter.notify_agent_thinking("agent", run, "two")
    (later,) = await taken(replica, run)
    answer = elsewhere(
        """
        mirror = LogMirror(*names)
        mirror.append(first["entries"])
        cursor = EventCursor(user)
        answer["mode"] = cursor.subscribe(run, epoch, 2)
        answer["waits"] = frames(cursor)
        cursor.ping()
        answer["ping"] = frames(cursor)
        mirror.append(appends[1]["entries"])
        answer["then"] = frames(cursor)
        bogus = EventCursor(user)
        answer["bogus"] = bogus.subscribe(run, epoch, 99)
        frames(bogus)
        mirror.end("completed")
        answer["begins"] = frames(bogus)
        answer["other"] = EventCursor(user).subscribe(run, "0000", 2)
        """,
        append,
        later,
    )
    assert answer["mode"] == "exact"
    assert [(frame["t"], frame["n"], frame["head"]) for frame in answer["waits"]] == [("sub", 2, 2)]
    assert answer["ping"][0]["head"] == {run: 2}
    assert [entry["n"] for entry in answer["then"][0]["b"]] == [3]
    # Who says to have what there never was begins anew at the end.
    assert answer["bogus"] == "exact"
    assert [frame["t"] for frame in answer["begins"]] == ["sub", "ev", "end"]
    assert answer["begins"][0]["mode"] == "reset"
    assert answer["other"] == "reset"


async def test_nobody_but_its_feeder_changes_a_mirror(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    (append,) = await taken(replica, run)
    answer = elsewhere(
        """
        mirror = LogMirror(*names)
        mirror.append(first["entries"])
        emitter = emitter_for_user(user, thread)
        async def publish():
            await emitter.notify_agent_started("other", run)
        try:
            await publish()
        except Exception as error:
            answer["publish"] = [type(error).__name__, str(error)]
        answer["cancel"] = error_of(cancel_stream, user, run, "the user wants it")
        answer["again"] = error_of(LogMirror, *names)
        answer["foreign"] = error_of(LogMirror, "somebody-else", run, thread, epoch)
        answer["after"] = mirror.position, stream_state(user, run), mirror.outcome
        answer["epoch"] = error_of(LogMirror, user, "run-2", thread, "not one")
        answer["outcome"] = error_of(mirror.end, "well")
        answer["level"] = error_of(mirror.reached, "stored")
        mirror.drop()
        answer["gone"] = stream_state(user, run), mirror.is_gone
        answer["late"] = error_of(mirror.append, first["entries"])
        again = LogMirror(*names)
        again.append(first["entries"])
        del again
        gc.collect()
        answer["collected"] = stream_state(user, run)
        """,
        append,
    )
    for refused in (answer["publish"], answer["cancel"]):
        assert refused[0] == "RunClosed"
        assert "goes on in another worker" in refused[1]
    assert answer["again"][0] == "InvalidEvent"
    assert "feed the mirror that there is" in answer["again"][1]
    assert answer["foreign"][0] == "ContextIsolationError"
    assert answer["after"] == [1, "running", None]
    assert answer["epoch"][0] == "ValueError"
    assert answer["outcome"][0] == "TypeError"
    assert answer["level"][0] == "ValueError"
    assert answer["gone"] == ["gone", True]
    assert answer["late"][0] == "RunClosed"
    assert answer["collected"] == "gone"


async def test_the_worker_that_publishes_a_run_mirrors_it_not(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    (append,) = await taken(replica, run)
    with pytest.raises(InvalidEvent, match="has that incarnation"):
        LogMirror(user, run, "thread-1", append.epoch)
    with pytest.raises(InvalidEvent, match="publishes the run itself"):
        LogMirror(user, run, "thread-1", "0000")
    assert not stream_is_mirrored(user, run)
    assert user_streams(user)[0]["worker"] is None


async def test_what_is_damaged_or_of_another_log_is_refused(replica: LogReplica) -> None:
    user, run, other = fresh("user"), fresh("run"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    await emitter.notify_agent_started("agent", other)
    of = {append.run_id: append for append in replica.take()}
    answer = elsewhere(
        """
        mirror = LogMirror(*names)
        number, data = first["entries"][0]
        answer["other"] = error_of(mirror.append, appends[1]["entries"])
        answer["number"] = error_of(mirror.append, [(2, data)])
        answer["damaged"] = [
            error_of(mirror.append, [(1, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])]) for at in range(len(data))
        ]
        answer["cut"] = [error_of(mirror.append, [(1, data[:at])]) for at in range(len(data))]
        answer["snapshot"] = error_of(mirror.reset, 1, data)
        answer["position"] = mirror.position
        answer["right"] = mirror.append([(1, data)])
        """,
        of[run],
        of[other],
    )
    refused = [answer["other"], answer["number"], answer["snapshot"], *answer["damaged"], *answer["cut"]]
    assert {error[0] if error else None for error in refused} == {"ValueError"}
    assert all("cannot be read" in error[1] for error in refused)
    assert answer["position"] == 0
    assert answer["right"] is True


async def test_a_run_whose_worker_is_gone_is_closed_under_a_new_epoch(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    await emitter.notify_tool_executing("agent", run, "search", {})
    (append,) = await taken(replica, run)
    answer = elsewhere(
        """
        mirror = LogMirror(*names, worker="w1")
        mirror.append(first["entries"])
        framed, records = EventCursor(user), EventCursor(user, records=True)
        framed.subscribe(run)
        records.subscribe_after(run, "")
        frames(framed)
        records.read_records()
        append = mirror.adopt("the worker is gone")
        answer["append"] = [append.user_id, append.run_id, append.thread_id, append.epoch, append.ended, append.whole]
        answer["numbers"] = [number for number, _ in append.entries], append.snapshot[0], append.upto
        answer["mirror"] = mirror.epoch, mirror.position, mirror.outcome
        answer["framed"] = frames(framed)
        answer["records"] = records.read_records() + records.read_records()
        answer["twice"] = error_of(mirror.adopt, "again")
        answer["state"] = stream_state(user, run)
        emitter = emitter_for_user(user, thread)
        answer["new"] = await emitter.notify_agent_started("agent", run)
        """,
        append,
    )
    new = answer["append"][3]
    assert answer["append"] == [user, run, "thread-1", new, "lost", True]
    assert new != append.epoch
    assert answer["numbers"] == [[3, 4], 2, 4]
    assert answer["mirror"] == [new, 4, "lost"]
    sub, snap, events, end = answer["framed"]
    assert (sub["mode"], sub["e"]) == ("reset", new)
    assert [message["seq"] for message in snap["b"]] == [1, 2]
    closing = [entry["ev"] for entry in events["b"]]
    assert [event["type"] for event in closing] == ["tool_completed", "agent_error"]
    assert closing[0]["payload"]["tool_name"] == "search"
    assert closing[1]["payload"]["code"] == "worker_lost"
    assert closing[1]["payload"]["retriable"] is True
    assert (end["outcome"], end["n"]) == ("lost", 4)
    kinds = [record[0] for record in answer["records"]]
    assert kinds[0] == "isolane.snapshot"
    assert kinds[-3:] == ["tool_completed", "agent_error", "isolane.end"]
    assert kinds.count("isolane.end") == 1
    assert answer["twice"][0] == "RunClosed"
    assert answer["state"] == "ended"
    assert answer["new"] == 1, "the run id can be used again"


async def test_a_writer_that_was_taken_for_dead_is_ended_here(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("agent", run)
    (append,) = await taken(replica, run)
    waiting = asyncio.ensure_future(_wait(emitter, 1, run))
    await asyncio.sleep(0)
    assert replica.refused(run, append.epoch)
    with pytest.raises(RunClosed):
        await waiting
    assert stream_state(user, run) == "ended"
    assert user_streams(user)[0]["outcome"] == "lost"
    assert not replica.refused(run, append.epoch)
    assert of_run(replica.take(), run) == [], "nothing more of it is stored"


async def test_what_sockets_elsewhere_have_counts_for_who_waits(replica: LogReplica) -> None:
    run = fresh("run")
    emitter = started(fresh("user"))
    number = await emitter.notify_agent_started("agent", run)
    (append,) = await taken(replica, run)
    with pytest.raises(DeliveryTimeout):
        await emitter.wait(number, level="sent", timeout=0.001, run_id=run)
    assert replica.reached(run, append.epoch, "sent", 7)
    async with asyncio.timeout(30):
        await emitter.wait(number, level="sent", run_id=run)
    with pytest.raises(DeliveryTimeout):
        await emitter.wait(number, level="acked", timeout=0.001, run_id=run)
    replica.reached(run, append.epoch, "acked", 1)
    async with asyncio.timeout(30):
        await emitter.wait(number, level="acked", run_id=run)
    assert not replica.reached(run, "another", "acked", 1)
    with pytest.raises(ValueError, match="sent or acked"):
        replica.reached(run, append.epoch, "stored", 1)


def test_users_are_called_by_a_keyed_hash() -> None:
    # RFC 4231, test case 2.
    assert cluster_user_key(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c7"
    assert cluster_user_key(b"a", "ann") != cluster_user_key(b"b", "ann")
    assert cluster_user_key(b"a", "ann") != cluster_user_key(b"a", "bob")


async def test_a_view_of_runs_names_the_worker_that_publishes(replica: LogReplica) -> None:
    user, run = fresh("user"), fresh("run")
    emitter = started(user)
    await emitter.notify_agent_started("planner", run)
    (append,) = await taken(replica, run)
    answer = elsewhere(
        """
        mirror = LogMirror(*names, worker="w1")
        mirror.append(first["entries"])
        (row,) = json.loads(_core.runs_view("active", "", 10, "", "here"))["runs"]
        answer["row"] = row["worker"], row["agent"], row["state"], row["events"]
        answer["tree"] = json.loads(_core.run_view(row["run"], "here", [], None))["tree"][0]["name"]
        """,
        append,
    )
    assert answer["row"] == ["w1", "planner", "running", 1]
    assert answer["tree"] == "planner"
