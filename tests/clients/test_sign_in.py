"""Both clients, and the JavaScript one in Chromium, with tokens that end, and with tickets."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest
from isolane import UserContextFactory
from isolane.client import StateChanged, connect
from starlette.responses import FileResponse

from tests.clients.followers import JavaScriptFollower
from tests.clients.javascript import PACKAGE, left_out
from tests.clients.scripted import Peer, ScriptedServer, end, ev, sub
from tests.support.token_service import served, token


async def test_a_token_that_ends_soon_is_renewed_without_a_break(follower) -> None:
    with served() as service:
        run = UserContextFactory.create_context("ann-of-clients")
        emitter = run.get_websocket_emitter()
        first, second = token("ann-of-clients", 1.5), token("ann-of-clients", 300)
        await follower.start(f"ws://127.0.0.1:{service.port}/ws", tokens=[first, second])
        await follower.until(lambda: "open" in follower.states())
        await asyncio.sleep(2.0)
        await emitter.send_custom_event("note", {"text": "after the end of the first token"})
        await follower.until(lambda: follower.numbers(run.run_id))
        assert follower.states() == ["connecting", "open"]
        await run.cleanup()


async def test_a_token_that_is_not_renewed_ends_the_client_for_good(follower) -> None:
    with served() as service:
        await follower.start(f"ws://127.0.0.1:{service.port}/ws", token=token("ann-of-clients", 1.2))
        await follower.until(lambda: "closed" in follower.states())
        assert follower.of("state")[-1][1:4] == ["closed", 4501, True]


async def test_another_users_token_ends_the_client_for_good(follower) -> None:
    with served() as service:
        tokens = [token("ann-of-clients", 5), token("bob-of-clients")]
        await follower.start(f"ws://127.0.0.1:{service.port}/ws", tokens=tokens)
        await follower.until(lambda: "closed" in follower.states())
        assert follower.of("state")[-1][1:4] == ["closed", 4501, True]


async def test_each_connection_asks_for_a_ticket_of_its_own(follower) -> None:
    async def cut(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.hears("sub")
        await peer.say(sub(head=2), ev(1))
        peer.connection.transport.abort()

    async def resume(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.hears("sub")
        await peer.say({"v": 1, "t": "auth_expiring", "expires_in_ms": 60_000})
        assert await peer.hears("auth_refresh") == {"t": "auth_refresh", "ticket": "t-3"}
        await peer.say(sub("exact", 1, 2), ev(2, critical=True), end(2))

    server = ScriptedServer(cut, resume)
    async with server.running() as url:
        await follower.start(url, tickets=["t-1", "t-2", "t-3"])
        await follower.until(lambda: follower.of("end"))
    assert ["ticket=t-1" in peer.request.path for peer in server.peers] == [True, False]
    assert "ticket=t-2" in server.peers[1].request.path
    assert "Authorization" not in server.peers[0].request.headers


async def test_an_answer_that_takes_two_tries_is_given_while_there_is_time() -> None:
    """The function that gives tokens has no network at first."""
    asked: list[float] = []

    async def give() -> str:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise ConnectionError("no network")
        return f"token-{len(asked)}"

    heard: list[dict] = []

    async def expire(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"v": 1, "t": "auth_expiring", "expires_in_ms": 60_000})
        heard.append(await peer.hears("auth_refresh"))
        await peer.connection.close(4501)

    server = ScriptedServer(expire)
    async with server.running() as url, connect(url, token=give) as client:
        async for record in client.events():
            if isinstance(record, StateChanged) and record.state == "closed":
                assert (record.code, record.final) == (4501, True)
    assert heard == [{"t": "auth_refresh", "token": "token-3"}]


def test_a_connection_signs_in_once() -> None:
    with pytest.raises(ValueError, match="a token or a ticket"):
        connect("ws://127.0.0.1/ws", token="x", ticket="y")


async def test_a_client_that_is_left_while_it_signs_in_again_leaves_nothing() -> None:
    async def expire(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"v": 1, "t": "auth_expiring", "expires_in_ms": 60_000})

    asked = asyncio.Event()

    async def give() -> str:
        if asked.is_set():
            await asyncio.Event().wait()
        asked.set()
        return "token"

    async with ScriptedServer(expire).running() as url:
        before = asyncio.all_tasks()
        async with connect(url, token=give) as client:
            async for record in client.events():
                if isinstance(record, StateChanged) and record.state == "open":
                    break
            await asyncio.sleep(0.05)
        assert {task for task in asyncio.all_tasks() - before if "client" in task.get_name()} == set()


async def test_javascript_is_told_by_its_page_that_nobody_is_signed_in() -> None:
    """A browser cannot see why a socket was refused: whoever gives tickets can."""
    follower = JavaScriptFollower()
    with served() as service:
        try:
            await follower.start(f"ws://127.0.0.1:{service.port}/ws", tickets=[])
            await follower.until(lambda: "closed" in follower.states())
            assert follower.of("state")[-1][1:4] == ["closed", 4501, True]
        finally:
            await follower.stop()


PAGE = """<!doctype html><link rel="icon" href="data:," /><script type="module">
  import { IsolaneClient } from "/isolane-client.js";
  window.records = [];
  const tell = (...record) => window.records.push(record);
  window.start = (bearer) => {
    const ticket = async () => {
      const headers = { Authorization: `Bearer ${bearer}` };
      const answer = await fetch("/_isolane/ws-ticket", { method: "POST", headers });
      if (!answer.ok) throw Object.assign(new Error("no ticket"), { status: answer.status });
      return (await answer.json()).ticket;
    };
    window.giveTicket = ticket;
    window.client = new IsolaneClient("/ws", {
      ticket,
      onEvent: (run, message) => tell("event", run, message.type),
      onState: (state, detail) => tell("state", state, detail.code ?? null),
    });
  };
  window.raw = (...offer) => new Promise((resolve) => {
    const socket = new WebSocket(`ws://${location.host}/ws`, offer);
    socket.onopen = () => resolve("open " + socket.protocol);
    socket.onclose = ({ code }) => resolve(`closed ${code}`);
  });
  window.ready = true;
