"""`python -m benches.events`: events on their way to clients, side by side with peers, held against goals."""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from benches import pictures
from benches.events import goals, plot, report, scenarios
from benches.events.commands import too_few_files
from benches.events.report import Results
from benches.events.shape import MISSING, Sizes
from benches.python import machine
from benches.python.cases import events, sockets
from benches.python.measure import Case, Effort, Measured, measure
from benches.python.report import value

DOCUMENT = machine.ROOT / "docs" / "events-benchmark.md"
PLOT = Path("images") / "events-benchmark.svg"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def shared_cases() -> list[Case]:
    """The cases of `make bench` that the goals name."""
    named = {(goal.group, goal.case) for goal in goals.shared()}
    return [case for case in (*events.cases(), *sockets.cases()) if (case.group, case.name) in named]


def _measure_all(sizes: Sizes, effort: Effort, only: str) -> Iterator[Measured]:
    for case in shared_cases():
        if only not in f"{case.group} {case.name}".lower():
            continue
        measured = measure(case, effort)
        shown = ", ".join(f"{figure.side} {value(case.unit, figure.minimum)}" for figure in measured.figures)
        _say(f"{case.group}: {case.name}: {shown or f'SKIPPED: {case.skipped}'}")
        yield measured
    if reason := too_few_files(sizes.files):
        _say(f"SKIPPED: {reason}")
        return
    for scenario in scenarios.all_scenarios(sizes):
        if only not in f"{scenario.group} {scenario.name}".lower():
            continue
        found = scenarios.measure(scenario, sizes.rounds, _say)
        yield from found
        if scenario.group == scenarios.MEMORY:
            yield from (scenarios.beyond(found[0], way) for way in scenarios.BEYOND)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benches.events", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few connections, one round, no document")
    parser.add_argument("--only", default="", metavar="WORD", help="what has WORD in its group or name; no document")
    parser.add_argument("--rounds", type=int, help="repeats of what is measured between a server and its clients")
    parser.add_argument("--output", type=Path, help="write the document here (default: docs/events-benchmark.md)")
    options = parser.parse_args()
    sizes = Sizes.quick() if options.quick else Sizes.full()
    if options.rounds is not None:
        sizes = replace(sizes, rounds=options.rounds)
    effort = Effort.quick() if options.quick else Effort.full()
    started = time.monotonic()
    about = {**machine.describe(), "load average before the run": machine.load()}
    if MISSING:
        _say(f"SKIPPED: {MISSING}")
    else:
        about["python-socketio"] = f"{version('python-socketio')}, python-engineio {version('python-engineio')}"
    results = Results(list(_measure_all(sizes, effort, options.only.lower())))
    judged = goals.verdicts(results.all, sizes)
    if options.only:
        judged = [verdict for verdict in judged if verdict.measured is not None]
    print(report.text(results, sizes, judged))
    output = options.output or (None if options.quick or options.only else DOCUMENT)
    if output is None:
        return 0
    about["time of the run"] = f"{time.monotonic() - started:.0f} s"
    drawn = PLOT.as_posix()
    try:
        plot.draw(results, sizes, output.parent / PLOT)
    except ImportError:
        _say(f"SKIPPED: {pictures.MISSING}")
        drawn = ""
    output.write_text(report.document(results, sizes, judged, about, drawn, MISSING), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
