"""What a run waits for, and how a run came out: what its observers are told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from isolane._core import UserExecutionContext


class RunWaits:
    """How long a run has waited. Waits at the same time count once."""

    __slots__ = ("_open", "_since", "_total")

    def __init__(self) -> None:
        self._open = 0
        self._since = 0.0
        self._total = 0.0

    def begin(self) -> None:
        """Begin to wait for something."""
        if self._open == 0:
            self._since = time.monotonic()
        self._open += 1

    def end(self) -> None:
        """Wait for one thing less."""
        self._open -= 1
        if self._open == 0:
            self._total += time.monotonic() - self._since

    def add(self, duration: float) -> None:
        """Add a wait that was measured elsewhere, in seconds."""
        self._total += duration

    @property
    def seconds(self) -> float:
        """Seconds that were waited so far."""
        return self._total + (time.monotonic() - self._since if self._open else 0.0)


current_waits: ContextVar[RunWaits | None] = ContextVar("isolane_run_waits", default=None)
"""The waits of the run that is executed here."""


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Mark a wait that the run cannot help, such as for the answer of a model.

    Use it as ``with waiting(): await ...``. The time of the block does not count when it is judged whether the run was
    slow. Waiting for permits and ``permit.suspend()`` are marked already. Outside of a run it does nothing.
    """
    waits = current_waits.get()
    if waits is None:
        yield
        return
    waits.begin()
    try:
        yield
    finally:
        waits.end()


def add_wait(duration: float) -> None:
    """Add seconds to the waits of the run that is executed here, if there is one."""
    waits = current_waits.get()
    if waits is not None and duration > 0:
        waits.add(duration)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run came out: what one call of its engine came to.

    Attributes:
        context: the context of the run.
        error: what it raised or what its agent raised; ``None`` when it ended well.
        duration: seconds from the call to its end.
        waited: seconds of it that the run waited for permits, for what ``waiting`` marks, and while its permit was
            suspended.
        end_reason: why its engine ended before it, as ``UserExecutionEngine.end_reason``; ``None`` when it has not.
    """

    context: UserExecutionContext
    error: BaseException | None
    duration: float
    waited: float
    end_reason: str | None


class RunObserver(Protocol):
    """Is told of runs, on the event loop: it must answer at once. What it raises is logged."""

    def run_started(self, context: UserExecutionContext) -> None:
        """An engine was made for a run."""

    def run_ended(self, end: RunEnd) -> None:
        """A run came to its end, however that was."""
