"""Tools that move a code base: the scan for patterns of a service of singletons, and the fixes for some of them.

The scan needs nothing but Python. The fixes need LibCST, which the extra ``migrate`` brings.
"""

from __future__ import annotations

from isolane.migration.codemod.config import MigrateConfig, load_config
from isolane.migration.codemod.errors import MigrateConfigError, MigrateInputError
from isolane.migration.codemod.findings import FileProblem, Finding, Fix, LedgerSite, Replacement, ScanReport, Span
from isolane.migration.codemod.rules import RULES, Rule
from isolane.migration.codemod.scan import scan_paths

__all__ = [
    "RULES",
    "FileProblem",
    "Finding",
    "Fix",
    "LedgerSite",
    "MigrateConfig",
    "MigrateConfigError",
    "MigrateInputError",
    "Replacement",
    "Rule",
    "ScanReport",
    "Span",
    "load_config",
    "scan_paths",
]
