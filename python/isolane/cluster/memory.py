"""Both protocols in one process's memory: for tests, and as the shortest statement of what an engine has to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from isolane.cluster.protocols import (
    LeaseAnswer,
    LeaseOperation,
    LeaseReply,
    LogBatch,
    LogChunk,
    LogRun,
    LogWant,
)

Now = Callable[[], float]
Leases = dict[bytes, float]
"""Until when each lease counts."""


class MemoryLeases:
    """A ``LeaseBackend`` for those who have the same one.

    Args:
        now: seconds of a clock that all of them share.
    """

    def __init__(self, now: Now = time.monotonic) -> None:
        self._now = now
        self._users: dict[tuple[str, str], Leases] = {}
        self._totals: dict[str, Leases] = {}
        self._fence = 0

    def held(self, limit_name: str, user_key: str | None = None) -> int:
        """How many leases count: of the limit, or of one user."""
        leases = self._totals.get(limit_name, {}) if user_key is None else self._users.get((limit_name, user_key), {})
        return sum(until > self._now() for until in leases.values())

    def clear(self) -> None:
        """Lose everything."""
        self._users.clear()
        self._totals.clear()

    async def run(self, operations: Sequence[LeaseOperation]) -> list[LeaseReply | Exception]:
        """Do the operations one after the other."""
        return [self._run(LeaseOperation(*operation)) for operation in operations]

    def _run(self, asked: LeaseOperation) -> LeaseReply:
        now = self._now()
        until = now + asked.ttl_ms / 1000
        both = self._alive(asked, now)
        if asked.kind == "release":
            for leases in both:
                for each in asked.ids:
                    leases.pop(each, None)
            return None
        if asked.kind == "renew":
            still = [all(each in leases for leases in both) for each in asked.ids]
            for each, is_held in zip(asked.ids, still, strict=True):
                if is_held:
                    for leases in both:
                        leases[each] = until
            return still
        if asked.kind == "restore":
            return [self._take(both, each, until) for each in asked.ids]
        return [self._acquire(asked, both, each, now, until) for each in asked.ids]

    def _alive(self, asked: LeaseOperation, now: float) -> list[Leases]:
        """What the operation is about: the user's leases, and those of all."""
        both = []
        if asked.user_key:
            both.append(self._users.setdefault((asked.limit_name, asked.user_key), {}))
        if asked.total_limit >= 0 or not asked.user_key:
            both.append(self._totals.setdefault(asked.limit_name, {}))
        for leases in both:
            for each in [each for each, until in leases.items() if until <= now]:
                del leases[each]
        return both

    def _acquire(self, asked: LeaseOperation, both: list[Leases], each: bytes, now: float, until: float) -> LeaseAnswer:
        limits = [asked.user_limit] if asked.user_key else []
        if asked.total_limit >= 0 or not asked.user_key:
            limits.append(asked.total_limit)
        for leases, limit in zip(both, limits, strict=True):
            if each not in leases and 0 <= limit <= len(leases):
                of_user = leases is both[0] and bool(asked.user_key)
                retry = min(leases.values(), default=now) - now
                return LeaseAnswer(False, 0, "user" if of_user else "total", int(max(0.0, retry) * 1000))
        return LeaseAnswer(True, self._take(both, each, until), None, 0)

    def _take(self, both: list[Leases], each: bytes, until: float) -> int:
        for leases in both:
            leases[each] = until
        self._fence = max(time.time_ns() // 1000, self._fence + 1)
        return self._fence


@dataclass
class _Log:
    entries: dict[int, bytes] = field(default_factory=dict)
    snapshot: tuple[int, bytes] | None = None
    last: int = 0
    ended: str | None = None


class MemoryLogs:
    """A ``LogStore`` for those who have the same one."""

    def __init__(self) -> None:
        self._logs: dict[tuple[str, str, str], _Log] = {}
        self._runs: dict[str, dict[str, LogRun]] = {}

    def clear(self) -> None:
        """Lose everything."""
        self._logs.clear()
        self._runs.clear()

    async def append(self, batches: Sequence[LogBatch]) -> list[bool | Exception]:
        """Append each batch whole, or not at all."""
        return [self._append(batch) for batch in batches]

    def _append(self, batch: LogBatch) -> bool:
        log = self._logs.setdefault((batch.user, batch.run, batch.epoch), _Log())
        new = [(number, entry) for number, entry in batch.entries if number > log.last]
        if any(log.entries.get(number, entry) != entry for number, entry in batch.entries):
            # Somebody else wrote another one of that number.
            return False
        for number, entry in new:
            log.entries[number] = entry
            log.last = number
        if batch.snapshot is not None and (log.snapshot is None or batch.snapshot[0] > log.snapshot[0]):
            log.snapshot = batch.snapshot
            log.last = max(log.last, batch.snapshot[0])
            for number in [number for number in log.entries if number <= batch.snapshot[0]]:
                del log.entries[number]
        log.ended = batch.ended or log.ended
        return True

    async def read(self, wants: Sequence[LogWant]) -> list[LogChunk | Exception | None]:
        """Return what stands after each wanted number."""
        return [self._read(want) for want in wants]

    def _read(self, want: LogWant) -> LogChunk | None:
        log = self._logs.get((want.user, want.run, want.epoch))
        if log is None:
            return None
        after, snapshot = want.after, None
        if log.snapshot is not None and log.snapshot[0] > after:
            snapshot, after = log.snapshot, log.snapshot[0]
        entries = [(number, entry) for number, entry in sorted(log.entries.items()) if number > after]
        return LogChunk(entries, snapshot, log.ended)

    async def announce(self, user: str, run: LogRun) -> None:
        """Put the run on the user's list."""
        self._runs.setdefault(user, {})[run.run] = run

    async def forget(self, user: str, run: str) -> None:
        """Take it off."""
        self._runs.get(user, {}).pop(run, None)

    async def runs_of(self, users: Sequence[str]) -> list[list[LogRun]]:
        """List the runs of each user."""
        return [list(self._runs.get(user, {}).values()) for user in users]
