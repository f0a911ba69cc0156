"""``ClusterLogs``: the event logs of all workers, wherever they run, for the users who are connected to this one.

A run is written by the worker that runs it. That worker's logs are copied to the engine as they grow. A worker on which
the user has a socket follows them there, and keeps a mirror of each: a log with the same epoch and numbers, so that a
client may come back to any worker and go on where it was.

Hints make it quick; everybody also looks once a second, so that a lost hint costs a second and nothing else.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isolane._core import LogAppend, LogMirror, LogReplica
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.log_store import MAX_READ, Appended, LogBatch, LogKey, LogReading, LogRecord, LogStore, LogWant
from isolane.cluster.protocols import Command
from isolane.cluster.redis.logs import RedisLogStore
from isolane.cluster.seal import Seals, UserSeal

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane
    from isolane.fastapi.application import Isolane
    from isolane.fastapi.settings import IsolaneSettings

logger = logging.getLogger("isolane.cluster")

LEASE_SECONDS = 15.0
"""A run whose worker was not heard of for so long is closed by another one."""
RENEWALS = 3
"""So often a lease is renewed before it would end."""
POLL_SECONDS = 1.0
ARRIVE_SECONDS = 0.5
"""So long a new socket waits for its user's runs on other workers; what comes later it is told then."""
LINGER_SECONDS = 5.0
"""Mirrors are kept for so long after the last socket: a client that reloads its page is back before."""
LEVEL_SECONDS = 0.25
"""So often a worker that waits for it is told how far its events were sent and acknowledged here."""
SETTLE_SECONDS = 3.0
"""So long after Redis is back workers may still put their logs there again: until then no run is known to be gone."""
MAX_ASKED = 64
RETRY_SECONDS = 0.2
SICK_SECONDS = 1.0
USERS_AT_ONCE = 64
LOGS_AT_ONCE = 64
ADOPTIONS_AT_ONCE = 64
STOP_SECONDS = 3.0

WORKER_LOST = "the worker that ran this is gone"
CANCEL, REACHED = "logs.cancel", "logs.reached"


@dataclass(slots=True)
class _Own:
    """A log that this worker writes."""

    key: LogKey
    user_id: str
    owner: str
    taken: int = 0
    """Up to here it was handed to the engine, which may not have it yet."""
    stored: int = 0
    is_known: bool = False
    """Whether the engine has a record of it."""
    ended: float | None = None
    """When it had ended, and all of it was stored."""


@dataclass(slots=True)
class _Mirrored:
    """A log that another worker writes."""

    record: LogRecord
    mirror: LogMirror
    missing_since: float | None = None
    """Since when the engine knows nothing of the run."""
    is_new: bool = True
    """Nothing of it was read yet."""
    told: tuple[int, int] = (0, 0)
    """How far it was sent and acknowledged here, as its worker was told."""
    ended: float | None = None


@dataclass(slots=True)
class _Asked:
    """A client's question for a run that nobody here knows yet."""

    run: str
    resync: Callable[[], None]
    gone: Callable[[], None]


@dataclass(slots=True)
class _Guest:
    """A user who is connected here, or was a moment ago."""

    user_id: str
    count: int = 0
    key: str = ""
    due: float = 0.0
    """When its logs are looked at."""
    list_due: float = 0.0
    """When it is asked which logs there are."""
    leaves: float | None = None
    is_new: bool = True
    logs: dict[str, _Mirrored] = field(default_factory=dict)
    over: set[LogKey] = field(default_factory=set)
    """Ended logs that were mirrored already: what is dropped of them here stays dropped."""
    not_mirrored: set[LogKey] = field(default_factory=set)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    listed: float | None = None
    """When it was last asked which logs there are, and answered."""
    asked: list[_Asked] = field(default_factory=list)


