"""The states of a migration as machines: before it, during it, after it, and back."""

from isolane.migration.states.current import RequestRouting, kind_of
from isolane.migration.states.integrity import IntegrityCheck, IntegrityReport, check_data_integrity
from isolane.migration.states.intermediate import CompatibilityMode, MigrationPhase, Validation, ValidationLayer
from isolane.migration.states.machine import IllegalMoveError, Machine, Move, Table
from isolane.migration.states.rollback import HealthMonitoring, RollbackProcedure
from isolane.migration.states.target import RequestLifecycle

MACHINES: tuple[type[Machine], ...] = (
    *(RequestRouting, CompatibilityMode, ValidationLayer, MigrationPhase),
    *(RequestLifecycle, RollbackProcedure, HealthMonitoring),
)
"""All of them, in the order of the document."""

__all__ = [
    "MACHINES",
    "CompatibilityMode",
    "HealthMonitoring",
    "IllegalMoveError",
    "IntegrityCheck",
    "IntegrityReport",
    "Machine",
    "MigrationPhase",
    "Move",
    "RequestLifecycle",
    "RequestRouting",
    "RollbackProcedure",
    "Table",
    "Validation",
    "ValidationLayer",
    "check_data_integrity",
    "kind_of",
]
