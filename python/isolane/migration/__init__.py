"""The move of a service with singletons to contexts: who runs which way, and what happens when it goes wrong.

Nothing here is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.migration.agents import (
        AgentMigrationTemplate,
        CollaborationResult,
        CollaborativeAgent,
        ContextRequiredError,
        DataProcessingAgent,
        DataResult,
        EntryConditionsError,
        FrozenLegacyState,
        LegacyAgentShim,
        LegacyExecutionAdapter,
        LegacyIdentity,
        LegacyIdentityError,
        LegacyState,
        LegacyStateAdapter,
    )
    from isolane.migration.flags import (
        EnvironmentSource,
        FileSource,
        FlagChangeRefusedError,
        FlagFileError,
        FlagSource,
        FlagSourceError,
        FlagText,
        FlagWatcher,
        FlagWriter,
        MigrationFeatureFlags,
        OpenFeatureSource,
        RunModes,
    )
    from isolane.migration.guard import GuardPolicy, GuardStatus, MetricPolicy, RollbackRecord, RolloutGuard

_MODULES = {
    "AgentMigrationTemplate": "isolane.migration.agents",
    "CollaborationResult": "isolane.migration.agents",
    "CollaborativeAgent": "isolane.migration.agents",
    "ContextRequiredError": "isolane.migration.agents",
    "DataProcessingAgent": "isolane.migration.agents",
    "DataResult": "isolane.migration.agents",
    "EntryConditionsError": "isolane.migration.agents",
    "FrozenLegacyState": "isolane.migration.agents",
    "LegacyAgentShim": "isolane.migration.agents",
    "LegacyExecutionAdapter": "isolane.migration.agents",
    "LegacyIdentity": "isolane.migration.agents",
    "LegacyIdentityError": "isolane.migration.agents",
    "LegacyState": "isolane.migration.agents",
    "LegacyStateAdapter": "isolane.migration.agents",
    "EnvironmentSource": "isolane.migration.flags",
    "FileSource": "isolane.migration.flags",
    "FlagChangeRefusedError": "isolane.migration.flags",
    "FlagFileError": "isolane.migration.flags",
    "FlagSource": "isolane.migration.flags",
    "FlagSourceError": "isolane.migration.flags",
    "FlagText": "isolane.migration.flags",
    "GuardPolicy": "isolane.migration.guard",
    "GuardStatus": "isolane.migration.guard",
    "MetricPolicy": "isolane.migration.guard",
    "MigrationFeatureFlags": "isolane.migration.flags",
    "RollbackRecord": "isolane.migration.guard",
    "RolloutGuard": "isolane.migration.guard",
    "FlagWatcher": "isolane.migration.flags",
    "FlagWriter": "isolane.migration.flags",
    "OpenFeatureSource": "isolane.migration.flags",
    "RunModes": "isolane.migration.flags",
}
"""Where each public name is."""

__all__ = [
    "AgentMigrationTemplate",
    "CollaborationResult",
    "CollaborativeAgent",
    "ContextRequiredError",
    "DataProcessingAgent",
    "DataResult",
    "EntryConditionsError",
    "EnvironmentSource",
    "FileSource",
    "FlagChangeRefusedError",
    "FlagFileError",
    "FlagSource",
    "FlagSourceError",
    "FlagText",
    "FlagWatcher",
    "FlagWriter",
    "FrozenLegacyState",
    "GuardPolicy",
    "GuardStatus",
    "LegacyAgentShim",
    "LegacyExecutionAdapter",
    "LegacyIdentity",
    "LegacyIdentityError",
    "LegacyState",
    "LegacyStateAdapter",
    "MetricPolicy",
    "MigrationFeatureFlags",
    "OpenFeatureSource",
    "RollbackRecord",
    "RolloutGuard",
    "RunModes",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
