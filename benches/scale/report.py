"""The results as text and as the document."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from benches.python import report
from benches.python.measure import Figure, Measured, Unit
from benches.python.targets import Verdict
from benches.scale import scenarios
from benches.scale.scenarios import ADDED, BURST, LIVE, MOST, PLACES, SHARED, Metric
from benches.scale.shape import Sizes

HEAD = """\
# Benchmark of several workers

Written by `make bench-scale`. Do not edit it: the next run replaces it.

What it costs that limits count over all workers and that any worker serves any of a user's sockets: isolane on a Redis,
beside redis-py's own `Lock`, a counter that is written in a minute, and python-socketio's `AsyncRedisManager`.

All sides took turns in one run, each measurement with processes and a redis-server of its own on the same machine.
Trust the ratios more than the absolute figures: workers, clients and Redis share the machine's cores. A missed goal
fails nothing: it is printed as missed.
"""
GOALS = """\
A ratio is the median over the rounds of the ratio within one round; a time is a median over the rounds.
"""
WHO = """\
- isolane, leases: a `FairLimiter` with two places of each user over all workers, shared by `ClusterLimits`. One task of
  the process asks Redis for all that is waited for. A lease runs out when its process dies; a lease that comes back is
  kept for 250 ms for the next request of the same user, and given back then.
- redis-py's `Lock`: `SET NX PX` and a script that deletes it, of its asyncio client. One holder, which is not told when
  its time is over.
- `INCR` and `DECR`: a count of each user. A process that dies keeps its places for ever, and so does a cancelled task
  between the two.
- isolane.v1: the run's log is on Redis and on the worker that serves the socket, numbered and bounded, so that a client
  may come back to any worker and go on exactly where it was. It acknowledges at least every 32 events.
- python-socketio: `AsyncServer` with its `AsyncRedisManager`, a room for each user. Redis passes each message on to all
  workers and keeps nothing: what is published while a client, or the worker's connection, is away is gone.
"""
SAID = {
    PLACES: """\
One worker takes a place and gives it back, again and again: from asking to having it, and how many a second. Nobody is
in the way. "Of Redis" is its processor time by its own account; commands are those that it counts, within scripts too.
What is given back later is counted as well.
""",
    SHARED: """\
So many workers do that at the same time, each with 32 tasks and users of its own. The p99 is that of the slowest
worker; a second is over all of them.
""",
    LIVE: """\
One of two workers publishes for {connections} users at {rate:g} events a second each, as a running agent does. Their
sockets are all on the same worker, or all on the other one. From right before an event is published to when its bytes
are in the client, by the one clock of the machine. The last table is the difference within each round. Processor times
are those of both workers together, and commands also those that a plane sends when nothing happens.
""",
    BURST: """\
Each worker publishes {events} events for each of its users as fast as it goes, {connections} users over all workers.
The next worker serves their sockets; where there is one worker, itself. From the first event to the last one that any
client has read.
""",
}
ALTERNATIVE = "Places a second, added latency and events a second over one, two and four workers, beside the peers"


def shown(measured: Measured, figure: Figure) -> str:
    """A figure as it is shown: the worst round of a maximum, else the median of the rounds."""
    is_most = measured.case.name.endswith(f"; {MOST[1]}")
    value = max(figure.values) if is_most else figure.median
    if measured.case.name.startswith(ADDED) and abs(value) < 1e-9:
        return "0"
    sign = "-" if value < 0 else ""
    return f"{sign}{report.value(measured.case.unit, abs(value))}"


def compared(measured: Measured, figure: Figure) -> str:
    """Isolane's figure by a peer's: how many times its time, or its rate."""
    own = measured.figures[0]
    if figure is own or any(value <= 0 for value in (*own.values, *figure.values)):
        return ""
    ratio = figure.times(own) if measured.case.unit is Unit.MESSAGES else own.times(figure)
    return f"{report.number(ratio)}x"


def _rows(found: Mapping[str, Measured]) -> list[tuple[str, ...]]:
    """A row for each side, with its metrics; beside a peer's figure how isolane's is to it."""
    rows: list[tuple[str, ...]] = []
    for place, side in enumerate(figure.side for figure in next(iter(found.values())).figures):
        cells = []
        for each in found.values():
            figure = each.figures[place]
            ratio = compared(each, figure)
            cells.append(f"{shown(each, figure)} ({ratio})" if ratio else shown(each, figure))
        rows.append((side, *cells))
    return rows


def tables(results: Sequence[Measured]) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Group, head and rows of each table that was measured."""
    for (group, name), members in groupby(results, lambda each: (each.case.group, each.case.name.rpartition("; ")[0])):
        found = {each.case.name.rpartition("; ")[2]: each for each in members}
        yield group, (name, *found), _rows(found)


def text(results: Sequence[Measured], judged: Sequence[Verdict]) -> str:
    """Everything for a terminal."""
    parts = [f"{group}\n{report.plain_table(head, rows)}" for group, head, rows in tables(results)]
    return "\n\n".join([*parts, *([report.target_text(judged)] if judged else [])])


def document(
    results: Sequence[Measured],
    sizes: Sizes,
    judged: Sequence[Verdict],
    machine: Mapping[str, str],
    plot: str = "",
    skipped: str = "",
) -> str:
    """The page of the site. `plot` is the image's path, `skipped` why python-socketio is not in it."""
    lines = [HEAD, "## Goals", "", GOALS, report.tally(judged), ""]
    lines += report.markdown_table(report.TARGET_HEAD, report.target_rows(judged), ("measured",))
    floors = report.floor_lines(judged)
    lines += ["", "Where less than the goal is to be had:", "", *floors] if floors else []
    lines += ["", f"![{ALTERNATIVE}]({plot})"] if plot else []
    lines += ["", "## Who is compared", "", WHO]
    lines += [f"python-socketio: SKIPPED: {skipped}", ""] if skipped else []
    lines += ["In brackets beside a peer's figure: isolane's divided by it, the median of the rounds.", ""]
    said = {
        **SAID,
        LIVE: SAID[LIVE].format(connections=sizes.load.connections, rate=sizes.load.rate),
        BURST: SAID[BURST].format(events=sizes.burst.events, connections=sizes.burst.connections),
    }
    for group, members in groupby(tables(results), lambda table: table[0]):
        lines += [f"## {group}", "", said[group]]
        for _, head, rows in members:
            lines += [*report.markdown_table(head, rows, head[1:]), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in machine.items())]
    return "\n".join([*lines, ""])


def in_order(results: Sequence[Measured]) -> list[Measured]:
    """The results with the differences right after what they are of."""
    metrics: tuple[Metric, ...] = (scenarios.P50, scenarios.P99)
    more = [each for metric in metrics if (each := scenarios.added(results, metric)) is not None]
    last = max((at for at, each in enumerate(results) if each.case.group == LIVE), default=-1)
    return [*results[: last + 1], *more, *results[last + 1 :]]
