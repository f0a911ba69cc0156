"""``ResourceMetrics``: what a user and the process hold, as one record."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isolane._core import UserExecutionContext, loop_account, resources_of
from isolane.contexts.tasks import MAX_TASKS
from isolane.memory.limits import MB, MemoryLimits

WEIGHTS = {"memory": 40, "tasks": 20, "descriptors": 20, "cpu": 20}
"""What each share is worth in the health score."""


@dataclass(frozen=True, slots=True)
class ResourceMetrics:
    """What is held at one moment. A megabyte is 1 048 576 bytes.

    Attributes:
        memory_usage_mb: megabytes charged to the user: exact for what isolane keeps, an estimate for Python values.
        active_connections: sockets of the user that isolane serves.
        pending_tasks: tasks that were started by ``create_task`` of this context and have not ended.
        cpu_usage_percent: processor time of the user since the context was last asked, in per cent of one processor.
            0.0 the first time, and while nothing measures it.
        open_file_descriptors: of the whole process. ``None`` where the system does not tell.
        rss_mb: resident megabytes of the whole process. ``None`` where the system does not tell.
        memory_limit_mb: the user's soft limit.
        max_pending_tasks: most tasks of a context.
        max_file_descriptors: the process's limit. ``None`` where there is none.
    """

    memory_usage_mb: float
    active_connections: int
    pending_tasks: int
    cpu_usage_percent: float
    open_file_descriptors: int | None
    rss_mb: float | None
    memory_limit_mb: float = 256.0
    max_pending_tasks: int = MAX_TASKS
    max_file_descriptors: int | None = None

    def is_within_limits(self) -> bool:
        """Return whether memory, tasks and file descriptors are below their limits."""
        return all(share < 1 for share in self._shares().values())

    def get_health_score(self) -> int:
        """Return 0 (at every limit) to 100 (no share above one half).

        Each share of a limit has a weight: memory 40, tasks 20, file descriptors 20, processor 20 (of one processor).
        Up to one half of the limit the whole weight counts, from there it falls in a line to nothing at the limit:
        ``sum(weight * (1 - clamp(2 * share - 1, 0, 1)))``. What is not known counts in full.
        """
        shares = {**self._shares(), "cpu": self.cpu_usage_percent / 100}
        score = sum(weight * (1 - min(max(2 * shares[name] - 1, 0), 1)) for name, weight in WEIGHTS.items())
        return round(score)

    def _shares(self) -> dict[str, float]:
        known = self.open_file_descriptors is not None and self.max_file_descriptors is not None
        return {
            "memory": self.memory_usage_mb / self.memory_limit_mb,
            "tasks": self.pending_tasks / self.max_pending_tasks,
            "descriptors": (self.open_file_descriptors or 0) / (self.max_file_descriptors or 1) if known else 0.0,
        }


def _cpu_of_agents(user_id: str) -> float:
    """Return what the account of the event loop has counted: only agents that an engine, or ``account``, drives."""
    return float(loop_account(user_id)["cpu"])


_cpu_source: Callable[[str], float] = _cpu_of_agents


def set_cpu_source(source: Callable[[str], float] | None) -> None:
    """Set what returns the processor seconds of a user so far. It must be cheap and never fall.

    ``None``: what the account of the event loop has counted, which is the default.
    """
    global _cpu_source  # noqa: PLW0603 - one for the process
    _cpu_source = source or _cpu_of_agents


def _descriptors() -> int | None:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            # Without the one that the listing itself opens.
            return len(os.listdir(folder)) - 1  # noqa: PTH208 - without a Path for each
        except OSError:
            continue
    return None


def _max_descriptors() -> int | None:
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _rss() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGESIZE")


def measure(context: UserExecutionContext, limits: MemoryLimits | None = None) -> ResourceMetrics:
    """Return what the context's user and the process hold now, beside the limits (default: the default ones)."""
    used, connections, tasks, cpu = resources_of(context, _cpu_source(context.user_id))
    rss = _rss()
    return ResourceMetrics(
        memory_usage_mb=used / MB,
        active_connections=connections,
        pending_tasks=tasks,
        cpu_usage_percent=cpu,
        open_file_descriptors=_descriptors(),
        rss_mb=None if rss is None else rss / MB,
        memory_limit_mb=(limits or MemoryLimits()).user_throttle / MB,
        max_file_descriptors=_max_descriptors(),
    )
