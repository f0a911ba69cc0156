"""The page in a real browser: two users, live events, both reports, and the leak when the legacy path is on."""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from examples.optimizer.app import create_app
from examples.optimizer.check.logs import make_log, nonce_model
from examples.optimizer.serving import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, WebSocketRoute

_WIDE = (1280, 900)
_PHONE = (390, 844)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with running(create_app(data_dir=tmp_path / "data")) as url:
        yield url


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("ISOLANE_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Opened:
    """A page, and what its console said against it."""

    def __init__(self, browser: "Browser", url: str, size: tuple[int, int], scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.page: Page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if scheme == "dark" else "light"
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(url)

    def _listen(self, entry: "ConsoleMessage") -> None:
        if entry.type == "error":
            self.complaints.append(entry.text)

    def pane(self, number: int) -> "Locator":
        return self.page.locator(".pane").nth(number)


def sign_in(pane: "Locator", name: str) -> None:
    pane.get_by_label("Name").fill(name)
    pane.get_by_role("button", name="Sign in").click()
    pane.locator(".connection[data-state=open]").wait_for()


def give_log(pane: "Locator", name: str, content: bytes) -> None:
    pane.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})


def start(pane: "Locator") -> None:
    pane.get_by_role("button", name="Run data").click()


def report_of(pane: "Locator") -> str:
    pane.locator(".report img").wait_for()
    # The chart is drawn only if the policy lets its blob through.
    pane.page.wait_for_function(
        "image => image.complete && image.naturalWidth > 0", arg=pane.locator(".report img").element_handle()
    )
    return pane.locator(".report").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_users_side_by_side(browser: "Browser", url: str, screenshots: Path, scheme: str) -> None:
    """Each gets the own events live and the own report, and nothing of the other's."""
    opened = Opened(browser, url, _WIDE, scheme)
    names = ("alice", "bob")
    for number, name in enumerate(names):
        sign_in(opened.pane(number), name)
        give_log(opened.pane(number), f"{name}.csv", make_log(name, 300))
        opened.pane(number).get_by_role("button", name="Run data").wait_for()
    opened.page.screenshot(path=screenshots / f"1-ready-{scheme}.png")
    opened.page.get_by_role("button", name="Run both at once").click()
    for number, name in enumerate(names):
        pane, other = opened.pane(number), names[1 - number]
        report = report_of(pane)
        assert f"For {name}, from {name}.csv" in report
        assert nonce_model(name) in report
        events = pane.locator(".events").inner_text()
        for agent in ("data", "optimization", "report"):
            for kind in ("agent_started", "agent_completed"):
                assert pane.locator(f".events li[data-type={kind}]", has_text=agent).count() == 1
        assert f"Reading {name}.csv for {name}" in events
        assert nonce_model(other) not in report + events
        assert pane.locator(".tree .state").all_inner_texts() == ["completed"] * 3
        assert pane.locator(".foreign").count() == 0
    opened.page.screenshot(path=screenshots / f"2-reports-{scheme}.png", full_page=True)
    assert opened.complaints == []


def test_the_legacy_path_shows_what_leaks(browser: "Browser", url: str, screenshots: Path) -> None:
    """With the switch on, events of the other user turn up in red; with it off again they do not."""
    opened = Opened(browser, url, _WIDE)
    for number, name in enumerate(("alice", "bob")):
        sign_in(opened.pane(number), name)
        give_log(opened.pane(number), f"{name}.csv", make_log(name, 300))
        opened.pane(number).get_by_role("button", name="Run data").wait_for()
    switch = opened.page.get_by_role("switch", name="Legacy singleton path")
    switch.check(force=True)
    opened.page.locator("#legacy-banner").wait_for()
    opened.page.wait_for_timeout(300)
    opened.page.get_by_role("button", name="Run both at once").click()
    for number in (0, 1):
        opened.pane(number).locator(".leak").wait_for()
        opened.pane(number).locator(".events .foreign").first.wait_for()
        opened.pane(number).locator(".report img").wait_for()
    opened.page.screenshot(path=screenshots / "3-legacy.png", full_page=True)
    switch.uncheck(force=True)
    opened.page.locator("#legacy-banner").wait_for(state="hidden")
    start(opened.pane(0))
    assert "For alice" in report_of(opened.pane(0))
    assert opened.pane(0).locator(".foreign").count() == 0
    assert opened.complaints == []


def test_questions_and_errors_on_a_phone(browser: "Browser", url: str, screenshots: Path) -> None:
    """An unknown log is asked about; a bad row is named; the page fits a narrow screen."""
    opened = Opened(browser, url, _PHONE)
    pane = opened.pane(0)
    sign_in(pane, "carol")
    give_log(pane, "odd.csv", b"when,inn,outt\n2026-11-02T10:00:00Z,5,6\n2026-11-02T10:00:01Z,5,6.5\n")
    pane.locator("select[name=time]").select_option("when")
    pane.locator("select[name=input_tokens]").select_option("inn")
    pane.locator("select[name=output_tokens]").select_option("outt")
    opened.page.screenshot(path=screenshots / "4-questions-phone.png", full_page=True)
    pane.get_by_label("Which model made these calls?").fill("gpt-4o")
    start(pane)
    pane.locator(".problem", has_text='line 3, column "outt": "6.5" is not a whole number.').wait_for()
    assert "failed" in pane.locator(".tree .state").all_inner_texts()
    opened.page.screenshot(path=screenshots / "5-error-phone.png", full_page=True)
    give_log(pane, "picture.png", b"\x89PNG\0\0")
    pane.locator(".problem", has_text="binary").wait_for()
    pane.get_by_role("button", name="Use the JSON lines sample").click()
    start(pane)
    report_of(pane)
    overflow = opened.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    opened.page.screenshot(path=screenshots / "6-report-phone.png", full_page=True)


