"""Places, latency and events over the workers as one picture for light and dark pages."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benches import pictures
from benches.events.shape import Way
from benches.python import report
from benches.python.measure import Measured
from benches.scale import scenarios
from benches.scale.scenarios import ADDED, P50, P99, RATE, WAYS, case_name, number_of
from benches.scale.shape import HOLDERS, Holder, Sizes

LINES = {
    HOLDERS[Holder.ISOLANE]: ("#0a7d38", "#3fb950"),
    HOLDERS[Holder.LOCK]: ("#0969da", "#58a6ff"),
    HOLDERS[Holder.COUNTER]: ("#59636f", "#8b949e"),
    WAYS[Way.SOCKETIO]: ("#b35900", "#f0883e"),
}
"""The colours of the sides on light and dark pages; both of isolane have one."""
COLOURS = pictures.PAGE | {f"line{number}": pair for number, pair in enumerate(LINES.values())}
LABEL_GAP = 0.07
"""Between two labels, of the height of their axes."""
SHORT = {
    HOLDERS[Holder.ISOLANE]: "isolane",
    HOLDERS[Holder.LOCK]: "redis-py Lock",
    HOLDERS[Holder.COUNTER]: "INCR, DECR",
    WAYS[Way.ISOLANE]: "isolane",
    WAYS[Way.SOCKETIO]: "python-socketio",
}


def draw(results: Sequence[Measured], sizes: Sizes, output: Path) -> None:
    """Write the picture. Raises `ImportError` without matplotlib."""
    by_name = {(each.case.group, each.case.name): each for each in results}
    with pictures.style(ytick_color=pictures.PAGE["ink"][0]):
        from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - only the document needs it

        figure = Picture(figsize=(11.0, 3.4), facecolor=pictures.PAGE["paper"][0])
        places = figure.add_gridspec(1, 3, wspace=0.55, left=0.05, right=0.985, top=0.84, bottom=0.1)
        _lines(figure.add_subplot(places[0]), "places a second, by workers", by_name, scenarios.SHARED, sizes)
        axes = figure.add_subplot(places[1])
        _bars(axes, "added by the way to another worker", by_name, lambda value: report.duration(max(value, 1e-9)))
        _lines(figure.add_subplot(places[2]), "events a second, by workers", by_name, scenarios.BURST, sizes)
        pictures.write(figure, COLOURS, output, rounded=True)


def apart(places: Mapping[str, float], gap: float) -> dict[str, float]:
    """Where labels can stand without covering each other: each at its place, or so much above the one below."""
    found: dict[str, float] = {}
    below = -gap
    for side in sorted(places, key=lambda each: places[each]):
        below = found[side] = max(places[side], below + gap)
    return found


def _colour(side: str) -> str:
    return LINES.get(side, LINES[HOLDERS[Holder.ISOLANE]])[0]


def _lines(axes: Any, title: str, by_name: dict[tuple[str, str], Measured], group: str, sizes: Sizes) -> None:
    """How many a second over the number of workers: a line for each side, named at its end."""
    axes.set_title(title, loc="left")
    found = {count: by_name.get((group, case_name(number_of(count), RATE[1]))) for count in sizes.workers}
    shown = {count: measured for count, measured in found.items() if measured is not None}
    sides = [figure.side for figure in next(iter(shown.values())).figures] if shown else []
    last: dict[str, float] = {}
    highest = 0.0
    for place, side in enumerate(sides):
        rates = [1 / each.figures[place].median for each in shown.values()]
        axes.plot(range(len(rates)), rates, color=_colour(side), marker="o", markersize=4, linewidth=1.4)
        last[side] = rates[-1]
        highest = max(highest, *rates)
    for side, at in apart(last, LABEL_GAP * highest).items():
        label = f"{SHORT[side]} {last[side] / 1000:.3g} k"
        axes.annotate(
            *(label, (len(shown) - 1, at)), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xticks(range(len(shown)), [str(count) for count in shown])
    axes.set_xlim(-0.1, max(1, len(shown) - 1) * 2.2)
    axes.set_ylim(0, highest * 1.06)
    axes.set_yticks([])
    pictures.frameless(axes)


def _bars(axes: Any, title: str, by_name: dict[tuple[str, str], Measured], said: Callable[[float], str]) -> None:
    """A bar for p50 and one for p99 of each side."""
    axes.set_title(title, loc="left")
    names, row = [], 0
    for metric in (P50, P99):
        measured = by_name.get((scenarios.LIVE, case_name(ADDED, metric[1])))
        for figure in measured.figures if measured is not None else ():
            axes.barh([row], [max(figure.median, 0)], height=0.6, color=_colour(figure.side))
            axes.annotate(
                *(said(figure.median), (max(figure.median, 0), row)),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            names.append(f"{SHORT[figure.side]}\n{metric[1]}")
            row += 1
    axes.set_yticks(range(row), names)
    axes.set_ylim(row - 0.5, -0.7)
    axes.margins(x=0.4)
    axes.set_xticks([])
    pictures.frameless(axes, across="x")
