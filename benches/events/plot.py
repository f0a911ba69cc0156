"""Latencies, memory and coming back as one picture for light and dark pages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benches import pictures
from benches.events import scenarios
from benches.events.report import Results
from benches.events.scenarios import HELD, PERCENTILES
from benches.events.shape import LABELS, Sizes, Way
from benches.python import report
from benches.python.measure import Figure, Measured

LINES = {
    Way.ISOLANE: ("#0a7d38", "#3fb950"),
    Way.BARE: ("#0969da", "#58a6ff"),
    Way.SOCKETIO: ("#b35900", "#f0883e"),
    Way.UVICORN: ("#8b949f", "#6e7682"),
    Way.FASTAPI: ("#59636f", "#8b949e"),
}
"""The colours of the ways on light and dark pages."""
COLOURS = pictures.PAGE | {f"line{number}": pair for number, pair in enumerate(LINES.values())}
BY_LABEL = {label: LINES[way][0] for way, label in LABELS.items()}
SHORT = {LABELS[Way.ISOLANE]: "isolane", LABELS[Way.BARE]: "bare loop", LABELS[Way.FASTAPI]: "idle route"}
MARKS = {"p50": "o", "p99": "D", "max": "|"}
POWERS = range(-5, 3)
"""Of ten: the seconds that an axis can have a line at."""


def draw(results: Results, sizes: Sizes, output: Path) -> None:
    """Write the picture. Raises `ImportError` without matplotlib."""
    with pictures.style(ytick_color=pictures.PAGE["ink"][0]):
        from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - only the document needs it

        figure = Picture(figsize=(11.0, 4.6), facecolor=pictures.PAGE["paper"][0])
        places = figure.add_gridspec(2, 6, hspace=0.6, wspace=1.6, left=0.1, right=0.985, top=0.87, bottom=0.07)
        for column, load in enumerate(sizes.loads[:2]):
            axes = figure.add_subplot(places[0, 3 * column : 3 * column + 3])
            _percentiles(axes, load.name, results.of_scenario(scenarios.LIVE, load.name, PERCENTILES))
        _memory(figure.add_subplot(places[1, :2]), sizes, results)
        back = (
            (sizes.resume, "p99", f"{sizes.missed} missed events, p99"),
            (sizes.reconnect, "max", f"{sizes.clients} clients at once, the last one"),
        )
        for column, (name, metric, what) in enumerate(back, 1):
            axes = figure.add_subplot(places[1, 2 * column : 2 * column + 2])
            axes.set_title(what, loc="left")
            found = results.of_scenario(scenarios.RETURN, name, PERCENTILES).get(metric)
            _bars(axes, found, lambda bar: report.duration(bar.median))
        figure.text(0.1, 0.95, "published to read by the client: p50 (dot), p99 (diamond), maximum (line)", fontsize=9)
        pictures.write(figure, COLOURS, output, rounded=True)


def _percentiles(axes: Any, title: str, found: dict[str, Measured]) -> None:
    """A line for each side from its p50 to its maximum, and the figures beside it."""
    axes.set_title(title, loc="left")
    sides = [figure.side for figure in found["p50"].figures] if found else []
    for place, side in enumerate(sides):
        figures = [(name, measured.figures[place]) for name, measured in found.items()]
        values = [max(each.values) if name == "max" else each.median for name, each in figures]
        axes.plot([values[0], values[-1]], [place, place], color=BY_LABEL[side], linewidth=1.4, alpha=0.5)
        for name, value in zip(found, values, strict=True):
            axes.scatter([value], [place], marker=MARKS[name], s=90 if name == "max" else 32, color=BY_LABEL[side])
        axes.annotate(
            " · ".join(report.duration(value) for value in values),
            (values[0], place),
            xytext=(0, 7),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.margins(x=0.05)
    low, high = axes.get_xlim()
    shown = [10.0**power for power in POWERS if low <= 10.0**power <= high]
    axes.set_xticks(shown, [f"{1e3 * place:g} ms" for place in shown])
    _rows(axes, sides)
    pictures.frameless(axes, across="x")


def _rows(axes: Any, sides: Sequence[str]) -> None:
    axes.set_yticks(range(len(sides)), [SHORT.get(side, side) for side in sides])
    axes.set_ylim(len(sides) - 0.5, -0.7)


def _bars(axes: Any, measured: Measured | None, said: Callable[[Figure], str]) -> None:
    """A bar for each side, with its figure in words. They begin at nothing, so that their lengths can be compared."""
    figures = measured.figures if measured is not None else ()
    for place, figure in enumerate(figures):
        axes.barh([place], [figure.median], height=0.6, color=BY_LABEL[figure.side])
        axes.annotate(
            *(said(figure), (figure.median, place)),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    _rows(axes, [figure.side for figure in figures])
    axes.margins(x=0.6)
    axes.set_xticks([])
    pictures.frameless(axes, across="x")


def _memory(axes: Any, sizes: Sizes, results: Results) -> None:
    axes.set_title("an idle connection", loc="left")
    held = results.of_scenario(scenarios.MEMORY, sizes.held, (HELD,)).get(HELD[0])
    _bars(axes, held, lambda bar: f"{bar.median / 1024:.1f} KiB")
