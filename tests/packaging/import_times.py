"""The table of import times: printed after the checks, and written into docs/installation.md when that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "installation.md"
BEGIN, END = "<!-- import times -->", "<!-- /import times -->"


def table(times: dict[str, tuple[float, float, float]]) -> str:
    """Lay out the times, in milliseconds, by version: the least, the median, and that of the standard library."""
    rows = [
        f"| {version} | {least:.1f} ms | {median:.1f} ms | {standard:.1f} ms |"
        for version, (least, median, standard) in sorted(times.items())
    ]
    return "\n".join(
        [
            "| CPython | `import isolane`, least | median | the standard library's part, least |",
            "|---|--:|--:|--:|",
            *rows,
        ]
    )


def write(times: dict[str, tuple[float, float, float]], page: Path = PAGE) -> None:
    """Replace the table between the markers, unless a version was not measured."""
    if set(times) != set(VERSIONS):
        return
    text = page.read_text(encoding="utf-8")
    marked = re.compile(rf"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if len(marked.findall(text)) != 1:
        raise ValueError(f"{page.name} must have the markers {BEGIN} and {END} once")
    page.write_text(marked.sub(lambda _: f"{BEGIN}\n{table(times)}\n{END}", text), encoding="utf-8")
