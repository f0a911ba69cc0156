"""A history whose publishers are other processes, which may be killed: each writes down what it does, as it does it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.event_history import History, Published, Stream


class _Journalled(list):
    """What was published into a stream, also in the journal."""

    def __init__(self, journal: JournalHistory, stream: tuple[str, str]) -> None:
        super().__init__()
        self.journal = journal
        self.stream = stream

    def append(self, event: Published) -> None:
        super().append(event)
        fields = [getattr(event, name) for name in Published.__slots__]
        self.journal.write("published", *self.stream, *fields)


class JournalHistory(History):
    """What publishers of one process do, in a file that outlives it."""

    def __init__(self, seed: int, path: str | Path) -> None:
        super().__init__(seed)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115, PTH123 - as long as the process

    def write(self, *words: Any) -> None:
        self._file.write(json.dumps(words).encode() + b"\n")

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def uid(self) -> str:
        return f"{os.getpid()}-{super().uid()}"

    def opened(self, user: str, run: str, epoch: str) -> Stream:
        stream = super().opened(user, run, epoch)
        if not isinstance(stream.published, _Journalled):
            stream.published = _Journalled(self, (run, epoch))
            self.write("opened", user, run, epoch)
        return stream

    def ended(self, stream: Stream, outcome: str, head: int) -> None:
        """Note how a stream ended."""
        if stream.outcome is None:
            stream.outcome = outcome
            self.write("ended", stream.run, stream.epoch, outcome, head)


def collect(history: History, paths: Iterable[Path], read: dict[Path, int]) -> None:
    """Put what the journals hold into a history. Streams without an end of their own are lost:
    their process was killed, or another one closed them. ``read`` says how far each file was read."""
    for path in paths:
        text = path.read_bytes()[read.get(path, 0) :]
        # The last one may be half a line.
        text = text[: text.rfind(b"\n") + 1]
        read[path] = read.get(path, 0) + len(text)
        for line in text.splitlines():
            match json.loads(line):
                case ["opened", user, run, epoch]:
                    history.opened(user, run, epoch).lost = True
                case ["published", run, epoch, *fields]:
                    stream = history.streams[run, epoch]
                    event = Published(*fields)
                    stream.published.append(event)
                    history.reached(stream, event.number)
                case ["ended", run, epoch, outcome, head]:
                    stream = history.streams[run, epoch]
                    if outcome != "lost":
                        stream.outcome, stream.lost = outcome, False
                        history.reached(stream, head)
