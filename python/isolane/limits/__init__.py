"""Limits: semaphores by user over ``FairLimiter``, and what a wait for a permit may end in."""

from isolane.limits.adaptive import AdaptiveSemaphore
from isolane.limits.errors import LimitTimeout, ResourceTimeoutError
from isolane.limits.optimized import OptimizedSemaphoreManager
from isolane.limits.statistics import SemaphoreStats, SemaphoreStatsCollector
from isolane.limits.users import UserSemaphoreManager

__all__ = [
    "AdaptiveSemaphore",
    "LimitTimeout",
    "OptimizedSemaphoreManager",
    "ResourceTimeoutError",
    "SemaphoreStats",
    "SemaphoreStatsCollector",
    "UserSemaphoreManager",
]
