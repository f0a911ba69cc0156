"""What every engine of run logs has to do, asked of the one in memory and of the one on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator

import pytest
from isolane.cluster import Plane
from isolane.cluster.log_store import Appended, LogBatch, LogKey, LogWant
from isolane.cluster.memory_logs import MemoryLogStore
from isolane.cluster.redis.logs import RedisLogStore

STORED, REFUSED, REWIND = Appended.STORED, Appended.REFUSED, Appended.REWIND


@pytest.fixture(params=["memory", "redis"])
async def store(request):
    if request.param == "memory":
        yield MemoryLogStore(retention=300)
        return
    async with on_redis(request.getfixturevalue("redis_server")) as store:
        yield store


@contextlib.asynccontextmanager
async def on_redis(server, retention: float = 300) -> AsyncIterator[RedisLogStore]:
    plane = Plane(server.url, prefix=f"test-{secrets.token_hex(4)}", call_timeout=5)
    store = RedisLogStore(plane, retention=retention)
    await plane.start()
    yield store
    await plane.stop()


def key(run: str = "run_1", epoch: str = "e1", user: str | None = None) -> LogKey:
    return LogKey(user or "a" * 32, run, epoch)


def events(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(number, f"event {number}".encode() + b"\x00\xff\r\n") for number in range(first, last + 1)]


def batch(first: int, last: int, *, of: LogKey | None = None, worker: str = "w1", **more) -> LogBatch:
    more = {"whole": first == 1, "after": first - 1, "upto": last, **more}
    return LogBatch(of or key(), worker, "sealed", events(first, last), **more)


async def one(store, position: int = 0, of: LogKey | None = None):
    return (await store.read([LogWant(of or key(), position)]))[0]


async def test_what_is_appended_is_read_from_every_position(store):
    assert await store.append([batch(1, 3), batch(4, 5)]) == [STORED, STORED]
    for position in range(6):
        reading = await one(store, position)
        assert reading.entries == events(position + 1, 5)
        assert (reading.snapshot, reading.outcome) == (None, None)


async def test_logs_of_users_and_runs_are_apart(store):
    other, another = key(user="b" * 32), key("run_2")
    await store.append([batch(1, 2), batch(1, 3, of=other), batch(1, 4, of=another)])
    readings = await store.read([LogWant(key()), LogWant(other), LogWant(another), LogWant(key("run_3"))])
    assert [len(reading.entries) for reading in readings] == [2, 3, 4, 0]
    mine, theirs = await store.runs_of(["a" * 32, "b" * 32])
    assert sorted(record.key.run for record in mine) == ["run_1", "run_2"]
    assert [(record.key, record.head) for record in theirs] == [(other, 3)]


async def test_a_repeated_append_is_no_second_one(store):
    await store.append([batch(1, 3)])
    assert await store.append([batch(1, 3), batch(2, 4)]) == [STORED, STORED]
    assert (await one(store)).entries == events(1, 4)


async def test_a_gap_is_never_stored(store):
    await store.append([batch(1, 3)])
    assert await store.append([batch(5, 6)]) == [REWIND]
    assert (await one(store)).entries == events(1, 3)
    assert await store.append([batch(4, 6)]) == [STORED]


async def test_what_the_writer_left_out_is_no_gap(store):
    await store.append([batch(1, 3)])
    assert await store.append([batch(7, 8, after=3), batch(9, 9)]) == [STORED, STORED]
    assert (await one(store, 3)).entries == events(7, 9)
    assert (await one(store, 5)).entries == events(7, 9)


async def test_a_repeated_append_of_a_whole_log_changes_nothing(store):
    parts = [batch(1, 3), batch(4, 6), batch(7, 7, snapshot=(5, b"five"), outcome="completed")]
    for _ in range(2):
        assert await store.append(parts) == [STORED] * 3
        reading = await one(store)
        assert (reading.snapshot, reading.entries, reading.outcome) == ((5, b"five"), events(6, 7), "completed")
        assert (await one(store, 7)).outcome == "completed"


async def test_a_whole_log_takes_the_place_of_what_is_there(store):
    await store.append([batch(1, 8), batch(9, 9, snapshot=(4, b"four"))])
    assert await store.append([batch(7, 9, whole=True, snapshot=(6, b"six"))]) == [STORED]
    reading = await one(store)
    assert (reading.snapshot, reading.entries) == ((6, b"six"), events(7, 9))


async def test_an_engine_that_knows_nothing_wants_the_beginning(store):
    assert await store.append([batch(4, 6)]) == [REWIND]
    assert await store.append([batch(4, 6, whole=True, snapshot=(3, b"so far"))]) == [STORED]
    reading = await one(store)
    assert (reading.snapshot, reading.entries) == ((3, b"so far"), events(4, 6))


async def test_a_snapshot_stands_for_what_is_before_it(store):
    await store.append([batch(1, 6)])
    await store.append([batch(7, 8, snapshot=(5, b"five\x00:1"))])
    behind, exact, ahead = [await one(store, position) for position in (2, 5, 7)]
    assert (behind.snapshot, behind.entries) == ((5, b"five\x00:1"), events(6, 8))
    assert (exact.snapshot, exact.entries) == (None, events(6, 8))
    assert (ahead.snapshot, ahead.entries) == (None, events(8, 8))
    # An older snapshot, from an append that is repeated, takes nothing back.
    await store.append([batch(7, 8, snapshot=(4, b"four"))])
    assert (await one(store)).snapshot == (5, b"five\x00:1")


async def test_a_snapshot_of_everything_leaves_no_hole(store):
    await store.append([batch(1, 6)])
    assert await store.append([LogBatch(key(), "w1", after=6, upto=6, snapshot=(6, b"six"))]) == [STORED]
    assert (await one(store)).snapshot == (6, b"six")
    assert (await one(store, 6)).entries == []
    assert await store.append([batch(7, 7)]) == [STORED]
    assert await store.append([batch(9, 9)]) == [REWIND]
    reading = await one(store, 3)
    assert (reading.snapshot, reading.entries) == ((6, b"six"), events(7, 7))


@pytest.mark.parametrize("events_first", [True, False])
async def test_an_end_is_told_to_who_has_everything(store, events_first):
    if events_first:
        await store.append([batch(1, 3)])
        await store.append([LogBatch(key(), "w1", after=3, upto=3, outcome="completed")])
    else:
        await store.append([batch(1, 3, outcome="completed")])
    for position in range(4):
        reading = await one(store, position)
        assert (reading.entries, reading.outcome) == (events(position + 1, 3), "completed")
    ((record,),) = await store.runs_of(["a" * 32])
    assert (record.outcome, record.head) == ("completed", 3)
    await store.append([LogBatch(key(), "w1", after=3, upto=3, outcome="failed")])
    assert (await one(store)).outcome == "completed"


async def test_an_end_behind_a_snapshot_of_everything_is_told(store):
    await store.append([batch(1, 3, outcome="partial", snapshot=(3, b"all"))])
    reading = await one(store)
    assert (reading.snapshot, reading.entries, reading.outcome) == ((3, b"all"), [], "partial")
    assert (await one(store, 3)).outcome == "partial"


async def test_a_log_without_events_can_end(store):
    assert await store.append([LogBatch(key(), "w1", whole=True, outcome="lost")]) == [STORED]
    reading = await one(store)
    assert (reading.entries, reading.outcome) == ([], "lost")


async def test_a_long_log_is_read_in_pieces(store):
    await store.append([batch(1, 1500, outcome="completed")])
    first = await one(store)
    assert (len(first.entries), first.outcome) == (1000, None)
    second = await one(store, first.entries[-1][0])
    assert (first.entries + second.entries, second.outcome) == (events(1, 1500), "completed")


async def test_a_second_writer_is_refused(store):
    await store.append([batch(1, 3)])
    assert await store.append([batch(4, 4, worker="w2")]) == [REFUSED]
    assert await store.append([batch(1, 4, worker="w2", of=key(epoch="e2"))]) == [REFUSED]
    assert await store.append([batch(4, 4)]) == [STORED]
    assert (await one(store)).entries == events(1, 4)


async def test_a_run_that_is_used_again_has_a_new_log(store):
    await store.append([batch(1, 3, outcome="completed")])
    again = key(epoch="e2")
    assert await store.append([batch(1, 1, of=again, worker="w2")]) == [STORED]
    assert (await one(store)).outcome == "completed"
    assert (await one(store, of=again)).entries == events(1, 1)
    # What its former writer still says of the run is not for the new log.
    assert await store.append([batch(4, 4)]) == [REFUSED]
    ((record,),) = await store.runs_of(["a" * 32])
    assert (record.key, record.worker, record.outcome) == (again, "w2", None)


async def test_records_say_whose_a_run_is(store):
    await store.append([batch(1, 2)])
    ((record,),) = await store.runs_of(["a" * 32])
    assert (record.worker, record.owner, record.head) == ("w1", "sealed", 2)
    assert record.outcome is None
    assert await store.runs_of(["c" * 32]) == [[]]


async def test_a_lease_counts_until_it_is_not_renewed(store):
    await store.announce("w1", [key(), key("run|2")], 30)
    assert await store.overdue(10) == []
    assert await store.renew("w1", [key(), key("run_3")], 0.01) == [True, False]
    assert await store.renew("w2", [key()], 30) == [False]
    await asyncio.sleep(0.05)
    assert await store.overdue(10) == [("w1", key())]
    await store.renew("w1", [key("run|2")], 0.01)
    await asyncio.sleep(0.05)
    assert {held.run for _, held in await store.overdue(10)} == {"run_1", "run|2"}
    assert len(await store.overdue(1)) == 1
    await store.forget("w1", [key(), key("run|2")])
    assert await store.overdue(10) == []
    assert await store.renew("w1", [key()], 30) == [False]


async def test_one_of_many_takes_a_run_over_and_its_former_worker_writes_no_more(store):
    await store.append([batch(1, 3)])
    await store.announce("w1", [key()], 0.01)
    assert not await store.claim(key("run_2"), "w1", "w2", 15)
    await asyncio.sleep(0.05)
    peers = [f"peer{number}" for number in range(5)]
    won = await asyncio.gather(*(store.claim(key(), "w1", peer, 15) for peer in peers))
    assert sum(won) == 1
    by = peers[won.index(True)]
    assert await store.append([batch(4, 4)]) == [REFUSED]
    assert await store.renew("w1", [key()], 15) == [False]
    closing = batch(4, 4, of=key(epoch="e2"), worker=by, snapshot=(3, b"so far"), outcome="lost")
    closing = dataclasses.replace(closing, whole=True)
    others = dataclasses.replace(closing, worker=next(peer for peer in peers if peer != by), replaces="e1")
    assert await store.append([closing, others]) == [REFUSED, REFUSED]
    assert await store.append([dataclasses.replace(closing, replaces="e1")]) == [STORED]
    assert await store.append([dataclasses.replace(closing, replaces="e1")]) == [STORED]
    reading = await one(store, of=key(epoch="e2"))
    assert (reading.snapshot, reading.entries, reading.outcome) == ((3, b"so far"), events(4, 4), "lost")
    # The zombie wakes up, and thinks that the engine has lost its log.
    assert await store.append([batch(1, 5, whole=True)]) == [REFUSED]
    ((record,),) = await store.runs_of(["a" * 32])
    assert (record.key.epoch, record.outcome) == ("e2", "lost")


async def test_a_lease_that_is_renewed_in_time_is_not_taken(store):
    await store.append([batch(1, 3)])
    await store.announce("w1", [key()], 30)
    assert not await store.claim(key(), "w1", "w2", 15)
    assert await store.append([batch(4, 4)]) == [STORED]


async def test_an_ended_run_is_not_taken_over(store):
    await store.append([batch(1, 3, outcome="completed")])
    await store.announce("w1", [key()], 0.01)
    await asyncio.sleep(0.05)
    assert not await store.claim(key(), "w1", "w2", 15)
    assert await store.overdue(10) == []


async def test_an_adopter_that_dies_is_followed_by_another(store):
    await store.append([batch(1, 3)])
    await store.announce("w1", [key()], 0.01)
    await asyncio.sleep(0.05)
    assert await store.claim(key(), "w1", "w2", 0.01)
    await asyncio.sleep(0.05)
    assert await store.overdue(10) == [("w2", key())]
    assert await store.claim(key(), "w2", "w3", 15)
    assert await store.append([batch(1, 1, of=key(epoch="e2"), worker="w2", replaces="e1")]) == [REFUSED]
    assert await store.append([batch(1, 1, of=key(epoch="e2"), worker="w3", replaces="e1")]) == [STORED]


async def test_a_log_whose_latest_events_the_engine_lost_is_made_whole(store):
    """A reader has more than the engine, which came back from an older state."""
    await store.append([batch(1, 6)])
    await lose(store, keep=3)
    ahead = await one(store, 6)
    assert (ahead.entries, ahead.snapshot, ahead.outcome) == ([], None, None)
    ((record,),) = await store.runs_of(["a" * 32])
    assert record.head == 3
    assert await store.append([batch(7, 7)]) == [REWIND]
    assert await store.append([batch(7, 7, snapshot=(6, b"six"), whole=True)]) == [STORED]
    assert (await one(store, 6)).entries == events(7, 7)
    assert (await one(store, 2)).snapshot == (6, b"six")


async def test_an_emptied_engine_is_filled_again(store):
    await store.append([batch(1, 6)])
    await lose(store)
    assert (await store.runs_of(["a" * 32])) == [[]]
    assert await store.append([batch(7, 7)]) == [REWIND]
    assert await store.append([batch(7, 7, snapshot=(6, b"six"), whole=True)]) == [STORED]
    assert (await one(store, 6)).entries == events(7, 7)


async def lose(store, keep: int | None = None) -> None:
    if isinstance(store, MemoryLogStore):
        store.lose(keep=keep)
        return
    own = [store._log(key()), store._runs("a" * 32)]
    await store._plane.call(("DEL", *own))
    if keep is not None:
        await store.append([batch(1, keep)])


async def test_a_log_of_which_redis_has_thrown_something_out_is_made_whole(redis_server):
    """A server that is short of memory may throw out any key."""
    async with on_redis(redis_server) as store:
        for lost in (store._log(key()), store._snapshot(key()), store._runs("a" * 32)):
            assert await store.append([batch(1, 6), batch(7, 8, snapshot=(4, b"four"))]) == [STORED, STORED]
            await store._plane.call(("DEL", lost))
            assert await store.append([batch(9, 9)]) == [REWIND]
            assert await store.append([batch(7, 9, whole=True, snapshot=(6, b"six"))]) == [STORED]
            assert (await one(store, 4)).entries == events(7, 9)


async def test_hints_reach_who_listens(store):
    heard, news = [], []
    store.listen("a" * 32, lambda is_news: heard.append("a") or news.append(is_news))
    store.listen("b" * 32, lambda _: heard.append("b"))
    async with asyncio.timeout(60):
        # Listening begins with a hint of its own: something may have been missed before.
        while not {True, False} <= set(news[1:]):
            store.hint({"a" * 32: len(heard) % 2 == 0})
            await asyncio.sleep(0.01)
    assert heard.count("b") <= 1
    store.unlisten("a" * 32)
    store.unlisten("b" * 32)


async def test_ended_logs_are_kept_for_the_retention(redis_server):
    clock = [0.0]
    memory = MemoryLogStore(retention=1, clock=lambda: clock[0])
    async with on_redis(redis_server, retention=1) as redis:
        for store in (memory, redis):
            await store.append([batch(1, 3, outcome="completed"), batch(1, 3, of=key("run_2"))])
        clock[0] = 1.1
        async with asyncio.timeout(60):
            while (await redis._plane.call(("EXISTS", redis._log(key())))) == [1]:
                await asyncio.sleep(0.05)
        for store in (memory, redis):
            assert (await one(store)).entries == []
            assert len((await one(store, of=key("run_2"))).entries) == 3
            ((record,),) = await store.runs_of(["a" * 32])
            assert record.key.run == "run_2"


async def test_all_keys_of_a_user_have_one_tag_and_end_by_themselves(redis_server):
    async with on_redis(redis_server) as store:
        plane = store._plane
        await store.append([batch(1, 3), batch(4, 4, snapshot=(3, b"x"))])
        await store.announce("w1", [key()], 15)
        with redis_server.client() as client:
            names = [name.decode() for name in client.scan_iter(f"*{plane.prefix}*")]
            own = [name for name in names if name.startswith(f"{{{plane.prefix}:{'a' * 32}}}:")]
            assert len(own) == 3
            for name in own:
                assert 0 < client.ttl(name) <= 24 * 60 * 60


async def test_logs_of_many_users_on_a_cluster_of_servers(redis_nodes):
    async with on_redis(redis_nodes) as store:
        logs = [key(f"run_{number}", user=f"{number:032x}") for number in range(30)]
        assert await store.append([batch(1, 3, of=log) for log in logs]) == [STORED] * 30
        assert await store.append([batch(4, 4, of=log, snapshot=(2, b"x")) for log in logs]) == [STORED] * 30
        readings = await store.read([LogWant(log, 2) for log in logs])
        assert [reading.entries for reading in readings] == [events(3, 4)] * 30
        await store.announce("w1", logs, 0.01)
        await asyncio.sleep(0.05)
        assert len(await store.overdue(100)) == 30
        assert await store.claim(logs[0], "w1", "w2", 15)
        assert await store.append([batch(5, 5, of=logs[0])]) == [REFUSED]
