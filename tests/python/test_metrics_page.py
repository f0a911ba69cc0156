"""The pages for operators say what the core measures and what the rules are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from isolane import _core

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
