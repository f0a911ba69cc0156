"""Writes the drawings of the machines of states into docs/guard.md, from their tables."""

from __future__ import annotations

import re
from pathlib import Path

from isolane.migration.states import MACHINES

PAGE = Path(__file__).resolve().parents[1] / "docs/guard.md"


def main() -> None:
    """Replace each drawing by the one of its table; they are known by their order."""
    drawings = iter([f"```mermaid\n{kind.table.mermaid()}\n```" for kind in MACHINES])
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"```mermaid\n.*?\n```", lambda _: next(drawings), text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
