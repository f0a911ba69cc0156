"""The ledgers of all workers in one folder: a file for each, and one for the workers that are gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from isolane._core import merge_ledgers

MAX_FILES: Final = 1_024
"""Files of one folder that are read; of more, those written last."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""A larger file is not a ledger."""
COMPACT_FROM: Final = 32
"""So many files of workers that are gone are put together."""
PAUSE: Final = timedelta(hours=1)
"""When nobody counted for longer, it is a pause: a worker says every ten minutes that it is there."""
MAX_SPANS: Final = 1_000
"""Spans of counting that are told apart; of more, the latest."""
GONE_AFTER: Final = 3_600.0
"""Seconds without a write after which a worker whose process id is free counts as gone."""

_WORKER = re.compile(r"worker-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.json")
_MERGED = re.compile(r"merged-.+\.json")
_TEMPORARY = re.compile(r"\.(worker|merged)-.+\.tmp")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64] or "host"


def worker_name() -> str:
    """A name of a file that no other worker has."""
    return f"worker-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.json"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class LegacyLine:
    """One line of the application and one legacy call it makes.

    Attributes:
        symbol: What it calls.
        code: Its code, such as ``ISO-D003``.
        file: The file, as the interpreter named it.
        line: The line.
        count: How often, in all workers.
        first: The first time.
        last: The latest time.
    """

    symbol: str
    code: str
    file: str
    line: int
    count: int
    first: datetime
    last: datetime

    def to_dict(self) -> dict[str, Any]:
        """The line for JSON; times in ISO 8601."""
        return {
            "symbol": self.symbol,
            "code": self.code,
            "file": self.file,
            "line": self.line,
            "count": self.count,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """What workers have counted.

    Attributes:
        since: When the first of them began to count; None when there is none.
        until: Until when the latest is known to have counted.
        spans: From when until when somebody counted, in order; shorter pauses than an hour are part of it.
        lines: The lines, the latest call first.
        symbols: Calls by symbol, those of lines that had to make room included.
        evicted: Lines that had to make room.
        evicted_last: The latest call of those.
        files: Files that were read.
        unread: Files that were not, by name, with the reason.
    """

    since: datetime | None = None
    until: datetime | None = None
    spans: tuple[tuple[datetime, datetime], ...] = ()
    lines: tuple[LegacyLine, ...] = ()
    symbols: dict[str, int] = field(default_factory=dict)
    evicted: int = 0
    evicted_last: datetime | None = None
    files: int = 0
    unread: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        text: str | None,
        *,
        spans: Iterable[tuple[int, int]] | None = None,
        files: int = 0,
        unread: dict[str, str] | None = None,
    ) -> LedgerReading:
        """What a ledger says, as `merge_ledgers` or `DeprecationLedger.book` wrote it.

        Args:
            text: The ledger; None for none.
            spans: When somebody counted, in microseconds; by default all of the time that the ledger names.
            files: How many files it was put together from.
            unread: Files that were not read, with the reason.
        """
        if text is None:
            return cls(files=files, unread=unread or {})
        book = json.loads(text)
        lines = tuple(
            LegacyLine(**{**line, "first": _time(line["first"]), "last": _time(line["last"])}) for line in book["sites"]
        )
        gone = book.get("evicted_last")
        return cls(
            since=_time(book["since"]),
            until=_time(book["until"]),
            spans=tuple(
                (_time(since), _time(until))
                for since, until in ([(book["since"], book["until"])] if spans is None else spans)
            ),
            lines=lines,
            symbols=book["symbols"],
            evicted=book["evicted"],
            evicted_last=None if gone is None else _time(gone),
            files=files,
            unread=unread or {},
        )

    @property
    def calls(self) -> int:
        """All calls."""
        return sum(self.symbols.values())


