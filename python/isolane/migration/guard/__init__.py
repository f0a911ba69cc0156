"""The guard of a rollout: it climbs the ladder when there is reason to, and rolls back when there is proof of harm."""

from isolane.engines.waits import waiting
from isolane.migration.guard.guard import RolloutGuard
from isolane.migration.guard.policy import GuardPolicy, MetricPolicy
from isolane.migration.guard.records import GuardStatus, MetricStatus, RollbackRecord

__all__ = [
    "GuardPolicy",
    "GuardStatus",
    "MetricPolicy",
    "MetricStatus",
    "RollbackRecord",
    "RolloutGuard",
    "waiting",
]
