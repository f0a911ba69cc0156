"""What whoever runs the service has: an audit log, a detector of leaks and its probe, a guarded rollout, alerts."""

import base64
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from isolane import (
    AuditLogger,
    ContaminationDetector,
    EncryptedAuditStorage,
    FileKey,
    FlagWriter,
    GuardPolicy,
    LoggingAlertSink,
    MetricPolicy,
    MigrationFeatureFlags,
    Quarantine,
    RolloutGuard,
    SecurityMonitor,
)
from isolane.observability import AlertManager

from examples.optimizer.operators import Operators, keep_secret

DAILY_TABLE = "daily_table"
PROBE_SECONDS = 20.0
_FIRST_PERCENT = 25

# A run that takes long is a long log, not a fault of the flag: it is told, and takes nothing back. The same goes for
# what a machine does with many synthetic users.
_POLICY = GuardPolicy(
    metrics={
        "run_error": MetricPolicy(bound=0.1),
        "slow_run": MetricPolicy(dry_run=True),
        "slow_event": MetricPolicy(dry_run=True, needs_data=False),
    }
)


@dataclass(frozen=True, slots=True)
class Operations:
    """The parts, made together because most of them record in the audit log."""

    operators: Operators
    audit: AuditLogger
    detector: ContaminationDetector
    flags: MigrationFeatureFlags
    guard: RolloutGuard
    alerts: AlertManager


def open_operations(folder: Path, cleanup: ExitStack, *, keeps: bool) -> Operations:
    """Open what lies in a folder, or begin it; `keeps` says whether the folder is there at the next start."""
    folder.mkdir(parents=True, exist_ok=True)
    audit = AuditLogger(EncryptedAuditStorage(folder / "audit", FileKey(_audit_key(folder / "audit.key"))))
    cleanup.callback(audit.close)
    alerts = AlertManager()
    monitor = SecurityMonitor(sinks=[LoggingAlertSink(), alerts])
    audit.add_observer(monitor.observe)
    writer = FlagWriter(folder / "flags.json")
    if not writer.path.exists():
        writer.set_rollout(
            DAILY_TABLE, _FIRST_PERCENT, actor="optimizer", reason="the first quarter of the users", create=True
        )
    flags = MigrationFeatureFlags(writer.path)
    return Operations(
        operators=Operators(folder / "operators.key" if keeps else None),
        audit=audit,
        detector=ContaminationDetector(audit=audit, quarantine=Quarantine(audit=audit)),
        flags=flags,
        guard=RolloutGuard(flags, DAILY_TABLE, _POLICY, audit=audit, writer=writer),
        alerts=alerts,
    )


def _audit_key(path: Path) -> Path:
    """The file of the log's key. A service has it from elsewhere."""
    return keep_secret(path, lambda: base64.b64encode(secrets.token_bytes(32)).decode())
