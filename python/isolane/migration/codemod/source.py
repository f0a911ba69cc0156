"""A file as text, and as the tree that Python's own parser makes of it."""

from __future__ import annotations

import ast
import codecs
import io
import re
import sys
import tokenize
import warnings
from functools import cached_property, lru_cache
from pathlib import Path

from isolane.migration.codemod.errors import UnreadableError
from isolane.migration.codemod.findings import Span

MAX_BYTES = 4 * 1024 * 1024
"""A larger file is data that somebody has put into Python; it is reported and left out."""

_LINE_END = re.compile(r"\r\n|\r|\n")


class SourceText:
    """A text and its lines, numbered as the parser numbers them."""

    def __init__(self, text: str, raw: bytes = b"", encoding: str = "utf-8") -> None:
        self.text = text
        self.raw = raw
        self.encoding = encoding

    @cached_property
    def starts(self) -> list[int]:
        """Where each line begins."""
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    @cached_property
    def newline(self) -> str:
        """What ends a line: that of the first one."""
        match = _LINE_END.search(self.text)
        return match.group() if match else "\n"

    def line(self, number: int) -> str:
        """A line without its end."""
        start = self.starts[number - 1]
        end = self.starts[number] if number < len(self.starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def line_end(self, number: int) -> int:
        """The place after the last character of a line, before what ends it."""
        return self.starts[number - 1] + len(self.line(number))

    def column(self, line: int, offset: int) -> int:
        """Characters for the bytes of UTF-8 that the parser counts."""
        text = self.line(line)
        return (
            offset if text.isascii() else len(text.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore"))
        )

    def span(self, node: ast.AST) -> Span:
        """Where a node stands."""
        line, end = node.lineno, node.end_lineno  # type: ignore[attr-defined] # expressions, statements, aliases have it
        return Span(
            line,
            self.column(line, node.col_offset),  # type: ignore[attr-defined]
            end,
            self.column(end, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def place(self, line: int, column: int) -> int:
        """The offset in the text of a line and a column."""
        return self.starts[line - 1] + column

    def slice(self, span: Span) -> tuple[int, int]:
        """The offsets in the text of a span."""
        return self.place(span.line, span.column), self.place(span.end_line, span.end_column)

    def segment(self, span: Span) -> str:
        """What stands there."""
        start, end = self.slice(span)
        return self.text[start:end]


def decode(raw: bytes) -> SourceText:
    """Read bytes as Python does: a mark of the byte order, a coding cookie, else UTF-8.

    Raises ``UnreadableError``.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UnreadableError(f"it is not the text that it says it is: {error}") from error
    return SourceText(text, raw, codecs.lookup(encoding).name)


def read(path: Path) -> SourceText:
    """Read a file. Raises ``UnreadableError``."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"it cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise UnreadableError(f"it is larger than {MAX_BYTES // 1024 // 1024} MiB; exclude it if it is data")
    return decode(raw)


def parse(text: str) -> ast.Module:
    """Parse a text. Raises ``UnreadableError``, also where the text is nested deeper than the parser goes."""
    try:
        with warnings.catch_warnings():
            # What the parser thinks of escapes in somebody's strings is not ours to tell.
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(
            f"it is not Python {sys.version_info.major}.{sys.version_info.minor}: {error.msg}", error.lineno
        ) from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("it is nested too deeply to be parsed; exclude it if it is data") from error
    except ValueError as error:
        raise UnreadableError(f"it is not Python: {error}") from error


@lru_cache(maxsize=1)
def statement_starts(tree: ast.Module) -> frozenset[tuple[int, int]]:
    """Return where the statements of a tree begin: the line, and the bytes before it. Each marker of a file asks."""
    return frozenset((one.lineno, one.col_offset) for one in ast.walk(tree) if isinstance(one, ast.stmt))


def marker_line(source: SourceText, starts: frozenset[tuple[int, int]], statement: ast.stmt) -> int | None:
    """Return the line above which a comment about a statement can be put; ``None`` if it has no place there.

    It is above the statement, the one before it in the same line, an ``elif``, or a decorator: never within a text or
    after a backslash.
    """
    line = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))])
    text = source.line(line)
    indent = len(text) - len(text.lstrip())
    begins = (line, indent) in starts or text.startswith("@", indent)
    return None if not begins or (line > 1 and source.line(line - 1).rstrip().endswith("\\")) else line
