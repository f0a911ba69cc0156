"""The part that shares logs, piece by piece: who waits, what is sealed, what the checker makes of journals."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
from isolane import RunClosed, UserContextFactory
from isolane._core import emitter_for_context, end_stream, user_streams
from isolane.cluster import LogKey, LogRecord, LogWant, PlaneUnavailableError
from isolane.cluster import logs as module
from isolane.cluster.logs import ClusterLogs
from isolane.cluster.memory import MemoryLogStore
from isolane.cluster.seal import Seals

from tests.cluster.journal import JournalHistory, collect
from tests.support.event_history import History, Published


class QuietPlane:
    """A plane without a Redis."""

    def __init__(self, state: str = "up") -> None:
        self.worker = "w0"
        self.secret = b"secret"
        self.state = state
        self.sent: list[tuple[str, str, bytes]] = []
        self.others: tuple[str, ...] = ("w1", "w2")

    def user_key(self, user_id: str) -> str:
        return f"{hash(user_id) & 0xFFFFFFFF:032x}"

    def on_state(self, listener) -> None:
        self.listener = listener

    def on_emptied(self, listener) -> None:
        self.emptied = listener

    def on_command(self, kind, handler) -> None:
        setattr(self, kind.replace(".", "_"), handler)

    def processes(self) -> tuple[str, ...]:
        return (self.worker, *self.others)

    async def send(self, worker: str, kind: str, payload: bytes) -> None:
        self.sent.append((worker, kind, payload))


class SlowStore(MemoryLogStore):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def runs_of(self, users):
        await self.let.wait()
        return await super().runs_of(users)


@pytest.fixture
async def part():
    plane, store = QuietPlane(), SlowStore()
    part = ClusterLogs(store)
    await part.start(plane)
    part.plane, part.store = plane, store
    yield part
    await part.stop()


async def test_a_socket_waits_a_moment_for_runs_of_other_workers_and_no_longer(part, monkeypatch):
    monkeypatch.setattr(module, "ARRIVE_SECONDS", 0.05)
    async with asyncio.timeout(30):
        await part.arrive("ann")
    assert part.figures()["users"] == 1
    part.store.let.set()
    async with asyncio.timeout(30):
        await part.arrive("ann")
        await part._guests["ann"].arrived.wait()


async def test_without_redis_nobody_waits(part):
    part.plane.listener("down")
    part.plane.state = "down"
    async with asyncio.timeout(30):
        await part.arrive("ann")
    part.leave("ann")


async def test_a_socket_that_is_cancelled_while_it_waits_leaves_nothing(part, monkeypatch):
    monkeypatch.setattr(module, "ARRIVE_SECONDS", 3600.0)
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.0)
    for turns in range(6):
        arriving = asyncio.create_task(part.arrive("ann"))
        for _ in range(turns):
            await asyncio.sleep(0)
        arriving.cancel()
        await asyncio.wait([arriving])
        guest = part._guests.get("ann")
        assert guest is None or guest.count == 0
    part.store.let.set()
    async with asyncio.timeout(30):
        while part._guests:
            await asyncio.sleep(0.01)


async def test_a_user_with_several_sockets_is_followed_until_the_last_is_gone(part, monkeypatch):
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    part.store.let.set()
    await part.arrive("ann")
    await part.arrive(" ann ")
    part.leave("ann")
    await asyncio.sleep(0.1)
    assert part.figures()["users"] == 1
    part.leave("ann")
    async with asyncio.timeout(30):
        while part._guests:
            await asyncio.sleep(0.01)


async def test_who_hears_no_hint_looks_by_itself(part, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    part.store.let.set()
    await part.arrive("ann")
    looks = []
    look = part.store.runs_of
    part.store.runs_of = lambda users: looks.append(users) or look(users)
    async with asyncio.timeout(30):
        while len(looks) < 5:
            await asyncio.sleep(0.01)


async def test_who_has_been_away_closes_no_runs_at_once(part, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    asked = asyncio.Event()

    async def overdue(limit):
        asked.set()
        return []

    part.store.overdue = overdue
    for state in ("down", "up"):
        part.plane.listener(state)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await asked.wait()
    part._up_since -= 2 * part._lease
    async with asyncio.timeout(30):
        await asked.wait()


class Running:
    """A run of this worker, whose log the part copies."""

    def __init__(self, part, user: str) -> None:
        self.part, self.user = part, user
        self.context = UserContextFactory.create_context(user)
        self.emitter = emitter_for_context(self.context)
        self.emitter.publish("note", {"step": 0})

    @property
    def record(self) -> LogRecord | None:
        return self.part.store._records.get(self.part.plane.user_key(self.user), {}).get(self.context.run_id)

    async def stored(self, head: int) -> LogRecord:
        async with asyncio.timeout(30):
            while self.record is None or self.record.head < head:
                await asyncio.sleep(0.005)
        return self.record


async def test_a_store_that_was_emptied_is_filled_again(part):
    run = Running(part, f"emptied-{id(part)}")
    before = await run.stored(1)
    part.store.lose()
    part.plane.emptied()
    assert await run.stored(1) == before
    (reading,) = await part.store.read([LogWant(before.key)])
    assert [number for number, _ in reading.entries] == [1]
    end_stream(run.context, "completed")
    async with asyncio.timeout(30):
        while run.record.outcome != "completed":
            await asyncio.sleep(0.005)
    # Also what has ended is there again, for who comes back late.
    part.store.lose()
    part.plane.emptied()
    assert (await run.stored(1)).outcome == "completed"


async def test_what_a_store_has_lost_in_silence_is_found(part):
    part._lease = 0.05
    part.store.let.set()
    for state in ("down", "up"):
        part.plane.listener(state)
    run = Running(part, f"lost-{id(part)}")
    await run.stored(1)
    part.store.lose()
    await run.stored(1)
    end_stream(run.context, "completed")


async def test_a_run_that_another_worker_has_closed_ends_here(part):
    run = Running(part, f"closed-{id(part)}")
    record = await run.stored(1)
    part.store._leases["w0", record.key] = 0.0
    assert await part.store.claim(record.key, "w0", "w1", 15)
    run.emitter.publish("note", {"step": 1})

    def state() -> str | None:
        return next(each["outcome"] for each in user_streams(run.user) if each["run_id"] == run.context.run_id)

    async with asyncio.timeout(30):
        while state() is None:
            await asyncio.sleep(0.005)
    assert state() == "lost"
    with pytest.raises(RunClosed):
        run.emitter.publish("note", {"step": 2})
    assert run.record.head == 1


async def test_a_run_is_not_called_gone_before_it_is_known_to_be(part, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    said: list[str] = []

    def ask(run: str) -> bool:
        return part.ask("ann", run, lambda: said.append(f"resync {run}"), lambda: said.append(f"gone {run}"))

    assert not ask("run_1")
    await part.arrive("ann")
    assert not part.is_sure("ann")
    assert ask("run_1")
    assert ask("run_2")
    user = part.plane.user_key("ann")
    key = LogKey(user, "run_1", "e1")
    owner = Seals(b"secret", values=False).wrap(f"owner {user} run_1 e1", ["ann", "thread_1"])
    part.store._records[user] = {"run_1": LogRecord(key, "w1", owner, 0)}
    part.store.let.set()
    async with asyncio.timeout(30):
        while not said:
            await asyncio.sleep(0.01)
    assert said == ["resync run_1"]
    part._up_since -= module.SETTLE_SECONDS
    async with asyncio.timeout(30):
        while len(said) < 2:
            await asyncio.sleep(0.01)
    assert said == ["resync run_1", "gone run_2"]
    assert part.is_sure("ann")
    assert not ask("run_3")
    part.plane.listener("down")
    assert ask("run_3")


async def test_a_run_that_nobody_knows_is_gone_and_one_that_ended_has_ended(part):
    part.store.let.set()
    user = part.plane.user_key("ann")
    part.store._records[user] = {
        "run_1": LogRecord(LogKey(user, "run_1", "e1"), "w1", "", 3),
        "run_2": LogRecord(LogKey(user, "run_2", "e2"), "w1", "", 3, "completed"),
    }
    assert await part.find_and_cancel("ann", "run_1", "why") == "accepted"
    assert await part.find_and_cancel("ann", "run_2", "why") == "ended"
    assert await part.find_and_cancel("ann", "run_3", "why") == "gone"
    assert await part.find_and_cancel("bob", "run_1", "why") == "gone"
    ((worker, kind, payload),) = part.plane.sent
    assert (worker, kind) == ("w1", "logs.cancel")
    assert b"ann" not in payload
    assert Seals(b"secret", values=False).unwrap("logs.cancel w1", payload) == ["ann", "run_1", "why"]


async def test_two_applications_in_one_process_copy_its_logs_once(part, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    other = ClusterLogs(SlowStore())
    other.plane, other.store = QuietPlane(), other._given
    await other.start(other.plane)
    try:
        first = Running(part, f"first-{id(part)}")
        await first.stored(1)
        assert Running(other, first.user).record is None
        await part.stop()
        second = Running(other, f"second-{id(part)}")
        await second.stored(1)
    finally:
        await other.stop()


async def test_a_part_that_was_not_started_says_so():
    part = ClusterLogs(MemoryLogStore())
    with pytest.raises(PlaneUnavailableError):
        await part.find_and_cancel("ann", "run_1", "why")
    await part.arrive("ann")
    part.leave("ann")
    await part.stop()


def test_what_is_sealed_opens_in_its_place_alone():
    seals = Seals(b"secret", values=True)
    ann, bob = seals.of_user("ann"), seals.of_user("bob")
    sealed = ann.seal("run e 1", b"what ann said")
    assert b"ann" not in sealed
    assert ann.open("run e 1", sealed) == b"what ann said"
    assert Seals(b"secret", values=True).of_user("ann").open("run e 1", sealed) == b"what ann said"
    wrong = [(bob, "run e 1", sealed), (ann, "run e 2", sealed), (ann, "run e 1", sealed[:-1] + b"x")]
    wrong.append((Seals(b"other", values=True).of_user("ann"), "run e 1", sealed))
    for seal, place, value in wrong:
        with pytest.raises(ValueError, match="cannot be opened"):
            seal.open(place, value)
    plain = Seals(b"secret", values=False).of_user("ann")
    assert plain.open("run e 1", plain.seal("run e 1", b"x")) == b"x"


def test_what_workers_tell_each_other_is_sealed_for_who_it_is_for():
    seals = Seals(b"secret", values=False)
    said = seals.wrap("cancel w1", ["ann", "run_1"])
    assert "ann" not in said
    assert seals.unwrap("cancel w1", said.encode()) == ["ann", "run_1"]
    for place, text in [("cancel w2", said), ("logout w1", said), ("cancel w1", "no base64!"), ("cancel w1", "")]:
        with pytest.raises(ValueError, match="cannot be opened"):
            seals.unwrap(place, text)


class Told:
    """A run of two workers' journals, and a client that saw all of it."""

    def __init__(self, folder) -> None:
        self.history = History(3)
        self.paths = [folder / "w0.jsonl", folder / "w1.jsonl"]
        self.writers = [JournalHistory(3, path) for path in self.paths]
        self.stream = self.writers[0].opened("ann", "run_1", "e1")
        kinds = ["agent_started", "note", "note", "agent_completed"]
        self.events = [
            Published(number, kind, "req_1", 1 if kind != "note" else 2, f"u{number}", number, number + 0.5)
            for number, kind in enumerate(kinds, start=1)
        ]
        self.seen = [self.frame(event) for event in self.events]
        self.outcome = "completed"

    def frame(self, event: Published, epoch: str = "e1") -> dict:
        payload = {"owner": self.history.nonce("ann"), "uid": event.uid}
        said = {"type": event.kind, "run_id": "run_1", "request_id": "req_1", "event_id": f"evt_{event.number}"}
        entry = {"n": event.number, "f": event.number, "p": event.priority}
        said |= {"payload": payload, "seq": event.number}
        return {"v": 1, "t": "ev", "s": "run_1", "e": epoch, "b": [entry | {"ev": said}]}

    def tell(self) -> History:
        for event in self.events:
            self.stream.published.append(event)
        self.writers[0].ended(self.stream, self.outcome, 4)
        log = self.history.client("ann on w1", "ann")
        log.opened()
        log.sent({"t": "sub", "s": "run_1"})
        position = 0
        sub = {"v": 1, "t": "sub", "s": "run_1", "e": "e1", "mode": "exact", "n": 0, "head": 4}
        end = {"v": 1, "t": "end", "s": "run_1", "e": "e1", "n": 4, "outcome": "completed"}
        for frame in [sub, *self.seen, end]:
            if frame["t"] == "ev":
                position = frame["b"][0]["n"]
            log.got(json.dumps(frame), {"run_1": ("e1", position)})
        collect(self.history, self.paths, {})
        return self.history


