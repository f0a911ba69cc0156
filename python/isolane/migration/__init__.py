"""The move of a service with singletons to contexts: who runs which way, and what happens when it goes wrong.

Nothing here is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.migration.flags import FlagSource, FlagText, MigrationFeatureFlags, RunModes
    from isolane.migration.guard import GuardPolicy, GuardStatus, MetricPolicy, RollbackRecord, RolloutGuard

_MODULES = {
    "FlagSource": "isolane.migration.flags",
    "FlagText": "isolane.migration.flags",
    "GuardPolicy": "isolane.migration.guard",
    "GuardStatus": "isolane.migration.guard",
    "MetricPolicy": "isolane.migration.guard",
    "MigrationFeatureFlags": "isolane.migration.flags",
    "RollbackRecord": "isolane.migration.guard",
    "RolloutGuard": "isolane.migration.guard",
    "RunModes": "isolane.migration.flags",
}
"""Where each public name is."""

__all__ = [
    "FlagSource",
    "FlagText",
    "GuardPolicy",
    "GuardStatus",
    "MetricPolicy",
    "MigrationFeatureFlags",
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
