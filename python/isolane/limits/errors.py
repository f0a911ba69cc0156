"""What a wait for a permit may end in."""

from __future__ import annotations


class LimitTimeout(TimeoutError):  # noqa: N818 - named like the standard's own
    """A permit was not to be had before the deadline.

    Attributes:
        limit: whose limit it was: ``user``, ``global`` or ``tree``.
        retry_after: whole seconds after which it may be worth coming back.
        running: permits in use under the limit.
        queued: waiters under the limit.
        resource: the named resource that was lacking, or an empty text.
        reason: ``timeout``.
    """

    reason = "timeout"

    def __init__(
        self,
        message: str,
        limit: str = "global",
        retry_after: int = 1,
        running: int = 0,
        queued: int = 0,
        resource: str = "",
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after
        self.running = running
        self.queued = queued
        self.resource = resource


class ResourceTimeoutError(LimitTimeout):
    """An execution slot was not to be had in time. Raised for the slot only, never for what its block raises.

    The fields are those of ``LimitTimeout``. ``reason`` is ``timeout`` after the whole wait. It is ``queue``,
    ``predicted`` or ``nesting`` when the slot was refused at once: too many wait, it would not be had in time, or the
    slots around it are at the bound of what one run may nest.
    """

    def __init__(
        self,
        message: str,
        limit: str = "global",
        retry_after: int = 1,
        running: int = 0,
        queued: int = 0,
        resource: str = "",
        reason: str = "timeout",
    ) -> None:
        super().__init__(message, limit, retry_after, running, queued, resource)
        self.reason = reason
