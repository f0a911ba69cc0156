"""Counts who runs, over processes, and knows nothing of leases: a table in a file, one row a process, under a lock.

A process writes that something runs after it was admitted, and that it has ended before it gives the place back. So the
table never shows more than are admitted, and what it shows over a limit was over the limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_SECONDS = 10.0


class Witness:
    """The table.

    Args:
        path: the file, made by ``Witness.create``.
        processes: rows.
        users: columns.
        row: which row is this process's.
    """

    def __init__(self, path: str | Path, processes: int, users: int, row: int = 0) -> None:
        self.path, self.processes, self.users, self.row = Path(path), processes, users, row
        self._file = self.path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._cells = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, path: str | Path, processes: int, users: int) -> Witness:
        """Make the file."""
        Path(path).write_bytes(bytes(8 * ((processes + 1) * users + 1 + processes)))
        return cls(path, processes, users)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("a process stands still with the witness's lock") from None
                os.sched_yield()
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def enter(self, user: int) -> int:
        """Something of the user runs now. Returns how many do, over all processes."""
        with self._alone():
            cells, users = self._cells, self.users
            cells[self.row * users + user] += 1
            cells[(self.processes + 1) * users + 1 + self.row] += 1
            now = self._now(user)
            peak = self.processes * users + user
            cells[peak] = max(cells[peak], now)
            total = (self.processes + 1) * users
            cells[total] = max(cells[total], sum(self._now(each) for each in range(users)))
            return now

    def leave(self, user: int) -> None:
        """It has ended."""
        with self._alone():
            self._cells[self.row * self.users + user] -= 1

    def _now(self, user: int) -> int:
        return sum(self._cells[row * self.users + user] for row in range(self.processes))

    def now(self, user: int) -> int:
        """How many of the user run."""
        with self._alone():
            return self._now(user)

    def dead(self, row: int) -> None:
        """The process of a row was killed: nothing of it runs any more."""
        with self._alone():
            for user in range(self.users):
                self._cells[row * self.users + user] = 0

    def forget_peaks(self) -> None:
        """Count peaks from now on."""
        with self._alone():
            for user in range(self.users):
                self._cells[self.processes * self.users + user] = self._now(user)
            self._cells[(self.processes + 1) * self.users] = sum(self._now(each) for each in range(self.users))

    @property
    def peaks(self) -> list[int]:
        """The most that ran at once, by user."""
        start = self.processes * self.users
        return list(self._cells[start : start + self.users])

    @property
    def peak(self) -> int:
        """The most that ran at once of all users."""
        return self._cells[(self.processes + 1) * self.users]

    @property
    def admitted(self) -> list[int]:
        """How many were admitted, by process."""
        start = (self.processes + 1) * self.users + 1
        return list(self._cells[start : start + self.processes])

    def close(self) -> None:
        """Let go of the file."""
        self._cells.release()
        self._map.close()
        self._file.close()
