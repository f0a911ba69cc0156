"""Fixes: LibCST rewrites what was found, and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from isolane.migration.codemod.config import MigrateConfig
from isolane.migration.codemod.errors import UnreadableError
from isolane.migration.codemod.findings import FileProblem, Finding, ScanReport
from isolane.migration.codemod.source import SourceText, read

_NEEDS_EXTRA = "isolane migrate fix needs LibCST: pip install 'isolane[migrate]'"


@dataclass(frozen=True)
class FileFix:
    """What becomes of one file.

    Attributes:
        path: the file, from the project's folder.
        file: where it is.
        source: the file as it was.
        text: what it is to be.
        fixed: what was found and is fixed in it.
        refused: fixes that were not made, and why.
    """

    path: str
    file: Path
    source: SourceText
    text: str
    fixed: tuple[Finding, ...]
    refused: tuple[tuple[Finding, str], ...]

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.text != self.source.text

    def diff(self) -> str:
        """Return the change as a unified diff."""
        before = self.source.text.splitlines(keepends=True)
        after = self.text.splitlines(keepends=True)
        lines = difflib.unified_diff(before, after, f"a/{self.path}", f"b/{self.path}")
        # A last line without an end would run into the next one.
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def fix_report(
    report: ScanReport, config: MigrateConfig, *, unsafe: bool = False
) -> tuple[list[FileFix], list[FileProblem]]:
    """Work out the fixes of all findings of a scan. Nothing is written; ``fix.files.write`` does that.

    Args:
        report: the scan; what is not in it, such as what a baseline knows or a comment ignores, stays as it is.
        config: that of the scan.
        unsafe: whether fixes count that need somebody to look at them.

    Raises:
        ModuleNotFoundError: LibCST is not installed; the text names the extra.
    """
    try:
        from isolane.migration.codemod.fix.engine import fix_text  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "libcst":
            raise
        raise ModuleNotFoundError(_NEEDS_EXTRA, name="libcst") from error
    by_path: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_path.setdefault(finding.path, []).append(finding)
    fixes: list[FileFix] = []
    problems: list[FileProblem] = []
    for path, findings in sorted(by_path.items()):
        if not any(one.fix is not None and (unsafe or one.fix.safety == "safe") for one in findings):
            continue
        file = config.root.resolve() / path
        try:
            source = read(file)
            result = fix_text(source, _Rescan(path, findings, config), unsafe=unsafe)
        except UnreadableError as error:
            problems.append(FileProblem(path, str(error), error.line))
            continue
        fixes.append(FileFix(path, file, source, result.text, tuple(result.fixed), tuple(result.refused)))
    return fixes, problems


class _Rescan:
    """Finds in a text that is being changed what the scan of all files reported in it, and what follows from that.

    The first look settles two things for all later ones: which findings were left out of the report, because a baseline
    knows them, and which facts of other files hold.
    """

    def __init__(self, path: str, findings: Iterable[Finding], config: MigrateConfig) -> None:
        self._path = path
        self._config = config
        self._reported = {(one.rule, one.span): one for one in findings}
        self._left_out: set[tuple[str, str]] | None = None
        self._holds: set[str] = set()

    def __call__(self, source: SourceText) -> list[Finding]:
        from isolane.migration.codemod.scan import scan_text  # noqa: PLC0415 - it is the larger part of the package

        result = scan_text(source, self._path, self._config)
        if self._left_out is None:
            reported = [one for one in result.findings if (one.rule, one.span) in self._reported]
            self._holds = {need for one in reported for need in one.needs}
            live = {(one.rule, one.snippet) for one in reported}
            self._left_out = {(one.rule, one.snippet) for one in result.findings} - live
        return [
            replace(one, needs=())
            for one in result.findings
            if (one.rule, one.snippet) not in self._left_out
            and self._holds.issuperset(one.needs)
            and not (result.suppressions is not None and result.suppressions.ignores(one))
        ]
