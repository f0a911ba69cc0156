"""What goes wrong between processes."""

from __future__ import annotations


class PlaneUnavailableError(ConnectionError):
    """The plane that processes share did not answer in time, or cannot now.

    Whether it did what it was asked is not known, unless ``sent`` is false.

    Attributes:
        reason: ``down`` (there is no connection), ``timeout`` (no answer in time), ``lost`` (the connection went before
            the answer came), ``full`` (too much waits already), ``refused`` (the server cannot now, such as while it
            loads its data), ``stopped``.
        sent: whether it may have been done.
    """

    def __init__(self, message: str, reason: str = "down", *, sent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.sent = sent
