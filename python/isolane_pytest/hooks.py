"""What the options ask for and most runs do not: loaded with them."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from isolane import audit_isolation, default_limiter, isolation_violations
from isolane.migration.deprecation import set_warn_mode

from isolane_pytest import planted

_CANARIES = "content"
"""The boundary under which a canary that crossed is counted, wherever it was."""


class Deprecations:
    """``--isolane-deprecations``: how legacy calls are told in this run."""

    def __init__(self, mode: str) -> None:
        set_warn_mode(mode)

    def pytest_unconfigure(self) -> None:
        """Take the environment variable again."""
        set_warn_mode(None)


class Strict:
    """``--isolane-strict``: nothing crosses, nothing is shared and nothing stays behind, in any test."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Compare before and after a test."""
        violations, held = isolation_violations(), _held()
        violations[_CANARIES] = violations.get(_CANARIES, 0) - planted(item)
        shared = {str(finding) for finding in audit_isolation()}
        result = yield
        violations[_CANARIES] += planted(item)
        problems = [
            f"{boundary} saw an object of another user"
            for boundary, count in isolation_violations().items()
            if count > violations.get(boundary, 0)
        ]
        problems += sorted({str(finding) for finding in audit_isolation()} - shared)
        if (still := _held()) > held:
            problems.append(f"{still - held} permits of the default limiter were not returned")
        if problems:
            pytest.fail("\n  ".join(["--isolane-strict:", *problems]), pytrace=False)
        return result


def _held() -> int:
    return int(default_limiter().stats()["running"])
