"""Writes docs/proof.md: each of the long checks has a section of its own, with the day on which it was written."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

PROOF = Path(__file__).resolve().parents[2] / "docs" / "proof.md"
TITLE = "# Proof\n\nWhat `make prove` found. Each section says when it was written.\n"


def write(section: str, lines: list[str], path: Path = PROOF) -> None:
    """Write a section in place of the one of that name, or after the others."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = text.split("\n## ")[1:]
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip("\n") for part in parts}
    dated = f"Written on {datetime.now(UTC):%Y-%m-%d}, CPython {platform.python_version()}."
    sections[section] = "\n".join([dated, "", *lines])
    body = "".join(f"\n## {name}\n\n{content}\n" for name, content in sections.items())
    path.write_text(TITLE + body, encoding="utf-8")
