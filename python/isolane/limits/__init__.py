"""Limits: what a wait for a permit may end in."""

from __future__ import annotations


class LimitTimeout(TimeoutError):  # noqa: N818 - named like the standard's own
    """A permit was not to be had before the deadline.

    Attributes:
        limit: whose limit it was: ``user``, ``global`` or ``tree``.
        retry_after: whole seconds after which it may be worth coming back.
        running: permits in use under the limit.
        queued: waiters under the limit.
        resource: the named resource that was lacking, or an empty text.
    """

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


__all__ = ["LimitTimeout"]
