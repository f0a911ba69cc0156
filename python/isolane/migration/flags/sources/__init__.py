"""Where flags come from, what keeps them up to date, and what changes them."""

from isolane.migration.flags.sources.environment import EnvironmentSource
from isolane.migration.flags.sources.errors import FlagChangeRefusedError, FlagFileError, FlagSourceError
from isolane.migration.flags.sources.file import FileSource
from isolane.migration.flags.sources.history import FlagChange
from isolane.migration.flags.sources.vendor import OpenFeatureSource
from isolane.migration.flags.sources.watcher import FlagNews, FlagWatcher, NewsKind
from isolane.migration.flags.sources.writer import FlagFile, FlagWriter

__all__ = [
    "EnvironmentSource",
    "FileSource",
    "FlagChange",
    "FlagChangeRefusedError",
    "FlagFile",
    "FlagFileError",
    "FlagNews",
    "FlagSourceError",
    "FlagWatcher",
    "FlagWriter",
    "NewsKind",
    "OpenFeatureSource",
]
