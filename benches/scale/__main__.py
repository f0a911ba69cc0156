"""`python -m benches.scale`: several workers on one Redis, side by side with peers, held against goals."""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from benches import pictures
from benches.events.commands import too_few_files
from benches.events.shape import MISSING
from benches.python import machine
from benches.python.measure import Measured
from benches.scale import goals, plot, report, scenarios
from benches.scale.server_figures import RedisFigures
from benches.scale.shape import Sizes
from examples.optimizer.shared_redis import NoRedisError, started_redis

DOCUMENT = machine.ROOT / "docs" / "scale-benchmark.md"
PLOT = Path("images") / "scale-benchmark.svg"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure_all(sizes: Sizes, only: str) -> Iterator[Measured]:
    for scenario in scenarios.all_scenarios(sizes):
        if only in f"{scenario.group} {scenario.name}".lower():
            yield from scenarios.measure(scenario, sizes.rounds, _say)


def _redis_version() -> str:
    """Of the program that all measurements start. Raises `NoRedisError` where there is none."""
    with started_redis() as url:
        figures = RedisFigures(url)
        found = figures.version()
        figures.since()
    return found


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benches.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few of all, one round, no document")
    parser.add_argument("--only", default="", metavar="WORD", help="what has WORD in its group or name; no document")
    parser.add_argument("--rounds", type=int, help="repeats of each measurement")
    parser.add_argument("--output", type=Path, help="write the document here (default: docs/scale-benchmark.md)")
    options = parser.parse_args()
    sizes = Sizes.quick() if options.quick else Sizes.full()
    if options.rounds is not None:
        sizes = replace(sizes, rounds=options.rounds)
    if reason := too_few_files(sizes.files):
        _say(f"SKIPPED: {reason}")
        return 1
    started = time.monotonic()
    about = {**machine.describe(), "load average before the run": machine.load()}
    try:
        about["Redis"] = f"{_redis_version()}, redis-py {version('redis')}"
    except NoRedisError as error:
        _say(str(error))
        return 1
    if MISSING:
        _say(f"SKIPPED: {MISSING}")
    else:
        about["python-socketio"] = f"{version('python-socketio')}, python-engineio {version('python-engineio')}"
    results = report.in_order(list(_measure_all(sizes, options.only.lower())))
    judged = goals.verdicts(results, sizes)
    if options.only:
        judged = [verdict for verdict in judged if verdict.measured is not None]
    print(report.text(results, judged))
    output = options.output or (None if options.quick or options.only else DOCUMENT)
    if output is None:
        return 0
    about["time of the run"] = f"{time.monotonic() - started:.0f} s, {sizes.rounds} rounds"
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
