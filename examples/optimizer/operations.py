"""What whoever runs the service has: an audit log, a detector of leaks and its probe, a guarded rollout, alerts."""

import base64
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from isolane import (
    AuditLogError,
    AuditLogger,
    AuditTamperError,
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

from examples.optimizer.key_files import keep_first
from examples.optimizer.operators import Operators, operators_of

DAILY_TABLE = "daily_table"
PROBE_SECONDS = 20.0
_FIRST_PERCENT = 25
_MOST_WORKERS = 64

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


def open_operations(folder: Path, cleanup: ExitStack, *, keeps: bool, shared: bool = False) -> Operations:
    """Open what lies in a folder, or begin it; `keeps` says whether the folder is there at the next start.

    Of a folder that workers share each takes an audit log of its own, the first that no other one writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    audit = _open_audit(folder, _MOST_WORKERS if shared else 1)
    cleanup.callback(audit.close)
    alerts = AlertManager()
    monitor = SecurityMonitor(sinks=[LoggingAlertSink(), alerts])
    audit.add_observer(monitor.observe)
    writer = _flag_writer(folder)
    flags = MigrationFeatureFlags(writer.path)
    return Operations(
        operators=operators_of(folder) if keeps else Operators(),
        audit=audit,
        detector=ContaminationDetector(audit=audit, quarantine=Quarantine(audit=audit)),
        flags=flags,
        guard=RolloutGuard(flags, DAILY_TABLE, _POLICY, audit=audit, writer=writer),
        alerts=alerts,
    )


def begin_operations(folder: Path) -> None:
    """Make what workers are to find: done before they start, so that it is done once."""
    folder.mkdir(parents=True, exist_ok=True)
    _audit_key(folder / "audit.key")
    _flag_writer(folder)


def _flag_writer(folder: Path) -> FlagWriter:
    writer = FlagWriter(folder / "flags.json")
    if not writer.path.exists():
        writer.set_rollout(
            DAILY_TABLE, _FIRST_PERCENT, actor="optimizer", reason="the first quarter of the users", create=True
        )
    return writer


def _open_audit(folder: Path, most: int) -> AuditLogger:
    """The first of the logs that can be had: each has one writer."""
    key = FileKey(_audit_key(folder / "audit.key"))
    for number in range(1, most + 1):
        name = "audit" if number == 1 else f"audit-{number}"
        try:
            return AuditLogger(EncryptedAuditStorage(folder / name, key))
        except AuditTamperError:
            raise
        except AuditLogError:
            if number == most:
                raise
    raise ValueError("at least one log is needed")


def _audit_key(path: Path) -> Path:
    """The file of the log's key, made at the first start. A service has it from elsewhere."""
    if not path.exists():
        keep_first(path, base64.b64encode(secrets.token_bytes(32)).decode())
    return path
