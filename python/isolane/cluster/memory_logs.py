"""Run logs in memory: the form of the ``LogStore`` that shows what an engine has to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from isolane import _core
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


@dataclass(slots=True)
class _Kept:
    entries: dict[int, bytes] = field(default_factory=dict)
    snapshot: tuple[int, bytes] | None = None
    head: int = 0
    last: int = 0
    outcome: str | None = None


class MemoryLogStore:
    """Keeps logs in this process. All that share one object are as workers of one cluster.

    Args:
        retention: seconds for which an ended log is kept.
        clock: the monotonic time in seconds.
    """

    def __init__(self, *, retention: float = 300.0, clock: Callable[[], float] = _core.monotonic) -> None:
        self._retention = retention
        self._clock = clock
        self._logs: dict[LogKey, _Kept] = {}
        self._records: dict[str, dict[str, LogRecord]] = {}
        self._ends: dict[LogKey, float] = {}
        self._former: set[LogKey] = set()
        self._leases: dict[tuple[str, LogKey], float] = {}
        self._listeners: dict[str, list[Listener]] = {}

    async def append(self, batches: Sequence[LogBatch]) -> list[Appended]:
        """Append each batch."""
        self._expire()
        return [self._append(batch) for batch in batches]

    def _refusal(self, batch: LogBatch, record: LogRecord | None) -> Appended | None:
        if record is None:
            return None if batch.whole else Appended.REWIND
        if record.key.epoch == batch.key.epoch:
            return None if record.worker == batch.worker else Appended.REFUSED
        is_adopted = batch.replaces == record.key.epoch and record.worker == batch.worker
        is_later = batch.whole and record.outcome is not None
        if not (is_adopted or is_later) or batch.key in self._former:
            return Appended.REFUSED
        self._former.add(record.key)
        return None

    def _append(self, batch: LogBatch) -> Appended:
        key = batch.key
        own = self._records.setdefault(key.user, {})
        refusal = self._refusal(batch, own.get(key.run))
        if refusal is not None:
            return refusal
        log = self._logs.get(key)
        if batch.whole:
            log = _Kept()
        elif log is None or log.head < batch.after:
            return Appended.REWIND
        log.entries.update((number, data) for number, data in batch.entries if number > log.last)
        log.last = max(log.entries, default=log.last)
        if batch.snapshot is not None and (log.snapshot is None or batch.snapshot[0] > log.snapshot[0]):
            log.snapshot = batch.snapshot
            log.entries = {number: data for number, data in log.entries.items() if number > batch.snapshot[0]}
        log.head = max(log.head, batch.upto)
        log.outcome = log.outcome or batch.outcome
        self._logs[key] = log
        own[key.run] = LogRecord(key, batch.worker, batch.owner, log.head, log.outcome)
        if log.outcome is not None:
            self._ends.setdefault(key, self._clock() + self._retention)
        return Appended.STORED

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, at in self._ends.items() if at <= now]:
            del self._ends[key]
            self._logs.pop(key, None)
            own = self._records.get(key.user, {})
            if key.run in own and own[key.run].key == key:
                del own[key.run]

    async def read(self, wants: Sequence[LogWant]) -> list[LogReading]:
        """Read what follows each position."""
        self._expire()
        return [self._read(want) for want in wants]

    def _read(self, want: LogWant) -> LogReading:
        log = self._logs.get(want.key)
        if log is None:
            return LogReading()
        position, snapshot = want.position, None
        if log.snapshot is not None and position < log.snapshot[0]:
            snapshot = log.snapshot
            position = snapshot[0]
        entries = [(number, log.entries[number]) for number in sorted(log.entries) if number > position][:MAX_READ]
        is_all = len(entries) < MAX_READ
        return LogReading(entries, snapshot, log.outcome if is_all else None)

    async def runs_of(self, users: Sequence[str]) -> list[list[LogRecord]]:
        """Return the runs of each user."""
        self._expire()
        return [list(self._records.get(user, {}).values()) for user in users]

    async def announce(self, worker: str, runs: Sequence[LogKey], seconds: float) -> None:
        """Say that the worker runs these."""
        for key in runs:
            self._leases[worker, key] = self._clock() + seconds

    async def renew(self, worker: str, runs: Sequence[LogKey], seconds: float) -> list[bool]:
        """Say so again."""
        known = [(worker, key) in self._leases for key in runs]
        await self.announce(worker, [key for key, is_known in zip(runs, known, strict=True) if is_known], seconds)
        return known

    async def forget(self, worker: str, runs: Sequence[LogKey]) -> None:
        """These have ended."""
        for key in runs:
            self._leases.pop((worker, key), None)

    async def overdue(self, limit: int) -> list[tuple[str, LogKey]]:
        """Return runs whose worker did not say so again."""
        now = self._clock()
        return [held for held, at in self._leases.items() if at <= now][:limit]

    async def claim(self, key: LogKey, worker: str, by: str, seconds: float) -> bool:
        """Take an overdue run over."""
        if self._leases.get((worker, key), float("inf")) > self._clock():
            return False
        del self._leases[worker, key]
        self._leases[by, key] = self._clock() + seconds
        record = self._records.get(key.user, {}).get(key.run)
        if record is None or record.key != key or record.outcome is not None:
            del self._leases[by, key]
            return False
        self._records[key.user][key.run] = replace(record, worker=by)
        return True

    def hint(self, users: Mapping[str, bool]) -> None:
        """Tell other workers."""
        for user, is_news in users.items():
            for heard in self._listeners.get(user, ()):
                asyncio.get_running_loop().call_soon(heard, is_news)

    def listen(self, user: str, heard: Listener) -> None:
        """Have ``heard`` called for hints about a user."""
        self._listeners.setdefault(user, []).append(heard)

    def unlisten(self, user: str) -> None:
        """Listen no more."""
        self._listeners.pop(user, None)

    def lose(self, *, keep: int | None = None) -> None:
        """Lose everything, or all but the first ``keep`` entries of each log, as an engine does that is restored."""
        if keep is None:
            for kept in (self._logs, self._records, self._ends, self._leases):
                kept.clear()
            return
        for key, log in self._logs.items():
            log.entries = {number: data for number, data in log.entries.items() if number <= keep}
            log.head = log.last = min(log.head, keep)
            record = self._records[key.user][key.run]
            self._records[key.user][key.run] = replace(record, head=log.head)
