"""The site shows every page and every public name."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import isolane
import isolane.fastapi
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
SHOWN = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def pages(nav: Any) -> Iterator[str]:
    """The files that a table of contents names."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def shown() -> dict[str, Any]:
    """Each name on the pages of the API, and what it stands for."""
    found = {}
    for page in (DOCS / "api").glob("*.md"):
        for name in SHOWN.findall(page.read_text(encoding="utf-8")):
            module, _, attribute = name.rpartition(".")
            found[name] = getattr(importlib.import_module(module), attribute)
    return found


def test_the_contents_name_each_page_once_and_no_other():
    listed = list(pages(PROJECT["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("package", [isolane, isolane.fastapi], ids=lambda package: package.__name__)
def test_each_public_name_is_on_a_page_of_the_api(package):
    names = shown()
    missing = {
        name
        for name in package.__all__
        # A second name of something that is shown needs no page.
        if f"{package.__name__}.{name}" not in names
        and not any(getattr(package, name) is one for one in names.values())
    }
    assert missing == set()


def test_the_pages_of_the_api_have_nothing_that_would_not_be_run():
    """The examples of the other pages are executed; those here would not be."""
    fenced = [path.name for path in (DOCS / "api").glob("*.md") if "```" in path.read_text(encoding="utf-8")]
    assert fenced == []
