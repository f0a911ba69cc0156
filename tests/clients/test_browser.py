"""The JavaScript client in a real Chromium, against isolane under uvicorn."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import FileResponse

from tests.clients.javascript import PACKAGE, left_out
from tests.faults.site import Site
from tests.support.event_history import History
from tests.support.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0


@pytest.fixture
async def browser():
    """Chromium, as the tests of the page have it."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        left_out("the client was not tested in a browser, there is no Chromium (apt-get install chromium)")
    try:
        from playwright.async_api import async_playwright  # noqa: PLC0415 - absent, it is a reason to skip
    except ImportError:
        left_out("the client was not tested in a browser, playwright is not installed (pip install playwright)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        await browser.close()


@pytest.fixture
async def proxied():
    """A served site with a page of the client, and a proxy before it."""
    site = Site(History(1), websocket_max_reconnect_attempts=0)

    @site.app.get("/page")
    async def page() -> FileResponse:
        return FileResponse(Path(__file__).with_name("browser.html"), media_type="text/html")

    @site.app.get("/isolane-client.js")
    async def module() -> FileResponse:
        return FileResponse(PACKAGE / "isolane-client.js", media_type="text/javascript")

    # The users of these tests have names of their own already, which are their tokens.
    site.mark = ""
    # The library below compresses too, unless it is told not to.
    with site.serving(ws_per_message_deflate=False):
        async with FaultProxy(site.port, seed=1) as proxy:
            yield site, proxy


class Tab:
    """A page that follows a user's runs."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    @classmethod
    async def open(cls, context: Browser | BrowserContext, proxy: FaultProxy) -> Tab:
        tab = cls(await context.new_page())
        await tab.page.goto(f"http://127.0.0.1:{proxy.port}/page")
        await tab.page.wait_for_function("window.ready")
        return tab

    async def start(self, user: str, **options: Any) -> None:
        await self.page.evaluate("([user, options]) => start(user, options)", [user, options])
        await self.state("open")

    async def state(self, state: str, count: int = 1) -> None:
        """Wait until the client has told of this state so often."""
        await self.page.wait_for_function(
            "([state, count]) => records.filter(([kind, name]) => kind === 'state' && name === state).length >= count",
            arg=[state, count],
            timeout=SECONDS * 1000,
        )

    async def records(self, *kinds: str) -> list[list[Any]]:
        return await self.page.evaluate("kinds => records.filter(([kind]) => kinds.includes(kind))", list(kinds))

    async def until_ended(self) -> None:
        await self.page.wait_for_function("records.some(([kind]) => kind === 'end')", timeout=SECONDS * 1000)

    async def shows_all(self, run: str, count: int) -> None:
        """Each event once, in order, and one end after them."""
        await self.until_ended()
        told = [record for record in await self.records("event", "replace", "skip", "end") if record[1] == run]
        assert [record[2] for record in told[:-1]] == list(range(1, count + 1))
        assert told[-1] == ["end", run, "completed"]
        assert self.complaints == []


async def test_several_hundred_events_compressed(browser, proxied) -> None:
    site, proxy = proxied
    tab = await Tab.open(browser, proxy)
    before = proxy.bytes_down
    await tab.start("ann")
    run = site.run("ann")
    run.started()
    for step in range(600):
        run.thinking(f"step {step}: " + "the same words again and again " * 12)
        if step % 40 == 0:
            await asyncio.sleep(0.01)
    run.completed()
    site.end(run)
    await tab.shows_all(run.stream.run, 602)
    assert proxy.bytes_down - before < 602 * 400 / 3


async def test_offline_and_online_again(browser, proxied) -> None:
    """What happened meanwhile comes when the network is back, at once and not when a timer says so."""
    site, proxy = proxied
    context = await browser.new_context()
    tab = await Tab.open(context, proxy)
    await tab.start("ben")
    run = site.run("ben")
    run.started()
    await tab.page.wait_for_function("records.some(([kind]) => kind === 'event')")
    for round_ in range(2):
        await context.set_offline(True)
        proxy.half_open()
        for step in range(10):
            run.thinking(f"step {round_}.{step}")
        await asyncio.sleep(0.3)
        await context.set_offline(False)
        await tab.state("open", 2 + round_)
    run.completed()
    site.end(run)
    await tab.shows_all(run.stream.run, 22)
    await context.close()


async def test_a_network_that_flaps_makes_no_storm(browser, proxied) -> None:
    """Each return of the network connects, but never twice within half a second."""
    site, proxy = proxied
    tab = await Tab.open(browser, proxy)
    await tab.start("cleo")
    before = proxy.accepted
    await tab.page.evaluate(
        """async () => {
          for (let round = 0; round < 60; round += 1) {
            dispatchEvent(new Event("offline"));
            dispatchEvent(new Event("online"));
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
        }"""
    )
    await asyncio.sleep(0.7)
    assert proxy.accepted - before <= 8
    run = site.run("cleo")
    run.started()
    run.completed()
    site.end(run)
    await tab.shows_all(run.stream.run, 2)


async def test_a_reload_in_the_middle_begins_again(browser, proxied) -> None:
    """The page has lost what it showed: everything comes again."""
    site, proxy = proxied
    tab = await Tab.open(browser, proxy)
    await tab.start("dan")
    run = site.run("dan")
    run.started()
    for step in range(10):
        run.thinking(f"step {step}")
    await tab.page.wait_for_function("records.filter(([kind]) => kind === 'event').length === 11")
    await tab.page.reload()
    await tab.page.wait_for_function("window.ready")
    await tab.start("dan")
    run.thinking("more")
    run.completed()
    site.end(run)
    await tab.shows_all(run.stream.run, 13)


async def test_a_page_that_keeps_what_it_shows_goes_on(browser, proxied) -> None:
    """With a storage for the positions, a reload brings only what is new."""
    site, proxy = proxied
    tab = await Tab.open(browser, proxy)
    await tab.page.evaluate("startKeeping('eve')")
    await tab.state("open")
    run = site.run("eve")
    run.started()
    for step in range(10):
        run.thinking(f"step {step}")
    await tab.page.wait_for_function("records.filter(([kind]) => kind === 'event').length === 11")
    await tab.page.reload()
    await tab.page.wait_for_function("window.ready")
    await tab.page.evaluate("startKeeping('eve')")
    await tab.state("open", 2)
    run.completed()
    site.end(run)
    await tab.shows_all(run.stream.run, 12)
    # After the end as well: a run that was told to have ended is not told again.
    await tab.page.reload()
    await tab.page.wait_for_function("window.ready")
    await tab.page.evaluate("startKeeping('eve')")
    await tab.state("open", 3)
    await asyncio.sleep(0.3)
    await tab.shows_all(run.stream.run, 12)


async def test_two_tabs_at_different_speeds(browser, proxied) -> None:
    """Each has its own position; the fast one does not wait for the slow one, which misses nothing."""
    site, proxy = proxied
    context = await browser.new_context()
    # Sites of their own processes: one page that computes would hold up another of the same process.
    fast, slow = await Tab.open(context, proxy), await Tab.open(await browser.new_context(), proxy)
    await fast.start("fay")
    await slow.start("fay", slow=15)
    run = site.run("fay")
    run.started()
    for step in range(300):
        run.thinking(f"step {step}")
        if step % 30 == 0:
            await asyncio.sleep(0.01)
    run.completed()
    site.end(run)
    await fast.until_ended()
    assert len(await slow.records("event")) < 302
    await fast.shows_all(run.stream.run, 302)
    await slow.shows_all(run.stream.run, 302)


async def test_a_tab_in_the_background(browser, proxied) -> None:
    """Acks need no timers; a socket that died while the tab was hidden is replaced when it is shown again."""
    site, proxy = proxied
    context = await browser.new_context()
    hidden, shown = await Tab.open(context, proxy), await Tab.open(context, proxy)
    await hidden.start("gil")
    await shown.page.bring_to_front()
    run = site.run("gil")
    run.started()
    for step in range(600):
        run.thinking(f"step {step}")
        if step % 40 == 0:
            await asyncio.sleep(0.02)
    # Far beyond what the server sends without an ack.
    await hidden.page.wait_for_function("records.filter(([kind]) => kind === 'event').length === 601")
    proxy.refuse()
    proxy.cut()
    await hidden.state("waiting", 2)
    proxy.accept()
    await hidden.page.bring_to_front()
    await hidden.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    run.completed()
    site.end(run)
    await hidden.shows_all(run.stream.run, 602)
    await context.close()


async def test_cut_connections_of_a_page(browser, proxied) -> None:
    site, proxy = proxied
    tab = await Tab.open(browser, proxy)
    await tab.start("hal")
    run = site.run("hal")
    run.started()
    for round_ in range(4):
        await tab.state("open", 1 + round_)
        run.thinking(f"step {round_}.0")
        proxy.cut()
        run.thinking(f"step {round_}.1")
    run.completed()
    site.end(run)
    await tab.shows_all(run.stream.run, 10)


async def test_cancel_from_another_tab(browser, proxied) -> None:
    site, proxy = proxied
    one, other = await Tab.open(browser, proxy), await Tab.open(browser, proxy)
    await one.start("ida")
    await other.start("ida")
    run = await site.start("worker", "ida")
    await one.page.wait_for_function("records.some(([kind]) => kind === 'event')")
    assert await other.page.evaluate("run => client.cancel(run)", run) == "accepted"
    for tab in (one, other):
        await tab.until_ended()
        assert await tab.records("end") == [["end", run, "cancelled"]]
    assert await one.page.evaluate("run => client.cancel(run)", run) == "ended"
    assert await one.page.evaluate("client.cancel('run_of_nobody')") == "gone"
