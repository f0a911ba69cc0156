"""The dashboard of the example, in a real browser, while synthetic users work: each view has figures, true ones.

The example runs in a process of its own: what other tests of this process leave behind is not on the page.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from examples.optimizer.load.plan import user_names
from examples.optimizer.load.process import synthetic_users
from examples.optimizer.serving import listen

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
USERS = 10
_ALERT_SECONDS = 60.0

pytestmark = pytest.mark.timeout(180)


class Example:
    """The example in a process, with an operator's link."""

    def __init__(self, url: str, link: str, data_dir: Path) -> None:
        self.url = url
        self.link = link
        self.data_dir = data_dir

    @contextmanager
    def operator(self) -> Iterator[httpx.Client]:
        """A client that has shown the key."""
        with httpx.Client(base_url=f"{self.url}/dashboard/", timeout=30, follow_redirects=True) as client:
            client.get(self.link).raise_for_status()
            yield client


@contextmanager
def example(data_dir: Path, port: int = 0) -> Iterator[Example]:
    options = ["--port", str(port), "--data-dir", str(data_dir), "--log-level", "warning"]
    command = [sys.executable, "-u", "-m", "examples.optimizer", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = link = ""
            for line in process.stdout:
                if found := re.match(r"Optimizer on (\S+)", line):
                    url = found[1]
                if found := re.match(r"Dashboard for operators: (\S+)", line):
                    link = found[1]
                    break
            assert link, "the example ended before it told its addresses"
            yield Example(url, link, data_dir)
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """The example with users of whom more than enough are in trouble."""
    with (
        example(tmp_path_factory.mktemp("busy")) as running,
        synthetic_users(running.url, USERS, "--pace", "3", "--trouble", "0.5"),
    ):
        deadline = time.monotonic() + 60
        with running.operator() as client:
            while client.get("snapshot.json").json()["runs"]["completed"] < USERS:
                assert time.monotonic() < deadline, "no runs are completed"
                time.sleep(0.5)
        yield running


class Window:
    """A page on the dashboard, and what its console said against it."""

    def __init__(self, browser: "Browser", link: str) -> None:
        self.complaints: list[str] = []
        self.page: Page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda entry: self.complaints.append(entry.text) if entry.type == "error" else None)
        self.page.goto(link)
        self.page.locator("body[data-link=live]").wait_for()

    def show(self, address: str, panel: str) -> str:
        """Go to a view, and give its text once it has some."""
        self.page.evaluate("address => { location.hash = address }", address)
        self.page.locator(f"#panel-{panel}").wait_for()
        self.page.wait_for_timeout(1500)
        assert self.page.locator(".notice:visible").all_inner_texts() == []
        return self.page.locator(f"#panel-{panel}").inner_text()


@pytest.fixture
def window(browser: "Browser", busy: Example) -> Iterator[Window]:
    window = Window(browser, busy.link)
    yield window
    assert window.complaints == []
    window.page.context.close()


def test_the_overview_shows_who_is_served_and_that_nothing_crossed(window: Window, busy: Example) -> None:
    """The big zero is green, and the figures are those of the load."""
    text = window.show("#/overview", "overview")
    assert window.page.locator(".hero").get_attribute("data-state") == "good"
    assert "isolation violations" in text
    with busy.operator() as client:
        overview = client.get("snapshot.json").json()
    assert overview["violations"]["total"] == 0
    # Beside the synthetic users there are the probe's two.
    assert USERS <= overview["users"] <= USERS + 2
    assert overview["sockets"] == USERS
    assert overview["runs"]["completed"] >= USERS
    assert overview["events"]["published"] > 100
    assert overview["latency"]["event_p99"] > 0
    assert overview["memory_bytes"] > 0
    assert len(overview["series"]["t"]) > 3


def test_users_are_hashes_until_one_is_revealed(window: Window, busy: Example) -> None:
    """No name anywhere, and after a click one name, which the audit log keeps."""
    names = user_names(USERS)
    text = window.show("#/users?sort=runs", "users")
    html = window.page.content()
    with busy.operator() as client:
        users = client.get("users.json", params={"sort": "runs", "limit": 100}).json()["users"]
        answers = [
            client.get(path).text
            for path in ("snapshot.json", "users.json", "runs.json", "rollout.json", "isolation.json", "audit.json")
        ]
    assert len(users) >= USERS
    for name in names:
        assert name not in html
        assert all(name not in answer for answer in answers)
    busiest = next(row for row in users if row["runs_total"] > 0)
    assert busiest["user"] in text
    window.page.get_by_role("button", name=re.compile("^Reveal")).first.click()
    window.page.locator("dialog").get_by_role("button", name="Reveal").click()
    window.page.locator("dialog[open]").wait_for(state="detached")
    window.page.wait_for_timeout(1500)
    shown = window.page.locator("#panel-users").inner_text()
    assert sum(name in shown for name in names) == 1 or "isolane-probe" in shown


