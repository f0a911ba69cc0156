"""The limit over time when the backend changes, and the latency there, as one picture for light and dark pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benches import pictures
from benches.limits.figures import Summary
from benches.limits.limiters import LIMITERS, OURS
from benches.limits.scenarios import ALL, Scenario
from benches.limits.station import run

LINES = {
    OURS: ("#0a7d38", "#3fb950"),
    "Envoy": ("#b35900", "#f0883e"),
    "Gradient2": ("#8250df", "#bc8cff"),
    "failsafe-go": ("#0969da", "#58a6ff"),
    "Vegas, windowed": ("#bf3989", "#f778ba"),
}
"""Limiters, and their colours on light and dark pages. Each light colour of the picture occurs under one name only."""
TRACED = ("S4", "S5", "S9")
FROM, UNTIL = 60, 300
HIGHEST = 45
COLOURS = pictures.PAGE | {f"line{number}": colour for number, colour in enumerate(LINES.values())}


def traces(scenario: Scenario, seed: int) -> dict[str, list[int]]:
    """The limit in each second, for each limiter that is drawn."""
    arrivals, works = scenario.draw(seed)
    return {name: run(scenario, arrivals, works, LIMITERS[name](scenario)).limits for name in LINES}


def draw(found: Mapping[tuple[str, str], Summary], seed: int, output: Path) -> None:
    """Write the picture. Raises `ImportError` without matplotlib."""
    colour = pictures.light(pictures.PAGE)
    with pictures.style():
        from matplotlib.figure import Figure  # noqa: PLC0415 - only the document needs it

        figure = Figure(figsize=(11.0, 6.2), facecolor=colour["paper"])
        places = figure.add_gridspec(
            2, len(TRACED), hspace=0.42, wspace=0.16, left=0.06, right=0.98, top=0.87, bottom=0.08
        )
        scenarios = {scenario.key: scenario for scenario in ALL}
        for column, key in enumerate(TRACED):
            _trace(figure.add_subplot(places[0, column]), scenarios[key], seed, colour, first=column == 0)
        _latencies(figure.add_subplot(places[1, :]), found)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
        pictures.write(figure, COLOURS, output, rounded=True)


def _trace(axes: Any, scenario: Scenario, seed: int, colour: Mapping[str, str], *, first: bool) -> None:
    seconds = range(FROM, UNTIL + 1)
    dead = scenario.dead or (0, 0)
    servers = [0 if dead[0] <= second < dead[1] else scenario.at(scenario.servers, second) for second in seconds]
    axes.fill_between(seconds, servers, step="mid", color=colour["grid"], alpha=0.6, linewidth=0, label="servers")
    for name, limits in traces(scenario, seed).items():
        ours = name == OURS
        shown = range(FROM, min(UNTIL, len(limits)))
        axes.plot(
            shown,
            [limits[second] for second in shown],
            color=LINES[name][0],
            linewidth=1.7 if ours else 1.0,
            zorder=3 if ours else 2,
            label=name,
        )
    axes.set_xlim(FROM, UNTIL)
    axes.set_ylim(0, HIGHEST)
    axes.set_title(f"{scenario.key}: {scenario.what}", loc="left")
    axes.set_xlabel("seconds")
    if first:
        axes.set_ylabel("limit")
    pictures.frameless(axes)


def _latencies(axes: Any, found: Mapping[tuple[str, str], Summary]) -> None:
    keys: Sequence[str] = [scenario.key for scenario in ALL]
    for number, name in enumerate(LINES):
        shown = [(place, found[key, name].p50) for place, key in enumerate(keys) if (key, name) in found]
        if shown:
            axes.scatter(
                [place + (number - len(LINES) / 2 + 0.5) * 0.11 for place, _ in shown],
                [value for _, value in shown],
                color=LINES[name][0],
                s=42 if name == OURS else 24,
                zorder=3,
            )
    axes.set_yscale("log")
    ticks = [1, 1.5, 2, 3, 5, 10, 20, 30]
    axes.set_yticks(ticks, [f"{tick:g}x" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xticks(range(len(keys)), keys)
    axes.set_title(
        "median latency in the backend, relative to the oracle's; the lower the shorter the queue there", loc="left"
    )
    pictures.frameless(axes)
