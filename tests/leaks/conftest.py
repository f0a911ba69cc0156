"""The table of leak classes: a full run of the long checks writes it into docs/proof.md."""

from __future__ import annotations

import pytest

from tests.leaks.faults import LEAKS
from tests.support import proof

_caught: dict[str, tuple[str, str, float]] = {}


@pytest.fixture
def caught(record_property):
    """Note where a class of leaks was caught."""
    return lambda name, text: record_property("leak", f"{name}|{text}")


def pytest_runtest_logreport(report) -> None:
    if report.when != "call":
        return
    for key, value in report.user_properties:
        if key == "leak":
            name, _, text = str(value).partition("|")
            _caught[name] = (report.outcome, text, report.duration)


def pytest_sessionfinish(session) -> None:
    options = session.config.option
    if not options.prove or options.short or not _caught:
        return
    rows = []
    for leak in LEAKS:
        outcome, text, seconds = _caught.get(leak.name, ("not run", "", 0.0))
        shown = text if outcome == "passed" else f"**{outcome}**"
        core = ", ".join(f"`{name}`" for name in leak.core) or "-"
        rows.append(f"| {leak.name} | {leak.what} | {shown} | {core} | {seconds:.1f} |")
    number = sum(outcome == "passed" for outcome, _, _ in _caught.values())
    head = [
        "| class | what goes wrong | caught at | faults of the core of this class | seconds |",
        "|---|---|---|---|---|",
    ]
    proof.write("Leak classes", [f"{number} of {len(LEAKS)} classes caught.", "", *head, *rows])
