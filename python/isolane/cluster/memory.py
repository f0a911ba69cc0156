"""Both protocols in one process's memory: for tests, and as the shortest statement of what an engine has to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from isolane.cluster.memory_logs import MemoryLogStore
from isolane.cluster.protocols import LeaseAnswer, LeaseOperation, LeaseReply

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


__all__ = ["MemoryLeases", "MemoryLogStore"]
