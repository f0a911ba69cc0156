"""Run logs on Redis: a stream for each log, its snapshot, and a hash of the runs of each user.

All keys of a user have one tag, so that what belongs together changes together, on a cluster of servers too. Events
have the ids ``n-0``, which Redis itself lets only grow; the mark of an end is ``n-1``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from isolane.cluster.log_store import (
    MAX_READ,
    Appended,
    Listener,
    LogBatch,
    LogKey,
    LogReading,
    LogRecord,
    LogWant,
)

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

logger = logging.getLogger("isolane.cluster")

LIVE_SECONDS = 24 * 60 * 60
"""So long after its last event the log of a live run is kept: its worker appends again, or a peer closes it."""

SEPARATOR = "|"
"""Between the parts of a run's lease. Runs may contain it: they come last."""


def _script(name: str) -> str:
    return (resources.files(__package__) / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


NEWS, MORE = b"news", b"more"
SCRIPTS = ("log_append", "log_read", "log_runs", "log_fence", "run_leases")
CALL_SECONDS = 0.5
"""A call may take so long. No user waits for it, and what it moves may be large."""


class RedisLogStore:
    """Keeps logs in Redis.

    Args:
        plane: carries the commands.
        retention: seconds for which an ended log is kept.
    """

    def __init__(self, plane: Plane, *, retention: float = 300.0) -> None:
        self._plane = plane
        self._retention = max(1, round(retention))
        plane.add_scripts({name: _script(name) for name in SCRIPTS})

    # Keys.

    def _runs(self, user: str) -> str:
        return self._plane.key(user, "runs")

    def _log(self, key: LogKey) -> str:
        return self._plane.key(key.user, "log", key.run, key.epoch)

    def _snapshot(self, key: LogKey) -> str:
        return f"{self._log(key)}:snap"

    def _leases(self) -> str:
        return self._plane.key("runs")

    def _channel(self, user: str) -> str:
        return f"log:{user}"

    async def _eval(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run a script for each of the calls, in one round trip."""
        commands = [self._plane.script_command(name, keys, given) for keys, given in calls]
        return await self._call(commands)

    async def _call(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        answers = await self._plane.call(*commands, timeout=CALL_SECONDS) if commands else []
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    # Logs.

    async def append(self, batches: Sequence[LogBatch]) -> list[Appended]:
        """Append each batch, in order."""
        commands = [self._plane.script_command("log_append", *self._appending(batch)) for batch in batches]
        answers = await self._plane.call(*commands, timeout=CALL_SECONDS) if commands else []
        return [_appended(answer) for answer in answers]

    def _appending(self, batch: LogBatch) -> tuple[Sequence[str], Sequence[Any]]:
        key = batch.key
        keys = [self._runs(key.user), self._log(key), self._snapshot(key)]
        to, snapshot = batch.snapshot if batch.snapshot is not None else ("", b"")
        given: list[Any] = [key.run, key.epoch, batch.worker, int(batch.whole), batch.replaces or "", batch.owner]
        given += [LIVE_SECONDS, self._retention, batch.outcome or "", batch.after, batch.upto, to, snapshot]
        for number, data in batch.entries:
            given += [number, data]
        return keys, given

    async def read(self, wants: Sequence[LogWant]) -> list[LogReading]:
        """Read what follows each position."""
        calls = [([self._log(want.key), self._snapshot(want.key)], [want.position, MAX_READ]) for want in wants]
        answers = await self._eval("log_read", calls)
        return [_reading(*answer) for answer in answers]

    async def runs_of(self, users: Sequence[str]) -> list[list[LogRecord]]:
        """Return the runs of each user."""
        answers = await self._eval("log_runs", [([self._runs(user)], []) for user in users])
        return [
            [_record(user, _text(run), raw) for run, raw in zip(answer[::2], answer[1::2], strict=True)]
            for user, answer in zip(users, answers, strict=True)
        ]

    # Who runs what.

    async def announce(self, worker: str, runs: Sequence[LogKey], seconds: float) -> None:
        """Say that the worker runs these."""
        await self._lease("announce", seconds, [_member(worker, key) for key in runs])

    async def renew(self, worker: str, runs: Sequence[LogKey], seconds: float) -> list[bool]:
        """Say so again."""
        known = await self._lease("renew", seconds, [_member(worker, key) for key in runs])
        return [each == 1 for each in known]

    async def _lease(self, verb: str, seconds: float, members: list[str]) -> list[int]:
        if not members:
            return []
        answers: list[int] = []
        for at in range(0, len(members), MAX_READ):
            given = [verb, round(seconds * 1000), *members[at : at + MAX_READ]]
            answers += (await self._eval("run_leases", [([self._leases()], given)]))[0]
        return answers

    async def forget(self, worker: str, runs: Sequence[LogKey]) -> None:
        """These have ended."""
        if runs:
            await self._call([("ZREM", self._leases(), *(_member(worker, key) for key in runs))])

    async def overdue(self, limit: int) -> list[tuple[str, LogKey]]:
        """Return runs whose worker did not say so again in time."""
        (members,) = await self._eval("run_leases", [([self._leases()], ["overdue", limit])])
        return [_split(_text(member)) for member in members]

    async def claim(self, key: LogKey, worker: str, by: str, seconds: float) -> bool:
        """Take an overdue run over."""
        given = ["claim", round(seconds * 1000), _member(worker, key), _member(by, key)]
        (won,) = await self._eval("run_leases", [([self._leases()], given)])
        if not won:
            return False
        (fenced,) = await self._eval("log_fence", [([self._runs(key.user)], [key.run, key.epoch, by])])
        if not fenced:
            # It had ended, or Redis has lost it.
            await self.forget(by, [key])
        return bool(fenced)

    # Hints.

    def hint(self, users: Mapping[str, bool]) -> None:
        """Tell other workers."""
        for user, is_news in users.items():
            self._plane.hint(self._channel(user), NEWS if is_news else MORE)

    def listen(self, user: str, heard: Listener) -> None:
        """Have ``heard`` called for hints about a user."""
        # A hint that says nothing stands for those that may have been lost.
        self._plane.listen(self._channel(user), lambda said: heard(said != MORE))

    def unlisten(self, user: str) -> None:
        """Listen no more."""
        self._plane.unlisten(self._channel(user))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _appended(answer: Any) -> Appended:
    if isinstance(answer, Exception):
        logger.error("Redis does not append to a log: %s", answer)
        return Appended.FAILED
    return Appended(_text(answer[0]))


def _member(worker: str, key: LogKey) -> str:
    return SEPARATOR.join((worker, key.user, key.epoch, key.run))


def _split(member: str) -> tuple[str, LogKey]:
    worker, user, epoch, run = member.split(SEPARATOR, 3)
    return worker, LogKey(user, run, epoch)


def _record(user: str, run: str, raw: bytes) -> LogRecord:
    kept = json.loads(raw)
    return LogRecord(LogKey(user, run, kept["e"]), kept["w"], kept["u"], kept["h"], kept["o"] or None)


def _reading(packed: bytes | None, rows: list[Any]) -> LogReading:
    snapshot = None
    if packed:
        upto, _, data = packed.partition(b":")
        snapshot = (int(upto), data)
    entries: list[tuple[int, bytes]] = []
    outcome = None
    for name, fields in rows:
        number, _, part = _text(name).partition("-")
        if part == "1":
            outcome = _text(fields[1])
        else:
            entries.append((int(number), fields[1]))
    return LogReading(entries, snapshot, outcome)
