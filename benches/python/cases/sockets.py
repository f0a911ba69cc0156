"""Events through uvicorn to a client that reads them, against loops of `send_text`."""

import contextlib
import importlib.util
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from benches.python.measure import Case, Side, Unit
from benches.python.processes import Child, core_option, on_core
from benches.python.sockets.client import Client
from benches.python.sockets.shape import BURST, DONE, GO, MESSAGES, RUNS, Shape, Way

GROUP = "Through uvicorn"
ROUNDS = 15

DRAIN = "a writer drains full logs"
BURSTS = f"published in the same loop, {BURST} in a turn"
SINGLE = "published in the same loop, one in a turn"

OWN = "isolane, one message an event"
FRAMES = "isolane.v1, frames of 16"
BARE = "bare send_text(constant)"
BARE_TURNS = "bare send_text(constant) + sleep(0)"
QUEUE = "asyncio.Queue, json.dumps, send_text"


BY_THE_CLOCK = "; by the clock"
NOTE = (
    f"{MESSAGES} messages are written to one client in another process, which reads and counts all of them before the "
    "measurement ends. The rate is messages for each second of the server's processor time, publishing included where "
    "it happens meanwhile; the server has nothing else to do. By the clock the same measurements also contain the "
    "client, the waiting for it and what else runs on the machine."
)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one measurement, as the server took them."""

    processor: float
    wall: float


class Server:
    """uvicorn in a process of its own, which lives as long as a case. Each process gets a core where there are two."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.port = 0
        self.users = itertools.count(1)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.child = Child("benches.python.sockets.server", core_option(0))
        try:
            with on_core(1):
                self.port = int(self.child.line())
                yield
        finally:
            self.child.stop()

    def _line(self) -> str:
        if self.child is None:
            raise RuntimeError("the server is not running")
        return self.child.line()

    def seconds(self, shape: Shape, way: Way) -> Spent:
        """Make one measurement."""
        framed = way is Way.FRAMES
        path = Way.ISOLANE if framed else way
        target = f"/{path}?way={way}&shape={shape}&user=user-{next(self.users)}-7c21"
        with Client(self.port, target, framed=framed) as client:
            if framed:
                for stream in json.loads(client.first_text())["streams"]:
                    client.say(json.dumps({"t": "sub", "s": stream["s"], "e": stream["e"], "n": 0}))
            before = 0
            if shape is not Shape.DRAIN:
                # The first event of each of isolane's runs says that the socket reads it.
                before = RUNS if path is Way.ISOLANE else 0
                client.read_until(before)
                client.say(GO)
            client.read_until(before + MESSAGES)
            client.say(DONE)
            spent: dict[str, float] = json.loads(self._line())
        return Spent(spent["processor"], spent["wall"])


class Measurements:
    """One way in one shape: each measurement gives two figures."""

    def __init__(self, server: Server, shape: Shape, way: Way) -> None:
        self.measure = lambda: server.seconds(shape, way)
        self.walls: list[float] = []

    def processor(self, loops: int) -> float:
        spent = self.measure()
        self.walls.append(spent.wall)
        return spent.processor * loops / MESSAGES

    def wall(self, loops: int) -> float:
        """Of the measurements that were made before, in their order; of a new one when there is none."""
        wall = self.walls.pop(0) if self.walls else self.measure().wall
        return wall * loops / MESSAGES


def cases() -> list[Case]:
    """The three shapes, each by the server's processor time and by the clock. Skipped without uvicorn and FastAPI."""
    missing = [name for name in ("uvicorn", "fastapi", "websockets") if importlib.util.find_spec(name) is None]
    skipped = f"not installed: {', '.join(missing)}; pip install -r requirements/demo.txt" if missing else ""
    server = Server()
    shapes = (
        (DRAIN, Shape.DRAIN, ((OWN, Way.ISOLANE), (BARE, Way.BARE), (FRAMES, Way.FRAMES))),
        (BURSTS, Shape.BURSTS, ((OWN, Way.ISOLANE), (BARE, Way.BARE), (QUEUE, Way.QUEUE), (FRAMES, Way.FRAMES))),
        (SINGLE, Shape.SINGLE, ((OWN, Way.ISOLANE), (BARE_TURNS, Way.BARE), (QUEUE, Way.QUEUE), (FRAMES, Way.FRAMES))),
    )
    found = []
    for name, shape, sides in shapes:
        kept = [(label, Measurements(server, shape, way)) for label, way in sides]
        for title, side_of, note in (
            (name, lambda each: each.processor, NOTE if name == DRAIN else ""),
            (f"{name}{BY_THE_CLOCK}", lambda each: each.wall, ""),
        ):
            found.append(
                Case(
                    GROUP,
                    title,
                    tuple(Side(label, side_of(each)) for label, each in kept),
                    unit=Unit.MESSAGES,
                    rounds=ROUNDS,
                    around=server.running,
                    skipped=skipped,
                    note=note,
                )
            )
    return found
