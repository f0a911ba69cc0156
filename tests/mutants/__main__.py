"""``python -m tests.mutants``: does a test notice each fault that the core can be told to have?

Builds the core with the feature ``mutants``, sees that the tests pass without a fault, then runs the tests of table.py
in processes that have one fault each. A full run goes on with the tests of threads, under many schedules. Prints the
tables; a full run writes them into docs/proof.md. Exits with 1 when a fault survives or a test fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.mutants import schedules
from tests.mutants.builds import Builds, build
from tests.mutants.table import KILLERS
from tests.mutants.trials import Trial, attempt, baseline
from tests.support import proof


def shown(test: str) -> str:
    """Return a test's name for the table."""
    return f"`{test.removeprefix('tests/')}`"


def table(builds: Builds, trials: list[Trial]) -> list[str]:
    """Return the lines of the table."""
    rows = (
        f"| {trial.mutant} | {builds.breaks[trial.mutant]} | "
        + (f"{shown(trial.killer)} | {trial.how}" if trial.killer else "**survived** |")
        + f" | {trial.seconds:.1f} |"
        for trial in trials
    )
    return ["| fault | what it breaks | noticed by | how | seconds |", "|---|---|---|---|---|", *rows]


def differences(known: set[str], listed: set[str]) -> list[str]:
    """Return what the core and the table of tests do not have in common."""
    return [f"{name}: a fault, but no test of tests/mutants/table.py" for name in sorted(known - listed)] + [
        f"{name}: in tests/mutants/table.py, but no fault" for name in sorted(listed - known)
    ]


def trial_table(builds: Builds, chosen: dict[str, tuple[str, ...]]) -> tuple[list[str], list[str]]:
    """Try the faults, two and more at a time; return the lines of the table and the names of those that survived."""
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        trials = list(pool.map(lambda item: attempt(builds, *item), chosen.items()))
    survivors = [trial.mutant for trial in trials if trial.killer is None]
    noticed = f"{len(trials) - len(survivors)} of {len(trials)} faults noticed."
    return [noticed, "", *table(builds, trials)], survivors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="only the first test of each fault; writes nothing")
    parser.add_argument("names", nargs="*", help="only these faults; writes nothing")
    options = parser.parse_args()
    complete = not options.short and not options.names
    began = time.monotonic()
    builds = build()
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    wrong = differences(set(builds.breaks), set(KILLERS))
    wrong += [f"{name}: no such fault" for name in options.names if name not in KILLERS]
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    chosen = {name: KILLERS[name] for name in builds.breaks if not options.names or name in options.names}
    if options.short:
        chosen = {name: tests[:1] for name, tests in chosen.items()}
    failed = baseline(builds, {test for tests in chosen.values() for test in tests})
    if failed:
        print("without a fault the tests must pass:", *failed, sep="\n", file=sys.stderr)
        return 1
    lines, survivors = trial_table(builds, chosen)
    print(*lines, sep="\n", flush=True)
    if complete:
        proof.write(
            "Faults",
            ["Each fault is named as in `src/mutants.rs` or `tests/mutants/python_faults.py`. " + lines[0], *lines[1:]],
        )
        explorations = schedules.explore(builds)
        explored = schedules.table(explorations)
        print("", *explored, *(one.text for one in explorations if not one.passed), sep="\n")
        proof.write("Schedules", explored)
        survivors += [one.name for one in explorations if not one.passed]
    print(f"{time.monotonic() - began:.0f} s in all")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
