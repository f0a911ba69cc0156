"""Who runs the modern way: flags with stable cohorts, decided in Rust."""

from isolane._core import (
    FlagConfigError,
    FlagDecision,
    FlagEngine,
    FlagSnapshot,
    bucket,
    install_flags,
    installed_flags,
)
from isolane.migration.flags.modes import BridgeMode, ExecutionMode, RunModes
from isolane.migration.flags.percentages import (
    ENTERPRISE_ROLLOUT,
    HYBRID_ENABLED,
    HYBRID_FLAG,
    MODERN_FLAG,
    MODERN_PERCENTAGE,
)
from isolane.migration.flags.rollout import MigrationFeatureFlags
from isolane.migration.flags.source import FlagSource, FlagText
from isolane.migration.flags.sources import (
    EnvironmentSource,
    FileSource,
    FlagChange,
    FlagChangeRefusedError,
    FlagFile,
    FlagFileError,
    FlagNews,
    FlagSourceError,
    FlagWatcher,
    FlagWriter,
    NewsKind,
    OpenFeatureSource,
)

__all__ = [
    "ENTERPRISE_ROLLOUT",
    "HYBRID_ENABLED",
    "HYBRID_FLAG",
    "MODERN_FLAG",
    "MODERN_PERCENTAGE",
    "BridgeMode",
    "EnvironmentSource",
    "ExecutionMode",
    "FileSource",
    "FlagChange",
    "FlagChangeRefusedError",
    "FlagConfigError",
    "FlagDecision",
    "FlagEngine",
    "FlagFile",
    "FlagFileError",
    "FlagNews",
    "FlagSnapshot",
    "FlagSource",
    "FlagSourceError",
    "FlagText",
    "FlagWatcher",
    "FlagWriter",
    "MigrationFeatureFlags",
    "NewsKind",
    "OpenFeatureSource",
    "RunModes",
    "bucket",
    "install_flags",
    "installed_flags",
]