def test_a_run_is_a_tree_with_its_agents(window: Window, busy: Example) -> None:
    """The three agents of the pipeline, with their tools, in the order of their time."""
    text = window.show("#/runs?state=ended", "runs")
    assert "completed" in text
    with busy.operator() as client:
        runs = client.get("runs.json", params={"state": "ended", "limit": 500}).json()["runs"]
        run = next(run for run in runs if run["state"] == "completed" and run["children"] > 1)
        tree = client.get(f"runs/{run['run']}.json").json()["tree"]
    agents = [node["name"] for node in tree if node["kind"] == "agent" and node["name"] in AGENTS]
    assert agents == list(AGENTS)
    assert {"log_loader", "price_table", "report_writer"} <= {node["name"] for node in tree if node["kind"] == "tool"}
    starts = [node["start"] for node in tree if node["name"] in AGENTS]
    assert starts == sorted(starts)
    shown = window.show(f"#/runs/{run['run']}", "runs")
    for name in (*AGENTS, "log_loader"):
        assert name in shown


AGENTS = ("data", "optimization", "report")


def test_isolation_and_audit_say_what_was_looked_at(window: Window, busy: Example) -> None:
    """The probe has swept, its control was found, and the log verifies."""
    deadline = time.monotonic() + 60
    with busy.operator() as client:
        while not client.get("isolation.json").json()["last_sweep"]:
            assert time.monotonic() < deadline, "the probe has not swept"
            time.sleep(1)
        isolation = client.get("isolation.json").json()
    assert isolation["positive_controls"]["missed"] == 0
    assert isolation["positive_controls"]["caught"] > 0
    assert "probe" in window.show("#/isolation", "isolation").lower()
    window.show("#/audit", "audit")
    window.page.locator("#panel-audit").get_by_role("button", name=re.compile("^Verify")).click()
    # Not "not intact".
    window.page.locator("#panel-audit .badge", has_text=re.compile("^intact$")).wait_for()


def test_runs_that_fail_are_an_alert(window: Window, busy: Example) -> None:
    """Half of the users' deeds are trouble: the alert fires, on the page and in the metrics."""
    deadline = time.monotonic() + _ALERT_SECONDS
    firing: set[str] = set()
    with busy.operator() as client:
        while "error_rate" not in firing:
            assert time.monotonic() < deadline, f"firing: {firing}"
            time.sleep(1)
            alerts = client.get("snapshot.json").json()["alerts"]
            firing = {alert["rule"] for alert in alerts if alert["state"] == "firing"}
        scrape = client.get(f"{busy.url}/metrics").text
    assert 'isolane_alerts_active{rule="error_rate"} 1' in scrape
    assert "isolation_violation" not in firing
    assert "error rate" in window.show("#/overview", "overview").lower()


def test_nobody_but_operators_sees_anything(busy: Example) -> None:
    """Neither without a sign-in nor with a user's."""
    token = httpx.post(f"{busy.url}/api/sign-in", json={"name": "mallory"}).json()["token"]
    paths = ("dashboard/", "dashboard/snapshot.json", "dashboard/users.json", "dashboard/stream", "metrics")
    for headers in ({}, {"Authorization": f"Bearer {token}"}):
        for path in paths:
            answer = httpx.get(f"{busy.url}/{path}", headers=headers)
            assert answer.status_code == 401, path
        answer = httpx.post(f"{busy.url}/dashboard/actions/rollback", json={"flag": "daily_table"}, headers=headers)
        assert answer.status_code == 401


def test_the_page_links_operators_and_nobody_else(browser: "Browser", busy: Example) -> None:
    """The same page, with and without the cookie."""
    for link, is_shown in ((busy.url, False), (busy.link, True)):
        page = browser.new_context().new_page()
        page.goto(link)
        page.goto(busy.url)
        page.get_by_role("button", name="Run both at once").wait_for()
        page.wait_for_load_state("networkidle")
        dashboard = page.get_by_role("link", name="Dashboard")
        assert dashboard.count() == int(is_shown)
        if is_shown:
            dashboard.click()
            page.locator("body[data-link=live]").wait_for()
        page.context.close()


def test_a_rollback_by_the_button_counts_at_once_and_is_written(browser: "Browser", tmp_path: Path) -> None:
    """The flag is off for the next run, in the file, and after a restart; the page lives through that, too."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with example(tmp_path, port) as running:
        window = Window(browser, running.link)
        window.show("#/rollout", "rollout")
        button = window.page.get_by_role("button", name="Roll back now")
        button.click()
        window.page.locator("dialog textarea").fill("the table is wrong")
        window.page.locator("dialog").get_by_role("button", name="Roll back now").click()
        window.page.locator("#panel-rollout", has_text="is rolled back").wait_for()
        document = json.loads((tmp_path / "operations" / "flags.json").read_text(encoding="utf-8"))
        assert document["flags"]["daily_table"]["rollback"]["metric"] == "manual"
    window.page.locator("body[data-link=lost]").wait_for()
    with example(tmp_path, port) as running:
        window.page.locator("body[data-link=live]").wait_for()
        with running.operator() as client:
            (flag,) = client.get("rollout.json").json()["flags"]
        assert flag["rolled_back"] is True
    window.page.context.close()
