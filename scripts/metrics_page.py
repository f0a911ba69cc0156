"""Writes the table of docs/metrics.md from the core's families. `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from isolane import _core

PAGE = Path(__file__).resolve().parents[1] / "docs/metrics.md"
BEGIN, END = "<!-- families -->\n", "<!-- /families -->"


def labels_of(family: dict[str, Any]) -> str:
    """Each label with its values, or how many of them are told apart."""
    told = []
    for name, values in family["labels"].items():
        if isinstance(values, int):
            told.append(f"`{name}`: {values} names, then `_other`")
        else:
            told.append(f"`{name}`: {', '.join(f'`{value}`' for value in values)}")
    return "; ".join(told)


def kind_of(family: dict[str, Any]) -> str:
    """Counter, gauge, or histogram with its bounds."""
    if not family["buckets"]:
        return str(family["kind"])
    return f"histogram: {', '.join(f'{bound:g}' for bound in family['buckets'])}"


def table() -> str:
    """All families, in the order of a scrape."""
    rows = ["| metric | kind | what | labels |", "|---|---|---|---|"]
    for family in _core.metric_families():
        cells = (f"`{family['sample']}`", kind_of(family), family["help"].rstrip("."), labels_of(family))
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def written(text: str) -> str:
    """The page with the table of this build."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        if written(text) != text:
            sys.stderr.write("docs/metrics.md is not that of this build: run scripts/metrics_page.py\n")
            return 1
        return 0
    PAGE.write_text(written(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
