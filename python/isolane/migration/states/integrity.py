"""Whether the data of users is what and where it should be: owners, logs, audit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isolane._core import audit_isolation, lane_stats, log_accounts
from isolane.security.audit import AuditLogger, EncryptedAuditStorage

MAX_PROBLEMS = 64
"""Problems that are told one by one; of more the number is told."""


@dataclass(frozen=True, slots=True)
class IntegrityCheck:
    """What one check found.

    Attributes:
        name: ``owners``, ``logs`` or ``audit``.
        problems: what is wrong, without anybody's data; empty when nothing is.
        checked: how much was looked at: lanes of users, logs of events, records.
    """

    name: str
    problems: tuple[str, ...]
    checked: int

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What the checks found together.

    Attributes:
        checks: each check by its name. One that was not done is not there.
    """

    checks: Mapping[str, IntegrityCheck]

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return all(check.ok for check in self.checks.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong."""
        return tuple(f"{name}: {problem}" for name, check in self.checks.items() for problem in check.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a log: JSON-like, and nobody's data."""
        checks = {
            name: {"ok": check.ok, "checked": check.checked, "problems": list(check.problems)}
            for name, check in self.checks.items()
        }
        return {"ok": self.ok, "checks": checks}


def check_owners() -> IntegrityCheck:
    """Compare the owners of what all live contexts hold: ``isolane.audit_isolation()``, which walks the heap."""
    found = [f"{finding.kind}: {finding.detail}" for finding in audit_isolation()]
    return IntegrityCheck("owners", _few(found), max(1, lane_stats()["lanes"]))


def check_logs(accounts: Sequence[Mapping[str, Any]] | None = None) -> IntegrityCheck:
    """Account for every event of every log: each number is in the log, in its snapshot, or was left out by its class.

    Args:
        accounts: as the core gives them. Default: those of now.
    """
    accounts = log_accounts() if accounts is None else accounts
    found = []
    for account in accounts:
        missing = account["head"] - account["live"] - account["folded"] - account["shed"]
        if missing:
            found.append(f"log {account['log']} has {missing} events fewer than it gave numbers to")
        if account["misplaced"]:
            found.append(f"log {account['log']} has {account['misplaced']} events that are not where they belong")
    return IntegrityCheck("logs", _few(found), len(accounts))


def stored(audit: EncryptedAuditStorage | AuditLogger) -> EncryptedAuditStorage:
    """Return the stored log of one that is written."""
    return audit.storage if isinstance(audit, AuditLogger) else audit


def check_audit(storage: EncryptedAuditStorage) -> IntegrityCheck:
    """Verify the stored audit log as a whole. Reads all of it."""
    found = storage.verify()
    altered = [
        f"chain {chain} is not as it was written from record {seq} on: {why}" for chain, seq, why in found.altered
    ]
    return IntegrityCheck("audit", _few(altered), found.records)


async def check_data_integrity(audit: EncryptedAuditStorage | AuditLogger | None = None) -> IntegrityReport:
    """Check owners, logs and, if there is one, the stored audit log.

    A check that cannot be done has failed. The sweep of owners stops the loop while it walks the heap: some ten
    milliseconds for a service of a usual size. The audit log is read in a thread.

    Args:
        audit: the audit log, as it is written or as it is stored. Default: it is not looked at.
    """
    checks = {"owners": _done("owners", check_owners), "logs": _done("logs", check_logs)}
    if audit is not None:
        checks["audit"] = await asyncio.to_thread(_done, "audit", lambda: check_audit(stored(audit)))
    return IntegrityReport(checks)


def _done(name: str, check: Any) -> IntegrityCheck:
    try:
        done: IntegrityCheck = check()
    except Exception as error:  # noqa: BLE001 - what cannot be looked at is not in order
        return IntegrityCheck(name, (f"it could not be checked: {type(error).__name__}",), 0)
    return done


def _few(found: Sequence[str]) -> tuple[str, ...]:
    if len(found) <= MAX_PROBLEMS:
        return tuple(found)
    return (*found[:MAX_PROBLEMS], f"and {len(found) - MAX_PROBLEMS} more")
