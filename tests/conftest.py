"""What all tests share: whether the long checks were asked for, and properties that no slow machine fails."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something of the machine: pytest's own time limit is enough.
settings.register_profile("isolane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isolane")


def pytest_addoption(parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the long checks")
    parser.addoption("--short", action="store_true", help="run a short form of them")


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the tests of one file: while it is open no other test of the process runs a loop in this thread."""
    from tests.support.chromium import chromium  # noqa: PLC0415 - for those alone

    with chromium() as browser:
        yield browser
