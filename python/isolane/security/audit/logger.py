"""The audit log as an application uses it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, Literal, Self

from isolane._core import AuditLog, ForkedProcessError, UserExecutionContext
from isolane.security.audit.errors import AuditKeyError, AuditLogError, AuditTamperError
from isolane.security.audit.keys import KeyProvider
from isolane.security.audit.records import AuditHealth, TimeRange
from isolane.security.audit.report import SecurityReport, security_report
from isolane.security.audit.storage import EncryptedAuditStorage
from isolane.security.errors import AuditUnavailableError
from isolane.security.events import AuditClass, SecurityEvent, Severity

LOGGER = logging.getLogger("isolane.audit")

ANSWER_SECONDS = 30.0
"""How long the writer may take for an erasure, a rotation or a flush."""

EXIT_SECONDS = 2.0
"""How long the end of the process waits for a log that nobody closed."""

Observer = Callable[[SecurityEvent], object]


class FailurePolicy(StrEnum):
    """What becomes of an event while the log takes no records."""

    REFUSE = "refuse"
    """``record`` raises, and the caller refuses its operation."""
    SPILL = "spill"
    """It waits in a ring; when that is full, the oldest there is lost and counted."""
    DROP = "drop"
    """It is lost and counted."""


def _close_unclosed(log: AuditLog) -> None:
    with contextlib.suppress(ForkedProcessError):
        log.close(EXIT_SECONDS)


def _described(violation: object) -> dict[str, Any]:
    """Collect what a violation says of itself."""
    if isinstance(violation, Mapping):
        return dict(violation)
    names = ("type", "violation_type", "kind", "boundary", "severity", "resource", "description", "detail", "holders")
    found = {name: getattr(violation, name) for name in names if getattr(violation, name, None) is not None}
    return {"violation": type(violation).__name__, "text": str(violation)} | {
        name: value if isinstance(value, str | int | float | list | tuple) else str(value)
        for name, value in found.items()
    }


class AuditLogger:
    """Records events of security: sealed under the keys of their users, and so that nobody changes them unseen.

    Recording never waits for a disk: a thread of its own, started with the first record, seals and writes up to 256
    records at a time, at the latest after 50 ms. What happens when the disk takes nothing is decided by the class of
    the event. Make it once for a process, after forks, and close it; ``async with`` does.

    Args:
        storage: where the log is, and its keys.
        durability: ``os``: a record counts as written when the operating system has it, so that it survives the end of
            the process. ``fsync``: when the disk has it, so that it survives a loss of power.
        policy: what becomes of events of a class while the log is sick. By default ``permission``, ``isolation`` and
            ``admin`` are refused, ``lifecycle`` spills, ``debug`` is dropped.
        queue: records that may wait for the writer.
        spill: records that may wait for a log that is sick.
        patience: seconds that records may wait with no commit in between; then the log is sick. A process that was
            stopped, or a disk across a network, may need more.
        checkpoint_records: records between checkpoints.
        checkpoint_seconds: seconds between checkpoints while there are records.
        segment_bytes: bytes after which a new segment is begun.
        on_checkpoint: called with each checkpoint, a signed note, to keep it where whoever can write the log cannot. It
            is called in the thread that records next, or by ``close``; of several checkpoints in between with the last.
        new_chain: why a new chain may be begun if the log was altered. Its first record says so, and the altered chain
            stays as it is. By default that is an error.

    Raises:
        AuditTamperError: the log was altered, and ``new_chain`` is not given.
        AuditKeyError: the key does not open the keystore, or there is none.
        AuditLogError: the disk refuses, or another process has the log open.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        storage: EncryptedAuditStorage,
        *,
        durability: Literal["os", "fsync"] = "os",
        policy: Mapping[AuditClass, FailurePolicy] | None = None,
        queue: int = 8_192,
        spill: int = 10_000,
        patience: float = 0.25,
        checkpoint_records: int = 1_024,
        checkpoint_seconds: float = 60.0,
        segment_bytes: int = 64 * 1024 * 1024,
        on_checkpoint: Callable[[str], object] | None = None,
        new_chain: str | None = None,
    ) -> None:
        if durability not in {"os", "fsync"}:
            raise ValueError(f"durability must be 'os' or 'fsync', got {durability!r}")
        key = storage.key()
        if key is None:
            raise AuditKeyError("a log is written with keys only: give the storage a key provider, such as EnvKey()")
        self.storage = storage
        self._log = AuditLog(
            storage.path,
            key,
            fsync=durability == "fsync",
            on_failure=[(str(each), str(what)) for each, what in (policy or {}).items()],
            queue=queue,
            spill=spill,
            patience=patience,
            checkpoint_records=checkpoint_records,
            checkpoint_seconds=checkpoint_seconds,
            segment_bytes=segment_bytes,
            new_chain=new_chain,
        )
        self._on_checkpoint = on_checkpoint
        self._observers: tuple[Observer, ...] = ()
        self._finalizer = weakref.finalize(self, _close_unclosed, self._log)

    def record(self, event: SecurityEvent) -> None:
        """Take one event without waiting for a disk, and show it to the observers.

        Data without a JSON form is recorded as that; data beyond 8 KiB by its beginning, length and SHA-256.

        Raises:
            AuditUnavailableError: the log takes no records now, and the class of the event is refused then.
            ForkedProcessError: the logger was made before a fork.
        """
        try:
            has_news = self._log.record(event)
        except AuditUnavailableError:
            # It happened all the same: whoever can fill a disk must not blind the monitor.
            self._show(event)
            self._hand_out()
            raise
        self._show(event)
        if has_news:
            self._hand_out()

    def _show(self, event: SecurityEvent) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                LOGGER.exception("an observer of the audit log failed")

    def _hand_out(self) -> None:
        """Tell what the log has for the process: losses, and the latest checkpoint."""
        lost = self._log.take_losses()
        if lost is not None:
            counts = {name: count for name, count in lost.items() if count}
            self._show(
                SecurityEvent(
                    name="audit_gap", audit_class=AuditClass.ADMIN, severity=Severity.HIGH, data={"lost": counts}
                )
            )
        note = self._log.take_checkpoint()
        if note is None:
            return
        size = note.split("\n", 2)[1]
        LOGGER.info("audit checkpoint of %s records", size, extra={"checkpoint": note})
        if self._on_checkpoint is not None:
            try:
                self._on_checkpoint(note)
            except Exception:
                LOGGER.exception("on_checkpoint failed")

    def add_observer(self, observer: Observer) -> Callable[[], None]:
        """Have a function called with each event, in the thread that records it, also while the log takes none.

        What the log loses is shown as ``audit_gap`` with the counts by class; on the disk a record says so later. The
        function must not block. What it raises is logged, and harms nobody. Returns a function that takes it away.
        """
        self._observers = (*self._observers, observer)

        def remove() -> None:
            self._observers = tuple(each for each in self._observers if each is not observer)

        return remove

    def log_security_event(self, event: SecurityEvent) -> None:
        """Do as ``record`` does."""
        self.record(event)

    def log_context_creation(self, context: UserExecutionContext) -> None:
        """Record that a context was made, as ``context_created`` of class lifecycle."""
        ids = {
            "thread_id": context.thread_id,
            "run_id": context.run_id,
            "request_id": context.request_id,
            "parent_request_id": context.parent_request_id,
            "operation_depth": context.operation_depth,
        }
        self.record(
            SecurityEvent(name="context_created", audit_class=AuditClass.LIFECYCLE, user_id=context.user_id, data=ids)
        )

    def log_data_access(self, user_id: str, resource: str, action: str) -> None:
        """Record that a user does something with a resource, before it is done.

        ``read``, ``create``, ``update`` and ``delete`` become ``sensitive_read`` and so on, any other action
        ``sensitive_access``. The class is permission, so a log that is sick refuses it.

        Raises:
            AuditUnavailableError: the log takes no records now; do not let the access happen.
        """
        known = action in {"read", "create", "update", "delete"}
        name = f"sensitive_{action}" if known else "sensitive_access"
        data = {"resource": resource, "action": action}
        self.record(SecurityEvent(name=name, audit_class=AuditClass.PERMISSION, user_id=user_id, data=data))

    def log_isolation_violation(self, violation: object, *, user_id: str | None = None) -> None:
        """Record that something met the boundary of another user, as ``isolation_violation``.

        Args:
            violation: an error, a finding, a mapping, or anything with a text.
            user_id: at whose boundary; by default what the violation says.

        Raises:
            AuditUnavailableError: the log takes no records now.
        """
        data = _described(violation)
        whose = user_id or data.get("user_id") or getattr(violation, "user_id", None)
        event = SecurityEvent(
            name="isolation_violation",
            audit_class=AuditClass.ISOLATION,
            user_id=None if whose is None else str(whose),
            severity=Severity.CRITICAL,
            data=data,
        )
        self.record(event)

    def health(self) -> AuditHealth:
        """Return how the log is, for a readiness probe and for counters. Does not wait for the disk."""
        return AuditHealth(**self._log.health())  # type: ignore[arg-type]

    async def flush(self, timeout: float = ANSWER_SECONDS) -> int:  # noqa: ASYNC109 - the writer keeps it
        """Wait until all that was recorded before is written; returns how many records the chain has.

        Raises:
            AuditLogError: the log takes nothing now, or did not within ``timeout`` seconds.
        """
        return await asyncio.to_thread(self._log.flush, timeout)

    async def checkpoint(self, timeout: float = ANSWER_SECONDS) -> int:  # noqa: ASYNC109 - the writer keeps it
        """Sign the tree as it is now; returns how many records are signed.

        Raises:
            AuditLogError: the log takes nothing now, or did not within ``timeout`` seconds.
        """
        size = await asyncio.to_thread(self._log.checkpoint, timeout)
        self._hand_out()
        return size

    async def shred_user(self, user_id: str, reason: str, *, legal_hold: bool = False) -> int:
        """Destroy the keys and pseudonyms of a user, so that what was recorded of them is ``<erased>`` from now on.

        The log still verifies. A record ``user_deleted`` says that it was done and why, without the id; ``reason`` must
        not name the user either. What other users' records say of this one is not erased, nor are copies of the
        keystore in backups.

        Args:
            user_id: whose.
            reason: why, for the record.
            legal_hold: the data must be kept: nothing is destroyed, and ``user_deletion_held`` is recorded.

        Returns:
            How many keys were destroyed: one for each 30 days in which something was recorded.

        Raises:
            AuditUnavailableError: the log takes no records now, and the erasure is held.
            AuditLogError: the log takes nothing now, or did not within 30 s: try again.
        """
        if legal_hold:
            held = {"reason": reason}
            self.record(
                SecurityEvent(
                    name="user_deletion_held", audit_class=AuditClass.ADMIN, severity=Severity.WARNING, data=held
                )
            )
            return 0
        return await asyncio.to_thread(self._log.erase, user_id, reason, ANSWER_SECONDS)

    async def rotate_kek(self, keys: KeyProvider) -> None:
        """Wrap all keys with another key of keys. No record is written anew.

        The former key opens copies of the keystore that were made before: destroy it when those have aged out.

        Raises:
            AuditKeyError: the provider has no key.
            AuditLogError: the log takes nothing now, or did not within 30 s.
        """

        def rotate() -> None:
            # In one piece: a caller who gives up does not leave the storage with the former key.
            self._log.rotate(keys.key(), ANSWER_SECONDS)
            self.storage.keys = keys

        await asyncio.to_thread(rotate)

    async def generate_security_report(self, time_range: TimeRange) -> SecurityReport:
        """Say what was recorded in a time, and whether the log is what was written. Reads all of it, in a thread.

        Observers are shown ``audit_tampered`` for each chain that is not.

        Raises:
            AuditLogError: the log takes nothing now, or its disk cannot be read.
            AuditTamperError: something in the way is no record.
        """
        await self.flush()
        try:
            report = await asyncio.to_thread(security_report, self.storage, time_range)
        except AuditTamperError as error:
            self._show_tampering(error.chain, error.seq)
            raise
        for chain, seq, _ in report.verification.altered:
            self._show_tampering(chain, seq)
        return report

    def _show_tampering(self, chain: int, seq: int) -> None:
        found = {"chain": chain, "seq": seq}
        self._show(
            SecurityEvent(name="audit_tampered", audit_class=AuditClass.ADMIN, severity=Severity.CRITICAL, data=found)
        )

    def close(self, timeout: float = 5.0) -> int:
        """Take no more records, write those that wait and a last checkpoint. May be called again.

        It waits for the disk, so call it in a thread, or leave ``async with``. Returns how many records were lost at
        the end, because the disk takes nothing.

        Raises:
            AuditLogError: the disk did not answer within ``timeout`` seconds. What waits is written if it ever does.
        """
        lost = self._log.close(timeout)
        if lost is None:
            raise AuditLogError(
                f"the log's disk did not answer within {timeout} s; {self._log.health()['queued']} wait"
            )
        self._finalizer.detach()
        self._hand_out()
        return lost

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)
