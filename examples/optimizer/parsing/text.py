"""Bytes to lines of text: byte order marks, UTF-16, files that are no text, and mixed encodings."""

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from examples.optimizer.parsing.errors import LogError

HEAD_BYTES = 8192
_BLOCK_BYTES = 64 * 1024
_MAX_LINE_CHARACTERS = 1024 * 1024
_UTF16_NUL_SHARE = 0.4

_SAVE_AS_UTF8 = "Save the whole file as UTF-8 and upload it again."

_KNOWN_BINARIES = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "Export the sheet as CSV, or unpack the archive."),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "Export the sheet as CSV."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and upload the file inside."),
    (b"%PDF", "a PDF", "Ask the provider for its CSV or JSON lines export."),
    (b"PAR1", "a Parquet file", "Convert it to CSV."),
    (b"SQLite format 3", "a SQLite database", "Export the table as CSV."),
)

# UTF-32 comes first: its little-endian mark begins with UTF-16's.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class TextEncoding(NamedTuple):
    """How a file's bytes are text: the codec, and how many bytes the byte order mark before it takes."""

    name: str
    mark_bytes: int = 0


def detect_encoding(head: bytes) -> TextEncoding:
    """The encoding of a file that begins with `head`; raises for an empty file and for one that is no text."""
    if not head.strip():
        raise LogError("The file is empty.", fix="Upload a CSV with a header line, or one JSON object per line.")
    for magic, kind, fix in _KNOWN_BINARIES:
        if head.startswith(magic):
            raise LogError(f"The file is {kind}, not text.", fix=fix)
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return TextEncoding(name, len(mark))
    return TextEncoding(_utf16_without_mark(head) if 0 in head else "utf-8")


def _utf16_without_mark(head: bytes) -> str:
    """ASCII in UTF-16 is every other byte zero; any other zero byte means that the file is no text."""
    pairs = max(len(head) // 2, 1)
    if head[1::2].count(0) / pairs > _UTF16_NUL_SHARE and 0 not in head[0::2]:
        return "utf-16-le"
    if head[0::2].count(0) / pairs > _UTF16_NUL_SHARE and 0 not in head[1::2]:
        return "utf-16-be"
    raise LogError(
        f"The file is binary: byte {head.index(0) + 1} is zero.",
        fix="Upload a text file: CSV with a header line, or one JSON object per line.",
    )


def read_lines(file: BinaryIO, encoding: TextEncoding) -> Iterator[str]:
    """Lines of a file with their ends as a single newline, decoded block by block so that no file is held whole."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding.name)(), translate=True)
    file.seek(encoding.mark_bytes)
    line_number = 0
    rest = ""
    while True:
        block = file.read(_BLOCK_BYTES)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _undecodable(error, encoding.name, line_number, rest) from None
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            line_number += 1
            _refuse_controls(line, line_number)
            yield line + "\n"
        if len(rest) > _MAX_LINE_CHARACTERS:
            raise LogError(
                f"The line is longer than {_MAX_LINE_CHARACTERS:,} characters.",
                fix="Put each call on a line of its own.",
                line=line_number + 1,
            )
        if not block:
            break
    if rest:
        _refuse_controls(rest, line_number + 1)
        yield rest


def _refuse_controls(line: str, number: int) -> None:
    if "\0" in line:
        raise LogError(
            "A zero byte: the file is binary, or damaged from here on.",
            fix="Export the log again as text.",
            line=number,
            character=line.index("\0") + 1,
        )


def _undecodable(error: UnicodeDecodeError, encoding: str, lines_before: int, rest: str) -> LogError:
    # What precedes the bad byte in its block was good, else the error would point there.
    good = error.object[: error.start].decode(encoding, errors="ignore")
    text = rest + good.replace("\r\n", "\n").replace("\r", "\n")
    name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
    return LogError(
        f"Byte 0x{error.object[error.start]:02X} is not {name}, unlike the text before it:"
        " the file is binary or mixes encodings.",
        fix=_SAVE_AS_UTF8,
        line=lines_before + text.count("\n") + 1,
        character=len(text.rpartition("\n")[2]) + 1,
    )
