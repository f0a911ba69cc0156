"""One application in several processes: what they share, on a Redis.

Nothing here is imported by a process that has no plane.
"""

from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.plane import Plane
from isolane.cluster.protocols import (
    Appended,
    Command,
    LeaseAnswer,
    LeaseBackend,
    LeaseOperation,
    LogBatch,
    LogKey,
    LogReading,
    LogRecord,
    LogStore,
    LogWant,
    Part,
)
from isolane.cluster.ticker import Ticker

__all__ = [
    "Appended",
    "Command",
    "LeaseAnswer",
    "LeaseBackend",
    "LeaseOperation",
    "LogBatch",
    "LogKey",
    "LogReading",
    "LogRecord",
    "LogStore",
    "LogWant",
    "Part",
    "Plane",
    "PlaneUnavailableError",
    "Ticker",
]
