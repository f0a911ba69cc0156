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
    from isolane.migration.deprecation import (
        IsolaneDeprecationWarning,
        RemovedInV2Warning,
        deprecated_call,
        keep_ledger,
        legacy_calls,
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
    from isolane.migration.legacy import (
        BridgeSelector,
        BroadcastDeniedError,
        BroadcastPolicy,
        CompatibilityAdapter,
        CrossUserSendError,
        HybridBridge,
        LegacyContextError,
        LegacyWebSocketBridge,
        ModernWebSocketBridge,
        SendOutcome,
        bind_context,
        configure_legacy,
        get_websocket_manager,
    )
    from isolane.migration.legacy.factory_adapter import FactoryAdapter, MigrationMode

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
    "BridgeSelector": "isolane.migration.legacy",
    "BroadcastDeniedError": "isolane.migration.legacy",
    "BroadcastPolicy": "isolane.migration.legacy",
    "CompatibilityAdapter": "isolane.migration.legacy",
    "CrossUserSendError": "isolane.migration.legacy",
    "FactoryAdapter": "isolane.migration.legacy.factory_adapter",
    "HybridBridge": "isolane.migration.legacy",
    "LegacyContextError": "isolane.migration.legacy",
    "LegacyWebSocketBridge": "isolane.migration.legacy",
    "MigrationMode": "isolane.migration.legacy.factory_adapter",
    "ModernWebSocketBridge": "isolane.migration.legacy",
    "SendOutcome": "isolane.migration.legacy",
    "bind_context": "isolane.migration.legacy",
    "configure_legacy": "isolane.migration.legacy",
    "get_websocket_manager": "isolane.migration.legacy",
    "IsolaneDeprecationWarning": "isolane.migration.deprecation",
    "RemovedInV2Warning": "isolane.migration.deprecation",
    "deprecated_call": "isolane.migration.deprecation",
    "keep_ledger": "isolane.migration.deprecation",
    "legacy_calls": "isolane.migration.deprecation",
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
    "BridgeSelector",
    "BroadcastDeniedError",
    "BroadcastPolicy",
    "CollaborationResult",
    "CollaborativeAgent",
    "CompatibilityAdapter",
    "ContextRequiredError",
    "CrossUserSendError",
    "DataProcessingAgent",
    "DataResult",
    "EntryConditionsError",
    "EnvironmentSource",
    "FactoryAdapter",
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
    "HybridBridge",
    "IsolaneDeprecationWarning",
    "LegacyAgentShim",
    "LegacyContextError",
    "LegacyExecutionAdapter",
    "LegacyIdentity",
    "LegacyIdentityError",
    "LegacyState",
    "LegacyStateAdapter",
    "LegacyWebSocketBridge",
    "MetricPolicy",
    "MigrationFeatureFlags",
    "MigrationMode",
    "ModernWebSocketBridge",
    "OpenFeatureSource",
    "RemovedInV2Warning",
    "RollbackRecord",
    "RolloutGuard",
    "RunModes",
    "SendOutcome",
    "bind_context",
    "configure_legacy",
    "deprecated_call",
    "get_websocket_manager",
    "keep_ledger",
    "legacy_calls",
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
