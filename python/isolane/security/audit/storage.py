"""The log on the disk, as it is read: nothing here locks or changes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from isolane._core import AuditReader, audit_chains, audit_is_written, audit_prove, audit_verify
from isolane.security.audit.keys import KeyProvider
from isolane.security.audit.records import (
    ERASED,
    SEALED,
    AuditRecord,
    AuditVerification,
    InclusionProof,
    TimeRange,
    nanoseconds,
)
from isolane.security.events import AuditClass, Severity

BATCH = 512
"""Records that are read at a time."""

Row = tuple[int, int, int, str, str, str, str, int, str, str]


def _record(row: Row) -> AuditRecord:
    chain, seq, ns, audit_class, severity, pseudonym, _, _, state, body = row
    said = json.loads(body) if state == "open" else {}
    hidden = ERASED if state == "erased" else SEALED
    return AuditRecord(
        chain=chain,
        seq=seq,
        recorded_at=datetime.fromtimestamp(ns // 1_000_000_000, UTC).replace(microsecond=ns // 1_000 % 1_000_000),
        audit_class=AuditClass(audit_class),
        severity=Severity(severity),
        pseudonym=pseudonym,
        name=said.get("name", hidden),
        user_id=said.get("user_id"),
        at=said.get("at", ""),
        data=said.get("data", hidden),
        state=state,
    )


class EncryptedAuditStorage:
    """A directory with an audit log, and the provider of its key of keys.

    Args:
        path: the directory. ``AuditLogger`` makes it when it is not there.
        keys: gives the key of keys. Without one, records can be counted, verified and proved, and not opened.
    """

    def __init__(self, path: str | os.PathLike[str], keys: KeyProvider | None = None) -> None:
        self.path = Path(path)
        self.keys = keys

    def key(self) -> bytes | None:
        """Return the key of keys, or ``None`` without a provider. Raises ``AuditKeyError`` when it cannot be had."""
        return None if self.keys is None else self.keys.key()

    def is_written(self) -> bool:
        """Whether a process has the log open to write at this moment."""
        return audit_is_written(self.path)

    def exists(self) -> bool:
        """Whether there is a log."""
        return bool(audit_chains(self.path))

    def records(
        self,
        time_range: TimeRange | None = None,
        *,
        user_id: str | None = None,
    ) -> Iterator[AuditRecord]:
        """Go through the records, the oldest first.

        Args:
            time_range: those that were recorded then; all by default.
            user_id: those under a key of this user, which needs the keys. An erased user has none.

        Raises:
            AuditTamperError: something in the way is no record; ``verify`` says more.
            AuditKeyError: the key does not open the keystore.
        """
        reader = AuditReader(
            self.path,
            self.key(),
            from_ns=max(0, nanoseconds(time_range.start)) if time_range else 0,
            until_ns=max(0, nanoseconds(time_range.end)) if time_range else None,
            user=user_id,
        )
        while rows := reader.read(BATCH):
            for row in rows:
                yield _record(row)

    def verify(self, *, checkpoint: str | None = None, verifier: str | None = None) -> AuditVerification:
        """Hold every record against the stored tree, the checkpoints and, if they are there, the keys. Reads all of it.

        Args:
            checkpoint: a signed note that was kept elsewhere: what shows that nobody cut the log back together with
                its checkpoints.
            verifier: the verifier key of the checkpoints that was kept elsewhere. By default that of the keystore, and
                without keys the one beside the log, which whoever can write there could have replaced.

        Raises:
            AuditLogError: there is no log, or the disk cannot be read.
            AuditKeyError: the key does not open the keystore.
        """
        found = audit_verify(self.path, self.key(), verifier, checkpoint)
        altered: tuple[tuple[int, int, str], ...] = tuple(found.pop("altered"))  # type: ignore[arg-type]
        return AuditVerification(ok=not altered, altered=altered, **found)  # type: ignore[arg-type]

    def prove(self, seq: int, *, chain: int = 1) -> InclusionProof | None:
        """Prove that a record is in a chain, against the first checkpoint that covers it; ``None`` when none does yet.

        Raises:
            AuditTamperError: the stored tree is not the one that was signed.
        """
        found = audit_prove(self.path, chain, seq)
        if found is None:
            return None
        return InclusionProof(
            chain=chain,
            seq=seq,
            leaf=found["leaf"],  # type: ignore[arg-type]
            proof=tuple(found["proof"]),  # type: ignore[arg-type]
            checkpoint=found["note"],  # type: ignore[arg-type]
            verifier=found["verifier"],  # type: ignore[arg-type]
        )
