"""A real browser, or loudly none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


def _left_out(reason: str) -> NoReturn:
    if os.environ.get("ISOLANE_REQUIRE_ALL") == "1":
        pytest.fail(f"required, but {reason}")
    pytest.skip(f"left out: {reason}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, headless; where there is none, the test is left out, or fails where nothing may be."""
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        _left_out("no page was tested, there is no Chromium (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - absent, it is a reason to skip
    except ImportError:
        _left_out("no page was tested, playwright is not installed (pip install playwright)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
