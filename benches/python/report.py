"""Figures as text for the terminal and as Markdown."""

from collections.abc import Mapping, Sequence

from benches.python.measure import Case, Figure

Measured = tuple[Case, list[Figure]]

NOISE = 0.9
"""Ratios nearer to 1 than this say nothing on a shared machine."""

INTRODUCTION = """\
# Benchmarks

Written by `make bench`. Do not edit it: the next run replaces it.

All sides of a case were measured in one run, in turns, with the garbage collector on. A figure is the time of one
operation. The ratio is the peer's time divided by isolane's, the median over the repeats: above 1 isolane is faster,
below 1 the peer is. Trust the ratios more than the absolute figures, which belong to this machine and vary with its
load. The peers are in `benches/python/peers/`, so that anyone can check that they do the same work.
"""


def duration(seconds: float) -> str:
    """A time with three digits and a fitting unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def ratio(own: Figure, peer: Figure) -> str:
    """How the peer compares, in words that need no legend."""
    factor = peer.times_slower_than(own)
    if NOISE < factor < 1 / NOISE:
        return f"{factor:.2f}x (about the same)"
    side = "isolane" if factor > 1 else "the peer"
    return f"{factor:.2g}x ({side} is faster)"


def rows(measured: Measured) -> list[tuple[str, str, str, str, str]]:
    """One row for each side: case, side, minimum, median, ratio."""
    case, figures = measured
    own = figures[0]
    return [
        (
            case.name if figure is own else "",
            figure.side,
            duration(figure.minimum),
            duration(figure.median),
            "" if figure is own else ratio(own, figure),
        )
        for figure in figures
    ]


SUMMARY = (
    "created, empty",
    "created and every field read, empty",
    "created and every field read, 66 values",
    "child, 66 values",
    "free permit, user and process limit",
    "1000 tasks, limit 5, per task: one user",
    "publish(264-byte dict); log with room",
    "publish(264-byte dict); full log: isolane folds, the peer drops",
    "create_for_user and cleanup_engine",
)
"""The cases that README.md shows, each with its first peer."""


def summary(results: Sequence[Measured]) -> str:
    """The table of README.md."""
    lines = ["| what | isolane | peer | peer / isolane |", "|---|--:|---|---|"]
    for case, figures in results:
        if case.name not in SUMMARY:
            continue
        own, *peers = figures
        peer = f"{peers[0].side} {duration(peers[0].minimum)}" if peers else "none"
        lines.append(f"| {case.name} | {duration(own.minimum)} | {peer} | {ratio(own, peers[0]) if peers else ''} |")
    return "\n".join(lines)


HEAD = ("what", "side", "min", "median", "peer / isolane")


def text(results: Sequence[Measured]) -> str:
    """A table for a terminal."""
    table = [row for measured in results for row in rows(measured)]
    widths = [max(len(row[column]) for row in [HEAD, *table]) for column in range(len(HEAD))]
    lines = []
    for row in [HEAD, *table]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(results: Sequence[Measured], machine: Mapping[str, str], load: str) -> str:
    """The report as a document."""
    lines = [INTRODUCTION]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines.append(f"- load average before the run: {load}")
    group = None
    for measured in results:
        case, _ = measured
        if case.group != group:
            group = case.group
            lines += ["", f"## {group}", "", f"| {' | '.join(HEAD)} |", "|---|---|--:|--:|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(measured)]
    return "\n".join([*lines, ""])
