"""Agents of an older service beside modern ones: adapters of their states, their signature, templates to move to."""

from isolane.migration.agents.adapter import LegacyExecutionAdapter, LegacyStateAdapter
from isolane.migration.agents.errors import (
    ContextRequiredError,
    EntryConditionsError,
    FrozenLegacyState,
    LegacyIdentityError,
)
from isolane.migration.agents.identity import LegacyIdentity

__all__ = [
    "ContextRequiredError",
    "EntryConditionsError",
    "FrozenLegacyState",
    "LegacyExecutionAdapter",
    "LegacyIdentity",
    "LegacyIdentityError",
    "LegacyStateAdapter",
]
