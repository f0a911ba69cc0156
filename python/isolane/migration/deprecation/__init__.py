"""Legacy calls: warnings with codes and true call sites, a bounded ledger, the removal gate."""

from isolane.migration.deprecation.calls import deprecated_call
from isolane.migration.deprecation.categories import IsolaneDeprecationWarning, RemovedInV2Warning
from isolane.migration.deprecation.codes import CODES, DeprecationCode
from isolane.migration.deprecation.decorator import deprecated

__all__ = [
    "CODES",
    "DeprecationCode",
    "IsolaneDeprecationWarning",
    "RemovedInV2Warning",
    "deprecated",
    "deprecated_call",
]