def test_a_reload_brings_the_run_back(browser: "Browser", url: str) -> None:
    """The events come again from the log, and the report with them."""
    opened = Opened(browser, url, _WIDE)
    pane = opened.pane(0)
    sign_in(pane, "dora")
    pane.get_by_role("button", name="Use the CSV sample").click()
    start(pane)
    report_of(pane)
    before = pane.locator(".events li").count()
    opened.page.reload()
    # A socket on which nothing new happens answers at once, too.
    pane.locator(".report img").wait_for(timeout=8000)
    assert "For dora" in report_of(pane)
    assert before == pane.locator(".events li").count()
    assert opened.complaints == []


def test_a_token_that_is_no_longer_taken_leads_back_to_the_sign_in(browser: "Browser", url: str) -> None:
    """After a restart of the server the page says what to do."""
    opened = Opened(browser, url, _WIDE)
    pane = opened.pane(0)
    sign_in(pane, "gil")
    kept = '{"user_id": "gil", "token": "forged", "max_upload_bytes": 1}'
    opened.page.evaluate("kept => sessionStorage.setItem('optimizer-pane-1', kept)", kept)
    opened.page.reload()
    pane.locator(".problem", has_text="sign in again").wait_for()
    assert pane.get_by_label("Name").is_visible()


def test_a_large_log_shows_progress(browser: "Browser", url: str) -> None:
    """100 000 rows: the bar moves, and the report comes."""
    opened = Opened(browser, url, _WIDE)
    pane = opened.pane(0)
    sign_in(pane, "erin")
    give_log(pane, "large.csv", make_log("erin", 100_000))
    start(pane)
    pane.locator(".progress-text", has_text="Reading: ").wait_for()
    pane.locator(".report img").wait_for(timeout=120_000)
    assert "100,000 rows" in pane.locator(".report").inner_text()


def test_a_cut_connection_resumes_without_hole_or_double(browser: "Browser", url: str) -> None:
    """Cut in the middle of a run, the page comes back from where it was."""
    context = browser.new_context()
    page = context.new_page()
    cuts: list[int] = []
    ends: list[dict[str, object]] = []

    def serve(socket: "WebSocketRoute") -> None:
        server = socket.connect_to_server()
        events = 0

        def forward(frame: str | bytes) -> None:
            nonlocal events
            body = json.loads(frame if isinstance(frame, str) else zlib.decompress(frame, -zlib.MAX_WBITS))
            if body["t"] == "end":
                ends.append(body)
            socket.send(frame)
            events += body["t"] == "ev"
            if events == 1 and len(cuts) < 2:
                cuts.append(events)
                socket.close(code=4010)

        server.on_message(forward)

    page.route_web_socket("**/ws?*", serve)
    page.goto(url)
    pane = page.locator(".pane").first
    sign_in(pane, "fern")
    give_log(pane, "fern.csv", make_log("fern", 20_000))
    start(pane)
    report_of(pane)
    assert len(cuts) == 2
    assert ends[-1]["n"] == pane.locator(".events li").count()
    assert pane.locator(".tree .state").all_inner_texts() == ["completed"] * 3
    context.close()


def test_a_run_is_seen_and_cancelled_in_another_window(browser: "Browser", url: str) -> None:
    """A second window of the same user shows the run that the first has started, and can end it."""
    opened, other = Opened(browser, url, _WIDE), Opened(browser, url, _WIDE)
    for one in (opened, other):
        sign_in(one.pane(0), "hugo")
    pane, elsewhere = opened.pane(0), other.pane(0)
    pane.get_by_role("button", name="Use a long sample").click()
    start(pane)
    elsewhere.locator(".events li[data-type=agent_started]").first.wait_for()
    elsewhere.get_by_role("button", name="Cancel the run").click()
    for window in (pane, elsewhere):
        window.locator(".problem", has_text="The run was cancelled.").wait_for()
        assert window.locator(".running").is_hidden()
        assert window.locator(".tree [data-state=running]").count() == 0
        assert "cancelled" in window.locator(".tree .state").all_inner_texts()
        assert window.locator(".tree [data-state=failed]").count() == 0
    assert opened.complaints == []
    assert other.complaints == []
    # And once more, to its end: nothing of the cancelled one is in the way.
    give_log(pane, "hugo.csv", make_log("hugo", 300))
    start(pane)
    for window in (pane, elsewhere):
        assert "For hugo" in report_of(window)


def test_a_reload_in_the_middle_of_a_run_brings_everything_again(browser: "Browser", url: str) -> None:
    """Nothing lost and nothing doubled, though the network went away as well."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    pane = page.locator(".pane").first
    sign_in(pane, "iris")
    give_log(pane, "iris.csv", make_log("iris", 100_000))
    start(pane)
    pane.locator(".progress-text", has_text="Reading: ").wait_for()
    page.reload()
    pane.locator(".events li[data-type=agent_started]").first.wait_for()
    context.set_offline(True)
    page.wait_for_timeout(300)
    context.set_offline(False)
    report = report_of(pane)
    assert "For iris" in report
    for agent in ("data", "optimization", "report"):
        for kind in ("agent_started", "agent_completed"):
            assert pane.locator(f".events li[data-type={kind}]", has_text=agent).count() == 1
    assert pane.locator(".tree .state").all_inner_texts() == ["completed"] * 3
    context.close()
