"""A report for people, for programs, for GitHub, and as SARIF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from isolane._core import __version__
from isolane.migration.codemod.baseline import fingerprint
from isolane.migration.codemod.findings import Finding, ScanReport
from isolane.migration.codemod.rules import RULES
from isolane.migration.codemod.suppress import UNUSED

_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}
_SARIF = {"error": "error", "warning": "warning", "info": "note"}
_MOST_UNSEEN = 20


def summary(report: ScanReport) -> str:
    """Return the last line: how much was looked at, and what came of it."""
    parts = [f"{report.files} {_plural(report.files, 'file')} in {report.seconds:.1f} s"]
    if report.findings:
        listed = ", ".join(f"{code} {count}" for code, count in report.by_rule().items())
        parts.append(f"{len(report.findings)} {_plural(len(report.findings), 'finding')} ({listed})")
    else:
        parts.append("nothing found")
    if report.problems:
        parts.append(f"{len(report.problems)} not looked at")
    if report.suppressed:
        parts.append(f"{report.suppressed} ignored by comments")
    if report.known:
        parts.append(f"{report.known} known")
    if report.gone:
        parts.append(f"{report.gone} of the baseline are gone: write it anew")
    return "; ".join(parts)


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def text(report: ScanReport) -> Iterator[str]:
    """Yield the lines for people."""
    yield from map(printable, _lines(report))
    yield summary(report)


def printable(line: str) -> str:
    """Return a line without what a terminal would obey: names of files and pieces of source are somebody else's."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _lines(report: ScanReport) -> Iterator[str]:
    for finding in report.findings:
        mark = f" [{finding.fix.safety} fix]" if finding.fix else ""
        hits = f" ({finding.hits} calls in the ledger)" if finding.hits else ""
        yield f"{finding.path}:{finding.line}:{finding.column}: {finding.rule} {finding.message}{mark}{hits}"
    for problem in report.problems:
        where = f"{problem.path}:{problem.line}" if problem.line else problem.path
        yield f"{where}: not looked at: {problem.message}"
    for site in report.unseen[:_MOST_UNSEEN]:
        yield f"{site.path}:{site.line}: {site.symbol} was called {site.count} times; nothing is found there"
    if len(report.unseen) > _MOST_UNSEEN:
        yield f"and {len(report.unseen) - _MOST_UNSEEN} more such calls"


def as_json(report: ScanReport) -> str:
    """Return the report as JSON, in ASCII: names of files may be no text, and whoever reads may expect any encoding."""
    return json.dumps(report.to_dict(), indent=1)


def github(report: ScanReport) -> Iterator[str]:
    """Yield workflow commands, which GitHub shows beside the lines of a pull request, then the summary."""
    for finding in report.findings:
        place = (
            f"file={_property(finding.path)},line={finding.line},endLine={finding.span.end_line},col={finding.column},"
            f"title={_property(finding.rule)}"
        )
        yield f"::{_GITHUB[finding.severity]} {place}::{_data(finding.message)}"
    for problem in report.problems:
        line = f",line={problem.line}" if problem.line else ""
        yield f"::error file={_property(problem.path)}{line}::{_data(f'not looked at: {problem.message}')}"
    yield summary(report)


def _data(value: str) -> str:
    # The name of a file may be bytes that are no text.
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def sarif(report: ScanReport) -> str:
    """Return the report as SARIF 2.1.0, without the text of the source."""
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "isolane migrate", "version": __version__, "rules": _sarif_rules()}},
                "columnKind": "unicodeCodePoints",
                "results": [_sarif_result(finding) for finding in report.findings],
                "invocations": [
                    {
                        "executionSuccessful": not report.problems,
                        "toolExecutionNotifications": [
                            {
                                "level": "error",
                                "message": {"text": problem.message},
                                "locations": [_sarif_place(problem.path, {"startLine": problem.line or 1})],
                            }
                            for problem in report.problems
                        ],
                    }
                ],
            }
        ],
    }
    return json.dumps(document, indent=1)


def _sarif_rules() -> list[dict[str, Any]]:
    rules = [
        {
            "id": rule.code,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.why},
            "defaultConfiguration": {"level": _SARIF[rule.severity]},
        }
        for rule in RULES.values()
    ]
    unused = {
        "id": UNUSED,
        "shortDescription": {"text": "a comment that ignores nothing"},
        "fullDescription": {"text": "A comment ignores a rule that finds nothing there, or one that does not exist."},
        "defaultConfiguration": {"level": "warning"},
    }
    return [*rules, unused]


def _sarif_result(finding: Finding) -> dict[str, Any]:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.span.end_line,
        "endColumn": finding.span.end_column + 1,
    }
    return {
        "ruleId": finding.rule,
        "level": _SARIF[finding.severity],
        "message": {"text": finding.message},
        "locations": [_sarif_place(finding.path, region)],
        "partialFingerprints": {"isolane/v1": fingerprint(finding)},
    }


def _sarif_place(path: str, region: dict[str, Any]) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": quote(path, errors="surrogateescape")}, "region": region}}
