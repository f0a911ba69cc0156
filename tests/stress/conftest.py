"""The long checks run when they are asked for: ``make prove``, or with ``--short`` in a few seconds."""

from __future__ import annotations

import pytest


def pytest_addoption(parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the long checks")
    parser.addoption("--short", action="store_true", help="run a short form of them")


def pytest_collection_modifyitems(config, items) -> None:
    if config.getoption("--prove"):
        return
    reason = "left out: a long check; `make prove` runs it"
    for item in items:
        if "stress" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def rounds(request):
    """How often a check repeats: fewer times in the short form."""
    return lambda full: max(1, full // 50) if request.config.getoption("--short") else full
