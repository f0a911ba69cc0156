"""``# mig: ignore[MIG003]``: findings that somebody has looked at."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass, field

from isolane.migration.codemod.findings import Finding, Span
from isolane.migration.codemod.source import SourceText

UNUSED = "MIG000"
"""The code of what is wrong with comments that ignore rules."""

_COMMENT = re.compile(r"#\s*mig:\s*ignore(?:\s*\[(?P<codes>[^\]]*)\])?")
_CODE = re.compile(r"MIG0(?:0[1-9]|1[0-2])")


@dataclass
class _Comment:
    line: int
    column: int
    end: int
    text: str
    codes: tuple[str, ...]
    applies_to: int
    """The line whose findings it ignores: its own, or the next one with code if it stands alone."""
    used: set[str] = field(default_factory=set)


class Suppressions:
    """The comments of one file that ignore rules."""

    def __init__(self, source: SourceText) -> None:
        self._comments: list[_Comment] = []
        if "mig:" in source.text:
            self._read(source)

    def __bool__(self) -> bool:
        """Whether there is such a comment."""
        return bool(self._comments)

    def _read(self, source: SourceText) -> None:
        lines = len(source.starts)
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(source.text, newline="").readline))
        except (tokenize.TokenError, SyntaxError):  # the parser has taken it, so this does not happen
            return
        for token in tokens:
            match = _COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
            if match is None:
                continue
            line, column = token.start
            applies = line
            if not source.line(line)[:column].strip():
                while applies < lines and (
                    not source.line(applies).strip() or source.line(applies).lstrip().startswith("#")
                ):
                    applies += 1
            codes = tuple(one.strip() for one in (match["codes"] or "").split(",") if one.strip())
            self._comments.append(_Comment(line, column, column + len(token.string), match.group(), codes, applies))

    def ignores(self, finding: Finding) -> bool:
        """Say whether a comment is about a finding: on a line of what was found, or alone above it."""
        ignored = False
        for comment in self._comments:
            if finding.rule in comment.codes and finding.span.line <= comment.applies_to <= finding.span.end_line:
                comment.used.add(finding.rule)
                ignored = True
        return ignored

    def unused(self, path: str, source: SourceText, off: frozenset[str]) -> list[Finding]:
        """Return what is wrong with the comments: nothing found there, or not a rule that there is."""
        findings = []
        for comment in self._comments:
            if not comment.codes:
                messages = ["name the rules: # mig: ignore[MIG003]"]
            else:
                unknown = [one for one in comment.codes if not _CODE.fullmatch(one)]
                idle = [
                    one for one in comment.codes if one not in unknown and one not in comment.used and one not in off
                ]
                messages = [f"there is no rule {one!r} to ignore" for one in unknown]
                messages += [f"nothing of {one} is found here; take the comment out" for one in idle]
            span = Span(comment.line, comment.column, comment.line, comment.end)
            snippet = source.line(comment.line).strip()[:200]
            findings += [Finding(UNUSED, "warning", path, span, message, snippet) for message in messages]
        return findings
