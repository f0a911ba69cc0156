"""What is measured: each measurement has processes of its own, and what the Redis did for it."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benches.events.shape import MISSING, Load, Way
from benches.python.measure import Case, Figure, Measured, Side, Unit, turns
from benches.python.processes import Child
from benches.scale.server_figures import RedisFigures
from benches.scale.shape import HOLDERS, Burst, Cycles, Holder, Sizes
from examples.optimizer.shared_redis import started_redis

PLACES = "Taking a place"
SHARED = "Places over several workers"
LIVE = "From one worker to a socket of another"
BURST = "Events over several workers"

HERE = "same worker"
THERE = "other worker"
WAYS = {Way.ISOLANE: "isolane.v1, with acks", Way.SOCKETIO: "python-socketio, AsyncRedisManager"}

P50 = ("p50", "p50", Unit.SECONDS)
P99 = ("p99", "p99", Unit.SECONDS)
MOST = ("max", "maximum", Unit.SECONDS)
RATE = ("rate", "a second", Unit.MESSAGES)
PROCESSOR = ("processor", "processor time of the workers for one", Unit.SECONDS)
REDIS = ("redis", "of Redis for one", Unit.SECONDS)
COMMANDS = ("commands", "commands for one", Unit.COUNT)

Metric = tuple[str, str, Unit]
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that is done by each side.

    Attributes:
        group: the heading in the report.
        name: unique within the group.
        metrics: the figures that each measurement gives: keys, titles and units.
        sides: who is measured; isolane is the first one.
        run: makes one measurement of the side at a place.
    """

    group: str
    name: str
    metrics: tuple[Metric, ...]
    sides: tuple[str, ...]
    run: Callable[[int], Values]

    def title(self, metric: str) -> str:
        """The name of the figure's case."""
        return case_name(self.name, metric)


def case_name(name: str, metric: str) -> str:
    """The name of a figure's case."""
    return f"{name}; {metric}"


def places(holder: Holder, cycles: Cycles, workers: int) -> Values:
    """Places that each of so many workers takes and gives back, all at the same time."""
    with ExitStack() as stack:
        url = stack.enter_context(started_redis())
        children = []
        for number in range(workers):
            child = Child("benches.scale.limit_worker", [holder, url, f"w{number}"])
            stack.callback(child.stop)
            children.append(child)
        for child in children:
            child.ask("warm")
        redis = RedisFigures(url)
        for child in children:
            child.tell("cycles", count=cycles.count, users=cycles.users, at_once=cycles.at_once)
        found = [child.answer() for child in children]
        for child in children:
            child.ask("settle")
        commands, processor = redis.since()
    taken = cycles.count * workers
    return {
        "p50": statistics.median(each["p50"] for each in found),
        "p99": max(each["p99"] for each in found),
        "rate": max(each["seconds"] for each in found) / taken,
        "processor": sum(each["processor"] for each in found) / taken,
        "redis": processor / taken,
        "commands": commands / taken,
    }


class Workers:
    """Workers on a Redis of their own, and the clients of all of them in one process."""

    def __init__(self, way: Way, count: int, stack: ExitStack) -> None:
        url = self.redis_url = stack.enter_context(started_redis())
        self.all = []
        for _ in range(count):
            child = Child("benches.scale.event_worker", [way, url])
            stack.callback(child.stop)
            self.all.append(child)
        self.ports = [int(child.line()) for child in self.all]
        self.client = Child("benches.scale.event_client", [way])
        stack.callback(self.client.stop)

    def spent(self) -> float:
        """Seconds of the processor that all workers took so far."""
        return sum(child.ask("processor")["spent"] for child in self.all)


def live(way: Way, load: Load, serving: int) -> Values:
    """The first worker publishes at a rate; one of two serves the sockets."""
    with ExitStack() as stack:
        workers = Workers(way, 2, stack)
        workers.client.ask("connect_to", ports=[workers.ports[serving]] * load.connections)
        workers.all[0].ask("begin", numbers=list(range(load.connections)))
        redis, before = RedisFigures(workers.redis_url), workers.spent()
        workers.client.tell("latencies", events=load.events, warm_up=load.warm_up)
        workers.all[0].ask("live", rate=load.rate, events=load.events)
        found = workers.client.answer()
        events = load.events * load.connections
        (commands, processor), spent = redis.since(), workers.spent() - before
    return {
        **found["published"],
        "processor": spent / events,
        "redis": processor / events,
        "commands": commands / events,
    }


