"""Memory of users: accounts, caches, limits and their cleaning."""

from isolane._core import MemoryCharge, MemoryLimitExceededError, TTLCache, estimate_size
from isolane.memory.accounts import charge, track
from isolane.memory.caches import OptimizedCacheManager
from isolane.memory.cleanup import CleanupReport, CleanupScheduler
from isolane.memory.limits import MemoryGate, MemoryLimits
from isolane.memory.manager import MemoryAlarm, MemoryOptimizationManager
from isolane.memory.metrics import ResourceMetrics, set_cpu_source
from isolane.memory.tracker import MemoryTracker, MemoryUsage

__all__ = [
    "CleanupReport",
    "CleanupScheduler",
    "MemoryAlarm",
    "MemoryCharge",
    "MemoryGate",
    "MemoryLimitExceededError",
    "MemoryLimits",
    "MemoryOptimizationManager",
    "MemoryTracker",
    "MemoryUsage",
    "OptimizedCacheManager",
    "ResourceMetrics",
    "TTLCache",
    "charge",
    "estimate_size",
    "set_cpu_source",
    "track",
]
