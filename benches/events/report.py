"""The results as text and as the document."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import fill

from benches.events import scenarios
from benches.events.scenarios import COSTS, HELD, PERCENTILES
from benches.events.shape import SEEN, Sizes
from benches.python import report
from benches.python.measure import Figure, Measured
from benches.python.targets import Verdict

HEAD = """\
# Benchmark of the events

Written by `make bench-events`. Do not edit it: the next run replaces it.

How long an event takes to its client, what a connection costs, and how fast clients come back: isolane's route, a loop
of `send_text` in FastAPI, and python-socketio, all under the same uvicorn and read by the same client.

All sides took turns in one run. Trust the ratios more than the absolute figures, which belong to this machine and vary
with its load. A missed goal fails nothing: it is printed as missed.
"""
GOALS = """\
A ratio is the median over the rounds of the ratio within one round; a time and a size are medians over the rounds.
"""
WHO = """\
- isolane: the route that `setup` adds, `isolane.v1`. Each event is serialised, numbered and kept in the log of its run.
  The client holds the numbers against its position and acknowledges at least every 32 events.
- The bare loop sends a constant text with the clock in it, as long as isolane's messages. It serialises nothing.
- python-socketio: `AsyncServer` with its defaults, mounted with `ASGIApp`, over a WebSocket from the first moment. It
  serialises a message as long as isolane's, with one constant envelope.

The two peers keep what they have sent in a list and send it again from where the client was: neither does that by
itself. Nothing bounds their lists, and nobody is checked. Server and clients are processes of their own, on a core each
where there are two. All clients of a measurement are in one process, which parses every message as JSON and ends the
run when one is lost, comes twice or out of order. No client offers compression.
"""
LIVE = """\
From right before an event is published to when its bytes are in the client, by the one clock of the machine. Each
connection has a user, a run and a producer of its own; the producers take turns, evenly. p50 and p99 are medians over
the rounds, the maximum is the highest of all rounds. "From when it was due" also has what a late producer waited for
the loop. The processor time is the server's, publishing and writing together.
"""
MEMORY = """\
Resident memory of the server, before and after the connections are opened, for each of them. A fifth as many were
opened before. They are idle: no run, nothing to read. uvicorn alone is an ASGI application that accepts and waits. The
idle route is the same endpoint as a route of FastAPI, as isolane's is: what is beyond it in the same round is isolane's
part, its middleware, the cursor, the tasks and the timer of the socket, and the user's lane. The bare loop is written
as most routes are, with FastAPI's `WebSocket`.
"""
RETURN = """\
A client that had read {seen} events and lost its socket comes back with its position: from connecting to the last event
that it had missed. Many clients at once lose their sockets, and come back in the same moment: from the first of them
connecting to the last event of each, the maximum being that of the last client.
"""
CASES = """\
Publishing without a client, and one client that reads what a loop writes. These are cases of `make bench`, measured
again in this run.
"""


def seconds(measured: Measured, figure: Figure, metric: str) -> str:
    """A percentile as it is shown: the worst round of the maximum, else the median of the rounds."""
    value = max(figure.values) if metric == "max" else figure.median
    return report.value(measured.case.unit, value)


class Results:
    """What was measured, by group and name."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.all = measured
        self.by_name = {(each.case.group, each.case.name): each for each in measured}

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self.by_name

    def __getitem__(self, key: tuple[str, str]) -> Measured:
        return self.by_name[key]

    def of_scenario(self, group: str, name: str, metrics: Sequence[tuple[str, str]]) -> dict[str, Measured]:
        """Each metric's figures; none when it was not measured."""
        found = {metric: (group, f"{name}; {title}") for metric, title in metrics}
        return {metric: self[key] for metric, key in found.items() if key in self}

    def table(self, group: str, name: str, metrics: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
        """A row for each side, with its metrics."""
        found = self.of_scenario(group, name, metrics)
        if not found:
            return []
        sides = [figure.side for figure in next(iter(found.values())).figures]
        rows = []
        for number, side in enumerate(sides):
            cells = (seconds(each, each.figures[number], metric) for metric, each in found.items())
            rows.append((side, *cells))
        return rows


def tables(results: Results, sizes: Sizes) -> Iterator[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Group, head and rows of each table that was measured."""
    live = (*PERCENTILES, *COSTS)
    return_ = [sizes.resume, sizes.reconnect]
    for group, name, metrics in (
        *((scenarios.LIVE, load.name, live) for load in sizes.loads),
        (scenarios.MEMORY, sizes.held, (HELD,)),
        *((scenarios.RETURN, name, PERCENTILES) for name in return_),
    ):
        rows = results.table(group, name, metrics)
        head = (name, *(title for _, title in metrics))
        for title in scenarios.BEYOND.values() if group == scenarios.MEMORY else ():
            if (group, title) in results:
                head = (*head, title)
                rows = [(*row, _beyond(results[group, title], row[0])) for row in rows]
        if rows:
            yield group, head, rows


def _beyond(measured: Measured, side: str) -> str:
    figure = measured.figure(side)
    return "" if figure is None else report.value(measured.case.unit, figure.median)


def text(results: Results, sizes: Sizes, judged: Sequence[Verdict]) -> str:
    """Everything for a terminal."""
    parts = [report.plain_table(head, rows) for _, head, rows in tables(results, sizes)]
    others = [each for each in results.all if each.case.group not in SCENARIOS]
    parts += [report.text(others)] if others else []
    parts += [report.target_text(judged)] if judged else []
    return "\n\n".join(parts)


SCENARIOS = (scenarios.LIVE, scenarios.MEMORY, scenarios.RETURN)
ALTERNATIVE = "Latencies at two loads, memory of a connection and how long coming back takes, of isolane and two peers"


def document(
    results: Results,
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
    said = {scenarios.LIVE: LIVE, scenarios.MEMORY: MEMORY, scenarios.RETURN: RETURN.format(seen=SEEN)}
    for group, members in groupby(tables(results, sizes), lambda table: table[0]):
        lines += [f"## {group}", "", said[group]]
        for _, head, rows in members:
            lines += [*report.markdown_table(head, rows, head[1:]), ""]
    lines += ["## Publishing and writing", "", CASES]
    others = [each for each in results.all if each.case.group not in SCENARIOS]
    for group, cases in groupby(others, lambda measured: measured.case.group):
        kept = list(cases)
        rows = [row for each in kept for row in report.rows(each)]
        lines += [f"### {group}", "", *report.markdown_table(report.HEAD, rows, ("best", "median"))]
        lines += [line for each in kept for note in report.notes(each) for line in ("", fill(note, 120))]
        lines.append("")
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in machine.items())]
    return "\n".join([*lines, ""])
