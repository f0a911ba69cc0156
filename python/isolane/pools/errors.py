"""What the pools refuse beside what the limiter refuses."""

from __future__ import annotations

from isolane._core import LimitRejected


class PoolUnavailableError(LimitRejected):
    """A pool takes no requests: its health checks fail, or the manager is closed. Nothing was waited for.

    A ``LimitRejected`` with ``limit`` ``global``: in a FastAPI application it is a 503 with ``Retry-After``.

    Its ``resource`` is the pool's name, its ``reason`` is ``unhealthy`` or ``closed``.
    """

    @classmethod
    def unhealthy(cls, pool: str, failures: int, retry_after: int) -> PoolUnavailableError:
        """Make the error of a pool whose health checks fail."""
        text = (
            f"pool {pool!r} is unhealthy: its health check failed {failures} times in a row; it is tried again within "
            f"{retry_after} s. `pools.health()` has the kind of the last error"
        )
        return cls._made(text, pool, "unhealthy", retry_after)

    @classmethod
    def closed(cls, pool: str) -> PoolUnavailableError:
        """Make the error of a manager that is closed."""
        return cls._made("the pools are closed: this process is shutting down; another one answers", pool, "closed", 1)

    @classmethod
    def _made(cls, text: str, pool: str, reason: str, retry_after: int) -> PoolUnavailableError:
        return cls(text, "global", retry_after, 0, 0, reason, pool)
