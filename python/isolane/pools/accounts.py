"""The counts of all pools and users, under one lock."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping

from isolane._core import ForkedProcessError, monotonic
from isolane.pools.statistics import PoolStatistics
from isolane.pools.usage import Usage

USER_WAITS, POOL_WAITS = 64, 512
COLLECTED_AT_MOST = 100_000

FORKED = (
    "These pools were made before a fork and belong to the parent process, with its connections: make the "
    "ResourcePoolManager, and the engines and clients under it, in the process that uses them"
)


class _Lock:
    """A lock that is of no use after a fork, when another thread of the parent may have had it."""

    __slots__ = ("_lock", "_process")

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            raise ForkedProcessError(FORKED)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Accounts:
    """Who holds and waits for how much. Idle users are forgotten, first those idle longest."""

    def __init__(self, pools: Mapping[str, int], per_user: int, *, window: float, max_users: int, idle: float) -> None:
        now = monotonic()
        self.per_user = per_user
        self.pools = {name: Usage(size, window, POOL_WAITS, now) for name, size in pools.items()}
        self._window, self._max_users, self._idle_after = window, max_users, idle
        self._users: OrderedDict[str, Usage] = OrderedDict()
        self._lock = _Lock()
        # A destructor may run while this thread has the lock: it leaves a note here, which the next one to come reads.
        self._collected: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=COLLECTED_AT_MOST)

    # -- what happens to a request -----------------------------------------------------------------------------------

    def asked(self, user_id: str, pools: tuple[str, ...]) -> list[str]:
        """Note a request that begins to wait. Returns users that were forgotten to make room."""
        with self._lock:
            now = self._catch_up()
            forgotten = self._make_room(now) if user_id not in self._users else []
            for usage in self._of(user_id, pools, now):
                usage.change(now, waiting=1)
            return forgotten

    def got(self, user_id: str, pools: tuple[str, ...], waited: float) -> None:
        """Note that a waiting request was granted."""
        with self._lock:
            now = self._catch_up()
            for usage in self._of(user_id, pools, now):
                usage.change(now, in_use=1, waiting=-1)
                usage.granted += 1
                usage.waits.append(waited)

    def gave_up(self, user_id: str, pools: tuple[str, ...], how: str) -> None:
        """Note that a waiting request ended without a grant: ``timeouts``, ``refused`` or ``cancelled``."""
        with self._lock:
            now = self._catch_up()
            for usage in self._of(user_id, pools, now):
                usage.change(now, waiting=-1)
                setattr(usage, how, getattr(usage, how) + 1)

    def refused(self, user_id: str, pool: str) -> list[str]:
        """Note a request that was refused before it could wait. Returns users that were forgotten to make room."""
        with self._lock:
            now = self._catch_up()
            forgotten = self._make_room(now) if user_id not in self._users else []
            for usage in self._of(user_id, (pool,), now):
                usage.refused += 1
            return forgotten

    def returned(self, user_id: str, pools: tuple[str, ...]) -> None:
        """Note that a connection was released."""
        with self._lock:
            now = self._catch_up()
            for usage in self._of(user_id, pools, now):
                usage.change(now, in_use=-1)

    def collected(self, user_id: str, pools: tuple[str, ...]) -> None:
        """Note from a destructor that nobody released a connection."""
        self._collected.append((user_id, pools))

    # -- limits and figures -------------------------------------------------------------------------------------------

    def limit_of(self, user_id: str) -> int:
        """Return how many connections the user may have at once."""
        with self._lock:
            self._catch_up()
            usage = self._users.get(user_id)
            return self.per_user if usage is None else usage.limit

    def set_limit(self, user_id: str, limit: int) -> None:
        """Change how many connections the user may have at once."""
        with self._lock:
            now = self._catch_up()
            self._user(user_id, now).limit = limit

    def set_pool_limit(self, pool: str, limit: int) -> None:
        """Change the size of a pool."""
        with self._lock:
            self._catch_up()
            self.pools[pool].limit = limit

    def average_of(self, user_id: str, *, not_before: float | None = None) -> float | None:
        """Return a user's average, ``None`` for nobody known, or when it was asked for less than that long ago."""
        with self._lock:
            now = self._catch_up()
            usage = self._users.get(user_id)
            if usage is None or (not_before is not None and now - usage.optimized_at < not_before):
                return None
            usage.optimized_at = now
            return usage.average(now)

    def users(self) -> list[str]:
        """Return the users that are known now."""
        with self._lock:
            self._catch_up()
            return list(self._users)

    def in_use(self) -> int:
        """Return how many leases are held, over all users."""
        with self._lock:
            self._catch_up()
            return sum(usage.in_use for usage in self._users.values())

    def of_user(self, user_id: str) -> PoolStatistics:
        """Return the figures of one user."""
        with self._lock:
            now = self._catch_up()
            usage = self._users.get(user_id)
            return PoolStatistics(user_id, self.per_user) if usage is None else usage.record(user_id, now)

    def of_pools(self) -> dict[str, PoolStatistics]:
        """Return the figures of the shared pools."""
        with self._lock:
            now = self._catch_up()
            return {name: usage.record(name, now) for name, usage in self.pools.items()}

    def evict(self, idle: float) -> list[str]:
        """Forget users who had nothing for so many seconds. Returns their ids."""
        with self._lock:
            now = self._catch_up()
            gone = [user for user, usage in self._users.items() if usage.idle and now - usage.last_used >= idle]
            for user in gone:
                del self._users[user]
            return gone

    # -- inside -------------------------------------------------------------------------------------------------------

    def _catch_up(self) -> float:
        """Read the notes of destructors; with the lock. Returns the time."""
        now = monotonic()
        while self._collected:
            user_id, pools = self._collected.popleft()
            for usage in self._of(user_id, pools, now):
                usage.change(now, in_use=-1)
                usage.collected += 1
        return now

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
