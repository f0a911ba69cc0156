"""`python -m benches.python`: measure, print, and write docs/benchmarks.md and its plot. Slow is no failure."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benches.python import machine, plot, report
from benches.python.cases import all_cases
from benches.python.instructions import Count, NotCountedError, count
from benches.python.measure import Effort, Measured, measure
from benches.python.targets import Verdict, verdicts

DOCUMENT = machine.ROOT / "docs" / "benchmarks.md"
PLOT = Path("images") / "benchmarks.svg"
README = machine.ROOT / "README.md"
MARKED = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)
"""What README.md shows of the figures."""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure_all(effort: Effort, only: str) -> list[Measured]:
    results = []
    for case in all_cases(thorough=effort.thorough):
        if only.lower() not in f"{case.group} {case.name}".lower():
            continue
        measured = measure(case, effort)
        results.append(measured)
        shown = ", ".join(f"{figure.side} {report.value(case.unit, figure.minimum)}" for figure in measured.figures)
        _say(f"{case.group}: {case.name}: {shown or f'SKIPPED: {case.skipped}'}")
    return results


def _count(only: str = "") -> list[Count] | str:
    _say("counting instructions")
    try:
        return count(only)
    except NotCountedError as error:
        _say(f"SKIPPED: {error}")
        return str(error)


def _draw(judged: Sequence[Verdict], document: Path) -> str:
    """Draw the plot beside the document. Returns its path from there, or nothing without matplotlib."""
    try:
        plot.draw(judged, document.parent / PLOT)
    except ImportError:
        _say(f"SKIPPED: {plot.MISSING}")
        return ""
    return PLOT.as_posix()


def _print_counts(counts: list[Count] | str) -> None:
    print(f"\nInstructions: SKIPPED: {counts}" if isinstance(counts, str) else f"\n{report.count_text(counts)}")


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benches.python", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few repeats, no instructions, no document: shows that it runs"
    )
    parser.add_argument(
        "--only", default="", metavar="WORD", help="cases whose group or name contains WORD; no document"
    )
    parser.add_argument("--instructions", action="store_true", help="only count instructions; no document")
    parser.add_argument(
        "--output", type=Path, help="write the document here (default: docs/benchmarks.md and its summary in README.md)"
    )
    options = parser.parse_args()
    if options.instructions:
        _print_counts(_count(options.only))
        return 0
    started = time.monotonic()
    about = {**machine.describe(), "load average before the run": machine.load()}
    results = _measure_all(Effort.quick() if options.quick else Effort.full(), options.only)
    judged = verdicts(results)
    print(report.text(results))
    if options.only:
        judged = [verdict for verdict in judged if verdict.measured is not None]
    if judged:
        print(f"\n{report.target_text(judged)}")
    output = options.output or (None if options.quick or options.only else DOCUMENT)
    if output is None:
        return 0
    counts = _count()
    _print_counts(counts)
    about["time of the run"] = f"{time.monotonic() - started:.0f} s"
    drawn = _draw(judged, output)
    output.write_text(report.markdown(results, judged, counts, about, drawn), encoding="utf-8")
    if output == DOCUMENT:
        table = f"{report.summary(results, judged)}\n"
        text = README.read_text(encoding="utf-8")
        README.write_text(MARKED.sub(lambda _: table, text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
