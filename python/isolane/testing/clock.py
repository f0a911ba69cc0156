"""Time that stands still: deadlines and retention of the core without waiting for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from isolane import _core


class ManualClock:
    """The stopped clock of the core."""

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        _core._advance_clock(seconds)  # noqa: SLF001 - the core's test hook


@contextmanager
def manual_clock() -> Iterator[ManualClock]:
    """Stop the clock of the core for the length of a block. Timers of the event loop go on by real time."""
    _core._manual_clock(True)  # noqa: SLF001 - the core's test hook
    try:
        yield ManualClock()
    finally:
        _core._manual_clock(False)  # noqa: SLF001 - the core's test hook
