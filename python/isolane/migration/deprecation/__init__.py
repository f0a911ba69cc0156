"""Legacy calls: warnings with codes and true call sites, a bounded ledger, the removal gate."""

from isolane._core import DeprecationLedger
from isolane.migration.deprecation.calls import deprecated_call
from isolane.migration.deprecation.categories import IsolaneDeprecationWarning, RemovedInV2Warning
from isolane.migration.deprecation.codes import CODES, DeprecationCode
from isolane.migration.deprecation.decorator import deprecated
from isolane.migration.deprecation.folder import LedgerFolder, LedgerReading, LegacyLine
from isolane.migration.deprecation.keeping import KeepingFigures, keep_ledger
from isolane.migration.deprecation.ledger import legacy_calls
from isolane.migration.deprecation.telling import WarnMode, set_warn_mode

__all__ = [
    "CODES",
    "DeprecationCode",
    "DeprecationLedger",
    "IsolaneDeprecationWarning",
    "KeepingFigures",
    "LedgerFolder",
    "LedgerReading",
    "LegacyLine",
    "RemovedInV2Warning",
    "WarnMode",
    "deprecated",
    "deprecated_call",
    "keep_ledger",
    "legacy_calls",
    "set_warn_mode",
]
