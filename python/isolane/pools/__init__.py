"""Admission to the application's own pools of connections: per user, per pool, fair, and returned for certain."""

from isolane.pools.bound import BoundInThread, BoundResource
from isolane.pools.errors import PoolUnavailableError
from isolane.pools.health import PoolHealth, PoolHealthMonitor
from isolane.pools.lease import Lease
from isolane.pools.manager import DEFAULT_POOLS, ResourcePoolManager
from isolane.pools.statistics import PoolStatistics
from isolane.pools.user_pool import UserResourcePool

__all__ = [
    "DEFAULT_POOLS",
    "BoundInThread",
    "BoundResource",
    "Lease",
    "PoolHealth",
    "PoolHealthMonitor",
    "PoolStatistics",
    "PoolUnavailableError",
    "ResourcePoolManager",
    "UserResourcePool",
]
