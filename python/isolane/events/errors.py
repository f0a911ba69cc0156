"""What a wait for a delivery may end in."""

from __future__ import annotations


class DeliveryTimeout(TimeoutError):  # noqa: N818 - named like the standard's own
    """An event was not delivered in time. It stays in the log for a client that comes later.

    Attributes:
        level: what was waited for: ``stored``, ``sent`` or ``acked``.
        number: the event's number.
        reached: the highest number of the run that has come so far; 0 for none.
    """

    def __init__(self, message: str, level: str = "sent", number: int = 0, reached: int = 0) -> None:
        super().__init__(message)
        self.level = level
        self.number = number
        self.reached = reached
