"""Fixes of a file: rounds of edits until nothing more can be fixed, each checked before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import libcst as cst

from isolane.migration.codemod.errors import NotFixableError, UnreadableError
from isolane.migration.codemod.findings import Finding
from isolane.migration.codemod.fix.imports import import_edit
from isolane.migration.codemod.fix.operations import OPERATIONS, Edit, Target, lost_comments
from isolane.migration.codemod.source import SourceText, parse

ROUNDS = 8
"""A fix may make another one possible, such as an import that nothing uses any more. More than three are rare."""


@dataclass
class FixedText:
    """What became of a text."""

    text: str
    fixed: list[Finding] = field(default_factory=list)
    refused: list[tuple[Finding, str]] = field(default_factory=list)
    """Fixes that were not made, and why."""


Scan = Callable[[SourceText], Sequence[Finding]]


def fix_text(source: SourceText, scan: Scan, *, unsafe: bool = False) -> FixedText:
    """Fix what can be fixed in a text.

    Args:
        source: the text.
        scan: finds what is in a text; findings that are not to be touched are left out by it.
        unsafe: whether fixes count that need somebody to look at them.
    """
    result = FixedText(source.text)
    refused: dict[tuple[str, str], tuple[Finding, str]] = {}
    current = source
    for _ in range(ROUNDS):
        findings = [one for one in scan(current) if one.fix is not None and (unsafe or one.fix.safety == "safe")]
        made, text, problems = _round(current, findings)
        refused.update({(one.rule, one.snippet): (one, why) for one, why in problems})
        if not made:
            break
        result.fixed += made
        current = SourceText(text, encoding=source.encoding)
    result.text = current.text
    result.refused = list(refused.values())
    return result


def _round(source: SourceText, findings: Sequence[Finding]) -> tuple[list[Finding], str, list[tuple[Finding, str]]]:
    """Make all fixes of a text that do not touch each other. The others have their turn in the next round."""
    tree = parse(source.text)
    taken: list[tuple[int, int]] = []
    edits: list[Edit] = []
    imports: dict[tuple[str, str], None] = {}
    made: list[Finding] = []
    problems: list[tuple[Finding, str]] = []
    for finding in sorted(findings, key=_order):
        target = Target(source, tree, finding)
        try:
            own = _edits(target)
        except NotFixableError as error:
            problems.append((finding, str(error)))
            continue
        if any(_touch(edit, piece) for edit in own for piece in taken) or _again(finding, made):
            continue
        alone = _apply(source.text, own)
        try:
            parse(alone)
        except UnreadableError as error:
            problems.append((finding, f"what it would become cannot be parsed: {error}"))
            continue
        taken += [(edit.start, edit.end) for edit in own]
        edits += own
        made.append(finding)
        if finding.fix is not None:
            imports.update(dict.fromkeys(finding.fix.imports))
    if not made:
        return [], source.text, problems
    edits += [edit for one in imports if (edit := import_edit(source, tree, *one)) is not None]
    return made, _apply(source.text, edits), problems


def _again(finding: Finding, made: Sequence[Finding]) -> bool:
    """Say whether a fix brings in an import that another one of this round has brought in."""
    return bool(
        finding.fix
        and finding.fix.arguments.get("add")
        and any(one.fix is not None and one.fix.arguments.get("add") for one in made)
    )


def _order(finding: Finding) -> tuple[int, int, int]:
    """Signatures go first: what is read in them changes with them. Markers go last."""
    operation = finding.fix.operation if finding.fix else ""
    rank = {"context_signature": 0, "replace_call": 1, "mark": 9}.get(operation, 5)
    return rank, finding.span.line, finding.span.column


def _edits(target: Target) -> list[Edit]:
    fix = target.finding.fix
    if fix is None:
        raise NotFixableError("there is no fix")
    try:
        edits = list(OPERATIONS[fix.operation](target))
    except RecursionError as error:
        raise NotFixableError("it is nested too deeply to be rewritten") from error
    except cst.ParserSyntaxError as error:
        raise NotFixableError("LibCST does not know this syntax") from error
    edits += [Edit(*target.source.slice(one.span), one.text) for one in fix.replacements]
    if any(lost_comments(target, edit) for edit in edits):
        raise NotFixableError("a comment inside it would be lost; move it first")
    return edits


def _touch(edit: Edit, piece: tuple[int, int]) -> bool:
    start, end = piece
    if edit.start == edit.end or start == end:
        # A line that is put in touches what goes over its place, and another line at the same place.
        return start < edit.start < end or edit.start < start < edit.end or edit.start == edit.end == start == end
    return edit.start < end and start < edit.end


def _apply(text: str, edits: Sequence[Edit]) -> str:
    for edit in sorted(edits, key=lambda one: (one.start, one.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
