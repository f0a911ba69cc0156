"""An import that a fix needs."""

from __future__ import annotations

import ast

from isolane.migration.codemod.fix.operations import Edit
from isolane.migration.codemod.source import SourceText


def _binds(statement: ast.stmt, module: str, name: str) -> bool:
    if name:
        return (
            isinstance(statement, ast.ImportFrom)
            and not statement.level
            and statement.module is not None
            and (statement.module == module or statement.module.startswith(f"{module}."))
            and any(one.name == name and one.asname in {None, name} for one in statement.names)
        )
    return isinstance(statement, ast.Import) and any(
        one.name == module and one.asname is None for one in statement.names
    )


def import_edit(source: SourceText, tree: ast.Module, module: str, name: str) -> Edit | None:
    """Return what puts an import below those at the top of a file; ``None`` if it is there.

    A module goes above the first import, a name below the last one, ``__future__`` included, or below the text that
    describes the file.
    """
    if any(_binds(one, module, name) for one in tree.body):
        return None
    text = f"from {module} import {name}" if name else f"import {module}"
    last: ast.stmt | None = None
    for at, statement in enumerate(tree.body):
        described = at == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.Import | ast.ImportFrom) or described:
            last = statement
        elif not _may_stand_between(statement):
            break
    newline = source.newline
    plain = next((one for one in tree.body if isinstance(one, ast.Import) or _is_from(one)), None)
    if not name and plain is not None and not source.line(plain.lineno)[: plain.col_offset].strip():
        place = source.place(plain.lineno, 0)
        return Edit(place, place, f"{text}{newline}")
    if last is None:
        first = tree.body[0]
        line = min([first.lineno, *(one.lineno for one in getattr(first, "decorator_list", []))])
        place = source.place(line, 0)
        return Edit(place, place, f"{text}{newline}{newline}")
    place = source.line_end(last.end_lineno or last.lineno)
    gap = newline if isinstance(last, ast.Expr) else ""
    return Edit(place, place, f"{newline}{gap}{text}")


def _is_from(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module != "__future__"


def _may_stand_between(statement: ast.stmt) -> bool:
    """Say whether imports may go on below a statement: ``if TYPE_CHECKING:`` and ``try:`` around imports."""
    body = [*getattr(statement, "body", []), *getattr(statement, "orelse", [])]
    return isinstance(statement, ast.If | ast.Try) and all(
        isinstance(one, ast.Import | ast.ImportFrom | ast.Pass) for one in body
    )