class ClusterLogs:
    """The part of a plane that shares event logs.

    Args:
        store: the engine. Default: the plane's Redis.
        retention: seconds for which an ended log is kept.
        seal: whether what logs hold is sealed in the engine, under a key of each user.
        lease: seconds after which the runs of a worker that is not heard of are closed.
        batch_ms: how long events that are not urgent wait for others.
    """

    def __init__(
        self,
        store: LogStore | None = None,
        *,
        retention: float = 300.0,
        seal: bool = False,
        lease: float = LEASE_SECONDS,
        batch_ms: int = 5,
    ) -> None:
        self._given = store
        self._retention = retention
        self._seal = seal
        self._lease = lease
        self._batch_ms = batch_ms
        self._isolane: Isolane | None = None
        self._plane: Plane | None = None
        self._store: LogStore | None = None
        self._replica: LogReplica | None = None
        self._seals: tuple[bytes, Seals] | None = None
        self._own: dict[tuple[str, str], _Own] = {}
        self._guests: dict[str, _Guest] = {}
        self._watched: dict[LogKey, _Mirrored] = {}
        self._bounds: dict[str, Any] = {"retention": retention}
        self._changed = asyncio.Event()
        self._back = asyncio.Event()
        self._came_back = asyncio.Event()
        self._stored = asyncio.Event()
        self._up_since: float | None = None
        self._compared: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._later: set[asyncio.Task[Any]] = set()
        self._counts: collections.Counter[str] = collections.Counter()
        self._is_set_up = False

    def attach(self, isolane: Isolane, settings: IsolaneSettings) -> None:
        """Have cancelling and signing out of this application reach all workers."""
        self._isolane = isolane
        self._bounds = {
            "max_events": settings.websocket_max_events_per_user,
            "retention": settings.retention_seconds,
            "progress_ttl": settings.websocket_event_timeout,
        }

    # Life.

    async def start(self, plane: Plane) -> None:
        """Begin to copy this worker's logs, and to follow the others'."""
        self._plane = plane
        if not self._is_set_up:
            # A plane may be started again; what it was told once it knows.
            self._is_set_up = True
            self._store = self._given if self._given is not None else RedisLogStore(plane, retention=self._retention)
            plane.on_state(self._state_changed)
            plane.on_emptied(self._emptied)
            plane.on_command(CANCEL, self._told_to_cancel)
            plane.on_command(REACHED, self._told_levels)
        # Each start has a loop of its own.
        self._changed, self._back = asyncio.Event(), asyncio.Event()
        self._came_back, self._stored = asyncio.Event(), asyncio.Event()
        self._own.clear()
        self._state_changed(plane.state)
        self._take_over()
        works = (self._copy, self._follow, self._keep, self._adopt, self._tell_levels)
        self._tasks = [
            asyncio.create_task(self._ever(work), name=f"isolane logs {work.__name__.strip('_')}") for work in works
        ]

    async def stop(self) -> None:
        """Copy what is left, and end. What cannot be copied now is closed by a peer, later."""
        for task in self._tasks[1:]:
            task.cancel()
        if self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._flush(self._tasks[0])
        tasks = [*self._tasks, *self._later]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks = []
        if self._replica is not None:
            self._replica.close()
            self._replica = None
        for user_id in list(self._guests):
            self._drop(user_id)

    async def _flush(self, copier: asyncio.Task[None]) -> None:
        """Wait until all that ended is stored."""
        while self._is_up and not copier.done() and any(own.ended is None for own in self._own.values()):
            self._stored.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._stored.wait()

    async def _ever(self, work: Any) -> None:
        """Do it for ever. What fails is logged once a change, and tried again."""
        failed = ""
        while True:
            try:
                await work()
                failed = ""
            except PlaneUnavailableError:
                await self._until_up()
                await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - not all at once
            except Exception as error:
                self._counts["failures"] += 1
                if repr(error) != failed:
                    failed = repr(error)
                    logger.exception("sharing logs failed (%s); it is tried again", work.__name__.strip("_"))
                await asyncio.sleep(SICK_SECONDS)

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {
            "own": sum(own.ended is None for own in self._own.values()),
            "users": len(self._guests),
            "mirrors": sum(len(guest.logs) for guest in self._guests.values()),
            **dict(self._counts),
        }

    # How the plane is.

    @property
    def _is_up(self) -> bool:
        return self._plane is not None and self._plane.state == "up"

    def _state_changed(self, state: str) -> None:
        if state == "up":
            self._up_since = time.monotonic()
            self._look_at_all()
            self._back.set()
            self._came_back.set()
        else:
            self._up_since = None
            self._back.clear()

    def _emptied(self) -> None:
        """The engine knows nothing any more."""
        self._counts["emptied"] += 1
        self._up_since = time.monotonic() if self._up_since is not None else None
        for own in list(self._own.values()):
            self._rewind(own)
        self._look_at_all()

    def _look_at_all(self) -> None:
        for guest in self._guests.values():
            guest.due = guest.list_due = 0.0
        self._changed.set()

    async def _until_up(self) -> None:
        if not self._is_up:
            await self._back.wait()

    def _here(self) -> tuple[Plane, LogStore, Seals]:
        """What a started part has. Raises ``PlaneUnavailableError`` while the cluster's key is not known."""
        if self._plane is None or self._store is None:
            raise PlaneUnavailableError("the logs were not started", "stopped")
        secret = self._plane.secret
        if self._seals is None or self._seals[0] != secret:
            self._seals = (secret, Seals(secret, values=self._seal))
        return self._plane, self._store, self._seals[1]

    # This worker's logs, to the engine.

    def _take_over(self) -> LogReplica | None:
        """Follow the logs of this process, unless another application in it does: then once that has ended."""
        if self._replica is None:
            with contextlib.suppress(RuntimeError):
                self._replica = LogReplica(batch_ms=self._batch_ms)
        return self._replica

    async def _copy(self) -> None:
        replica = self._take_over()
        if replica is None:
            await asyncio.sleep(POLL_SECONDS)
            return
        await replica.wait()
        await self._until_up()
        _, _, seals = self._here()
        appends = replica.take()
        # Made once: what is tried again is the same, to the byte.
        owns = [self._own_log(seals, append) for append in appends]
        batches = [self._batch(seals, own, append) for own, append in zip(owns, appends, strict=True)]
        while batches:
            try:
                await self._append(replica, owns, batches)
            except PlaneUnavailableError:
                # It may have been done. What is there already is not appended twice.
                self._counts["retries"] += 1
                await self._until_up()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                for own in owns:
                    self._rewind(own, later=True)
                raise
            else:
                self._stored.set()
                return

    def _batch(self, seals: Seals, own: _Own, append: LogAppend) -> LogBatch:
        plane, _, _ = self._here()
        after = 0 if append.whole else own.taken
        own.taken = append.upto
        return _batch(own.key, plane.worker, own.owner, append, seals.of_user(own.user_id), after=after)

    async def _append(self, replica: LogReplica, owns: Sequence[_Own], batches: Sequence[LogBatch]) -> None:
        plane, store, _ = self._here()
        new = {own.key: None for own, batch in zip(owns, batches, strict=True) if batch.whole and own.ended is None}
        # Before there is a record: a run that has one always has somebody who answers for it.
        await store.announce(plane.worker, list(new), self._lease)
        answers = await store.append(batches)
        ended: list[LogKey] = []
        for own, batch, answer in zip(owns, batches, answers, strict=True):
            self._counts[answer.value] += 1
            if answer is Appended.STORED:
                own.is_known = True
                own.stored = max(own.stored, batch.upto)
                replica.stored(own.key.run, own.key.epoch, batch.upto)
                if batch.outcome is not None:
                    own.ended = own.ended or time.monotonic()
                    ended.append(own.key)
            elif answer is Appended.REFUSED:
                self._lost(replica, own)
                ended.append(own.key)
            else:
                self._rewind(own, later=answer is Appended.FAILED)
        news = dict.fromkeys((own.key.user for own in owns), False)
        for own, batch in zip(owns, batches, strict=True):
            news[own.key.user] |= batch.whole or batch.outcome is not None
        store.hint(news)
        await store.forget(plane.worker, ended)

    def _own_log(self, seals: Seals, append: LogAppend) -> _Own:
        assert self._plane is not None  # noqa: S101 - for the type checker
        place = (append.run_id, append.epoch)
        own = self._own.get(place)
        if own is None:
            key = LogKey(self._plane.user_key(append.user_id), append.run_id, append.epoch)
            owner = seals.wrap(_owner_place(key), [append.user_id, append.thread_id])
            own = self._own[place] = _Own(key, append.user_id, owner)
        return own

    def _rewind(self, own: _Own, *, later: bool = False) -> None:
        """The engine needs all of the log once more."""
        self._counts["rewinds"] += 1
        own.is_known = False
        own.stored = 0
        if later:
            self._soon(self._rewind_later(own))
        elif self._replica is not None and not self._replica.rewind(own.key.run, own.key.epoch):
            # It ended, and its retention is over.
            self._own.pop((own.key.run, own.key.epoch), None)

    async def _rewind_later(self, own: _Own) -> None:
        await asyncio.sleep(SICK_SECONDS)
        if self._replica is not None:
            self._replica.rewind(own.key.run, own.key.epoch)

    def _lost(self, replica: LogReplica, own: _Own) -> None:
        """Another worker has closed the run: this one was away for too long."""
        logger.warning("a run of this worker was closed by another one, which did not hear of it for %g s", self._lease)
        replica.refused(own.key.run, own.key.epoch)
        self._own.pop((own.key.run, own.key.epoch), None)
        if self._isolane is not None:
            self._soon(self._isolane.factory.cancel_run(own.user_id, own.key.run, WORKER_LOST))

    def _soon(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._is_done)

    def _is_done(self, task: asyncio.Task[Any]) -> None:
        self._later.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            level = logging.DEBUG if isinstance(error, PlaneUnavailableError) else logging.ERROR
            logger.log(level, "sharing logs failed", exc_info=error)

    # Leases of this worker's runs.

    async def _keep(self) -> None:
        """Say that this worker runs what it runs, and look whether the engine has all of it."""
        await self._until_up()
        plane, store, _ = self._here()
        up_since = self._up_since
        self._forget_ended()
        owns = [own for own in self._own.values() if own.is_known]
        live = [own for own in owns if own.ended is None]
        known = await store.renew(plane.worker, [own.key for own in live], self._lease)
        suspects = [own for own, is_known in zip(live, known, strict=True) if not is_known]
        # After it was away the engine may also have an older state of logs that it knows.
        await self._compare(suspects if self._compared == up_since else owns, suspects)
        self._compared = up_since
        self._came_back.clear()
        if self._up_since == up_since:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease / RENEWALS * random.uniform(0.9, 1.1)):  # noqa: S311
                    await self._came_back.wait()

    def _forget_ended(self) -> None:
        over = time.monotonic() - self._retention
        for place, own in list(self._own.items()):
            if own.ended is not None and own.ended < over:
                del self._own[place]

    async def _compare(self, owns: Sequence[_Own], suspects: Sequence[_Own]) -> None:
        plane, store, _ = self._here()
        for at in range(0, len(owns), USERS_AT_ONCE):
            some = owns[at : at + USERS_AT_ONCE]
            users = list(dict.fromkeys(own.key.user for own in some))
            stored = [own.stored for own in some]
            lists = await store.runs_of(users)
            records = {(record.key.user, record.key.run): record for each in lists for record in each}
            for own, head in zip(some, stored, strict=True):
                if self._own.get((own.key.run, own.key.epoch)) is not own or not own.is_known or self._replica is None:
                    continue
                record = records.get((own.key.user, own.key.run))
                if record is None or (record.key == own.key and _is_older(record, own, head)):
                    self._rewind(own)
                elif own.ended is not None:
                    continue
                elif record.key != own.key or record.worker != plane.worker:
                    self._counts["refused"] += 1
                    self._lost(self._replica, own)
                elif own in suspects:
                    await store.announce(plane.worker, [own.key], self._lease)

    # Runs of workers that are gone.

    async def _adopt(self) -> None:
        await asyncio.sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - not all at once
        if self._up_since is None or time.monotonic() - self._up_since < self._lease:
            # Who has been away as well does not know who else was: all get the time to say that they are there.
            return
        plane, store, _ = self._here()
        while overdue := await store.overdue(ADOPTIONS_AT_ONCE):
            tried = 0
            for worker, key in overdue:
                if worker == plane.worker and (key.run, key.epoch) in self._own:
                    continue
                if await store.claim(key, worker, plane.worker, self._lease):
                    tried += 1
                    await self._close_if_readable(key)
            if not tried:
                return

    async def _close_if_readable(self, key: LogKey) -> None:
        try:
            await self._close(key)
        except PlaneUnavailableError:
            raise
        except Exception:
            # Its lease runs out, and another worker tries. The others are closed meanwhile.
            self._counts["not_adopted"] += 1
            logger.exception("a run of a worker that is gone cannot be closed")

    async def _close(self, key: LogKey) -> None:
        """Close a run of a worker that is gone: what it left open, and then its stream."""
        plane, store, seals = self._here()
        (records,) = await store.runs_of([key.user])
        record = next((record for record in records if record.key == key), None)
        if record is None:
            await store.forget(plane.worker, [key])
            return
        user_id, thread_id = seals.unwrap(_owner_place(key), record.owner)
        guest = self._guests.get(user_id)
        held = guest.logs.get(key.run) if guest is not None else None
        mirror = held.mirror if held is not None and held.record.key == key else None
        is_lent = mirror is None
        if mirror is None:
            mirror = LogMirror(user_id, key.run, thread_id, key.epoch, worker=record.worker, **self._bounds)
        try:
            seal = seals.of_user(user_id)
            await self._read_all(key, mirror, seal)
            append = mirror.adopt(WORKER_LOST)
            new = LogKey(key.user, key.run, append.epoch)
            owner = seals.wrap(_owner_place(new), [user_id, thread_id])
            batch = _batch(new, plane.worker, owner, append, seal, after=0)
            (answer,) = await store.append([dataclasses.replace(batch, replaces=key.epoch)])
            await store.forget(plane.worker, [key])
            self._counts["adopted"] += answer is Appended.STORED
            logger.warning("a run of a worker that is gone was closed as lost")
            if guest is not None and not is_lent:
                guest.logs.pop(key.run, None)
                guest.over.update((key, new))
            store.hint({key.user: True})
        finally:
            if is_lent:
                mirror.drop()

    async def _read_all(self, key: LogKey, mirror: LogMirror, seal: UserSeal) -> None:
        _, store, _ = self._here()
        while True:
            (reading,) = await store.read([LogWant(key, mirror.position)])
            if not _feed(key, mirror, seal, reading):
                raise ValueError("a log has a hole")
            if len(reading.entries) < MAX_READ:
                return

    # Other workers' logs, from the engine.

    async def arrive(self, user_id: str) -> None:
        """Somebody connects: wait a moment until the user's runs on other workers are known here.

        ``leave`` is owed for each call that returns.
        """
        user_id = user_id.strip()
        guest = self._guests.get(user_id)
        if guest is None:
            guest = self._guests[user_id] = _Guest(user_id)
        guest.count += 1
        guest.leaves = None
        guest.due = guest.list_due = 0.0
        self._changed.set()
        if self._is_up and not guest.arrived.is_set():
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ARRIVE_SECONDS):
                        await guest.arrived.wait()
            except BaseException:
                self.leave(user_id)
                raise

    def leave(self, user_id: str) -> None:
        """A connection of the user is over."""
        guest = self._guests.get(user_id.strip())
        if guest is not None:
            guest.count -= 1
            if guest.count <= 0:
                guest.leaves = time.monotonic() + LINGER_SECONDS

    def is_sure(self, user_id: str) -> bool:
        """Whether a run of the user that nobody here knows is known nowhere."""
        guest = self._guests.get(user_id.strip())
        return guest is not None and self._is_sure(guest)

    def _is_sure(self, guest: _Guest) -> bool:
        since = self._up_since
        return since is not None and guest.listed is not None and guest.listed - since >= SETTLE_SECONDS

    def ask(self, user_id: str, run_id: str, resync: Callable[[], None], gone: Callable[[], None]) -> bool:
        """A client asks for a run that nobody here knows, which may well go on: Redis is away, or came back just now.

        Returns whether one of the two will be called: ``resync`` before the run is followed here, for a client that is
        to come back to it, or ``gone`` once it is known that there is none.
        """
        guest = self._guests.get(user_id.strip())
        if guest is None or self._is_sure(guest) or len(guest.asked) >= MAX_ASKED:
            return False
        guest.asked.append(_Asked(run_id, resync, gone))
        return True

    @staticmethod
    def _answer(guest: _Guest, run_id: str | None) -> None:
        """Answer those who asked for a run that is there, or, without one, all others: there is none."""
        mine = [asked for asked in guest.asked if run_id is None or asked.run == run_id]
        guest.asked = [asked for asked in guest.asked if asked not in mine]
        for asked in mine:
            (asked.gone if run_id is None else asked.resync)()

    def _drop(self, user_id: str) -> None:
        guest = self._guests.pop(user_id)
        for each in guest.logs.values():
            each.mirror.drop()
        if guest.key and self._store is not None:
            self._store.unlisten(guest.key)

    async def _follow(self) -> None:
        """Look at the users for whom there is something new, or at whom nobody looked for a second."""
        now = time.monotonic()
        for guest in list(self._guests.values()):
            if guest.leaves is not None and guest.leaves <= now:
                self._drop(guest.user_id)
        await self._until_up()
        self._changed.clear()
        ready = [guest for guest in self._guests.values() if guest.due <= now][:USERS_AT_ONCE]
        if ready:
            listing = [guest for guest in ready if guest.list_due <= now]
            for guest in listing:
                guest.list_due = now + POLL_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - not all at once
            for guest in ready:
                # Before it is asked: what comes meanwhile is looked at again.
                guest.due = guest.list_due
            await self._look(ready, listing)
            return
        next_look = min((guest.due for guest in self._guests.values()), default=now + POLL_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.001, next_look - now)):
                await self._changed.wait()

    def _heard(self, user_id: str, is_news: bool) -> None:
        guest = self._guests.get(user_id)
        if guest is not None:
            guest.due = 0.0
            guest.list_due = 0.0 if is_news else guest.list_due
            self._changed.set()

    async def _look(self, guests: Sequence[_Guest], listing: Sequence[_Guest]) -> None:
        plane, store, seals = self._here()
        for guest in guests:
            if not guest.key:
                guest.key = plane.user_key(guest.user_id)
                store.listen(guest.key, functools.partial(self._heard, guest.user_id))
        began = time.monotonic()
        # What is followed already is read in the same round trip.
        lists, _ = await asyncio.gather(
            store.runs_of([guest.key for guest in listing]), self._read_on(self._followed(guests), seals)
        )
        for guest, records in zip(listing, lists, strict=True):
            if self._guests.get(guest.user_id) is guest:
                self._take_records(guest, records, seals)
        await self._read_on([each for each in self._followed(listing) if each[1].is_new], seals)
        for guest in listing:
            guest.arrived.set()
            guest.listed = began
            if guest.asked and self._is_sure(guest):
                self._answer(guest, None)

    @staticmethod
    def _followed(guests: Sequence[_Guest]) -> list[tuple[_Guest, _Mirrored]]:
        return [(guest, held) for guest in guests for held in guest.logs.values() if held.missing_since is None]

    def _take_records(self, guest: _Guest, records: Sequence[LogRecord], seals: Seals) -> None:
        assert self._plane is not None  # noqa: S101 - for the type checker
        known = {record.key.run: record for record in records}
        keys = {record.key for record in records}
        guest.over &= keys
        guest.not_mirrored &= keys
        for run, mirrored in list(guest.logs.items()):
            now = known.get(run)
            if now is None:
                self._missing(guest, run, mirrored)
            elif now.key == mirrored.record.key:
                mirrored.record, mirrored.missing_since = now, None
        for record in records:
            key = record.key
            held = guest.logs.get(key.run)
            if record.worker == self._plane.worker or key in guest.over or (key.run, key.epoch) in self._own:
                continue
            if held is not None and held.record.key == key:
                continue
            # Another incarnation takes the place of the one that is here.
            self._mirror(guest, record, seals)

    def _mirror(self, guest: _Guest, record: LogRecord, seals: Seals) -> None:
        key = record.key
        try:
            _, thread_id = seals.unwrap(_owner_place(key), record.owner)
            self._answer(guest, key.run)
            mirror = LogMirror(guest.user_id, key.run, thread_id, key.epoch, worker=record.worker, **self._bounds)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            # Also one that this worker itself has not ended yet: it is looked at again.
            if key not in guest.not_mirrored:
                guest.not_mirrored.add(key)
                self._counts["not_mirrored"] += 1
                logger.warning("a run of another worker cannot be followed here yet: %s", error)
            return
        guest.not_mirrored.discard(key)
        held = guest.logs[key.run] = _Mirrored(record, mirror)
        self._watched[key] = held
        self._counts["mirrored"] += 1

    def _missing(self, guest: _Guest, run: str, held: _Mirrored) -> None:
        """The engine knows nothing of a run: it expired, or the engine was emptied and will soon be told again."""
        now = time.monotonic()
        held.missing_since = held.missing_since or now
        since = max(held.missing_since, self._up_since or now)
        if now - since > 2 * self._lease:
            # Nobody has said it again: its worker is gone as well.
            held.mirror.adopt(WORKER_LOST)
            self._counts["orphans"] += 1
            guest.over.add(held.record.key)
            del guest.logs[run]

    async def _read_on(self, wanted: Sequence[tuple[_Guest, _Mirrored]], seals: Seals) -> None:
        _, store, _ = self._here()
        for at in range(0, len(wanted), LOGS_AT_ONCE):
            some = wanted[at : at + LOGS_AT_ONCE]
            readings = await store.read([LogWant(held.record.key, held.mirror.position) for _, held in some])
            for (guest, held), reading in zip(some, readings, strict=True):
                if guest.logs.get(held.record.key.run) is not held:
                    continue
                self._take_reading(guest, held, reading, seals)

    def _take_reading(self, guest: _Guest, held: _Mirrored, reading: LogReading, seals: Seals) -> None:
        key = held.record.key
        held.is_new = False
        try:
            is_whole = _feed(key, held.mirror, seals.of_user(guest.user_id), reading)
        except Exception as error:
            # Never half a log: whoever reads it is told that it is gone. While the engine has it, it is tried again.
            if key not in guest.not_mirrored:
                guest.not_mirrored.add(key)
                self._counts["unreadable"] += 1
                logger.exception("a run of another worker cannot be read (%s)", type(error).__name__)
            self._forget(guest, held)
            return
        if not is_whole:
            # What the engine has does not follow what is here: the log begins anew, which its readers are told.
            self._counts["resets"] += 1
            self._forget(guest, held)
        elif reading.outcome is not None:
            held.ended = time.monotonic()
            guest.over.add(key)
            del guest.logs[key.run]
        elif len(reading.entries) >= MAX_READ:
            guest.due = 0.0
            self._changed.set()

    def _forget(self, guest: _Guest, held: _Mirrored) -> None:
        held.mirror.drop()
        del guest.logs[held.record.key.run]
        self._watched.pop(held.record.key, None)

    # What readers here have, to the workers that wait for it.

    async def _tell_levels(self) -> None:
        await asyncio.sleep(LEVEL_SECONDS)
        plane, _, seals = self._here()
        news: dict[str, list[Any]] = collections.defaultdict(list)
        over = time.monotonic() - LINGER_SECONDS
        for key, held in list(self._watched.items()):
            if held.mirror.is_gone or (held.ended is not None and held.ended < over):
                del self._watched[key]
                continue
            levels = (held.mirror.reached("sent"), held.mirror.reached("acked"))
            if levels != held.told:
                held.told = levels
                news[held.record.worker].append([key.run, key.epoch, *levels])
        for worker, levels_of in news.items():
            if worker in plane.processes():
                await plane.send(worker, REACHED, seals.wrap(f"{REACHED} {worker}", levels_of).encode())

    def _told_levels(self, command: Command) -> None:
        for run, epoch, sent, acked in self._said(command):
            if self._replica is not None:
                self._replica.reached(run, epoch, "sent", sent)
                self._replica.reached(run, epoch, "acked", acked)

    # Commands to other workers.

    def cancel(self, user_id: str, run_id: str, reason: str) -> str | None:
        """Have another worker cancel a run that is followed here. Returns ``None`` for one that is not."""
        guest = self._guests.get(user_id.strip())
        held = guest.logs.get(run_id) if guest is not None else None
        if held is None:
            return None
        self._soon(self._tell(held.record.worker, CANCEL, [user_id.strip(), run_id, reason]))
        return "accepted"

    async def find_and_cancel(self, user_id: str, run_id: str, reason: str) -> str:
        """Have the worker that runs it cancel a run of the user. Returns ``accepted``, ``ended`` or ``gone``."""
        plane, store, _ = self._here()
        (records,) = await store.runs_of([plane.user_key(user_id)])
        record = next((record for record in records if record.key.run == run_id), None)
        if record is None:
            return "gone"
        if record.outcome is not None:
            return "ended"
        await self._tell(record.worker, CANCEL, [user_id.strip(), run_id, reason])
        return "accepted"

    async def _tell(self, worker: str, kind: str, said: Any) -> None:
        """Tell a worker, again until it was told: while Redis is away it waits."""
        plane, _, seals = self._here()
        payload = seals.wrap(f"{kind} {worker}", said).encode()
        for _ in range(3):
            await self._until_up()
            with contextlib.suppress(PlaneUnavailableError):
                await plane.send(worker, kind, payload)
                return
            await asyncio.sleep(RETRY_SECONDS)

    def _said(self, command: Command) -> Any:
        plane, _, seals = self._here()
        return seals.unwrap(f"{command.kind} {plane.worker}", command.payload)

    def _told_to_cancel(self, command: Command) -> None:
        user_id, run_id, reason = self._said(command)
        self._counts["cancels"] += 1
        if self._isolane is not None:
            self._isolane.cancel_run_here(user_id, run_id, reason)


