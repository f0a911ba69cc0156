"""One writer at a time, of all processes of the machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from isolane.migration.flags.sources.errors import FlagFileError

_LOOK_SECONDS = 0.01


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file for the length of a block.

    The kernel lets go of the lock when a process dies. The file itself stays: whoever removed it would have two
    processes hold the lock of two files.

    Raises:
        FlagFileError: it cannot be made, or another process holds it for longer than ``seconds``.
    """
    descriptor = _open(path)
    try:
        limit = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as error:
                raise FlagFileError(
                    path, f"it cannot be locked: {error.strerror}", "keep the flags on a file system with locks"
                ) from error
            if time.monotonic() >= limit:
                raise FlagFileError(
                    path,
                    f"another process has held the lock for more than {seconds:g} s",
                    f"find it with `fuser {path}`, and try again",
                )
            time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except PermissionError:
        # Made by another user of the machine: to read is enough for the lock.
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        raise FlagFileError(
            path, "it may not be made", "let this user write into the directory: a file is replaced, not changed"
        ) from None
    except OSError as error:
        raise FlagFileError(
            path, f"it cannot be made: {error.strerror}", "name a file in a directory that is there and writable"
        ) from error
