"""The counts of all pools and users, under one lock."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from isolane._core import monotonic
from isolane.pools.statistics import PoolStatistics
from isolane.pools.usage import Usage

USER_WAITS, POOL_WAITS = 64, 512
COLLECTED_AT_MOST = 100_000


class Accounts:
    """Who holds and waits for how much. Idle users are forgotten, first those idle longest."""

    def __init__(self, pools: Mapping[str, int], per_user: int, *, window: float, max_users: int, idle: float) -> None:
        now = monotonic()
        self.per_user = per_user
        self.pools = {name: Usage(size, window, POOL_WAITS, now) for name, size in pools.items()}
        self._window, self._max_users, self._idle_after = window, max_users, idle
        self._users: OrderedDict[str, Usage] = OrderedDict()
        self._lock = threading.Lock()
        # A destructor may run while this thread has the lock: it leaves a note here, which the next one to come reads.
        self._collected: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=COLLECTED_AT_MOST)

    # -- what happens to a request -----------------------------------------------------------------------------------

    def asked(self, user_id: str, pools: tuple[str, ...]) -> list[str]:
        """Note a request that begins to wait. Returns users that were forgotten to make room."""
        with self._locked() as now:
            forgotten = self._make_room(now) if user_id not in self._users else []
            for usage in self._of(user_id, pools, now):
                usage.change(now, waiting=1)
            return forgotten

    def got(self, user_id: str, pools: tuple[str, ...], waited: float) -> None:
        """Note that a waiting request was granted."""
        with self._locked() as now:
            for usage in self._of(user_id, pools, now):
                usage.change(now, in_use=1, waiting=-1)
                usage.granted += 1
                usage.waits.append(waited)

    def gave_up(self, user_id: str, pools: tuple[str, ...], how: str) -> None:
        """Note that a waiting request ended without a grant: ``timeouts``, ``refused`` or ``cancelled``."""
        with self._locked() as now:
            for usage in self._of(user_id, pools, now):
                usage.change(now, waiting=-1)
                setattr(usage, how, getattr(usage, how) + 1)

    def refused(self, user_id: str, pool: str) -> list[str]:
        """Note a request that was refused before it could wait. Returns users that were forgotten to make room."""
        with self._locked() as now:
            forgotten = self._make_room(now) if user_id not in self._users else []
            for usage in self._of(user_id, (pool,), now):
                usage.refused += 1
            return forgotten

    def returned(self, user_id: str, pools: tuple[str, ...]) -> None:
        """Note that a connection was released."""
        with self._locked() as now:
            for usage in self._of(user_id, pools, now):
                usage.change(now, in_use=-1)

    def collected(self, user_id: str, pools: tuple[str, ...]) -> None:
        """Note from a destructor that nobody released a connection."""
        self._collected.append((user_id, pools))

    # -- limits and figures -------------------------------------------------------------------------------------------

    def limit_of(self, user_id: str) -> int:
        """Return how many connections the user may have at once."""
        with self._locked():
            usage = self._users.get(user_id)
            return self.per_user if usage is None else usage.limit

    def set_limit(self, user_id: str, limit: int) -> None:
        """Change how many connections the user may have at once."""
        with self._locked() as now:
            self._user(user_id, now).limit = limit

    def set_pool_limit(self, pool: str, limit: int) -> None:
        """Change the size of a pool."""
        with self._locked():
            self.pools[pool].limit = limit

    def average_of(self, user_id: str, *, not_before: float | None = None) -> float | None:
        """Return a user's average, ``None`` for nobody known, or when it was asked for less than that long ago."""
        with self._locked() as now:
            usage = self._users.get(user_id)
            if usage is None or (not_before is not None and now - usage.optimized_at < not_before):
                return None
            usage.optimized_at = now
            return usage.average(now)

    def users(self) -> list[str]:
        """Return the users that are known now."""
        with self._locked():
            return list(self._users)

    def in_use(self) -> int:
        """Return how many leases are held, over all users."""
        with self._locked():
            return sum(usage.in_use for usage in self._users.values())

    def of_user(self, user_id: str) -> PoolStatistics:
        """Return the figures of one user."""
        with self._locked() as now:
            usage = self._users.get(user_id)
            return PoolStatistics(user_id, self.per_user) if usage is None else usage.record(user_id, now)

    def of_pools(self) -> dict[str, PoolStatistics]:
        """Return the figures of the shared pools."""
        with self._locked() as now:
            return {name: usage.record(name, now) for name, usage in self.pools.items()}

    def evict(self, idle: float) -> list[str]:
        """Forget users who had nothing for so many seconds. Returns their ids."""
        with self._locked() as now:
            gone = [user for user, usage in self._users.items() if usage.idle and now - usage.last_used >= idle]
            for user in gone:
                del self._users[user]
            return gone

    # -- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[float]:
        with self._lock:
            now = monotonic()
            while self._collected:
                user_id, pools = self._collected.popleft()
                for usage in self._of(user_id, pools, now):
                    usage.change(now, in_use=-1)
                    usage.collected += 1
            yield now

    def _of(self, user_id: str, pools: tuple[str, ...], now: float) -> list[Usage]:
        return [self._user(user_id, now), *(self.pools[name] for name in pools)]

    def _user(self, user_id: str, now: float) -> Usage:
        usage = self._users.get(user_id)
        if usage is None:
            usage = self._users[user_id] = Usage(self.per_user, self._window, USER_WAITS, now)
        self._users.move_to_end(user_id)
        return usage

    def _make_room(self, now: float) -> list[str]:
        """Forget those at the front who are idle for long, and, over the bound, the first who is idle at all."""
        gone = []
        while self._users:
            user, usage = next(iter(self._users.items()))
            if not usage.idle or now - usage.last_used < self._idle_after:
                break
            del self._users[user]
            gone.append(user)
        if len(self._users) >= self._max_users:
            longest = next((user for user, usage in self._users.items() if usage.idle), None)
            if longest is not None:
                del self._users[longest]
                gone.append(longest)
        return gone
