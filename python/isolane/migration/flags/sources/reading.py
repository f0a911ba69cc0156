"""A file of flags as it is on the disk: one look at it, and its text as JSON."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolane.migration.flags.sources.errors import FlagFileError

MAX_BYTES = 1024 * 1024
"""Beyond this a file is not read: it is read in the loop of the application."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one call of ``stat`` says of a file. Two that are equal are most likely of the same content.

    The time of the change of the inode is part of it, because tools that copy files set the time of modification.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def look_at(path: Path) -> Look | None:
    """Look at a file, through links; ``None`` when it is not there, or is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Look(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_bytes(path: Path) -> bytes:
    """Read a file of at most 1 MiB without waiting for what is no file.

    Raises:
        FlagFileError: it is missing, no file, too large, or may not be read.
    """
    try:
        # A pipe of that name would keep the loop until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FlagFileError(
            path, "there is no such file", "write it, or make it with `isolane rollout set FLAG 0 --create`"
        ) from error
    except (OSError, ValueError) as error:
        raise FlagFileError(path, _said(error), "let this process read the file") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise FlagFileError(path, f"it is {what}", "name the file of the flags itself")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FlagFileError(path, _said(error), "let this process read the file") from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise FlagFileError(
            path, "it has more than 1 MiB", "keep lists of users elsewhere, and let a rule name their attribute"
        )
    return data


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """Read JSON, or TOML by the name of the file, into a document that is not checked yet.

    Raises:
        FlagFileError: it is neither, or no document.
    """
    name = "TOML" if is_toml(path) else "JSON"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlagFileError(path, f"byte {error.start} is not UTF-8", "save it as UTF-8") from error
    if not text.strip():
        raise FlagFileError(path, "it is empty", "write the whole document, with a rename at the end")
    try:
        document = tomllib.loads(text) if is_toml(path) else json.loads(text, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise FlagFileError(path, f"it is no {name}: {error}", "correct it there, or write the file anew") from error
    if not isinstance(document, dict):
        raise FlagFileError(
            path, f"its {name} is a {type(document).__name__}", 'write an object such as {"schema": 1, "revision": 1}'
        )
    return document


def as_json(path: Path, document: dict[str, Any], *, indent: int | None = None) -> str:
    """Write a document as JSON.

    Raises:
        FlagFileError: it has a value that JSON does not have, such as a date of TOML.
    """
    try:
        return json.dumps(document, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FlagFileError(
            path, f"it has a value that no flag has: {error}", "write dates as texts, and numbers that are finite"
        ) from error


def is_toml(path: Path) -> bool:
    """Whether the name of the file says that it is TOML."""
    return path.suffix.lower() == ".toml"


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        # The later one would win unseen: of two rollouts the one that nobody looks at.
        raise ValueError(f"{double!r} stands there twice")
    return found


def _said(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
