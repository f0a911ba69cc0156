"""The rules, one a file."""

from __future__ import annotations

from isolane.migration.codemod.rules import (
    mig001,
    mig002,
    mig003,
    mig004,
    mig005,
    mig006,
    mig007,
    mig008,
    mig009,
    mig010,
    mig011,
    mig012,
)
from isolane.migration.codemod.rules.base import Rule

__all__ = ["RULES", "Rule"]

_MODULES = (mig001, mig002, mig003, mig004, mig005, mig006, mig007, mig008, mig009, mig010, mig011, mig012)

RULES: dict[str, Rule] = {module.RULE.code: module.RULE for module in _MODULES}
"""Every rule by its code, in order."""
