"""What a scan comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Safety = Literal["safe", "unsafe"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, order=True)
class Span:
    """A piece of a file. Lines count from 1 and columns from 0, in characters; the end is the place after the last."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True)
class Replacement:
    """An expression that another one takes the place of."""

    span: Span
    text: str


@dataclass(frozen=True)
class Fix:
    """What a fix would do to a finding.

    Attributes:
        safety: ``safe`` keeps what the program does; ``unsafe`` needs somebody to look at it.
        operation: the name of the operation in ``isolane.migration.codemod.fix.operations``.
        arguments: what the operation needs to know.
        replacements: expressions elsewhere that change together with what was found.
        imports: ``(module, name)`` of what the file must import afterwards; no name means the module itself.
    """

    safety: Safety
    operation: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    replacements: tuple[Replacement, ...] = ()
    imports: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One place that a rule is about.

    Attributes:
        rule: its code, such as ``MIG003``.
        severity: ``error``, ``warning`` or ``info``.
        path: the file, as it was reached from the path that was given, with slashes.
        span: what was found.
        message: what is wrong there.
        snippet: its first line in the source, without the space around it.
        fix: what ``isolane migrate fix`` would do, if it can do something.
        no_fix: why it cannot, where one could expect it to.
        needs: facts of other files without which it is none; empty once the scan is over.
        hits: how often the ledger of deprecated calls was here.
    """

    rule: str
    severity: Severity
    path: str
    span: Span
    message: str
    snippet: str
    fix: Fix | None = None
    no_fix: str = ""
    needs: tuple[str, ...] = ()
    hits: int = 0

    @property
    def line(self) -> int:
        """The line it begins in, from 1."""
        return self.span.line

    @property
    def column(self) -> int:
        """The character it begins with, from 1, as editors count."""
        return self.span.column + 1

    def with_hits(self, hits: int) -> Finding:
        """The same finding, with what the ledger counted."""
        return replace(self, hits=hits)

    def to_dict(self) -> dict[str, Any]:
        """As the JSON output has it."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "path": self.path,
            "line": self.line,
            "column": self.column,
            "end_line": self.span.end_line,
            "end_column": self.span.end_column + 1,
            "message": self.message,
            "snippet": self.snippet,
            "fix": self.fix.safety if self.fix else None,
            "no_fix": self.no_fix or None,
            "hits": self.hits,
        }


@dataclass(frozen=True)
class FileProblem:
    """A file that could not be looked at, or not be written, and why."""

    path: str
    message: str
    line: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the JSON output has it."""
        return {"path": self.path, "line": self.line, "message": self.message}


@dataclass(frozen=True)
class LedgerSite:
    """A deprecated call that the ledger saw where the scan finds nothing."""

    symbol: str
    path: str
    line: int
    count: int

    def to_dict(self) -> dict[str, Any]:
        """As the JSON output has it."""
        return {"symbol": self.symbol, "path": self.path, "line": self.line, "count": self.count}


@dataclass(frozen=True)
class ScanReport:
    """All that a scan came to.

    Attributes:
        findings: by path and line; with a ledger, what was called most often comes first.
        problems: files that could not be looked at.
        files: how many were looked at.
        suppressed: findings that a comment in the source ignores.
        known: findings that are in the baseline.
        gone: entries of the baseline that nothing matches any more.
        unseen: calls in the ledger where nothing was found.
        seconds: how long it took.
    """

    findings: tuple[Finding, ...] = ()
    problems: tuple[FileProblem, ...] = ()
    files: int = 0
    suppressed: int = 0
    known: int = 0
    gone: int = 0
    unseen: tuple[LedgerSite, ...] = ()
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 nothing was found; 1 something was; 2 nothing was found, but not every file could be looked at."""
        if self.findings:
            return 1
        return 2 if self.problems else 0

    def by_rule(self) -> dict[str, int]:
        """How many findings each rule has, by code."""
        return dict(sorted(Counter(finding.rule for finding in self.findings).items()))

    def to_dict(self) -> dict[str, Any]:
        """As the JSON output has it."""
        return {
            "version": 1,
            "findings": [finding.to_dict() for finding in self.findings],
            "problems": [problem.to_dict() for problem in self.problems],
            "unseen": [site.to_dict() for site in self.unseen],
            "summary": {
                "files": self.files,
                "findings": len(self.findings),
                "by_rule": self.by_rule(),
                "problems": len(self.problems),
                "suppressed": self.suppressed,
                "known": self.known,
                "gone": self.gone,
                "seconds": round(self.seconds, 3),
            },
        }
