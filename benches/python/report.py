"""Figures as text for the terminal and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import fill

from benches.python.cases import contexts, engines, events, permits, sockets
from benches.python.instructions import Count
from benches.python.measure import Case, Figure, Measured, Unit
from benches.python.targets import Rule, Verdict

NOISE = 0.9
"""Ratios nearer to 1 than this say nothing on a shared machine."""

INTRODUCTION = """\
# Benchmarks

Written by `make bench`. Do not edit it: the next run replaces it.

All sides of a case were measured in one run, in turns, with the garbage collector on. Times are processor time, so
that what other processes take is not part of them. A ratio is the median over the repeats of the ratio within one
repeat. Trust the ratios more than the absolute figures, which belong to this machine and vary with its load. The peers
are in `benches/python/peers/`, so that anyone can check that they do the same work.
"""

TARGETS = """\
A ratio against a peer is of the same run; a time and a size are medians. "x as fast" divides the peer's time by
isolane's, "x the time" isolane's by the peer's, "x the rate" isolane's messages a second by the peer's. A missed target
fails nothing: it is printed as missed.
"""

CASES = """\
"best" is the best of the repeats. The last column says how the peer compares; where all sides are isolane, it says how
the cost grows.
"""

INSTRUCTIONS = """\
Instructions of the CPU for one operation, counted by valgrind's callgrind, system calls left out. Unlike times they do
not depend on what else the machine does. They leave out waiting for memory, so their ratios are not those of the times.
The garbage collector was off, the hash seed fixed.
"""


def number(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time with three digits and a fitting unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{number(seconds * factor)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def value(unit: Unit, figure: float) -> str:
    """A figure of a case in its unit."""
    if unit is Unit.BYTES:
        return f"{figure:.0f} B"
    if unit is Unit.COUNT:
        return number(figure)
    if unit is Unit.MESSAGES:
        return f"{number(1e-3 / figure)} k/s"
    return duration(figure)


def ratio(case: Case, own: Figure, other: Figure) -> str:
    """How another side compares with the first, in words that need no legend."""
    factor = other.times(own)
    if case.own or other.side.startswith("isolane"):
        return f"{factor:.2f}x the cost of: {own.side}"
    if NOISE < factor < 1 / NOISE:
        return f"{factor:.2f}x (about the same)"
    side = "isolane" if factor > 1 else "the peer"
    return f"{factor:.2g}x ({side} is {'smaller' if case.unit is Unit.BYTES else 'faster'})"


def rows(measured: Measured) -> list[tuple[str, str, str, str, str]]:
    """One row for each side: case, side, best, median, ratio."""
    case, figures = measured.case, measured.figures
    if not figures:
        return [(case.name, "SKIPPED", "", "", "")]
    own = figures[0]
    return [
        (
            case.name if figure is own else "",
            figure.side,
            value(case.unit, figure.minimum),
            value(case.unit, figure.median),
            "" if figure is own else ratio(case, own, figure),
        )
        for figure in figures
    ]


def limit(verdict: Verdict) -> str:
    """A target's limit, with what it is measured against."""
    target = verdict.target
    match target.rule:
        case Rule.SPEEDUP:
            return f"≥ {target.limit:g}x as fast as: {target.peer}"
        case Rule.SHARE:
            return f"≤ {target.limit:g}x the time of: {target.peer}"
        case Rule.RATE:
            return f"≥ {target.limit:g}x the rate of: {target.peer}"
        case Rule.TIME:
            return f"≤ {duration(target.limit)}"
        case Rule.EXTRA:
            return f"≤ {duration(target.limit)} more than: {target.peer}"
        case Rule.BYTES:
            return f"≤ {target.limit:g} bytes"


def result(verdict: Verdict) -> str:
    """What was measured for a target."""
    if verdict.measured is None:
        return "none"
    if verdict.target.rule is Rule.TIME:
        return f"{duration(verdict.measured)}, best {duration(verdict.best)}"
    if verdict.target.rule is Rule.EXTRA:
        return f"{duration(verdict.measured)} more"
    if verdict.target.rule is Rule.BYTES:
        return f"{verdict.measured:.0f} bytes"
    return f"{verdict.measured:.3g}x" if verdict.measured >= 10 else f"{verdict.measured:.2f}x"


