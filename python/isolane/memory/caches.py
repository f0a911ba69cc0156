"""``OptimizedCacheManager``: cleaning the caches of users."""

from __future__ import annotations

import asyncio

from isolane._core import TTLCache, UserExecutionContext, bind_context_cache, clear_caches, expire_caches, shed_caches
from isolane.memory.limits import MB

LARGE = MB
"""Entries of more bytes than this go first when a user is cleaned."""


class OptimizedCacheManager:
    """Makes and cleans caches. Each reaches the caches of one user and no other's.

    Args:
        max_size: entries of a context's cache.
        ttl_seconds: how long an entry lives.
        use_weak_refs: whether values that allow it are held weakly. They end as soon as nothing else holds them.
        compress_data: whether large texts, bytes and trees of plain values are compressed.
    """

    def __init__(
        self,
        *,
        max_size: int = 1_000,
        ttl_seconds: float = 300.0,
        use_weak_refs: bool = False,
        compress_data: bool = True,
    ) -> None:
        self.max_size = max_size
        self.ttl_seconds = ttl_seconds
        self.use_weak_refs = use_weak_refs
        self.compress_data = compress_data

    def bind(self, context: UserExecutionContext) -> TTLCache:
        """Give a new context a cache of these settings."""
        cache = TTLCache(context, self.max_size, self.ttl_seconds, weak=self.use_weak_refs, compress=self.compress_data)
        bind_context_cache(context, cache)
        return cache

    def expire(self, user_id: str | None = None) -> tuple[int, int]:
        """Take out what has expired, of one user or of all. Returns entries and bytes."""
        return expire_caches(user_id)

    def cleanup_large_objects(self, user_id: str, larger_than: int = LARGE) -> tuple[int, int]:
        """Take entries of more than ``larger_than`` bytes out. Returns entries and bytes."""
        return shed_caches(user_id, larger_than)

    async def compress_cache_data(self, context: UserExecutionContext, limit: int = 16 * MB) -> int:
        """Compress the context's cache a megabyte at a time, with turns for others between. Returns bytes saved."""
        saved = 0
        for _ in range(limit // MB):
            step = context.context_cache.compress(MB)
            if not step:
                break
            saved += step
            await asyncio.sleep(0)
        return saved

    async def emergency_cache_clear(self, user_id: str) -> int:
        """Empty all caches of the user. Returns bytes."""
        return clear_caches(user_id)[1]
