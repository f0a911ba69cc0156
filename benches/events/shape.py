"""What is measured: the processes have to agree on it."""

import enum
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

MISSING = (
    ""
    if importlib.util.find_spec("socketio")
    else "not installed: python-socketio; pip install -r requirements/dev.txt"
)
"""Why python-socketio cannot be measured here, or nothing."""


class Way(enum.StrEnum):
    """Who delivers."""

    ISOLANE = "isolane"
    BARE = "bare"
    SOCKETIO = "socketio"
    UVICORN = "uvicorn"
    FASTAPI = "fastapi"
    """These two are only measured where nothing is delivered."""


LABELS = {
    Way.ISOLANE: "isolane.v1, with acks",
    Way.BARE: "bare send_text loop",
    Way.SOCKETIO: "python-socketio",
    Way.UVICORN: "uvicorn alone",
    Way.FASTAPI: "an idle route of FastAPI",
}
DELIVER = (Way.ISOLANE, Way.BARE, Way.SOCKETIO)
IDLE = (Way.ISOLANE, Way.UVICORN, Way.FASTAPI, Way.BARE, Way.SOCKETIO)


def present(ways: Sequence[Way]) -> list[Way]:
    """Those that can be measured here."""
    return [way for way in ways if way is not Way.SOCKETIO or not MISSING]


def user(number: int) -> str:
    """The name of a user, who has one connection and one run."""
    return f"user-{number:05}-7c21"


@dataclass(frozen=True, slots=True)
class Load:
    """Events that are published while they are read.

    Attributes:
        connections: how many sockets, each of another user.
        rate: events a second on each of them.
        seconds: how long.
        warm_up: seconds at the beginning that do not count.
    """

    connections: int
    rate: float
    seconds: float
    warm_up: float

    @property
    def events(self) -> int:
        """On each socket."""
        return round(self.rate * self.seconds)

    @property
    def name(self) -> str:
        return f"{self.connections} connections x {self.rate:g} events/s"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a run of the benchmark measures.

    Attributes:
        loads: what is published live.
        idle: connections whose memory is measured, after a fifth as many that are not.
        missed: events that one client has missed when it resumes.
        resumes: how often it does in a round.
        clients: how many clients reconnect at once.
        behind: events that each of them has missed.
        rounds: repeats of each of these.
    """

    loads: tuple[Load, ...]
    idle: int
    missed: int
    resumes: int
    clients: int
    behind: int
    rounds: int

    @property
    def files(self) -> int:
        """Open files that each process needs: its sockets, and some more."""
        return max(self.clients, self.idle + self.idle // 5, *(load.connections for load in self.loads)) + 100

    @property
    def held(self) -> str:
        return f"server with {self.idle} connections"

    @property
    def resume(self) -> str:
        return f"one client has missed {self.missed} events"

    @property
    def reconnect(self) -> str:
        return f"{self.clients} clients at once, {self.behind} events missed"

    @classmethod
    def full(cls) -> "Sizes":
        loads = (Load(100, 30, 6, 1), Load(1000, 3, 6, 1))
        return cls(loads, idle=1000, missed=1000, resumes=100, clients=1000, behind=30, rounds=7)

    @classmethod
    def quick(cls) -> "Sizes":
        loads = (Load(20, 30, 1.5, 0.5),)
        return cls(loads, idle=100, missed=1000, resumes=5, clients=100, behind=30, rounds=1)


FILES = 4000
"""Open files that either process may have: more than sockets."""
SEEN = 10
"""Events that a client had read before it went away: its position when it comes back."""
EVENT = "agent_progress"