</script>"""


async def test_a_page_in_chromium_uses_tickets_and_is_refused_elsewhere(tmp_path: Path) -> None:
    executable = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if executable is None:
        left_out("tickets were not tried in a browser, there is no Chromium (apt-get install chromium)")
    try:
        from playwright.async_api import async_playwright  # noqa: PLC0415 - absent, it is a reason to skip
    except ImportError:
        left_out("tickets were not tried in a browser, playwright is not installed (pip install playwright)")
    page_file = tmp_path / "page.html"
    page_file.write_text(PAGE, encoding="utf-8")
    with served() as service:
        service.app.get("/page")(lambda: FileResponse(page_file, media_type="text/html"))
        module = PACKAGE / "isolane-client.js"
        service.app.get("/isolane-client.js")(lambda: FileResponse(module, media_type="text/javascript"))
        run = UserContextFactory.create_context("ann-of-pages")
        await run.get_websocket_emitter().send_custom_event("note", {"text": "hello"})
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
            )
            page = await browser.new_page()
            await page.goto(f"{service.origin}/page")
            await page.wait_for_function("window.ready")
            await page.evaluate("bearer => start(bearer)", token("ann-of-pages"))
            await page.wait_for_function("records.some(([kind]) => kind === 'event')")
            # The existing front end's offer, and what a browser makes of an offer without a name that may be selected.
            bearer = token("ann-of-pages")
            assert await page.evaluate("offer => raw(...offer)", ["jwt-auth", f"jwt.{bearer}"]) == "open jwt-auth"
            assert await page.evaluate("offer => raw(...offer)", [f"jwt.{bearer}"]) == "closed 1006"
            # An event stream of the own service names no origin.
            streamed = """run => giveTicket().then((ticket) => new Promise((resolve) => {
                const source = new EventSource(`/events/${run}?ticket=${ticket}`);
                source.addEventListener("note", ({ data }) => { source.close(); resolve(JSON.parse(data).type); });
                source.onerror = () => { source.close(); resolve("refused"); };
            }))"""
            assert await page.evaluate(streamed, run.run_id) == "note"
            await page.evaluate("client.close(); records.length = 0; start('x.y.z')")
            await page.wait_for_function("records.some(([kind, state, code]) => state === 'closed' && code === 4501)")
            # The same service under another name is another origin, and gives that page no ticket either.
            await page.goto(f"http://localhost:{service.port}/page")
            await page.wait_for_function("window.ready")
            offer = ["isolane.v1", f"bearer.{bearer}"]
            elsewhere = f"""offer => new Promise((resolve) => {{
                const socket = new WebSocket("ws://127.0.0.1:{service.port}/ws", offer);
                socket.onopen = () => resolve("open");
                socket.onclose = ({{ code }}) => resolve(`closed ${{code}}`);
            }})"""
            assert await page.evaluate(elsewhere, offer) == "closed 1006"
            assert ("authn_login_fail", "origin_not_allowed") in service.names()
            await browser.close()
        assert json.dumps(service.names()).count("another_origin") == 0
        await run.cleanup()
