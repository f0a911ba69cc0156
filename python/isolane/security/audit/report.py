"""A summary of what an audit log says of a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from isolane.security.audit.records import AuditRecord, AuditVerification, TimeRange
from isolane.security.audit.storage import EncryptedAuditStorage
from isolane.security.events import AuditClass, Severity

MOST_VIOLATIONS = 1_000
"""Records of isolation that a report has in full; the others are counted."""

MOST_USERS = 20
"""Pseudonyms with the most records that a report names."""

OWN = "0" * 32
"""The pseudonym of the process itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityReport:
    """What was recorded in a time.

    Attributes:
        time_range: the time.
        made_at: when the report was made.
        total: records of that time.
        by_name, by_class, by_severity: counts. Names that cannot be read count as ``<erased>`` or ``<sealed>``.
        users: how many pseudonyms there are; a user has one for 30 days.
        busiest: the pseudonyms with the most records, and how many.
        denied: how many ``authz_fail`` and ``authn_login_fail``.
        violations: the records of class isolation, in order, the first 1 000 of them.
        violations_total: how many there are.
        lost: records that were not written, by class, as gap records say.
        erased: records of users whose keys were destroyed.
        verification: whether the log, of all times, is what was written.
    """

    time_range: TimeRange
    made_at: datetime
    total: int
    by_name: Mapping[str, int]
    by_class: Mapping[str, int]
    by_severity: Mapping[str, int]
    users: int
    busiest: Mapping[str, int]
    denied: int
    violations: tuple[AuditRecord, ...]
    violations_total: int
    lost: Mapping[str, int]
    erased: int
    verification: AuditVerification

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        report = asdict(self)
        report["time_range"] = {"start": self.time_range.start.isoformat(), "end": self.time_range.end.isoformat()}
        report["made_at"] = self.made_at.isoformat()
        for violation in report["violations"]:
            violation["recorded_at"] = violation["recorded_at"].isoformat()
        return report


class _Counts:
    """What is counted while going through the records, each of them once."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.classes: Counter[str] = Counter({each.value: 0 for each in AuditClass})
        self.severities: Counter[str] = Counter({each.value: 0 for each in Severity})
        self.users: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.violations: list[AuditRecord] = []

    def add(self, record: AuditRecord) -> None:
        self.names[record.name] += 1
        self.classes[record.audit_class.value] += 1
        self.severities[record.severity.value] += 1
        if record.pseudonym != OWN:
            self.users[record.pseudonym] += 1
        if record.audit_class is AuditClass.ISOLATION and len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(record)
        if record.name == "audit_gap" and record.audit_class is AuditClass.ADMIN and record.pseudonym == OWN:
            # An application may use the name for something of its own.
            lost = record.data.get("lost") if isinstance(record.data, dict) else None
            if isinstance(lost, dict):
                self.lost.update({name: count for name, count in lost.items() if isinstance(count, int)})


def security_report(storage: EncryptedAuditStorage, time_range: TimeRange) -> SecurityReport:
    """Read the log and say what was recorded in that time. Reads all of it, twice: off the event loop.

    Raises:
        AuditLogError: the disk cannot be read.
        AuditTamperError: something in the way is no record.
        AuditKeyError: the key does not open the keystore.
    """
    counts = _Counts()
    erased = 0
    for record in storage.records(time_range):
        counts.add(record)
        erased += record.state == "erased"
    return SecurityReport(
        time_range=time_range,
        made_at=datetime.now(UTC),
        total=counts.classes.total(),
        by_name=dict(counts.names.most_common()),
        by_class=dict(counts.classes),
        by_severity=dict(counts.severities),
        users=len(counts.users),
        busiest=dict(counts.users.most_common(MOST_USERS)),
        denied=counts.names["authz_fail"] + counts.names["authn_login_fail"],
        violations=tuple(counts.violations),
        violations_total=counts.classes[AuditClass.ISOLATION.value],
        lost=dict(counts.lost),
        erased=erased,
        verification=storage.verify(),
    )
