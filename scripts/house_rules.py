"""The rules of the house that no linter knows. Prints what breaks them; exits 1 if anything does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pyo3_outside_the_binding() -> list[str]:
    """The core does not know Python."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.rs")):
        inside = path.relative_to(ROOT / "src").parts
        if inside[0] != "py" and inside != ("lib.rs",) and re.search(r"\bpyo3\b", path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(ROOT)}: names pyo3; only src/py and src/lib.rs may")
    return found


def dashmap_outside_the_registry() -> list[str]:
    """A map never hands out its guard."""
    registry = Path("src/lanes/registry.rs")
    return [
        f"{path.relative_to(ROOT)}: uses dashmap; only {registry} may"
        for path in sorted((ROOT / "src").rglob("*.rs"))
        if path.relative_to(ROOT) != registry and "dashmap" in path.read_text(encoding="utf-8")
    ]


def classes_that_are_not_frozen() -> list[str]:
    """Every class is frozen and says where it lives."""
    found = []
    for path in sorted((ROOT / "src" / "py").glob("*.rs")):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"#\[pyclass(\([^\]]*\))?\]", text):
            line = text.count("\n", 0, match.start()) + 1
            missing = [word for word in ("frozen", "module =") if word not in match.group(0)]
            found += [f"{path.relative_to(ROOT)}:{line}: a pyclass without `{word}`" for word in missing]
    return found


def main() -> int:
    found = pyo3_outside_the_binding() + dashmap_outside_the_registry() + classes_that_are_not_frozen()
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
