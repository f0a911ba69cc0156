"""What the tests of ``isolane migrate`` share."""

from __future__ import annotations

import re
from pathlib import Path

from isolane.migration.codemod import MigrateConfig, ScanReport, scan_paths
from isolane.migration.codemod.fix import fix_report

CASES = Path(__file__).parent / "cases"
_MARKER = re.compile(r"# (MIG0\d\d)$")


def config(root: Path, **values) -> MigrateConfig:
    return MigrateConfig(root=root, **values)


def scan(root: Path, **values) -> ScanReport:
    return scan_paths([root], config(root, **values), processes=1)


def places(report: ScanReport, rule: str | None = None) -> list[tuple[str, int, str]]:
    """Where something was found: file, line and rule."""
    return [(one.path, one.line, one.rule) for one in report.findings if rule in {None, one.rule}]


def markers(text: str) -> list[tuple[int, str]]:
    """What a case says is in which line."""
    return [
        (number, match[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (match := _MARKER.search(line)) is not None
    ]


def put(root: Path, **files: str) -> Path:
    """Write files; two underscores in a name are a folder's slash."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def fixed(root: Path, name: str = "m.py", *, unsafe: bool = True, **values) -> str:
    """What the fixes make of a file."""
    settings = config(root, **values)
    fixes, problems = fix_report(scan_paths([root], settings, processes=1), settings, unsafe=unsafe)
    assert problems == []
    return next((one.text for one in fixes if one.path == name), (root / name).read_bytes().decode())
