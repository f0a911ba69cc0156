"""``isolane migrate``: find the patterns of a service of singletons, fix some of them, say how far a move is.

Exit codes: 0 clean; 1 findings, or for ``fix`` a change that is not written yet; 2 it could not be done, or nothing was
found but not every file could be looked at.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from isolane.migration.codemod import formats
from isolane.migration.codemod.baseline import read_baseline, without_known, write_baseline
from isolane.migration.codemod.config import MigrateConfig, load_config
from isolane.migration.codemod.errors import MigrateConfigError, MigrateInputError, NotWrittenError
from isolane.migration.codemod.findings import ScanReport
from isolane.migration.codemod.fix import FileFix, fix_report
from isolane.migration.codemod.fix.files import write
from isolane.migration.codemod.ledger import join, read_ledger
from isolane.migration.codemod.rules import RULES
from isolane.migration.codemod.scan import scan_paths

UNUSABLE = 2

_STATUS = "isolane.migration.deprecation.status"


def _config(options: argparse.Namespace) -> MigrateConfig:
    first: Path = options.paths[0]
    return load_config(options.config, start=first if first.is_dir() else first.parent)


def _report(options: argparse.Namespace, config: MigrateConfig) -> ScanReport:
    report = scan_paths(options.paths, config, processes=options.processes)
    if options.baseline is not None:
        findings, known, gone = without_known(report.findings, read_baseline(options.baseline))
        report = replace(report, findings=tuple(findings), known=known, gone=gone)
    return report


def _scan(options: argparse.Namespace) -> int:
    config = _config(options)
    report = _report(options, config)
    if options.write_baseline is not None:
        count = write_baseline(options.write_baseline, report.findings)
        print(f"{options.write_baseline}: {count} findings are known from now on")
        return UNUSABLE if report.problems else 0
    if options.from_ledger is not None:
        findings, unseen = join(report.findings, read_ledger(options.from_ledger))
        report = replace(report, findings=tuple(findings), unseen=tuple(unseen))
    if options.format == "json":
        print(formats.as_json(report))
    elif options.format == "sarif":
        print(formats.sarif(report))
    else:
        for line in formats.github(report) if options.format == "github" else formats.text(report):
            print(line)
    return report.exit_code


def _fix(options: argparse.Namespace) -> int:
    config = _config(options)
    report = _report(options, config)
    fixes, problems = fix_report(report, config, unsafe=options.unsafe)
    failed = [f"{one.path}: not fixed: {one.message}" for one in (*report.problems, *problems)]
    written = 0
    for one in fixes:
        if options.write and one.changed:
            try:
                write(one.file, one.source, one.text)
                written += 1
            except NotWrittenError as error:
                failed.append(f"{one.path}: not written: {error}")
        elif one.changed:
            print(one.diff(), end="")
        for finding, why in one.refused:
            left = f"{one.path}:{finding.line}: {finding.rule} is left as it is: {why}"
            print(formats.printable(left), file=sys.stderr)
    for line in failed:
        print(formats.printable(line), file=sys.stderr)
    print(_fixed(report, fixes, options, written), file=sys.stdout if options.write else sys.stderr)
    if failed:
        return UNUSABLE
    if options.write:
        return 1 if _report(options, config).findings else 0
    return 1 if report.findings else 0


def _fixed(report: ScanReport, fixes: list[FileFix], options: argparse.Namespace, written: int) -> str:
    """Return the last line of ``fix``."""
    changed = [one for one in fixes if one.changed]
    count = sum(len(one.fixed) for one in changed)
    done = f"{written} files written" if options.write else f"{len(changed)} files would change"
    line = f"{report.files} files; {len(report.findings)} findings; {count} fixes; {done}"
    if not changed:
        line = f"{report.files} files; {len(report.findings)} findings; nothing to fix"
    unsafe = sum(1 for one in report.findings if one.fix is not None and one.fix.safety == "unsafe")
    if unsafe and not options.unsafe:
        line += f"; --unsafe has fixes for {unsafe} more, which somebody has to look at"
    if changed and not options.write:
        line += "; --write writes them"
    return line


def _explain(options: argparse.Namespace) -> int:
    rule = RULES.get(options.rule.upper())
    if rule is None:
        print(f"there is no rule {options.rule!r}; the rules are {', '.join(RULES)}", file=sys.stderr)
        return UNUSABLE
    fix = {"safe": "safe", "unsafe": "unsafe: --unsafe makes it", "none": "none"}[rule.fix]
    print(f"{rule.code}: {rule.title}\nSeverity: {rule.severity}. Fix: {fix}.\n\n{rule.why}\n")
    for title, example in (("Before", rule.before), ("After", rule.after)):
        print(f"{title}:\n")
        print("\n".join(f"    {line}" if line else "" for line in example.splitlines()))
        print()
    print(f"To ignore it in a line: # mig: ignore[{rule.code}]")
    return 0


def _status() -> ModuleType | None:
    """Return the part that knows the ledger of deprecated calls, if it is there."""
    try:
        return importlib.import_module(_STATUS)
    except ModuleNotFoundError as error:
        if error.name is not None and _STATUS.startswith(error.name):
            return None
        raise


def _add_scan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files and folders")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the pyproject.toml (the nearest one above)")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="findings that are known are left out")
    parser.add_argument("--processes", type=_positive, metavar="N", help="how many processes work (by the files)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``migrate`` and what is below it."""
    migrate = commands.add_parser("migrate", help="find the patterns of a service of singletons, fix some of them")
    below = migrate.add_subparsers(dest="migrate_command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = below.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        return parser

    scan = add("scan", _scan, "look for patterns MIG001 to MIG012; nothing is written")
    _add_scan_options(scan)
    kinds = scan.add_mutually_exclusive_group()
    for name, text in (
        ("json", "print JSON"),
        ("sarif", "print SARIF 2.1.0"),
        ("github", "print annotations for GitHub's workflows"),
    ):
        kinds.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=text)
    scan.add_argument("--write-baseline", type=Path, metavar="FILE", help="write all findings down as known")
    scan.add_argument(
        "--from-ledger", type=Path, metavar="FILE", help="count the calls that the ledger saw, and name those not found"
    )

    fix = add("fix", _fix, "print what the fixes would change, as a diff; --write changes it")
    _add_scan_options(fix)
    fix.add_argument("--write", action="store_true", help="write the files")
    fix.add_argument("--unsafe", action="store_true", help="also make fixes that somebody has to look at")

    explain = add("explain", _explain, "say what a rule finds, why, and what to do")
    explain.add_argument("rule", metavar="RULE", help="such as MIG003")

    status = _status()
    if status is not None:
        status.add_status(below)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    if options.migrate_command == "status":
        status: Any = _status()
        return int(status.run_status(options))
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except (MigrateConfigError, MigrateInputError) as error:
        print(f"isolane migrate: {error}", file=sys.stderr)
        return UNUSABLE
    except ModuleNotFoundError as error:
        if error.name != "libcst":
            raise
        print(f"isolane migrate: {error}", file=sys.stderr)
        return UNUSABLE
    except OSError as error:
        print(f"isolane migrate: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return UNUSABLE