def _is_older(record: LogRecord, own: _Own, head: int) -> bool:
    """Whether the engine has less of a log than it had."""
    return record.head < head or (own.ended is not None and record.outcome is None)


def _place(key: LogKey, number: int) -> str:
    return f"{key.run} {key.epoch} {number}"


def _snapshot_place(key: LogKey, upto: int) -> str:
    return f"{key.run} {key.epoch} to {upto}"


def _owner_place(key: LogKey) -> str:
    return f"owner {key.user} {key.run} {key.epoch}"


def _sealed(seal: UserSeal, key: LogKey, snapshot: tuple[int, bytes] | None) -> tuple[int, bytes] | None:
    if snapshot is None:
        return None
    upto, data = snapshot
    return upto, seal.seal(_snapshot_place(key, upto), data)


def _batch(key: LogKey, worker: str, owner: str, append: LogAppend, seal: UserSeal, *, after: int) -> LogBatch:
    return LogBatch(
        key,
        worker,
        owner,
        [(number, seal.seal(_place(key, number), data)) for number, data in append.entries],
        after,
        append.upto,
        _sealed(seal, key, append.snapshot),
        append.ended,
        append.whole,
    )


def _feed(key: LogKey, mirror: LogMirror, seal: UserSeal, reading: LogReading) -> bool:
    """Let a mirror have what was read. Returns whether it follows what the mirror has."""
    entries = [(number, seal.open(_place(key, number), data)) for number, data in reading.entries]
    follows = True
    if reading.snapshot is not None:
        upto, data = reading.snapshot
        follows = mirror.reset(upto, seal.open(_snapshot_place(key, upto), data), entries)
    elif entries:
        follows = mirror.append(entries)
    if follows and reading.outcome is not None:
        mirror.end(reading.outcome)
    return follows
