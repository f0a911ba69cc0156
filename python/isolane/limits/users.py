"""Semaphores by user."""

from __future__ import annotations

from isolane._core import AdaptiveController, FairLimiter
from isolane.limits.adaptive import AdaptiveSemaphore
from isolane.limits.book import SemaphoreBook
from isolane.limits.slots import ExecutionSlot
from isolane.limits.statistics import SemaphoreStats, SemaphoreStatsCollector


class UserSemaphoreManager:
    """One semaphore for each user, over one ``FairLimiter`` with the limit of all.

    Args:
        default_max_concurrent: permits of each user.
        acquire_timeout: seconds that ``acquire_with_timeout`` waits by default.
        total: permits of all users together.
        adaptive: sets ``total`` by how long permits are held. Give it one for a backend that all users share.
        adapt_users: lets each user's limit follow the time that the user's own permits are held. By default a user's
            limit stays what it is: it is an entitlement.
        max_users: users whose semaphore is kept; beyond it those not in use go, the longest unused first.

    Attributes:
        limiter: the limiter beneath, for what this class does not have: ``set_limit``, weights, ``stats``.
        default_max_concurrent: as given.
        acquire_timeout: as given.
    """

    def __init__(
        self,
        default_max_concurrent: int = 5,
        acquire_timeout: float = 2.0,
        *,
        total: int = 50,
        adaptive: AdaptiveController | None = None,
        adapt_users: bool = False,
        max_users: int = 10_000,
    ) -> None:
        self.default_max_concurrent = default_max_concurrent
        self.acquire_timeout = acquire_timeout
        self.limiter = FairLimiter(
            total, default_max_concurrent, timeout=acquire_timeout, adaptive=adaptive, max_users=max_users
        )
        self._book = SemaphoreBook(self.limiter, max_users, adapts=adapt_users)

    @property
    def user_semaphores(self) -> dict[str, AdaptiveSemaphore]:
        """The semaphores that are kept, by user. A copy."""
        return self._book.all()

    @property
    def semaphore_stats(self) -> dict[str, SemaphoreStats]:
        """The statistics of the users whose semaphores are kept. Copies."""
        return {user: self.get_semaphore_stats(user) for user in self._book.all()}

    @property
    def stats_collector(self) -> SemaphoreStatsCollector:
        """The statistics over all users, as they are now."""
        return SemaphoreStatsCollector.of(self.limiter)

    def get_user_semaphore(self, user_id: str) -> AdaptiveSemaphore:
        """Return the user's semaphore: its capacity is the user's limit, and the limit of all holds as well."""
        return self._book.get(user_id)

    def acquire_with_timeout(self, user_id: str, timeout: float | None = None, *, priority: int = 2) -> ExecutionSlot:
        """Return a block that runs under a permit of the user.

        Args:
            user_id: whose permit.
            timeout: seconds to wait at most, ``acquire_timeout`` by default.
            priority: among the user's own, from 1, the most urgent, to 4.

        Returns:
            An asynchronous context manager. Entering it yields the ``Permit``, or raises ``ResourceTimeoutError``.
        """
        seconds = self.acquire_timeout if timeout is None else timeout
        return ExecutionSlot(self.limiter, self._book.get(user_id), user_id, priority, seconds)

    def release_user_semaphore(self, user_id: str) -> bool:
        """Return a permit of the user before its block ends: the one that the running task took last, else the oldest.

        Returns:
            Whether there was one. Without one nothing changes.
        """
        return self._book.get(user_id).release_adaptive()

    def get_semaphore_stats(self, user_id: str) -> SemaphoreStats:
        """Return what was counted of the user. A user that was idle for 300 s has been forgotten."""
        return SemaphoreStats.of(self.limiter, user_id)

    def optimize_semaphore_limits(self) -> None:
        """Bring the limits to what is known to be best.

        The limit of all follows ``adaptive`` with each permit that is returned, without this call. Users' limits stay
        as they are; with ``adapt_users``, each is set to what its controller says.
        """
        for semaphore in self._book.all().values():
            semaphore.adjust_capacity_based_on_load()

    def cleanup_unused_semaphores(self, idle: float = 300.0) -> int:
        """Drop the semaphores that nobody holds or waits for, and the counts of users idle for ``idle`` seconds.

        Both happen by themselves when there are many; counts over all users stay.

        Returns:
            How many semaphores were dropped.
        """
        dropped = self._book.drop_unused()
        self.limiter.evict(idle)
        return dropped
