"""``MemoryOptimizationManager``: limits on what users hold, and the cleaning that keeps them below."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from isolane._core import (
    MemoryCharge,
    MemoryLimitExceededError,
    UserExecutionContext,
    charge_memory,
    clear_caches,
    expire_caches,
    lane_stats,
    lane_usage,
    memory_of,
    memory_users,
    monotonic,
    show_throttled,
    sweep_lanes,
)
from isolane.contexts.factory import UserContextFactory
from isolane.memory.accounts import track
from isolane.memory.caches import OptimizedCacheManager
from isolane.memory.cleanup import CleanupReport, CleanupScheduler
from isolane.memory.limits import MB, MemoryLimits
from isolane.memory.metrics import ResourceMetrics, measure
from isolane.memory.tracker import MemoryTracker

logger = logging.getLogger("isolane.memory")

RETRY_AFTER = 5
"""Seconds after which a refused client may come back."""

RECLAIM_SECONDS = 1.0
"""A reclamation looks at every lane, so admissions ask for one this often at most."""

MAX_CALLBACKS = 100
"""Most clean-up callbacks of a manager."""


@dataclass(frozen=True, slots=True)
class MemoryAlarm:
    """A user holds more than the alarm allows.

    Attributes:
        user_id: whose memory it is.
        bytes: what the user holds.
        limit: where the alarm is.
    """

    user_id: str
    bytes: int
    limit: int


class MemoryOptimizationManager:
    """Throttles, cleans and refuses by what is charged to users. Give it to an engine factory as ``memory=``.

    It reads counters: a run that is admitted costs no look at anything that the user holds. What is charged is exact
    for what isolane keeps itself and an estimate for Python values. It is no limit of the operating system: nothing
    stops an agent that allocates what it does not charge.

    Args:
        limits: how much users and the process may hold.
        caches: the settings of the caches of ``create_memory_optimized_context``.
        on_alarm: called with a ``MemoryAlarm`` when a user passes ``user_alarm``, once until the user is below again.
        release_idle_connections: called with a user id when the user is cleaned, to close connections it does not use.
        cleanup_interval: seconds between cleanings of ``cleanup_scheduler.start()``. Default: 60.
    """

    def __init__(
        self,
        limits: MemoryLimits | None = None,
        *,
        caches: OptimizedCacheManager | None = None,
        on_alarm: Callable[[MemoryAlarm], None] | None = None,
        release_idle_connections: Callable[[str], object] | None = None,
        cleanup_interval: float = 60.0,
    ) -> None:
        self.limits = limits if limits is not None else MemoryLimits()
        self.memory_tracker = MemoryTracker(self.limits)
        self.cleanup_scheduler = CleanupScheduler(self._clean_expired, interval=cleanup_interval)
        self.cache_manager = caches if caches is not None else OptimizedCacheManager()
        self.on_alarm = on_alarm
        self._callbacks: list[Callable[[str], object]] = []
        if release_idle_connections is not None:
            self._callbacks.append(release_idle_connections)
        self.poll_seconds = 0.02
        """How often a throttled run looks whether memory has fallen."""
        self._alarmed: set[str] = set()
        self._last_reclaim = -math.inf
        self._throttled = 0
        self._refused = 0
        self._alarms = 0

    @property
    def user_memory_limit(self) -> float:
        """The soft limit of a user in megabytes."""
        return self.limits.user_throttle / MB

    @property
    def global_memory_limit(self) -> float:
        """The limit of the process in megabytes."""
        return self.limits.process_refuse / MB

    def on_cleanup(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(user_id)`` when a user is cleaned, to free what the application holds for the user.

        It must be quick and not await. What it raises is logged. At most 100.
        """
        if len(self._callbacks) >= MAX_CALLBACKS:
            raise RuntimeError(f"{MAX_CALLBACKS} callbacks are registered already; register one that frees many things")
        self._callbacks.append(callback)

    # -- charging --------------------------------------------------------------------------------------------------

    def charge(self, context: UserExecutionContext, nbytes: int) -> MemoryCharge:
        """Charge bytes to the context's user until the handle is released, left as a block, or dropped.

        Raises ``MemoryLimitExceededError`` instead of going over ``user_refuse`` or ``process_refuse``. Two threads
        that charge at once cannot both take the last bytes.
        """
        try:
            return charge_memory(context, nbytes, self.limits.user_refuse, self.limits.process_refuse)
        except MemoryLimitExceededError:
            self._refused += 1
            raise

    def track(self, context: UserExecutionContext, obj: Any, size: int | None = None) -> MemoryCharge:
        """Charge an object to the context's user until it ends. See ``isolane.memory.track``; refuses as ``charge``."""
        try:
            return track(context, obj, size, self.limits.user_refuse, self.limits.process_refuse)
        except MemoryLimitExceededError:
            self._refused += 1
            raise

    # -- admission -------------------------------------------------------------------------------------------------

    def check(self, context: UserExecutionContext) -> Literal["throttle"] | None:
        """Ask whether a run of the context may begin: ``None`` is yes, ``throttle`` is later.

        Below all thresholds it reads two counters. From ``cleanup_threshold`` of the user's limit on, the user is
        cleaned first; from that of the process's on, once a second, the idle users.

        Raises ``MemoryLimitExceededError`` when user or process are still where they are refused.
        """
        self.memory_tracker.register(context)
        limits = self.limits
        held, process = memory_of(context)
        if held < limits.cleanup_bytes and process < limits.process_cleanup_bytes:
            if self._alarmed:
                self._alarmed.discard(context.user_id)
            return None
        self._watch(context.user_id, held)
        if held >= limits.cleanup_bytes:
            self.clean_user(context.user_id, force=held >= limits.force_cleanup_bytes)
        if process >= limits.process_cleanup_bytes and monotonic() - self._last_reclaim >= RECLAIM_SECONDS:
            self.reclaim()
        held, _ = self._refuse_if_over(context)
        return "throttle" if held >= limits.cleanup_bytes else None

    async def admit(self, context: UserExecutionContext, timeout: float = 2.0) -> None:  # noqa: ASYNC109 - of the one wait
        """Wait until a run of the context may begin, at most ``timeout`` seconds; after that it begins all the same.

        Meanwhile the context is shown as throttled. Raises ``MemoryLimitExceededError``, as ``check``.
        """
        if self.check(context) is None:
            return
        self._throttled += 1
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        show_throttled(context, True)
        try:
            # Bytes return from anywhere, destructors included, and tell nobody: so it looks.
            while (left := deadline - loop.time()) > 0 and memory_of(context)[0] >= self.limits.cleanup_bytes:  # noqa: ASYNC110
                await asyncio.sleep(min(self.poll_seconds, left))
        finally:
            show_throttled(context, False)
        self._refuse_if_over(context)

    def _refuse_if_over(self, context: UserExecutionContext) -> tuple[int, int]:
        held, process = memory_of(context)
        if held >= self.limits.user_refuse:
            raise self._refusal("user", held, self.limits.user_refuse)
        if process >= self.limits.process_refuse:
            raise self._refusal("global", process, self.limits.process_refuse)
        return held, process

    def _refusal(self, limit: Literal["user", "global"], used: int, allowed: int) -> MemoryLimitExceededError:
        self._refused += 1
        whose, remedy = (
            ("The user holds", "end a run of this user or release what it holds, or raise user_refuse")
            if limit == "user"
            else ("The service holds", "try again later, or raise process_refuse")
        )
        message = (
            f"{whose} {used / MB:.1f} MB of memory and may hold {allowed / MB:.1f} MB; {remedy} "
            f"(retry after {RETRY_AFTER} s)"
        )
        return MemoryLimitExceededError(message, limit, RETRY_AFTER, used, allowed)

    async def create_memory_optimized_context(
        self, user_id: str, thread_id: str | None = None, run_id: str | None = None, **fields: Any
    ) -> UserExecutionContext:
        """Make a context whose cache has the settings of ``cache_manager``; ids are generated when absent.

        ``fields`` are those of ``UserContextFactory.create_context``. Expired entries of all users are taken out
        before, unless that was done in the last seconds.

        Raises ``MemoryLimitExceededError`` when user or process hold too much, even after a reclamation.
        """
        self.cleanup_scheduler.run_if_due()
        if not await self.memory_tracker.can_allocate_user_context(user_id):
            self.clean_user(user_id, force=True)
            await self.force_memory_reclamation()
        context = UserContextFactory.create_context(user_id, thread_id, run_id, **fields)
        self._refuse_if_over(context)
        self.cache_manager.bind(context)
        await self.memory_tracker.register_context(context)
        return context

    # -- cleaning --------------------------------------------------------------------------------------------------

    async def optimize_context_memory(self, context: UserExecutionContext) -> None:
        """Clean the context's user as far as its usage asks for it.

        Above ``cleanup_threshold``: large entries go, the context's cache is compressed, connections that are not used
        are released. Above ``force_cleanup_threshold``: the caches are emptied.

        Raises ``MemoryLimitExceededError`` when the user is still where it is refused.
        """
        usage = await self.memory_tracker.get_context_memory_usage(context)
        self._watch(context.user_id, usage.bytes)
        if usage.percentage >= self.limits.cleanup_threshold:
            self.clean_user(context.user_id)
            await self.cache_manager.compress_cache_data(context)
        usage = await self.memory_tracker.get_context_memory_usage(context)
        if usage.percentage >= self.limits.force_cleanup_threshold:
            await self.emergency_cache_clear(context.user_id)
            if await self.memory_tracker.is_over_limit(context):
                raise self._refusal("user", memory_of(context)[0], self.limits.user_refuse)

    def clean_user(self, user_id: str, *, force: bool = False) -> CleanupReport:
        """Clean one user: what has expired and large entries, with ``force`` all entries, and the callbacks."""
        before = _bytes_of(user_id)
        entries, _ = expire_caches(user_id)
        if force:
            more, _ = clear_caches(user_id)
        else:
            more, _ = self.cache_manager.cleanup_large_objects(user_id)
        for callback in self._callbacks:
            try:
                callback(user_id)
            except Exception:
                logger.exception("a clean-up callback of the memory manager failed")
        return CleanupReport(entries + more, max(before - _bytes_of(user_id), 0), 1)

    async def force_memory_reclamation(self) -> CleanupReport:
        """Clean until all users together hold ``cleanup_threshold`` of the process's limit: see ``reclaim``."""
        return self.reclaim()

    def reclaim(self) -> CleanupReport:
        """Take out what has expired and lanes that nothing uses; then clean the heaviest idle users, one by one.

        A user is idle when none of the registered contexts runs. When the idle ones are not enough, the others follow.
        """
        self._last_reclaim = monotonic()
        report = self._clean_expired(idle_lanes=True)
        entries, freed, users = report.entries, report.bytes, 0
        target = self.limits.process_cleanup_bytes
        # Sorted by weight already, so it stays sorted within the idle and within the others.
        candidates = sorted(memory_users(), key=lambda user: not self.memory_tracker.is_idle(user[0]))
        for user_id, _ in candidates:
            if lane_stats()["bytes"] <= target:
                break
            cleaned = self.clean_user(user_id, force=True)
            entries += cleaned.entries
            freed += cleaned.bytes
            users += 1
        return CleanupReport(entries, freed, users)

    async def emergency_cache_clear(self, user_id: str) -> int:
        """Empty all caches of the user and call the callbacks. Returns the bytes that this gave back."""
        return self.clean_user(user_id, force=True).bytes

    def _clean_expired(self, *, idle_lanes: bool = False) -> CleanupReport:
        before = lane_stats()["bytes"]
        entries, _ = expire_caches()
        sweep_lanes(idle_lanes=idle_lanes)
        holders = memory_users()
        for user_id, held in holders:
            if held < self.limits.user_alarm:
                break
            self._watch(user_id, held)
        self._alarmed &= {user_id for user_id, held in holders if held >= self.limits.user_alarm}
        return CleanupReport(entries, max(before - lane_stats()["bytes"], 0))

    # -- figures ---------------------------------------------------------------------------------------------------

    def _watch(self, user_id: str, held: int) -> None:
        if held < self.limits.user_alarm:
            self._alarmed.discard(user_id)
            return
        if user_id in self._alarmed:
            return
        self._alarmed.add(user_id)
        self._alarms += 1
        logger.error(
            "a user holds %.1f MB of memory, over the alarm at %.1f MB", held / MB, self.limits.user_alarm / MB
        )
        if self.on_alarm is not None:
            try:
                self.on_alarm(MemoryAlarm(user_id, held, self.limits.user_alarm))
            except Exception:
                logger.exception("the alarm hook of the memory manager failed")

    def get_resource_usage(self, context: UserExecutionContext) -> ResourceMetrics:
        """Return what ``context.get_resource_usage()`` does, beside the limits of this manager."""
        return measure(context, self.limits)

    def get_memory_metrics(self) -> dict[str, int]:
        """Return counts: ``bytes`` of all users, ``throttled``, ``refused`` and ``alarms`` since the start."""
        return {
            "bytes": lane_stats()["bytes"],
            "throttled": self._throttled,
            "refused": self._refused,
            "alarms": self._alarms,
        }


def _bytes_of(user_id: str) -> int:
    usage = lane_usage(user_id)
    return usage["bytes"] if usage is not None else 0