def met(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "not measured"
    return "yes" if verdict.met else "missed"


def tally(judged: Sequence[Verdict]) -> str:
    """How many targets are met, in a sentence."""
    done = sum(verdict.met for verdict in judged)
    unknown = sum(verdict.measured is None for verdict in judged)
    text = f"{done} of {len(judged)} targets are met, {len(judged) - done - unknown} missed"
    return f"{text}, {unknown} not measured." if unknown else f"{text}."


SUMMARY = (
    (contexts.GROUP, contexts.CREATED, contexts.DATACLASS),
    (contexts.GROUP, contexts.READ_TREE, contexts.DATACLASS),
    (contexts.GROUP, contexts.CHILD_TREE, contexts.DATACLASS),
    (permits.GROUP, permits.FREE, permits.NESTED),
    (permits.GROUP, permits.ONE_USER, permits.SEMAPHORE),
    (events.GROUP, events.PUBLISH, events.QUEUE),
    (engines.GROUP, engines.CREATE, engines.PEER),
    (sockets.GROUP, sockets.DRAIN, sockets.BARE),
)
"""The cases that README.md shows, each with one peer."""


def summary(results: Sequence[Measured], judged: Sequence[Verdict]) -> str:
    """The table of README.md."""
    lines = ["| what | isolane | peer | compared |", "|---|--:|---|---|"]
    by_name = {(measured.case.group, measured.case.name): measured for measured in results}
    for group, name, peer in SUMMARY:
        measured = by_name.get((group, name))
        other = measured.figure(peer) if measured is not None else None
        if measured is None or other is None:
            continue
        own, unit = measured.figures[0], measured.case.unit
        against = f"{peer} {value(unit, other.minimum)}"
        lines.append(
            f"| {group}: {name} | {value(unit, own.minimum)} | {against} | {ratio(measured.case, own, other)} |"
        )
    return "\n".join([*lines, "", tally(judged)])


HEAD = ("what", "side", "best", "median", "compared")
TARGET_HEAD = ("what", "target", "measured", "met")
COUNT_HEAD = ("what", "side", "instructions", "to the first side")


def plain_table(head: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    widths = [max(len(row[column]) for row in [head, *table]) for column in range(len(head))]
    lines = []
    for row in [head, *table]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(head: Sequence[str], table: Sequence[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """The lines of a table for a document; `right` names the columns of figures."""
    rule = "|".join("--:" if name in right else "---" for name in head)
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in table)]


def target_rows(judged: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """One row for each target."""
    return [(each.target.what, limit(each), result(each), met(each)) for each in judged]


def count_rows(counts: Sequence[Count]) -> Iterator[tuple[str, str, str, str]]:
    """One row for each side: case, side, instructions, ratio to the first side."""
    for (_, case), sides in groupby(counts, lambda count: (count.group, count.case)):
        own, *others = sides
        yield case, own.side, f"{own.instructions:,.0f}", ""
        for other in others:
            yield "", other.side, f"{other.instructions:,.0f}", f"{other.instructions / own.instructions:.3g}x"


def notes(measured: Measured) -> list[str]:
    """What a reader has to know of a case, or why it was skipped."""
    case = measured.case
    skipped = [f"{case.name}: SKIPPED: {case.skipped}"] if case.skipped else []
    return [*skipped, *([f"{case.name}: {case.note}"] if case.note else [])]


def text(results: Sequence[Measured]) -> str:
    """All cases for a terminal."""
    skipped = [line for measured in results if measured.case.skipped for line in notes(measured)]
    return "\n".join([plain_table(HEAD, [row for measured in results for row in rows(measured)]), *skipped])


def target_text(judged: Sequence[Verdict]) -> str:
    """The targets for a terminal."""
    return f"{plain_table(TARGET_HEAD, target_rows(judged))}\n{tally(judged)}"


def count_text(counts: Sequence[Count]) -> str:
    """The instructions for a terminal."""
    return plain_table(COUNT_HEAD, list(count_rows(counts)))


def floor_lines(judged: Sequence[Verdict]) -> list[str]:
    """Why less is to be had than the missed targets ask for, each reason once."""
    reasons: dict[str, list[str]] = {}
    for verdict in judged:
        if verdict.measured is not None and not verdict.met and verdict.target.floor:
            reasons.setdefault(verdict.target.floor, []).append(verdict.target.what)
    return [
        fill(f"- {'; '.join(dict.fromkeys(names))}: {floor}", 120, subsequent_indent="  ", break_long_words=False)
        for floor, names in reasons.items()
    ]


def markdown(
    results: Sequence[Measured],
    judged: Sequence[Verdict],
    counts: Sequence[Count] | str,
    machine: Mapping[str, str],
    plot: str = "",
) -> str:
    """The report as a document. `counts` is a text when nothing was counted: why; `plot` is the image's path."""
    lines = [INTRODUCTION, "## Targets", "", TARGETS, tally(judged), ""]
    lines += markdown_table(TARGET_HEAD, target_rows(judged), ("measured",))
    floors = floor_lines(judged)
    lines += ["", "Where less than the target is to be had:", "", *floors] if floors else []
    if plot:
        alternative = "Bars: how many times better or worse than its target each figure is"
        lines += ["", f"![{alternative}]({plot})"]
    lines += ["", "## Machine", "", *(f"- {name}: {said}" for name, said in machine.items())]
    lines += ["", "## All cases", "", CASES]
    for group, members in groupby(results, lambda measured: measured.case.group):
        cases = list(members)
        table = [row for each in cases for row in rows(each)]
        lines += [f"### {group}", "", *markdown_table(HEAD, table, ("best", "median"))]
        lines += [line for each in cases for note in notes(each) for line in ("", fill(note, 120))]
        lines.append("")
    lines += ["## Instructions", "", INSTRUCTIONS]
    if isinstance(counts, str):
        lines.append(f"SKIPPED: {counts}")
    else:
        lines += markdown_table(COUNT_HEAD, list(count_rows(counts)), ("instructions", "to the first side"))
    return "\n".join([*lines, ""])
