"""The figures against their targets, as one picture for light and dark pages."""

import math
from collections.abc import Sequence
from pathlib import Path

from benches import pictures
from benches.python.report import limit, result
from benches.python.targets import Rule, Verdict

MISSING = pictures.MISSING

COLOURS = pictures.PAGE | {"met": ("#1a7f37", "#3fb950"), "missed": ("#bc4c00", "#f0883e")}

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


def draw(judged: Sequence[Verdict], output: Path) -> None:
    """Write the picture. Raises `ImportError` without matplotlib.

    A bar begins at the line of its target and ends at the figure: to the right when it is better, to the left when it
    is worse. The axis is logarithmic, so that twice as good is as long as half as good.
    """
    shown = [(verdict, verdict.score) for verdict in judged if verdict.score is not None]
    colour = pictures.light(COLOURS)
    with pictures.style(ytick_color=colour["ink"]):
        from matplotlib.figure import Figure  # noqa: PLC0415 - only the document needs it

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
        pictures.frameless(axes, across="x")
        axes.set_xlabel("times better than the target, logarithmic; right of the line it is met")
        figure.tight_layout()
        pictures.write(figure, COLOURS, output)


def _tick(power: int) -> str:
    if power == 0:
        return "target"
    return f"{2**power}x" if power > 0 else f"1/{2**-power}x"
