"""Files are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from isolane.migration.codemod.errors import NotWrittenError
from isolane.migration.codemod.source import SourceText


def encoded(source: SourceText, text: str) -> bytes:
    """Return a text as bytes in the encoding of the file that it came from.

    Raises:
        NotWrittenError: the file does not come out as it was even without a change, or the encoding lacks a character.
    """
    try:
        if source.text.encode(source.encoding) != source.raw:
            raise NotWrittenError(f"its bytes are not what {source.encoding} makes of its text; save it as UTF-8 first")
        return text.encode(source.encoding)
    except UnicodeEncodeError as error:
        raise NotWrittenError(f"{source.encoding} cannot hold what was put in; save it as UTF-8 first") from error


def write(path: Path, source: SourceText, text: str) -> None:
    """Put a text in the place of a file that was read before: by a rename, with the mode it had.

    A link stays a link, and what it leads to is replaced.

    Raises:
        NotWrittenError: it has changed since, may not be written to, or cannot be.
    """
    raw = encoded(source, text)
    path = path.resolve()
    try:
        before = path.stat()
        if path.read_bytes() != source.raw:
            raise NotWrittenError("it has changed since it was read; scan it again")
        if not os.access(path, os.W_OK) or not before.st_mode & stat.S_IWUSR:
            raise NotWrittenError("it may not be written to")
        _replace(path, raw, before)
    except OSError as error:
        raise NotWrittenError(f"it cannot be written: {error.strerror or error}") from error


def _replace(path: Path, raw: bytes, before: os.stat_result) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            with contextlib.suppress(OSError):  # only root may give a file to somebody else
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 - the pair of mkstemp's name
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - the same
        raise
