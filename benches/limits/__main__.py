"""`python -m benches.limits`: limits in virtual time, against others and thresholds. A missed threshold fails."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from benches.limits import fairness, figures, nesting, plot, report, thresholds
from benches.limits.limiters import LIMITERS, OURS
from benches.limits.scenarios import ALL, JUDGED_ON
from benches.limits.thresholds import Verdict

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "limits-benchmark.md"
PLOT = Path("images") / "limits-benchmark.svg"
QUICK_LIMITERS = (OURS, "Envoy", "Gradient2")
FLOOD_SEEDS = range(3)
MISSING = "matplotlib is not installed, so no plot was drawn: pip install -r requirements/dev.txt"

Task, Found = TypeVar("Task"), TypeVar("Found")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _each(work: Callable[[Task], Found], tasks: Sequence[Task], processes: int, what: str) -> list[Found]:
    """The results in the order of the tasks, whichever process ends first."""
    _say(f"{what}: {len(tasks)} runs")
    # Started anew and not forked: the core refuses what belongs to a parent.
    with get_context("spawn").Pool(processes) as pool:
        return list(pool.imap(work, tasks))


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benches.limits", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few seeds and others, shorter floods, no document")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    parser.add_argument("--output", type=Path, help="write the document here (default: docs/limits-benchmark.md)")
    options = parser.parse_args()
    seeds = JUDGED_ON[:3] if options.quick else JUDGED_ON
    limiters = QUICK_LIMITERS if options.quick else tuple(LIMITERS)
    seconds = 60.0 if options.quick else 400.0

    tasks = [(scenario.key, seed, limiters) for scenario in ALL for seed in seeds]
    measured = _each(figures.measure_seed, tasks, options.processes, "adaptive limits")
    found = figures.summarize([row for rows in measured for row in rows])
    flooded = [
        (order, keys, seed, seconds)
        for order in fairness.ORDERS
        for keys in (1, 10)
        for seed in (FLOOD_SEEDS[:1] if options.quick else FLOOD_SEEDS)
    ]
    floods = fairness.average_flood(_each(fairness.flood, flooded, options.processes, "floods"))
    crowds = [(order, crowd.key, 0, 400.0) for crowd in fairness.CROWDS for order in ("round robin", OURS)]
    shares = _each(fairness.backlog, crowds, options.processes, "backlogs")
    trees = [nesting.tree(way) for way in (nesting.NAIVE, nesting.OURS)]
    runs = [nesting.pipelines(None), nesting.pipelines(nesting.LIMIT)]

    judged: list[Verdict] = [
        *thresholds.acceptance(found),
        *thresholds.against_references(found),
        *fairness.verdicts(floods, shares),
        *nesting.verdicts(trees, runs),
    ]
    print(report.verdict_table(judged))
    missed = [verdict for verdict in judged if not verdict.met]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} thresholds are met, on seeds {seeds[0]} to {seeds[-1]}.")
    output = options.output or (None if options.quick else DOCUMENT)
    if output is not None:
        drawn = PLOT.as_posix()
        try:
            plot.draw(found, seeds[0], output.parent / PLOT)
        except ImportError:
            _say(f"SKIPPED: {MISSING}")
            drawn = ""
        span = f"{seeds[0]} to {seeds[-1]}"
        text = report.document(found, floods, shares, trees, runs, judged, span, drawn, nesting.LIMIT)
        output.write_text(text, encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
