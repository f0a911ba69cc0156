"""Changes of a file of flags that reach every process that reads it."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from isolane._core import FlagEngine
from isolane.migration.flags.sources import edits
from isolane.migration.flags.sources.atomic import replace
from isolane.migration.flags.sources.errors import FlagChangeRefusedError, FlagFileError
from isolane.migration.flags.sources.history import FlagChange, changes_of, note
from isolane.migration.flags.sources.locking import locked
from isolane.migration.flags.sources.reading import as_json, is_toml, parse, read_bytes

LOCK_SECONDS = 10.0

Edit = Callable[[dict[str, Any], datetime], str]
"""Changes a document in place, and says what it did."""


@dataclass(frozen=True, slots=True)
class FlagFile:
    """A file of flags as it was read.

    Attributes:
        document: the document, which is JSON-like; not checked.
        revision: its revision.
    """

    document: dict[str, Any]
    revision: int


class DocumentWriter(abc.ABC):
    """Changes a document of flags, wherever it is kept: each change raises the revision by one, and has its line.

    Attributes:
        path: the file, or what stands for one in messages.
    """

    path: Path

    @abc.abstractmethod
    def read(self) -> FlagFile:
        """Read the document.

        Raises:
            FlagFileError: it cannot be read, or is no document.
        """

    @abc.abstractmethod
    def _change(
        self,
        action: str,
        flag: str,
        actor: str,
        reason: str,
        edit: Edit,
        *,
        create: bool = False,
    ) -> FlagChange:
        """Read, change and write the document, so that no other change is lost."""

    def history(self) -> list[FlagChange]:
        """Return the changes that led to the document, the latest first.

        Raises:
            FlagFileError: the file cannot be read, or is no document.
        """
        return changes_of(self.read().document)

    def set_rollout(
        self,
        flag: str,
        percent: str | float | Decimal,
        *,
        actor: str,
        reason: str = "",
        when: tuple[str, str] | None = None,
        create: bool = False,
        turn_on: bool = False,
        only_from: str | float | Decimal | None = None,
    ) -> FlagChange:
        """Let so many users have a flag.

        Args:
            flag: which.
            percent: from 0 to 100, with at most three decimals.
            actor: who changes it.
            reason: why.
            when: name and value of an attribute, such as ``("tier", "enterprise")``: the share of these users alone.
            create: add the flag, and the file, if they are not there.
            turn_on: also if the flag's state is ``off``.
            only_from: per cent that the flag must have at that moment, so that nobody else's change is undone. Default:
                whatever it has.

        Raises:
            FlagChangeRefusedError: the flag is unknown, rolled back or off, it is not at ``only_from``, or a number is
                none.
            FlagFileError: the file cannot be read, locked or written.
            FlagConfigError: the document would not be valid.
        """
        steps = edits.steps_of(percent)
        before = None if only_from is None else edits.steps_of(only_from)
        return self._change(
            "set",
            flag,
            actor,
            reason,
            lambda document, _: edits.set_rollout(
                document, flag, steps, when=when, create=create, turn_on=turn_on, only_from=before
            ),
            create=create,
        )

    def kill(self, *, actor: str, reason: str = "") -> FlagChange:
        """Take every flag from everybody.

        Raises:
            FlagFileError: the file cannot be read, locked or written.
            FlagConfigError: the document is not valid.
        """
        return self._change("kill", "", actor, reason, lambda document, _: edits.kill(document))

    def unkill(self, *, ack: str, actor: str) -> FlagChange:
        """Turn the kill switch off again.

        Raises:
            FlagChangeRefusedError: it is off.
            FlagFileError: the file cannot be read, locked or written.
            FlagConfigError: the document is not valid.
        """
        return self._change("resume", "", actor, ack, lambda document, _: edits.unkill(document))

    def roll_back(
        self, flag: str, record: Mapping[str, Any], *, actor: str, reason: str = "", create: bool = False
    ) -> FlagChange:
        """Take a flag from everybody until it is resumed.

        Args:
            flag: which.
            record: what is kept of it, JSON-like: such as metric, measured value and threshold. The share at that time,
                the time and the actor are added where it does not have them.
            actor: who, such as the guard.
            reason: why. Default: what the record says.
            create: add the flag, and the file, if they are not there: what the file says of a flag counts before what a
                variable of the environment says.

        Raises:
            FlagChangeRefusedError: the flag is unknown.
            FlagFileError: the file cannot be read, locked or written.
            FlagConfigError: the document would not be valid.
        """
        why = reason or str(record.get("reason", ""))
        return self._change(
            "rollback",
            flag,
            actor,
            why,
            lambda document, at: edits.roll_back(document, flag, record, actor, why, at, create=create),
            create=create,
        )

    def resume(self, flag: str, *, ack: str, actor: str) -> FlagChange:
        """Let a flag be rolled out again that was rolled back; its rollout stays at 0 until it is set.

        Args:
            flag: which.
            ack: what was found out, such as the number of the incident.
            actor: who has found it out.

        Raises:
            FlagChangeRefusedError: the flag is unknown, or ``ack`` or ``actor`` is empty.
            FlagFileError: the file cannot be read, locked or written.
            FlagConfigError: the document would not be valid.
        """
        return self._change(
            "resume",
            flag,
            actor,
            ack,
            lambda document, at: edits.resume(document, flag, ack, actor, at.isoformat()),
        )


class FlagWriter(DocumentWriter):
    """Changes a JSON file of flags: one writer at a time, in one piece, checked before it is written.

    Processes of one machine take turns by a lock file beside it, so no change is lost. The new text goes to a file of
    its own, to the disk, and then takes the name: a reader sees the former document or the new one, also when the
    writer is killed in between. Each change raises the revision by one and adds a line to the document's ``history``,
    which keeps the latest 100.

    Every method waits for the disk, and up to ``lock_seconds`` for other writers: from a coroutine call it by
    ``asyncio.to_thread``.

    Args:
        path: the file. TOML is for people: it is read and not written, because its comments would be lost.
        lock_seconds: how long to wait for other writers.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = Path(path)
        self._lock = self.path.with_name(f"{self.path.name}.lock")
        self._lock_seconds = lock_seconds

    def read(self) -> FlagFile:
        """Read the file.

        Raises:
            FlagFileError: it cannot be read, or is no document.
        """
        return document_of(self.path, read_bytes(self.path))

    def _change(
        self,
        action: str,
        flag: str,
        actor: str,
        reason: str,
        edit: Edit,
        *,
        create: bool = False,
    ) -> FlagChange:
        refuse_unnamed(action, actor, reason)
        if is_toml(self.path):
            raise FlagFileError(
                self.path,
                "TOML is read and not written, since its comments would be lost",
                "change it in an editor and raise its revision, or keep the flags in a .json file",
            )
        with locked(self._lock, self._lock_seconds):
            held = self._held(create=create)
            change, text = changed(self.path, held, action, flag, actor, reason, edit)
            replace(self.path, text.encode())
        return change

    def _held(self, *, create: bool) -> FlagFile:
        if create and not self.path.exists():
            return FlagFile(edits.empty_document(), 0)
        return self.read()


