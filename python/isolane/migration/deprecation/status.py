"""``isolane migrate status``: what still makes legacy calls, and whether the legacy ways can be removed.

Exit codes: 0 they can, or nobody asked; 1 they cannot; 2 wrong arguments, or what was to be looked at is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from isolane.migration.deprecation.codes import CODES
from isolane.migration.deprecation.folder import LedgerFolder, LedgerReading
from isolane.migration.deprecation.gate import RemovalGate, parse_age, removal_gate

CLOSED = 1
UNUSABLE = 2
_SHOWN = 20


def _age(text: str) -> timedelta:
    try:
        return parse_age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_status(commands: Any) -> None:
    """Adds the verb ``status`` to the parser of ``isolane migrate``."""
    parser = commands.add_parser(
        "status",
        help="legacy calls that were made, and whether the legacy ways can be removed",
        description="Shows which lines made legacy calls, by the ledgers of all workers, and what a scan still finds.",
    )
    parser.add_argument("paths", nargs="*", type=Path, help="what to scan; default: the current folder")
    parser.add_argument(
        "--ledger", type=Path, metavar="DIR", help="the folder of the ledgers; default: ISOLANE_LEDGER_DIR"
    )
    parser.add_argument(
        "--max-age", type=_age, default="7d", metavar="TIME", help="how far back calls count, such as 7d (the default)"
    )
    parser.add_argument(
        "--observed-at-least",
        type=_age,
        metavar="TIME",
        help="how much of that time must have been counted; default: all of it",
    )
    parser.add_argument(
        "--fail-on-legacy",
        action="store_true",
        help="exit with 1 unless nothing made a legacy call in that time and the scan finds nothing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_status(options: argparse.Namespace) -> int:
    """Runs the verb ``status``. Returns the exit code."""
    directory = options.ledger or os.environ.get("ISOLANE_LEDGER_DIR")
    if directory is None and options.fail_on_legacy:
        return _refuse("name the folder of the ledgers: --ledger DIR, or set ISOLANE_LEDGER_DIR")
    if directory is not None and not Path(directory).is_dir():
        return _refuse(f"there is no folder {directory}; it is what ISOLANE_LEDGER_DIR names where the service runs")
    try:
        reading = LedgerReading() if directory is None else LedgerFolder(directory).read()
        scanned = _scan(options.paths or [Path()])
    except (OSError, ValueError) as error:
        return _refuse(str(error))
    gate = removal_gate(
        reading,
        window=options.max_age,
        observed_at_least=options.observed_at_least,
        findings=scanned["findings"],
        problems=scanned["reasons"],
    )
    if options.json:
        document = {
            "schema": 1,
            "gate": gate.to_dict(),
            "scan": {name: value for name, value in scanned.items() if name != "reasons"},
            "ledger": reading_dict(reading),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(_table(reading, scanned, gate, is_kept=directory is not None))
    return CLOSED if options.fail_on_legacy and not gate.is_open else 0


def _refuse(problem: str) -> int:
    sys.stderr.write(f"isolane migrate status: {problem}\n")
    return UNUSABLE


def _scan(paths: list[Path]) -> dict[str, Any]:
    # The scanner is a large module, and only this verb of the ledger needs it.
    from isolane.migration.codemod import scan_paths  # noqa: PLC0415

    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}; name what to scan")
    report = scan_paths(paths)
    # What a baseline knows is there all the same: it may be left for later, but not removed from under.
    known = report.known
    reasons = [f"{len(report.problems)} files could not be scanned"] if report.problems else []
    if not report.files:
        reasons.append("no Python file was scanned: name the application's folder")
    return {
        "files": report.files,
        "findings": len(report.findings) + known,
        "by_rule": report.by_rule(),
        "in_baseline": known,
        "suppressed": report.suppressed,
        "reasons": reasons,
    }


def reading_dict(reading: LedgerReading) -> dict[str, Any]:
    """A reading for JSON: everything, with times in ISO 8601."""
    return {
        "since": reading.since and reading.since.isoformat(),
        "until": reading.until and reading.until.isoformat(),
        "calls": reading.calls,
        "symbols": reading.symbols,
        "sites": [line.to_dict() for line in reading.lines],
        "evicted": reading.evicted,
        "files": reading.files,
        "unread": reading.unread,
    }


def _clean(text: str) -> str:
    """A text of a file, which nothing in a terminal obeys."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _table(reading: LedgerReading, scanned: dict[str, Any], gate: RemovalGate, *, is_kept: bool) -> str:
    rows = [f"Legacy calls: {reading.calls} from {len(reading.lines) + reading.evicted} lines"]
    if not is_kept:
        rows[0] = "Legacy calls: no ledger (--ledger DIR, or ISOLANE_LEDGER_DIR)"
    elif reading.since is not None and reading.until is not None:
        rows[0] += f", counted from {reading.since:%Y-%m-%d %H:%M} to {reading.until:%Y-%m-%d %H:%M} UTC"
    for line in reading.lines[:_SHOWN]:
        where = _clean(f"{line.symbol} at {line.file}:{line.line}")
        rows.append(f"  {line.code}  {line.count:>9}  last {line.last:%Y-%m-%d %H:%M}  {where}")
    if len(reading.lines) > _SHOWN:
        rows.append(f"  and {len(reading.lines) - _SHOWN} more lines: --json has all")
    used = Counter(line.code for line in reading.lines)
    rows += [f"  {code}: instead {CODES[code].instead}" for code in sorted(used) if code in CODES]
    rules = ", ".join(f"{rule} {many}" for rule, many in scanned["by_rule"].items())
    rows.append(f"Source: {scanned['findings']} findings in {scanned['files']} files{f': {rules}' if rules else ''}")
    if scanned["suppressed"]:
        rows[-1] += f"; {scanned['suppressed']} more that comments ignore"
    rows.append("The legacy ways can be removed." if gate.is_open else "The legacy ways cannot be removed yet:")
    rows += [f"  - {_clean(reason)}" for reason in gate.reasons]
    return "\n".join(rows) + "\n"