@pytest.fixture
def told(tmp_path):
    told = Told(tmp_path)
    yield told
    for writer in told.writers:
        writer.close()


def test_a_run_that_all_agree_on_has_no_violations(told):
    assert told.tell().check()["delivered"] == 4


def lose_an_event_on_the_way(told: Told) -> None:
    del told.seen[1]


def lose_the_last_event(told: Told) -> None:
    del told.seen[3]


def let_a_second_worker_write(told: Told) -> None:
    stream = told.writers[1].opened("ann", "run_1", "e1")
    stream.published.append(dataclasses.replace(told.events[2], uid="u9"))


def leak_what_another_user_said(told: Told) -> None:
    told.seen[2]["b"][0]["ev"]["payload"]["note"] = told.history.nonce("bob")


def swap_two_events(told: Told) -> None:
    told.seen[1], told.seen[2] = told.seen[2], told.seen[1]


def show_what_nobody_published(told: Told) -> None:
    told.seen[2]["b"][0]["ev"]["payload"]["uid"] = "u77"


def end_a_span_twice(told: Told) -> None:
    told.events[2] = dataclasses.replace(told.events[2], kind="agent_error", priority=1)
    told.seen[2] = told.frame(told.events[2])


def go_over_to_another_incarnation_in_silence(told: Told) -> None:
    told.seen[2] = told.frame(told.events[2], epoch="e2")


def end_as_nobody_ended_it(told: Told) -> None:
    told.outcome = "cancelled"


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_an_event_on_the_way, "hole"),
        (lose_the_last_event, "uncovered"),
        (let_a_second_worker_write, "number"),
        (leak_what_another_user_said, "foreign"),
        (swap_two_events, "order"),
        (show_what_nobody_published, "content"),
        (end_a_span_twice, "span"),
        (go_over_to_another_incarnation_in_silence, "epoch"),
        (end_as_nobody_ended_it, "end"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_violation_that_is_planted_in_journals_is_found(told, plant, kind):
    plant(told)
    found = {violation.kind for violation in told.tell().violations()}
    assert kind in found, found


def test_a_stream_whose_worker_was_killed_is_lost_and_half_a_line_is_no_event(told):
    for event in told.events[:2]:
        told.stream.published.append(event)
    with told.paths[0].open("ab") as file:
        file.write(b'["published", "run_1", "e1", 3, "no')
    collect(told.history, told.paths, {})
    (stream,) = told.history.streams.values()
    assert (stream.lost, stream.outcome, [event.number for event in stream.published]) == (True, None, [1, 2])