def document_of(path: Path, data: bytes) -> FlagFile:
    """Return what was read as a document with its revision.

    Raises:
        FlagFileError: it is none.
    """
    document = parse(path, data)
    revision = document.get("revision", 0)
    if not isinstance(revision, int) or isinstance(revision, bool) or revision < 0:
        raise FlagFileError(path, f"its revision is {revision!r}", "write a whole number from 0 on")
    return FlagFile(document, revision)


def refuse_unnamed(action: str, actor: str, reason: str) -> None:
    """Refuse a change without an actor, or a resumption without what was found.

    Raises:
        FlagChangeRefusedError: one of them is empty.
    """
    for name, text in (("actor", actor), *((("ack", reason),) if action == "resume" else ())):
        if not text.strip():
            raise FlagChangeRefusedError(f"{name} is empty: say {'who' if name == 'actor' else 'what was found'}")


def changed(
    path: Path, held: FlagFile, action: str, flag: str, actor: str, reason: str, edit: Edit
) -> tuple[FlagChange, str]:
    """Change a document, and return its line and its text.

    Raises:
        FlagChangeRefusedError: the edit refuses it.
        FlagConfigError: the document would not be valid.
    """
    at = datetime.now(UTC)
    summary = edit(held.document, at)
    revision = held.revision + 1
    held.document["revision"] = revision
    change = FlagChange(revision, at, actor, action, flag, summary, reason)
    note(held.document, change)
    text = as_json(path, held.document, indent=2) + "\n"
    # What no process would take is not written.
    FlagEngine.check(text)
    return change, text
