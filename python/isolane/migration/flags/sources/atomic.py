"""A file that is replaced in one piece: who reads it sees all of the former one, or all of the new one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from isolane.migration.flags.sources.errors import FlagFileError

NEW_MODE = 0o644


def replace(path: Path, data: bytes) -> None:
    """Write a file beside it, have the disk keep it, and give it the name. A link goes on to name the same file.

    The file keeps its mode, and its owner where the process may say so. Call it under the lock: what a process that was
    killed has left beside the file is removed.

    Raises:
        FlagFileError: the disk or the directory refuses. The file is then what it was.
    """
    target = Path(os.path.realpath(path))
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    # Nobody else's files, however similar their names are.
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.tmp")
    try:
        for found in target.parent.iterdir():
            if left.fullmatch(found.name):
                found.unlink(missing_ok=True)
        try:
            _write(scratch, data, target)
            scratch.rename(target)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise
        _sync_directory(target.parent)
    except OSError as error:
        raise FlagFileError(
            path,
            f"it was not written: {error.strerror or error}",
            "let this user write into the directory, and see that the disk has room",
        ) from error


def _write(scratch: Path, data: bytes, target: Path) -> None:
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_MODE)
    with os.fdopen(descriptor, "wb") as file:
        with contextlib.suppress(FileNotFoundError):
            former = target.stat()
            os.fchmod(descriptor, former.st_mode & 0o7777)
            # Root may run the command while the service runs as somebody else.
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, former.st_uid, former.st_gid)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
