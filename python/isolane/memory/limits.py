"""How much memory users may hold, and what asks before a run begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from isolane._core import UserExecutionContext

MB = 1024 * 1024
"""What is called a megabyte here: 1 048 576 bytes."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Limits in bytes of what is charged. They are checked when a run begins; what runs is not interrupted.

    Attributes:
        user_throttle: a user's soft limit. From ``cleanup_threshold`` of it on, what can be cleaned is, and the user's
            next runs wait for the rest. Default: 256 MB.
        user_refuse: from here on the user's next runs are refused, with status 429. Default: 1 GB.
        user_alarm: from here on the alarm is raised: running agents still take memory. Default: 1.2 GB.
        process_refuse: bytes of all users together from which on everybody is refused, with status 503. Default: 2 GB.
        cleanup_threshold: share of ``user_throttle``, and of ``process_refuse``, where cleaning begins. Default: 0.8.
        force_cleanup_threshold: share of ``user_throttle`` where the user's caches are emptied. Default: 0.95.
    """

    user_throttle: int = 256 * MB
    user_refuse: int = 1024 * MB
    user_alarm: int = 1229 * MB
    process_refuse: int = 2048 * MB
    cleanup_threshold: float = 0.8
    force_cleanup_threshold: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.user_throttle <= self.user_refuse <= self.user_alarm:
            raise ValueError(
                f"0 < user_throttle <= user_refuse <= user_alarm must hold, got {self.user_throttle}, "
                f"{self.user_refuse}, {self.user_alarm}"
            )
        if self.process_refuse < 1:
            raise ValueError(f"process_refuse must be at least 1 byte, got {self.process_refuse}")
        if not 0 < self.cleanup_threshold <= self.force_cleanup_threshold <= 1:
            raise ValueError(
                f"0 < cleanup_threshold <= force_cleanup_threshold <= 1 must hold, got {self.cleanup_threshold}, "
                f"{self.force_cleanup_threshold}"
            )

    @property
    def cleanup_bytes(self) -> int:
        """Bytes of a user from which on the user is cleaned and throttled."""
        return int(self.user_throttle * self.cleanup_threshold)

    @property
    def force_cleanup_bytes(self) -> int:
        """Bytes of a user from which on the user's caches are emptied."""
        return int(self.user_throttle * self.force_cleanup_threshold)

    @property
    def process_cleanup_bytes(self) -> int:
        """Bytes of all users down to which idle users are cleaned."""
        return int(self.process_refuse * self.cleanup_threshold)


class MemoryGate(Protocol):
    """What an engine factory asks before it makes an engine."""

    async def admit(self, context: UserExecutionContext, timeout: float) -> None:  # noqa: ASYNC109 - of the one wait
        """Return when the run may begin, after ``timeout`` seconds of waiting at most, or raise."""
