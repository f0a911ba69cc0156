"""`python -m benches.python.counted`: runs the cases whose cost is deterministic, with marks that callgrind sees.

Each mark is a call of `getppid`, at which callgrind writes what it has counted since the last one. Prints what was run
between which marks, as JSON. Without valgrind it does the same and nobody counts.
"""

import argparse
import gc
import json
import os
from collections.abc import Iterator

from benches.python.cases import contexts, copies, engines, events, flat, metrics, permits
from benches.python.measure import Case, marks

FEW = 50
MANY = 150
"""The difference of two runs is the cost of 100 operations; what surrounds them falls out. Below every batch's size."""


def counted_cases() -> Iterator[Case]:
    """Those without many tasks, whose order is the loop's, and without a log that folds now and then."""
    leave_out = {contexts.CHILD_READ, contexts.CHILD_READ_TREE, contexts.SAME_NAME}
    yield from (case for case in contexts.cases() if case.name not in leave_out)
    yield from copies.cases()
    yield next(iter(permits.cases()))
    yield from (case for case in events.cases() if "full log" not in case.name)
    yield from engines.cases()
    yield from flat.counted_cases()
    yield from metrics.counted_cases()


class Marks:
    """Counts the marks that it makes."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> float:
        self.made += 1
        os.getppid()
        return 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.python.counted", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose group or name contains WORD")
    only = parser.parse_args().only.lower()
    gc.disable()
    mark = Marks()
    runs = []
    for case in counted_cases():
        if only not in f"{case.group} {case.name}".lower():
            continue
        for side in () if case.skipped else case.sides:
            side.run(FEW)
            for loops in (FEW, MANY):
                first = mark.made
                with marks(mark):
                    side.run(loops)
                runs.append([case.group, case.name, side.name, loops, first, mark.made])
    print(json.dumps(runs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
