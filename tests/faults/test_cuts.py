"""Connections that break: at every event of a run, before the first one, and all at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import websockets
from isolane import lane_usage

from tests.faults.site import Site, ended, settled
from tests.support.event_history import History
from tests.support.fault_proxy import FaultProxy

EVENTS = 60
OPENING = 2
"""Frames before the events: ``welcome`` and ``sub``."""


@pytest.mark.parametrize("inside", [0, 1, 90], ids=["between frames", "in the head of a frame", "in a frame"])
async def test_a_reset_at_every_event_of_a_run_loses_and_doubles_nothing(inside) -> None:
    site = Site(History(1), websocket_enable_batching=False)
    with site.serving():
        async with FaultProxy(site.port, seed=1) as proxy:
            for number in range(1, EVENTS + 1):
                recorder = site.run(f"cut-{inside}-{number}")
                site.story(recorder, EVENTS)
                site.end(recorder)
                proxy.cut_after_frames(OPENING + number, inside=inside)
                client = site.client(recorder.user, port=proxy.port)
                await client.follow(ended(recorder.stream.run))
                assert client.connections == 2, (number, client.connections)
                await client.close()
            assert proxy.cuts == EVENTS
    totals = site.history.check()
    assert (totals["delivered"], totals["doubled"]) == (EVENTS * EVENTS, 0)


@pytest.mark.parametrize("query", ["", "?compress=deflate-raw"], ids=["as text", "compressed"])
async def test_a_live_run_over_connections_that_never_last(proxied, query) -> None:
    """Each connection is cut after 600 to 3000 bytes, wherever that is, and comes in pieces of up to 50 bytes."""
    site, proxy = proxied
    proxy.cut_each(600, 3000)
    proxy.chop(50)
    recorder = site.run("never-lasts")
    client = site.client(recorder.user, port=proxy.port, query=query)
    following = asyncio.create_task(client.follow(ended(recorder.stream.run), seconds=60))
    recorder.started()
    for step in range(150):
        recorder.thinking(f"step {step}")
        await asyncio.sleep(0.002)
    recorder.completed()
    site.end(recorder)
    await asyncio.sleep(0.3)
    # A frame may be longer than the connections live.
    proxy.cut_each(0, 0)
    await following
    await client.close()
    assert proxy.cuts > 5
    assert ("z" in client.welcome) == bool(query)
    assert site.history.check()["delivered"] == 152


async def test_a_client_that_vanishes_before_anything_was_sent_leaves_nothing(proxied) -> None:
    site, proxy = proxied
    recorder = site.run("vanishes")
    site.story(recorder, 20)
    for count in (1, 40, 100, 128, 140, 160, 200, 300):
        proxy.cut_after(count)
        with contextlib.suppress(websockets.WebSocketException, OSError, EOFError):
            await site.client(recorder.user, "vanishing", port=proxy.port, complete=False).connect()
        proxy.bytes_left = None
        proxy.cut()
    # Without reading the answer to its handshake.
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: isolane.v1, bearer." + recorder.user.encode() + b"\r\n\r\n"
        )
        writer.transport.abort()
    await settled(lambda: site.sockets() == 0)
    await settled(lambda: (lane_usage(recorder.user) or {})["connections"] == 0)
    site.end(recorder)
    client = site.client(recorder.user, port=proxy.port)
    await client.follow(ended(recorder.stream.run))
    await client.close()
    assert site.history.check()["delivered"] == 20


async def test_everybody_comes_back_at_once_and_resumes(proxied) -> None:
    site, proxy = proxied
    recorders = [site.run(f"storm-{number}") for number in range(60)]
    tabs = [site.client(recorder.user, tab, port=proxy.port) for recorder in recorders for tab in ("a", "b")]
    runs = {recorder.user: recorder.stream.run for recorder in recorders}
    following = [asyncio.create_task(tab.follow(ended(runs[tab.user]), seconds=60)) for tab in tabs]
    for recorder in recorders:
        recorder.started()
    for storm in range(3):
        for step in range(10):
            for recorder in recorders:
                recorder.thinking(f"step {storm}.{step}")
            await asyncio.sleep(0.01)
        await settled(lambda: proxy.open == len(tabs))
        proxy.cut()
    for recorder in recorders:
        recorder.completed()
        site.end(recorder)
    await asyncio.gather(*following)
    assert proxy.cuts >= 3 * len(tabs)
    assert proxy.accepted >= 4 * len(tabs)
    for tab in tabs:
        await tab.close()
    totals = site.history.check()
    assert totals["delivered"] == len(tabs) * 32


async def test_a_wait_for_an_ack_goes_on_over_a_connection_that_breaks(proxied) -> None:
    site, proxy = proxied
    recorder = site.run("waits")
    client = site.client(recorder.user, port=proxy.port)
    recorder.started()
    await client.follow(lambda tab: bool(tab.messages))
    proxy.half_open()
    client.drop()
    number = recorder.executing()
    sent = asyncio.create_task(recorder.emitter.wait(number, level="sent", timeout=20))
    last = recorder.executed()
    acked = asyncio.create_task(recorder.emitter.wait(last, level="acked", timeout=20))
    await sent
    assert not acked.done(), "nobody has it yet: the socket that took it is not read"
    following = asyncio.create_task(client.follow(ended(recorder.stream.run)))
    await acked
    assert client.positions[recorder.stream.run][1] >= last
    recorder.completed()
    site.end(recorder)
    await following
    await client.close()
    site.history.check()
