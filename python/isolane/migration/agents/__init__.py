"""Agents of an older service beside modern ones: adapters of their states, their signature, templates to move to."""

from isolane.migration.agents.adapter import LegacyExecutionAdapter, LegacyStateAdapter
from isolane.migration.agents.collaborative import CollaborationResult, CollaborativeAgent
from isolane.migration.agents.data_processing import DataProcessingAgent, DataResult
from isolane.migration.agents.errors import (
    ContextRequiredError,
    EntryConditionsError,
    FrozenLegacyState,
    LegacyIdentityError,
)
from isolane.migration.agents.identity import LegacyIdentity
from isolane.migration.agents.shim import LegacyAgentShim
from isolane.migration.agents.state import LegacyState
from isolane.migration.agents.template import AgentMigrationTemplate

__all__ = [
    "AgentMigrationTemplate",
    "CollaborationResult",
    "CollaborativeAgent",
    "ContextRequiredError",
    "DataProcessingAgent",
    "DataResult",
    "EntryConditionsError",
    "FrozenLegacyState",
    "LegacyAgentShim",
    "LegacyExecutionAdapter",
    "LegacyIdentity",
    "LegacyIdentityError",
    "LegacyState",
    "LegacyStateAdapter",
]
