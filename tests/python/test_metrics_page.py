"""The pages for operators say what the core measures and what the rules are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from isolane import _core
from isolane.observability import default_rules

from scripts import metrics_page

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\bisolane_[a-z_]+[a-z]\b")


def samples() -> set[str]:
    """All names of samples, those of histograms' parts included."""
    names = set()
    for family in _core.metric_families():
        names |= {family["name"], family["sample"]}
        if family["kind"] == "histogram":
            names |= {f"{family['sample']}_{part}" for part in ("bucket", "sum", "count")}
    return names


def test_the_table_of_metrics_is_that_of_the_core():
    text = metrics_page.PAGE.read_text(encoding="utf-8")
    assert metrics_page.written(text) == text, "run scripts/metrics_page.py"


def test_every_family_is_in_the_table_once():
    rows = re.findall(r"^\| `(isolane_\w+)` \|", metrics_page.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(family["sample"] for family in _core.metric_families())


@pytest.mark.parametrize("page", ["operations.md", "metrics.md"])
def test_the_pages_name_no_metric_that_is_not_there(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(NAME.findall(text))
    # Attributes of a log's line share the prefix.
    logged = {name for name in named if f"%({name})" in text}
    assert named > logged
    assert named - logged - samples() == set()


def test_each_alert_has_a_heading_that_it_leads_to_and_its_threshold_in_the_table():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^### (.+)$", page, re.MULTILINE)}
    led_to = {rule.name: rule.action.partition("operations.md#")[2] for rule in default_rules()}
    assert set(led_to.values()) <= headings
    # One more is Prometheus's alone.
    assert headings == {*led_to.values(), "gone"}
    rows = {
        rule: alert for alert, rule in re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \| \[`(\w+)`\]", page, re.MULTILINE)
    }
    assert set(rows) == {*led_to, "gone"}
    severities = dict(re.findall(r"\[`(\w+)`\]\([^)]+\) \| (\w+) \|$", page, re.MULTILINE))
    assert all(severities[rule.name] == rule.severity.value.lower() for rule in default_rules())
    written = {
        "slow_runs": lambda value: f"{value:g} s",
        "few_users": lambda value: f"{value:g}",
        "user_memory": lambda value: f"{value / 2**30:.1f} GB",
        "event_latency": lambda value: f"{value * 1000:g} ms",
        "error_rate": lambda value: f"{value:g} %",
        "availability": lambda value: f"{value:g} %",
    }
    for rule in default_rules():
        if rule.name in written:
            assert written[rule.name](rule.threshold) in rows[rule.name]