def _time(micros: int) -> datetime:
    # A file may say anything: what no calendar has is as late as one can say.
    try:
        return datetime.fromtimestamp(micros / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


class LedgerFolder:
    """A folder of ledgers. Writing is atomic: a reader sees the former file or the new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, name: str, text: str) -> None:
        """Replace a file.

        Raises:
            OSError: The disk refuses; the former file stays and nothing half-written is left.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{name}.{threading.get_ident()}.tmp"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _names(self, kind: re.Pattern[str]) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.path) if kind.fullmatch(entry.name))
        except FileNotFoundError:
            return []

    def _text(self, name: str) -> str | None:
        """A file's text; None when it is gone since the folder was read."""
        path = self.path / name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES} bytes")
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def read(self, own: tuple[str, str] | None = None) -> LedgerReading:
        """Put together what all workers have written. Files that cannot be read are named, and the rest counts.

        Args:
            own: The name and text of the worker that asks, which knows more than its file.
        """
        texts: dict[str, str] = {}
        unread: dict[str, str] = {}
        workers = self._names(_WORKER)
        if len(workers) > MAX_FILES:
            unread[f"{len(workers) - MAX_FILES} files"] = f"the folder has more than {MAX_FILES}"
            workers = sorted(workers, key=self._written)[-MAX_FILES:]
        absorbed: set[str] = set()

        def take(name: str) -> None:
            try:
                text = self._text(name)
                if text is not None:
                    absorbed.update(_absorbed(text) if _MERGED.fullmatch(name) else ())
                    texts[name] = text
            except (OSError, ValueError) as error:
                unread[name] = _reason(error)

        for name in workers:
            take(name)
        if own is not None:
            texts[own[0]] = own[1]
        # Looked for after the workers: what went into one of these since was read above, and is left out below.
        for name in self._names(_MERGED):
            take(name)
        for name in absorbed:
            texts.pop(name, None)
        of_text = list(texts)
        whole, problems = merge_ledgers(list(texts.values()))
        unread |= {of_text[at]: problem for at, problem in problems}
        spans = spans_of(text for name, text in texts.items() if name not in unread)
        return LedgerReading.of(whole, spans=spans, files=len(texts) - len(problems), unread=unread)

    def _written(self, name: str) -> float:
        try:
            return (self.path / name).stat().st_mtime
        except OSError:
            return 0.0

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[bool]:
        with (self.path / ".compact.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def compact(self, *, from_files: int = COMPACT_FROM, gone_after: float = GONE_AFTER) -> int:
        """Put the files of this machine's workers that are gone into one. Returns how many went into it.

        The one says whose files it has, and is in place before they are removed: cut off in between, nobody counts
        twice.

        Raises:
            OSError: The disk refuses; nothing is lost.
        """
        if not self.path.is_dir():
            return 0
        with self._only_one() as mine:
            if not mine:
                return 0
            return self._compact(from_files, gone_after)

    def _compact(self, from_files: int, gone_after: float) -> int:
        before = time.time() - gone_after
        for left in self._names(_TEMPORARY):
            if self._written(left) < before:
                self._remove(left)
        merged = f"merged-{_host()}.json"
        names = set(self._names(_WORKER))
        former = self._text(merged)
        earlier = set() if former is None else _absorbed(former) & names
        gone = [name for name in names - earlier if self._is_gone(name, before)][:MAX_FILES]
        taken: dict[str, str] = {}
        if len(gone) >= from_files:
            # What cannot be read stays where it is, to be seen.
            taken = {name: text for name in gone if (text := self._text(name)) is not None and _is_ledger(text)}
        if taken:
            texts = [*([] if former is None else [former]), *taken.values()]
            whole, problems = merge_ledgers(texts)
            if whole is None or problems:
                return 0
            more = {"absorbed": sorted(earlier | set(taken)), "spans": spans_of(texts)}
            self.write(merged, json.dumps({**json.loads(whole), **more}))
        for name in earlier | set(taken):
            self._remove(name)
        return len(taken)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / name).unlink()

    def _is_gone(self, name: str, before: float) -> bool:
        match = _WORKER.fullmatch(name)
        if match is None or match["host"] != _host():
            return False
        return self._written(name) < before and not _is_running(int(match["pid"]))


def spans_of(texts: Iterable[str]) -> list[tuple[int, int]]:
    """When somebody counted, by ledgers that can be read: what one of many workers leaves out, another one may have."""
    found: list[tuple[int, int]] = []
    for text in texts:
        book = json.loads(text)
        given = book.get("spans")
        found += _pairs(given) if isinstance(given, list) else [(book["since"], book["until"])]
    joined: list[tuple[int, int]] = []
    longest = PAUSE // timedelta(microseconds=1)
    for since, until in sorted(found):
        if joined and since - joined[-1][1] <= longest:
            joined[-1] = (joined[-1][0], max(joined[-1][1], until))
        else:
            joined.append((since, until))
    return joined[-MAX_SPANS:]


def _pairs(given: list[Any]) -> list[tuple[int, int]]:
    return [(one[0], one[1]) for one in given if isinstance(one, list) and [type(at) for at in one] == [int, int]]


def _is_ledger(text: str) -> bool:
    return not merge_ledgers([text])[1]


def _absorbed(text: str) -> set[str]:
    """The files that went into a merged one."""
    book = json.loads(text)
    names = book.get("absorbed", ()) if isinstance(book, dict) else ()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else f"not a ledger: {error}"
