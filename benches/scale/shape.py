"""What is measured: the processes have to agree on it."""

import enum
from dataclasses import dataclass

from benches.events.shape import Load

TIMES = 20.0
"""Seconds that anything may wait for a permit: with a free place that is for ever."""


class Holder(enum.StrEnum):
    """Who hands out the places of a user."""

    ISOLANE = "isolane"
    LOCK = "lock"
    COUNTER = "counter"


HOLDERS = {
    Holder.ISOLANE: "isolane, leases",
    Holder.LOCK: "redis-py's Lock",
    Holder.COUNTER: "INCR and DECR",
}


@dataclass(frozen=True, slots=True)
class Cycles:
    """Places that are taken and given back at once.

    Attributes:
        name: of the case.
        count: how many in each worker.
        users: whose turn it is goes round among so many.
        at_once: tasks that do so in each worker.
    """

    name: str
    count: int
    users: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Burst:
    """Events that are published as fast as it goes.

    Attributes:
        connections: how many sockets, each of another user.
        events: of each user.
    """

    connections: int
    events: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a run of the benchmark measures.

    Attributes:
        cycles: what is taken in one worker.
        shared: what is taken in each of several workers.
        workers: how many workers there are, in turn.
        load: what is published live on one worker and read from it or another.
        burst: what is published as fast as it goes, over all workers.
        rounds: repeats of each of these.
    """

    cycles: tuple[Cycles, ...]
    shared: Cycles
    workers: tuple[int, ...]
    load: Load
    burst: Burst
    rounds: int

    @property
    def files(self) -> int:
        """Open files that each process needs: its sockets, and some more."""
        return max(self.load.connections, self.burst.connections) + 100

    @classmethod
    def full(cls) -> "Sizes":
        return cls(
            cycles=(
                Cycles(ANOTHER, 3000, 3000, 1),
                Cycles(SAME, 3000, 1, 1),
                Cycles(MANY, 10_000, 10_000, 32),
            ),
            shared=Cycles(MANY, 5000, 5000, 32),
            workers=(1, 2, 4),
            load=Load(100, 10, 6, 2),
            burst=Burst(40, 250),
            rounds=5,
        )

    @classmethod
    def quick(cls) -> "Sizes":
        return cls(
            cycles=(Cycles(ANOTHER, 200, 200, 1), Cycles(SAME, 200, 1, 1), Cycles(MANY, 640, 640, 32)),
            shared=Cycles(MANY, 640, 640, 32),
            workers=(1, 2),
            load=Load(10, 20, 2, 1),
            burst=Burst(10, 100),
            rounds=1,
        )


ANOTHER = "another user each time"
SAME = "the same user again"
MANY = "32 tasks at once, another user each time"
