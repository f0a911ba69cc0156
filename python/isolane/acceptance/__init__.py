"""Acceptance tests of a service: nobody receives anything of another's, and the test would have seen it.

``ExecutionPatternAcceptanceTests()`` tests isolane itself in this process; ``isolane accept`` tests a service.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.acceptance.app.config import AcceptanceConfig
    from isolane.acceptance.app.service import ServiceTarget
    from isolane.acceptance.app.tables import AcceptanceConfigError
    from isolane.acceptance.executor import AcceptanceTestExecutor
    from isolane.acceptance.isolation import IsolationTester
    from isolane.acceptance.leaks import Leak
    from isolane.acceptance.metrics import AcceptanceThresholds, Bound, MetricsValidator
    from isolane.acceptance.reports import as_json, as_junit, as_text
    from isolane.acceptance.results import AcceptanceTestResult, Control, Measure, TestResult, Verdict
    from isolane.acceptance.suite import TESTS, ExecutionPatternAcceptanceTests
    from isolane.acceptance.target import Target, TargetError
    from isolane.acceptance.trials import Load

__all__ = [
    "TESTS",
    "AcceptanceConfig",
    "AcceptanceConfigError",
    "AcceptanceTestExecutor",
    "AcceptanceTestResult",
    "AcceptanceThresholds",
    "Bound",
    "Control",
    "ExecutionPatternAcceptanceTests",
    "IsolationTester",
    "Leak",
    "Load",
    "Measure",
    "MetricsValidator",
    "ServiceTarget",
    "Target",
    "TargetError",
    "TestResult",
    "Verdict",
    "as_json",
    "as_junit",
    "as_text",
]

_HOMES = {
    "AcceptanceConfig": "app.config",
    "AcceptanceConfigError": "app.tables",
    "AcceptanceTestExecutor": "executor",
    "AcceptanceTestResult": "results",
    "AcceptanceThresholds": "metrics",
    "Bound": "metrics",
    "Control": "results",
    "ExecutionPatternAcceptanceTests": "suite",
    "IsolationTester": "isolation",
    "Leak": "leaks",
    "Load": "trials",
    "Measure": "results",
    "MetricsValidator": "metrics",
    "ServiceTarget": "app.service",
    "TESTS": "suite",
    "Target": "target",
    "TargetError": "target",
    "TestResult": "results",
    "Verdict": "results",
    "as_json": "reports",
    "as_junit": "reports",
    "as_text": "reports",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: the pytest plugin is loaded by runs that have nothing to do with it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
