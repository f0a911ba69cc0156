"""Takes the pictures of docs/dashboard.md: the example under load, in Chromium, every view in both schemes.

It fails when the page shows an error or the console says one, so that no picture of a broken page is kept.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1280, "height": 860}
SCHEMES = ("light", "dark")
VIEWS = ("overview", "users", "runs", "run", "rollout", "isolation", "audit")
MOST_BYTES = 250_000
# Enough of a history that the charts have lines.
WARM_SECONDS = 90.0
SETTLE_SECONDS = 2.5
COLOURS = 192


class BrokenPageError(Exception):
    """The page said that something is wrong."""


@contextmanager
def demo(users: int) -> Iterator[str]:
    """The example with users, until the block ends; gives the operator's link."""
    command = [
        sys.executable,
        "-m",
        "examples.optimizer",
        "--port",
        "0",
        "--load",
        str(users),
        "--log-level",
        "warning",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _link(process)
        finally:
            process.terminate()
            process.wait(60)


def _link(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise RuntimeError("the example has no output")
    for line in process.stdout:
        if found := re.search(r"Dashboard for operators: (\S+)", line):
            return found[1]
    raise RuntimeError("the example ended before it told the dashboard's address")


class Tour:
    """One window that goes from view to view."""

    def __init__(self, browser: Browser, link: str, scheme: str) -> None:
        self.complaints: list[str] = []
        self.scheme = scheme
        context = browser.new_context(viewport=SIZE, color_scheme="dark" if scheme == "dark" else "light")
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda entry: self.complaints.append(entry.text) if entry.type == "error" else None)
        self.page.goto(link)
        self.page.locator("body[data-link=live]").wait_for()

    def show(self, view: str) -> None:
        """Go to a view, wait for its figures, and refuse a page with an error on it."""
        address = {
            "run": lambda: f"#/runs/{self._some_run()}",
            "runs": lambda: "#/runs?state=all",
        }.get(view, lambda: f"#/{view}")()
        self.page.evaluate("address => { location.hash = address }", address)
        self.page.locator(f"#panel-{'runs' if view == 'run' else view}").wait_for()
        if view == "audit":
            self.page.get_by_role("button", name="Verify now").click()
        time.sleep(SETTLE_SECONDS)
        if view == "users":
            self.page.locator("#panel-users td", has_text="active").first.wait_for()
        shown = [text for text in self.page.locator(".notice:visible, .banner:visible").all_inner_texts() if text]
        if shown or self.complaints:
            raise BrokenPageError(f"{view} ({self.scheme}): {'; '.join([*shown, *self.complaints])}")

    def _some_run(self) -> str:
        """A run with a tree: the longest of those that are there."""
        runs: list[dict[str, Any]] = self.page.evaluate(
            "async () => (await (await fetch('runs.json?state=ended&limit=500')).json()).runs"
        )
        if not runs:
            raise BrokenPageError("no run has ended yet")
        longest = max(runs, key=lambda run: (run["children"], run["seconds"]))
        return str(longest["run"])

    def picture(self) -> bytes:
        """The window as a PNG of few colours."""
        from PIL import Image  # noqa: PLC0415 - comes with matplotlib, of the benches

        self.page.mouse.move(0, 0)
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        small = io.BytesIO()
        shot.quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()


def take(link: str, folder: Path, *, warm: float, views: tuple[str, ...]) -> None:
    """All pictures into a folder."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of requirements/dev.txt

    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        tours = [Tour(browser, link, scheme) for scheme in SCHEMES]
        time.sleep(warm)
        for tour in tours:
            for view in views:
                tour.show(view)
                picture = tour.picture()
                if len(picture) > MOST_BYTES:
                    raise BrokenPageError(
                        f"{view} ({tour.scheme}) is {len(picture):,} bytes, the most is {MOST_BYTES:,}"
                    )
                path = folder / f"dashboard-{view}-{tour.scheme}.png"
                path.write_bytes(picture)
                print(f"{path.name}: {len(picture):,} bytes", flush=True)
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=36, help="synthetic users (default: %(default)s)")
    parser.add_argument(
        "--warm", type=float, default=WARM_SECONDS, help="seconds before the first (default: %(default)s)"
    )
    parser.add_argument("--folder", type=Path, default=IMAGES, help="where they go (default: docs/images)")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=VIEWS, help="which views (default: all)")
    options = parser.parse_args()
    try:
        with demo(options.users) as link:
            take(link, options.folder, warm=options.warm, views=tuple(options.views))
    except BrokenPageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
