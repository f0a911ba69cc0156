"""`python -m benches.python`: measure, print, and write docs/benchmarks.md. A slow figure is no failure."""

import argparse
import re
import sys
from pathlib import Path

from benches.python import machine, report
from benches.python.cases import all_cases
from benches.python.measure import Effort, measure

DOCUMENT = machine.ROOT / "docs" / "benchmarks.md"
README = machine.ROOT / "README.md"
MARKED = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.DOTALL)
"""What README.md shows of the figures."""


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benches.python", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, writes no document: shows that it runs")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="cases whose group or name contains WORD; no document"
    )
    parser.add_argument(
        "--output", type=Path, help="write the document here (default: docs/benchmarks.md and its summary in README.md)"
    )
    options = parser.parse_args()
    effort = Effort.quick() if options.quick else Effort.full()
    load = machine.load()
    results = []
    for case in all_cases():
        if options.only.lower() not in f"{case.group} {case.name}".lower():
            continue
        figures = measure(case, effort)
        results.append((case, figures))
        shown = ", ".join(f"{figure.side} {report.duration(figure.minimum)}" for figure in figures)
        print(f"{case.group}: {case.name}: {shown}", file=sys.stderr, flush=True)
    print(report.text(results))
    output = options.output or (None if options.quick or options.only else DOCUMENT)
    if output is not None:
        output.write_text(report.markdown(results, machine.describe(), load), encoding="utf-8")
    if output == DOCUMENT:
        table = f"{report.summary(results)}\n"
        text = README.read_text(encoding="utf-8")
        README.write_text(MARKED.sub(lambda _: table, text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
