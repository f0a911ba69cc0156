"""``MemoryTracker``: which contexts there are, and what their users hold."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from isolane._core import ExecutionStatus, UserExecutionContext, lane_stats, lane_usage, memory_of
from isolane.memory.limits import MB, MemoryLimits

BUSY = frozenset({ExecutionStatus.EXECUTING, ExecutionStatus.THROTTLED})


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """What a context's user holds.

    Attributes:
        bytes: charged to the user, over all contexts.
        process_bytes: charged to all users.
        percentage: share of the user's soft limit; 1.0 is all of it.
    """

    bytes: int
    process_bytes: int
    percentage: float

    @property
    def mb(self) -> float:
        """The user's bytes in megabytes."""
        return self.bytes / MB


class MemoryTracker:
    """Knows the registered contexts of each user, weakly, and reads the accounts. Reading takes constant time."""

    def __init__(self, limits: MemoryLimits) -> None:
        self.limits = limits
        self._contexts: dict[str, dict[int, weakref.ref[UserExecutionContext]]] = {}

    async def can_allocate_user_context(self, user_id: str) -> bool:
        """Return whether a run of the user may begin: user and process are below where they are refused."""
        usage = lane_usage(user_id)
        held = usage["bytes"] if usage is not None else 0
        return held < self.limits.user_refuse and lane_stats()["bytes"] < self.limits.process_refuse

    async def register_context(self, context: UserExecutionContext) -> None:
        """Know the context until it ends: who has one that runs is not idle."""
        self.register(context)

    def register(self, context: UserExecutionContext) -> None:
        """Do what ``register_context`` does."""
        user_id = context.user_id
        number = context._lineage[-1]  # noqa: SLF001 - a number that no other context has
        everybody = self._contexts
        known = everybody.get(user_id)
        if known is None:
            known = everybody.setdefault(user_id, {})
        elif number in known:
            return

        def forget(_reference: weakref.ref[UserExecutionContext]) -> None:
            known.pop(number, None)
            if not known and everybody.get(user_id) is known:
                del everybody[user_id]

        known[number] = weakref.ref(context, forget)

    def contexts(self, user_id: str) -> Iterator[UserExecutionContext]:
        """Return the registered contexts of the user that have not been cleaned up."""
        for reference in list(self._contexts.get(user_id, {}).values()):
            context = reference()
            if context is not None and context.status is not ExecutionStatus.CLEANED:
                yield context

    def is_idle(self, user_id: str) -> bool:
        """Return whether no registered context of the user runs or waits for a permit."""
        return not any(context.status in BUSY for context in self.contexts(user_id))

    async def get_context_memory_usage(self, context: UserExecutionContext) -> MemoryUsage:
        """Return what the context's user holds: the limits are the user's, so all contexts of a user share one."""
        return self.usage(context)

    def usage(self, context: UserExecutionContext) -> MemoryUsage:
        """Do what ``get_context_memory_usage`` does."""
        held, process = memory_of(context)
        return MemoryUsage(held, process, held / self.limits.user_throttle)

    async def is_over_limit(self, context: UserExecutionContext) -> bool:
        """Return whether the context's user holds so much that new runs are refused."""
        return memory_of(context)[0] >= self.limits.user_refuse
