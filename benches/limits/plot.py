"""The limit over time when the backend changes, and the latency there, as one picture for light and dark pages."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benches.limits.figures import Summary
from benches.limits.limiters import LIMITERS, OURS
from benches.limits.scenarios import ALL, Scenario
from benches.limits.station import run

PAGE = {
    "paper": ("#fefefe", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "quiet": ("#656d76", "#8d96a0"),
    "grid": ("#d8dee4", "#30363d"),
}
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


def _themed(svg: str) -> str:
    colours = PAGE | {f"line{number}": colour for number, colour in enumerate(LINES.values())}
    for name, (light, _) in colours.items():
        svg = re.sub(rf"{light}\b", f"var(--{name})", svg, flags=re.IGNORECASE)
    light = ";".join(f"--{name}:{colour[0]}" for name, colour in colours.items())
    dark = ";".join(f"--{name}:{colour[1]}" for name, colour in colours.items())
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: f"{match[1]}\n {style}", svg, count=1)


def traces(scenario: Scenario, seed: int) -> dict[str, list[int]]:
    """The limit in each second, for each limiter that is drawn."""
    arrivals, works = scenario.draw(seed)
    return {name: run(scenario, arrivals, works, LIMITERS[name](scenario)).limits for name in LINES}


def draw(found: Mapping[tuple[str, str], Summary], seed: int, output: Path) -> None:
    """Write the picture. Raises `ImportError` without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - only the document needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    colour = {name: colours[0] for name, colours in PAGE.items()}
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "isolane",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
        "font.size": 9,
        "axes.edgecolor": colour["grid"],
        "axes.facecolor": colour["paper"],
        "text.color": colour["ink"],
        "axes.labelcolor": colour["quiet"],
        "xtick.color": colour["quiet"],
        "ytick.color": colour["quiet"],
        "axes.titlesize": 9,
        "axes.titlecolor": colour["ink"],
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(11.0, 6.2), facecolor=colour["paper"])
        places = figure.add_gridspec(
            2, len(TRACED), hspace=0.42, wspace=0.16, left=0.06, right=0.98, top=0.87, bottom=0.08
        )
        scenarios = {scenario.key: scenario for scenario in ALL}
        for column, key in enumerate(TRACED):
            _trace(figure.add_subplot(places[0, column]), scenarios[key], seed, colour, first=column == 0)
        _latencies(figure.add_subplot(places[1, :]), found, colour)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor=colour["paper"], metadata={"Date": None, "Creator": None})
    # A hundredth of a point is finer than anybody sees, and a third of the size.
    rounded = re.sub(r"(\d\.\d\d)\d+", r"\1", buffer.getvalue())
    svg = re.sub(r"[ \t]+$", "", _themed(rounded), flags=re.MULTILINE)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(svg, encoding="utf-8")


def _plain(axes: Any, colour: Mapping[str, str]) -> None:
    axes.grid(visible=True, axis="y", color=colour["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", length=0)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


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
    _plain(axes, colour)


def _latencies(axes: Any, found: Mapping[tuple[str, str], Summary], colour: Mapping[str, str]) -> None:
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
    _plain(axes, colour)
