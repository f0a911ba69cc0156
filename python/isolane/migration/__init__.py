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
    from isolane.migration.flags import FlagSource, FlagText, MigrationFeatureFlags, RunModes

_MODULES = {
    "LegacyStateAdapter": "isolane.migration.agents",
    "LegacyState": "isolane.migration.agents",
    "LegacyIdentityError": "isolane.migration.agents",
    "LegacyIdentity": "isolane.migration.agents",
    "LegacyExecutionAdapter": "isolane.migration.agents",
    "LegacyAgentShim": "isolane.migration.agents",
    "FrozenLegacyState": "isolane.migration.agents",
    "EntryConditionsError": "isolane.migration.agents",
    "DataResult": "isolane.migration.agents",
    "DataProcessingAgent": "isolane.migration.agents",
    "ContextRequiredError": "isolane.migration.agents",
    "CollaborativeAgent": "isolane.migration.agents",
    "CollaborationResult": "isolane.migration.agents",
    "AgentMigrationTemplate": "isolane.migration.agents",
    "FlagSource": "isolane.migration.flags",
    "FlagText": "isolane.migration.flags",
    "MigrationFeatureFlags": "isolane.migration.flags",
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
    "FlagSource",
    "FlagText",
    "FrozenLegacyState",
    "LegacyAgentShim",
    "LegacyExecutionAdapter",
    "LegacyIdentity",
    "LegacyIdentityError",
    "LegacyState",
    "LegacyStateAdapter",
    "MigrationFeatureFlags",
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
