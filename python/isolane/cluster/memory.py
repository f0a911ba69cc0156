"""Both protocols in one process's memory: for tests, and as the shortest statement of what an engine has to do."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from isolane.cluster.memory_logs import MemoryLogStore
from isolane.cluster.protocols import LeaseAnswer, LeaseOperation, LeaseReply


class MemoryLeaseBackend:
    """Leases in this process: several desks may share one.

    Args:
        clock: seconds on a clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[tuple[str, str], dict[bytes, float]] = defaultdict(dict)
        """By limit and user, until when each counts, in ms. The total of a limit stands under a user of no name."""
        self._fences: dict[str, int] = {}

    async def run(self, operations: Sequence[LeaseOperation]) -> list[LeaseReply | Exception]:
        """Do each of the operations. See ``LeaseBackend.run``."""
        return [self._run(operation) for operation in operations]

    def _run(self, operation: LeaseOperation) -> LeaseReply:
        now = self._clock() * 1000
        user = self._alive(operation.limit_name, operation.user_key, now) if operation.user_key else {}
        total = self._alive(operation.limit_name, "", now)
        try:
            match operation.kind:
                case "acquire":
                    return [self._acquire(operation, each, user, total, now) for each in operation.ids]
                case "renew":
                    return [self._renew(operation, each, (user, total), now) for each in operation.ids]
                case "release":
                    for each in operation.ids:
                        user.pop(each, None)
                        total.pop(each, None)
                    return None
                case _:
                    return [self._hold(operation, each, user, total, now) for each in operation.ids]
        finally:
            self._drop_empty(operation.limit_name, operation.user_key, "")

    def _alive(self, name: str, whose: str, now: float) -> dict[bytes, float]:
        leases = self._leases[name, whose]
        for each in [each for each, until in leases.items() if until <= now]:
            del leases[each]
        return leases

    def _drop_empty(self, name: str, *keys: str) -> None:
        for whose in keys:
            if not self._leases.get((name, whose), True):
                del self._leases[name, whose]

    def _acquire(
        self,
        operation: LeaseOperation,
        each: bytes,
        user: dict[bytes, float],
        total: dict[bytes, float],
        now: float,
    ) -> LeaseAnswer:
        for which, limit, leases in (("user", operation.user_limit, user), ("total", operation.total_limit, total)):
            if limit >= 0 and each not in leases and len(leases) >= limit:
                first = min(leases.values(), default=now)
                return LeaseAnswer(False, 0, which, max(0, int(first - now)))  # type: ignore[arg-type]
        return LeaseAnswer(True, self._hold(operation, each, user, total, now), None, 0)

    def _hold(
        self,
        operation: LeaseOperation,
        each: bytes,
        user: dict[bytes, float],
        total: dict[bytes, float],
        now: float,
    ) -> int:
        until = now + operation.ttl_ms
        if operation.user_limit >= 0:
            user[each] = until
        if operation.total_limit >= 0:
            total[each] = until
        fence = max(time.time_ns() // 1000, self._fences.get(operation.limit_name, 0) + 1)
        self._fences[operation.limit_name] = fence
        return fence

    @staticmethod
    def _renew(operation: LeaseOperation, each: bytes, held: tuple[dict[bytes, float], ...], now: float) -> bool:
        counted = [
            leases
            for leases, limit in zip(held, (operation.user_limit, operation.total_limit), strict=True)
            if limit >= 0
        ]
        if not counted or any(each not in leases for leases in counted):
            return False
        for leases in counted:
            leases[each] = now + operation.ttl_ms
        return True

    def held(self, limit_name: str, user_key: str = "") -> int:
        """Count the leases of a user that are held now, or of the total."""
        held = len(self._alive(limit_name, user_key, self._clock() * 1000))
        self._drop_empty(limit_name, user_key)
        return held


__all__ = ["MemoryLeaseBackend", "MemoryLogStore"]
