"""What is read from an audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from isolane.security.events import AuditClass, Severity

ERASED = "<erased>"
"""Stands for what a record said, once the keys of its user were destroyed."""

SEALED = "<sealed>"
"""Stands for what a record says, without a key that opens it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One record, as far as the keys open it.

    Attributes:
        chain: the number of its chain, from 1.
        seq: its number in the chain, from 0.
        recorded_at: when it was taken, in UTC.
        audit_class: its class.
        severity: how bad it is.
        pseudonym: what stands for the user within 30 days; zeros for the process itself.
        name: what happened; ``<erased>`` or ``<sealed>`` when it cannot be read.
        user_id: whose; ``None`` for the process itself, and when it cannot be read.
        at: when it happened, by who recorded it, ISO 8601.
        data: the details.
        state: ``open``, ``erased`` or ``sealed``.
    """

    chain: int
    seq: int
    recorded_at: datetime
    audit_class: AuditClass
    severity: Severity
    pseudonym: str
    name: str
    user_id: str | None
    at: str
    data: Any
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditVerification:
    """What a verification found.

    Attributes:
        ok: whether every record is as it was written and signed.
        chains: how many chains there are.
        records: how many records were looked at.
        checkpoints: how many checkpoints hold.
        signed: how many records are under a checkpoint.
        opened: how many records opened with their key; none without the keys.
        erased: how many records are of users whose keys were destroyed.
        bad_chain: the chain of the first record that is not as it was written.
        bad_seq: its number.
        problem: what is wrong with it.
        altered: chain, number and problem of the first such record of each chain that has one.
    """

    ok: bool
    chains: int
    records: int
    checkpoints: int
    signed: int
    opened: int
    erased: int
    bad_chain: int | None
    bad_seq: int | None
    problem: str | None
    altered: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """That a record is in the log, for who trusts the verifier key (RFC 6962, C2SP checkpoints).

    Attributes:
        chain: the number of its chain.
        seq: its number.
        leaf: the hash of the record.
        proof: the hashes from the leaf to the root.
        checkpoint: the signed note with size and root.
        verifier: the key of the note.
    """

    chain: int
    seq: int
    leaf: bytes
    proof: tuple[bytes, ...]
    checkpoint: str
    verifier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHealth:
    """How a log is.

    Attributes:
        status: ``ok``; ``degraded`` while records wait in the spill ring or losses are not on the disk yet; ``sick``
            while it takes nothing; ``closed``.
        reason: what is wrong when it is sick, for operators.
        queued: records that wait for the writer.
        spilled: records in the spill ring.
        lost: records that were not written, by class, since the log was opened.
        written: records that were written since then.
        unkeyed: of those, how many without what they say, because the keys of these 30 days are used up.
        chain: the number of the chain that is written.
        recovered_cut: bytes of a write that a crash had cut short, which the start cut off and kept in a file beside.
        recovered_unsigned: records that the start found whole, and under no checkpoint.
    """

    status: str
    reason: str
    queued: int
    spilled: int
    lost: Mapping[str, int]
    written: int
    unkeyed: int
    chain: int
    recovered_cut: int
    recovered_unsigned: int


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From a moment to before another, both aware.

    Attributes:
        start: the first moment.
        end: the moment after the last.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("a time range needs aware datetimes, such as datetime.now(UTC)")
        if self.end < self.start:
            raise ValueError(f"a time range must not end before it starts: {self.start} to {self.end}")


def nanoseconds(moment: datetime) -> int:
    """Count from the Unix epoch, exactly."""
    past = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return ((past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds) * 1_000
