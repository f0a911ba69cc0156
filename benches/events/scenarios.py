"""What is measured between a server and its clients, each in a process of its own."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benches.events.shape import DELIVER, IDLE, LABELS, SEEN, Load, Sizes, Way, present
from benches.python.measure import Case, Figure, Measured, Side, Unit, turns
from benches.python.processes import Child, core_option

LIVE = "Accepted to read by the client"
MEMORY = "Memory of an idle connection"
RETURN = "Coming back"

BEYOND = {Way.FASTAPI: "beyond the idle route's", Way.BARE: "beyond the bare loop's"}
"""What the memory of a connection is compared with."""

Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that is done with each way.

    Attributes:
        group: the heading in the report.
        name: unique within the group.
        metrics: the figures that each measurement gives, and their titles.
        run: makes one measurement.
        unit: of all figures.
        ways: who is measured; isolane is the first one.
    """

    group: str
    name: str
    metrics: tuple[tuple[str, str], ...]
    run: Callable[[Way], Values]
    unit: Unit = Unit.SECONDS
    ways: tuple[Way, ...] = DELIVER

    def title(self, metric: str) -> str:
        """The name of the figure's case."""
        return f"{self.name}; {dict(self.metrics)[metric]}"


PERCENTILES = (("p50", "p50"), ("p99", "p99"), ("max", "maximum"))
COSTS = (("due", "p99 from when it was due"), ("processor", "processor time of the server for one event"))
HELD = ("held", "bytes of each")


@contextlib.contextmanager
def processes(way: Way) -> Iterator[tuple[Child, Child]]:
    """A server and its clients. The measuring process only waits for them."""
    server = Child("benches.events.server", [way, *core_option(0)])
    try:
        client = Child("benches.events.client", [way, server.line().strip(), *core_option(1)])
        try:
            yield server, client
        finally:
            client.stop()
    finally:
        server.stop()


def live(way: Way, load: Load) -> Values:
    """Publish at a rate while it is read."""
    with processes(way) as (server, client):
        client.ask("connect", clients=load.connections)
        server.ask("open", users=load.connections)
        client.tell("latencies", events=load.events, warm_up=load.warm_up)
        spent = server.ask("live", rate=load.rate, events=load.events)
        found = client.answer()
    published, due = found["published"], found["due"]
    return {**published, "due": due["p99"], "processor": spent["processor"]}


def memory(way: Way, connections: int) -> Values:
    """Bytes of each of many idle connections, after some that make the process as large as a used one is."""
    with processes(way) as (server, client):
        client.ask("connect", clients=connections // 5)
        before = server.ask("memory")["resident"]
        client.ask("connect", clients=connections)
        after = server.ask("memory")["resident"]
    return {"held": (after - before) / connections}


def resume(way: Way, missed: int, times: int) -> Values:
    """A client that had read a little comes back, again and again, for what it has missed."""
    with processes(way) as (server, client):
        client.ask("connect", clients=1)
        server.ask("open", users=1)
        server.ask("publish", events=SEEN)
        client.ask("read", events=SEEN)
        client.ask("drop")
        server.ask("publish", events=missed)
        return client.ask("resume", times=times, until=SEEN + missed)


def reconnect(way: Way, clients: int, behind: int) -> Values:
    """All clients lose their sockets, miss some events and come back in the same moment."""
    with processes(way) as (server, client):
        client.ask("connect", clients=clients)
        server.ask("open", users=clients)
        server.ask("publish", events=SEEN)
        client.ask("read", events=SEEN)
        client.ask("drop")
        server.ask("publish", events=behind)
        return client.ask("reconnect", until=SEEN + behind)


def all_scenarios(sizes: Sizes) -> list[Scenario]:
    """Every scenario."""
    return [
        *(
            Scenario(LIVE, load.name, (*PERCENTILES, *COSTS), lambda way, load=load: live(way, load))
            for load in sizes.loads
        ),
        Scenario(MEMORY, sizes.held, (HELD,), lambda way: memory(way, sizes.idle), Unit.BYTES, IDLE),
        Scenario(RETURN, sizes.resume, PERCENTILES, lambda way: resume(way, sizes.missed, sizes.resumes)),
        Scenario(RETURN, sizes.reconnect, PERCENTILES, lambda way: reconnect(way, sizes.clients, sizes.behind)),
    ]


def measure(scenario: Scenario, rounds: int, say: Callable[[str], None] = lambda _: None) -> list[Measured]:
    """Measure its ways in turns, each round beginning with another one. Answers a case for each metric."""
    ways = present(scenario.ways)
    found: list[dict[str, list[float]]] = [{metric: [] for metric, _ in scenario.metrics} for _ in ways]
    for number in range(rounds):
        for at in turns(len(ways), number):
            values = scenario.run(ways[at])
            for metric, kept in found[at].items():
                kept.append(values[metric])
            shown = ", ".join(f"{title} {values[metric]:.4g}" for metric, title in scenario.metrics)
            say(f"{scenario.name}: {LABELS[ways[at]]}: {shown}")
    sides = tuple(Side(LABELS[way], _measured_already) for way in ways)
    return [
        Measured(
            Case(scenario.group, scenario.title(metric), sides, unit=scenario.unit, rounds=rounds),
            tuple(Figure(LABELS[way], tuple(kept[metric])) for way, kept in zip(ways, found, strict=True)),
        )
        for metric, _ in scenario.metrics
    ]


def _measured_already(_: int) -> float:
    raise RuntimeError("a scenario measures several figures at once: call measure")


def beyond(held: Measured, way: Way) -> Measured:
    """What a connection of those that deliver holds more than one of this way, round by round."""
    delivering = {LABELS[each] for each in DELIVER if each is not way}
    base = held.figure(LABELS[way])
    if base is None:
        raise ValueError(f"{LABELS[way]} was not measured")
    figures = tuple(
        Figure(figure.side, tuple(own - other for own, other in zip(figure.values, base.values, strict=True)))
        for figure in held.figures
        if figure.side in delivering
    )
    sides = tuple(Side(figure.side, _measured_already) for figure in figures)
    return Measured(Case(MEMORY, BEYOND[way], sides, unit=Unit.BYTES, rounds=held.case.rounds), figures)
