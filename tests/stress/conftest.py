"""The long checks run when they are asked for: ``make prove``, or with ``--short`` in a few seconds.

A run of all of them writes their table into docs/proof.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import proof

_rows: list[tuple[str, str, str, float]] = []
_files: set[str] = set()


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


@pytest.fixture
def found(record_property):
    """Note a figure that the table shows."""
    return lambda text: record_property("found", text)


def pytest_runtest_logreport(report) -> None:
    if report.when == "call" and "tests/stress" in report.nodeid:
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        found = "; ".join(str(value) for key, value in report.user_properties if key == "found")
        _files.add(report.nodeid.partition("::")[0].rpartition("/")[2])
        _rows.append((name, report.outcome, found, report.duration))


def pytest_sessionfinish(session) -> None:
    options = session.config.option
    if not options.prove or options.short or options.keyword:
        return
    if _files != {path.name for path in Path(__file__).parent.glob("test_*.py")}:
        return
    lines = [
        "| check | outcome | found | seconds |",
        "|---|---|---|---|",
        *(f"| {name} | {outcome} | {found} | {seconds:.0f} |" for name, outcome, found, seconds in _rows),
    ]
    proof.write("Soaks", lines)