def burst(way: Way, size: Burst, count: int) -> Values:
    """Each worker publishes for its users as fast as it goes; the next one serves their sockets."""
    with ExitStack() as stack:
        workers = Workers(way, count, stack)
        users = range(size.connections)
        workers.client.ask("connect_to", ports=[workers.ports[(user + 1) % count] for user in users])
        for number, child in enumerate(workers.all):
            child.ask("begin", numbers=[user for user in users if user % count == number])
        # The first events find the sockets, and what is made at the first time.
        workers.client.tell("last", events=WARM)
        for child in workers.all:
            child.ask("burst", events=WARM)
        workers.client.answer()
        redis, before = RedisFigures(workers.redis_url), workers.spent()
        workers.client.tell("last", events=WARM + size.events)
        for child in workers.all:
            child.tell("burst", events=size.events)
        began = min(child.answer()["began"] for child in workers.all)
        ended = workers.client.answer()["ended"]
        events = size.events * size.connections
        (commands, processor), spent = redis.since(), workers.spent() - before
    return {
        "rate": (ended - began) / 1e9 / events,
        "processor": spent / events,
        "redis": processor / events,
        "commands": commands / events,
    }


WARM = 20
"""Events of each user before a burst."""


def number_of(count: int) -> str:
    """How many workers, in words."""
    return f"{count} {'worker' if count == 1 else 'workers'}"


def all_scenarios(sizes: Sizes) -> Iterator[Scenario]:
    """Every scenario, in the order of the report."""
    holders, holder_names = list(HOLDERS), tuple(HOLDERS.values())
    ways = [way for way in WAYS if way is Way.ISOLANE or not MISSING]
    names = tuple(WAYS[way] for way in ways)
    for cycles in sizes.cycles:
        yield Scenario(
            *(PLACES, cycles.name, (P50, P99, RATE, PROCESSOR, REDIS, COMMANDS), holder_names),
            lambda at, cycles=cycles: places(holders[at], cycles, 1),  # type: ignore[misc]
        )
    for count in sizes.workers:
        yield Scenario(
            *(SHARED, number_of(count), (P99, RATE, PROCESSOR, REDIS, COMMANDS), holder_names),
            lambda at, count=count: places(holders[at], sizes.shared, count),  # type: ignore[misc]
        )
    for serving, where in enumerate((HERE, THERE)):
        yield Scenario(
            *(LIVE, where, (P50, P99, MOST, PROCESSOR, REDIS, COMMANDS), names),
            lambda at, serving=serving: live(ways[at], sizes.load, serving),  # type: ignore[misc]
        )
    for count in sizes.workers:
        yield Scenario(
            *(BURST, number_of(count), (RATE, PROCESSOR, REDIS, COMMANDS), names),
            lambda at, count=count: burst(ways[at], sizes.burst, count),  # type: ignore[misc]
        )


def measure(scenario: Scenario, rounds: int, say: Callable[[str], None] = lambda _: None) -> list[Measured]:
    """Measure its sides in turns, each round beginning with another one. Answers a case for each metric."""
    found: list[dict[str, list[float]]] = [{key: [] for key, *_ in scenario.metrics} for _ in scenario.sides]
    for number in range(rounds):
        for at in turns(len(scenario.sides), number):
            values = scenario.run(at)
            for key, kept in found[at].items():
                kept.append(values[key])
            shown = ", ".join(f"{title} {values[key]:.4g}" for key, title, _ in scenario.metrics)
            say(f"{scenario.group}: {scenario.name}: {scenario.sides[at]}: {shown}")
    sides = tuple(Side(name, _measured_already) for name in scenario.sides)
    return [
        Measured(
            Case(scenario.group, scenario.title(title), sides, unit=unit, rounds=rounds),
            tuple(Figure(name, tuple(kept[key])) for name, kept in zip(scenario.sides, found, strict=True)),
        )
        for key, title, unit in scenario.metrics
    ]


def added(results: Sequence[Measured], metric: Metric) -> Measured | None:
    """What the way to another worker adds, round by round."""
    by_name = {(each.case.group, each.case.name): each for each in results}
    here, there = (by_name.get((LIVE, case_name(where, metric[1]))) for where in (HERE, THERE))
    if here is None or there is None:
        return None
    figures = tuple(
        Figure(far.side, tuple(own - other for own, other in zip(far.values, near.values, strict=True)))
        for far, near in zip(there.figures, here.figures, strict=True)
    )
    return Measured(Case(LIVE, case_name(ADDED, metric[1]), there.case.sides, unit=metric[2]), figures)


ADDED = "added by the way"


def _measured_already(_: int) -> float:
    raise RuntimeError("a scenario measures several figures at once: call measure")
