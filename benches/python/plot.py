"""The figures against their targets, as one picture for light and dark pages."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

from benches.python.report import limit, result
from benches.python.targets import Rule, Verdict

MISSING = "matplotlib is not installed, so no plot was drawn: pip install -r requirements/dev.txt"

COLOURS = {
    "paper": ("#fefefe", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "quiet": ("#656d76", "#8d96a0"),
    "grid": ("#d8dee4", "#30363d"),
    "met": ("#1a7f37", "#3fb950"),
    "missed": ("#bc4c00", "#f0883e"),
}
"""Names, and their colours on light and dark pages. The light ones stand in the drawing and are replaced by variables,
so each must occur under one name only."""

ROW = 0.27
"""Height of a bar's row in inches."""
WIDTH = 11.0
LOWEST = 0.3
HIGHEST = 3.2
"""The axis reaches at least from here to there, in times of the target."""


def against(verdict: Verdict) -> str:
    """A bar's name: what is measured, and against whom."""
    target = verdict.target
    return f"{target.what} (vs {target.peer})" if target.peer else target.what


def label(verdict: Verdict) -> str:
    """What stands beside a bar: the figure and its limit."""
    sign = "≥" if verdict.target.rule in {Rule.SPEEDUP, Rule.RATE} else "≤"
    bound = limit(verdict).removeprefix(sign).split(" as fast", maxsplit=1)[0].split(" the ", maxsplit=1)[0]
    bound = bound.split(" more than", maxsplit=1)[0].strip()
    return f"{result(verdict)}  ({sign} {bound})"


def _themed(svg: str) -> str:
    """Replace the colours by variables that follow the page."""
    for name, (light, _) in COLOURS.items():
        svg = re.sub(rf"{light}\b", f"var(--{name})", svg, flags=re.IGNORECASE)
    light = ";".join(f"--{name}:{colours[0]}" for name, colours in COLOURS.items())
    dark = ";".join(f"--{name}:{colours[1]}" for name, colours in COLOURS.items())
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: f"{match[1]}\n {style}", svg, count=1)


def draw(judged: Sequence[Verdict], output: Path) -> None:
    """Write the picture. Raises `ImportError` without matplotlib.

    A bar begins at the line of its target and ends at the figure: to the right when it is better, to the left when it
    is worse. The axis is logarithmic, so that twice as good is as long as half as good.
    """
    import matplotlib as mpl  # noqa: PLC0415 - only the document needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = [(verdict, verdict.score) for verdict in judged if verdict.score is not None]
    colour = {name: colours[0] for name, colours in COLOURS.items()}
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "isolane",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
        "font.size": 9,
        "axes.edgecolor": colour["grid"],
        "text.color": colour["ink"],
        "axes.labelcolor": colour["quiet"],
        "xtick.color": colour["quiet"],
        "ytick.color": colour["ink"],
    }
    with mpl.rc_context(settings):
        groups = [verdict.target.group for verdict, _ in shown]
        # A gap between two groups is part of a row.
        places = []
        at = 0.0
        for index, group in enumerate(groups):
            at += 1.0 if index == 0 or groups[index - 1] == group else 1.5
            places.append(at)
        figure = Figure(figsize=(WIDTH, ROW * (at + 1) + 1.0), facecolor=colour["paper"])
        axes = figure.add_subplot(facecolor=colour["paper"])
        scores = [math.log2(score) for _, score in shown]
        axes.barh(
            places,
            scores,
            height=0.66,
            color=[colour["met" if verdict.met else "missed"] for verdict, _ in shown],
        )
        low = min(math.log2(LOWEST), *scores) if scores else -2
        high = max(math.log2(HIGHEST), *scores) if scores else 2
        span = high - low
        for place, score, (verdict, _) in zip(places, scores, shown, strict=True):
            right = score >= 0
            axes.annotate(
                label(verdict) if verdict.met else f"{label(verdict)}  missed",
                # Beside the longer end: text of a missed target stands right of the line, where its bar is not.
                (score if right else 0, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": colour["paper"], "edgecolor": "none", "pad": 1},
            )
        axes.axvline(0, color=colour["ink"], linewidth=1.2)
        axes.set_xlim(low - 0.05 * span, high + 0.35 * span)
        ticks = [power for power in range(math.floor(low), math.ceil(high) + 1) if low - 0.05 * span <= power <= high]
        axes.set_xticks(ticks, [_tick(power) for power in ticks])
        axes.set_yticks(places, [against(verdict) for verdict, _ in shown])
        axes.set_ylim(at + 0.8, 0.2)
        axes.tick_params(axis="both", length=0)
        axes.grid(visible=True, axis="x", color=colour["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel("times better than the target, logarithmic; right of the line it is met")
        figure.tight_layout()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor=colour["paper"], metadata={"Date": None, "Creator": None})
    svg = re.sub(r"[ \t]+$", "", _themed(buffer.getvalue()), flags=re.MULTILINE)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(svg, encoding="utf-8")


def _tick(power: int) -> str:
    if power == 0:
        return "target"
    return f"{2**power}x" if power > 0 else f"1/{2**-power}x"
