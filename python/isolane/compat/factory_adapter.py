"""The host's ``services.factory_adapter``."""

from isolane.migration.legacy.factory_adapter import FactoryAdapter, MigrationMode

__all__ = ["FactoryAdapter", "MigrationMode"]
