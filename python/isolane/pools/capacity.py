"""Whether the application's own pools are as large as what is admitted to them."""

from __future__ import annotations

import logging
import weakref
from typing import Any

logger = logging.getLogger("isolane.pools")

TOO_SMALL = (
    "the application's own pool behind %r gives out at most %d connections at once, and %d are admitted to it: "
    "requests beyond the first number wait in that pool, in no fair order. Make both the same"
)


class Sizes:
    """Compares each of the application's pools once with the admission limit, and warns if it is smaller."""

    def __init__(self) -> None:
        self._seen: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()

    def compare(self, pool: str, limit: int, owner: Any, size: int | None) -> None:
        """Warn when ``size`` is known and smaller than ``limit``. ``owner`` is the pool that has the size."""
        seen = self._seen.setdefault(owner, set())
        if pool in seen:
            return
        seen.add(pool)
        if size is not None and size < limit:
            logger.warning(TOO_SMALL, pool, size, limit)


def of_sqlalchemy(pool: Any) -> int | None:
    """Return ``pool_size + max_overflow`` of a SQLAlchemy pool, ``None`` when it has no bound or does not say."""
    overflow = getattr(pool, "_max_overflow", None)
    size = getattr(pool, "size", None)
    if size is None or overflow is None or overflow < 0:
        return None
    count = int(size())
    # 0 is without a bound.
    return count + int(overflow) if count else None


def of_redis(pool: Any) -> int | None:
    """Return ``max_connections`` of a pool of redis-py."""
    size = getattr(pool, "max_connections", None)
    return size if isinstance(size, int) else None


def of_httpx(client: Any) -> int | None:
    """Return ``Limits.max_connections`` of a client's own transport, ``None`` when it does not say."""
    pool = getattr(getattr(client, "_transport", None), "_pool", None)
    size = getattr(pool, "_max_connections", None)
    # httpcore has the largest integer for "no limit".
    return size if isinstance(size, int) and size < 1 << 31 else None
