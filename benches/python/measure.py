"""Interleaved timing: all sides of a case take turns, so that a slow minute of the machine meets all of them."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

Timed = Callable[[int], float]
"""Does a number of operations and returns the seconds that they took, without what was prepared for them."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way to do the work of a case. The first side of a case is isolane."""

    name: str
    run: Timed


@dataclass(frozen=True, slots=True)
class Case:
    """The same work, done by several sides."""

    group: str
    name: str
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """What a side took, in seconds for each operation, in the order of the repeats."""

    side: str
    times: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.times)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def times_slower_than(self, other: "Figure") -> float:
        """The median of the ratios within each repeat: a slow moment of the machine is on both sides of its ratio."""
        return statistics.median(own / theirs for own, theirs in zip(self.times, other.times, strict=True))


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often each side is measured."""

    seconds: float
    repeats: int

    @classmethod
    def full(cls) -> "Effort":
        return cls(seconds=0.03, repeats=31)

    @classmethod
    def quick(cls) -> "Effort":
        return cls(seconds=0.005, repeats=3)


def calls(operation: Callable[[], object]) -> Timed:
    """Time a plain function."""

    def run(loops: int) -> float:
        start = time.perf_counter()
        for _ in range(loops):
            operation()
        return time.perf_counter() - start

    return run


def awaits(run: Callable[[int], Awaitable[float]]) -> Timed:
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


def measure(case: Case, effort: Effort) -> list[Figure]:
    """Measure all sides in turns, each repeat beginning with another one. The garbage collector is on."""
    gc.enable()
    loops = [_loops(side, effort.seconds) for side in case.sides]
    taken: list[list[float]] = [[] for _ in case.sides]
    for repeat in range(effort.repeats):
        for at in _turns(len(case.sides), repeat):
            gc.collect()
            taken[at].append(case.sides[at].run(loops[at]) / loops[at])
    return [Figure(side.name, tuple(times)) for side, times in zip(case.sides, taken, strict=True)]


def _turns(sides: int, repeat: int) -> Iterator[int]:
    return ((repeat + turn) % sides for turn in range(sides))
