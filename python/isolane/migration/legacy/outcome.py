"""What became of a legacy message."""

from __future__ import annotations

from enum import Enum


class SendOutcome(Enum):
    """What became of a legacy message. True unless it was dropped, as the callers of the older managers test it."""

    QUEUED = "queued"
    """It is in a log of its user, and a socket of the user is attached, which is sent it in order."""
    STORED = "stored"
    """It is in a log of its user, for who connects within the log's retention; no socket is attached now."""
    MERGED = "merged"
    """The engine, or an earlier message, has published the beginning or end of this execution already."""
    DROPPED = "dropped"
    """Nobody would ever come to read it: the user has neither a socket nor a run that goes on."""

    def __bool__(self) -> bool:
        """Whether the message is somewhere."""
        return self is not SendOutcome.DROPPED
