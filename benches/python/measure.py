"""Interleaved measuring: all sides of a case take turns, so that a slow minute of the machine meets all of them."""

import asyncio
import contextlib
import enum
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

Run = Callable[[int], float]
"""Does a number of operations and returns what they took, without what was prepared for them."""

Around = Callable[[], contextlib.AbstractContextManager[None]]
"""Holds what a case needs from its first measurement to its last."""


class Unit(enum.Enum):
    """What the figures of a case are."""

    SECONDS = "processor time of one operation"
    MESSAGES = "seconds for one message, shown as messages a second"
    BYTES = "bytes of one object"
    COUNT = "how many"


@dataclass(frozen=True, slots=True)
class Side:
    """One way to do the work of a case. The first side of a case is isolane."""

    name: str
    run: Run


@dataclass(frozen=True, slots=True)
class Case:
    """The same work, done by several sides.

    Attributes:
        group: the heading in the report.
        name: unique within the group.
        sides: the first one is isolane, and the others are compared with it.
        unit: what the figures are.
        own: whether all sides are isolane, in different situations: then the ratio says how the cost grows.
        rounds: repeats of a full run, when one call of a side is a whole measurement whose length is not to be chosen.
        around: holds servers and the like.
        skipped: why the case cannot run here, or nothing.
        note: what a reader has to know, printed below the table.
    """

    group: str
    name: str
    sides: tuple[Side, ...]
    unit: Unit = Unit.SECONDS
    own: bool = False
    rounds: int | None = None
    around: Around = contextlib.nullcontext
    skipped: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a side took for each operation, in the order of the repeats."""

    side: str
    values: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def times(self, other: "Figure") -> float:
        """How many times the other's cost: the median of the ratios within each repeat.

        A slow moment of the machine is on both sides of its ratio.
        """
        return statistics.median(own / theirs for own, theirs in zip(self.values, other.values, strict=True))

    def more_than(self, other: "Figure") -> float:
        """How much more it cost than the other: the median of the differences within each repeat."""
        return statistics.median(own - theirs for own, theirs in zip(self.values, other.values, strict=True))


@dataclass(frozen=True, slots=True)
class Measured:
    """A case and the figures of its sides; none when it was skipped."""

    case: Case
    figures: tuple[Figure, ...]

    def figure(self, side: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.side == side), None)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often each side is measured."""

    seconds: float
    repeats: int
    thorough: bool

    @classmethod
    def full(cls) -> "Effort":
        return cls(seconds=0.03, repeats=25, thorough=True)

    @classmethod
    def quick(cls) -> "Effort":
        return cls(seconds=0.004, repeats=3, thorough=False)

    def rounds(self, case: Case) -> int:
        if case.rounds is None:
            return self.repeats
        return case.rounds if self.thorough else 1


class _Clock:
    """What the sides read before and after the work. Counting instructions puts its own marks here."""

    read: Callable[[], float] = staticmethod(time.thread_time)


def now() -> float:
    """The processor time of this thread, in seconds. What other processes take meanwhile is not part of it.

    Sides read it directly before and directly after the measured work, and nowhere else: a reading costs half a
    microsecond, so there must be much work between two of them.
    """
    return _Clock.read()


@contextlib.contextmanager
def marks(read: Callable[[], float]) -> Iterator[None]:
    """Have the sides call another function before and after the measured work."""
    _Clock.read = staticmethod(read)
    try:
        yield
    finally:
        _Clock.read = staticmethod(time.thread_time)


def calls(operation: Callable[[], object]) -> Run:
    """Time a plain function."""

    def run(loops: int) -> float:
        turns = range(loops)
        start = now()
        for _ in turns:
            operation()
        return now() - start

    return run


def awaits(run: Callable[[int], Awaitable[float]]) -> Run:
    """Time inside an event loop, whose start and end do not count."""

    def timed(loops: int) -> float:
        async def main() -> float:
            return await run(loops)

        return asyncio.run(main())

    return timed


def _loops(side: Side, seconds: float) -> int:
    """How many operations take about as long as wanted."""
    loops = 1
    while True:
        took = side.run(loops)
        if took >= seconds / 4 or loops >= 1 << 22:
            return max(1, round(loops * seconds / max(took, 1e-9)))
        loops *= 4


def measure(case: Case, effort: Effort) -> Measured:
    """Measure all sides in turns, each repeat beginning with another one. The garbage collector is on."""
    if case.skipped:
        return Measured(case, ())
    gc.enable()
    with case.around():
        loops = [1 if case.rounds is not None else _loops(side, effort.seconds) for side in case.sides]
        taken: list[list[float]] = [[] for _ in case.sides]
        for repeat in range(effort.rounds(case)):
            for at in turns(len(case.sides), repeat):
                gc.collect()
                taken[at].append(case.sides[at].run(loops[at]) / loops[at])
    figures = (Figure(side.name, tuple(values)) for side, values in zip(case.sides, taken, strict=True))
    return Measured(case, tuple(figures))


def turns(sides: int, repeat: int) -> Iterator[int]:
    """The order of the sides in a repeat: each begins with another one."""
    return ((repeat + turn) % sides for turn in range(sides))
