"""Execution slots with the limits of the second design document: 10 in all, 5 a user."""

from __future__ import annotations

from isolane._core import AdaptiveController, FairLimiter
from isolane.limits.adaptive import AdaptiveSemaphore
from isolane.limits.book import SemaphoreBook
from isolane.limits.slots import ExecutionSlot
from isolane.limits.statistics import SemaphoreStats, SemaphoreStatsCollector


class OptimizedSemaphoreManager:
    """Execution slots of all users: a user's limit and the limit of all in one decision, in a fair order.

    Args:
        total: slots of all users together.
        per_user: slots of each user.
        adaptive: sets ``total`` by how long slots are held.
        max_users: users whose semaphore is kept; beyond it those not in use go, the longest unused first.

    Attributes:
        limiter: the limiter beneath.
    """

    def __init__(
        self,
        *,
        total: int = 10,
        per_user: int = 5,
        adaptive: AdaptiveController | None = None,
        max_users: int = 10_000,
    ) -> None:
        self.limiter = FairLimiter(total, per_user, adaptive=adaptive, max_users=max_users)
        self._book = SemaphoreBook(self.limiter, max_users)

    @property
    def user_semaphores(self) -> dict[str, AdaptiveSemaphore]:
        """The semaphores of users who had slots lately. A copy."""
        return self._book.all()

    @property
    def stats_collector(self) -> SemaphoreStatsCollector:
        """The statistics over all users, as they are now."""
        return SemaphoreStatsCollector.of(self.limiter)

    def get_semaphore_stats(self, user_id: str) -> SemaphoreStats:
        """Return what was counted of the user. A user that was idle for 300 s has been forgotten."""
        return SemaphoreStats.of(self.limiter, user_id)

    def acquire_execution_slot(self, user_id: str, priority: int = 1, timeout: float = 2.0) -> ExecutionSlot:
        """Return a block that runs in an execution slot of the user.

        Args:
            user_id: whose slot.
            priority: among the user's own, from 1, the most urgent, to 4.
            timeout: seconds to wait at most, for everything that the slot needs.

        Returns:
            An asynchronous context manager. Entering it yields the ``Permit``, or raises ``ResourceTimeoutError``. What
            the block raises passes as it is, a ``TimeoutError`` too.
        """
        return ExecutionSlot(self.limiter, self._book.get(user_id), user_id, priority, timeout)
