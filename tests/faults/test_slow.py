"""Clients and servers that are slow, or only seem to be there."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from isolane.fastapi import sockets
from websockets.asyncio.client import connect

from tests.faults.site import Site, ended, settled
from tests.support.event_history import History
from tests.support.fault_proxy import FaultProxy


async def test_a_half_open_connection_is_given_up_by_both_ends(monkeypatch) -> None:
    """Neither end is told, for as long as 40 s of a real deployment; here its heartbeats are a hundred times faster."""
    monkeypatch.setattr(sockets, "PONG_SECONDS", 0.1)
    site = Site(History(2), websocket_heartbeat_interval=0.4)
    with site.serving():
        async with FaultProxy(site.port, seed=2) as proxy:
            recorder = site.run("half-open")
            client = site.client(recorder.user, port=proxy.port, silence=0.4)
            recorder.started()
            await client.follow(lambda tab: bool(tab.messages))
            assert site.sockets() == 1
            proxy.half_open()
            for step in range(40):
                recorder.thinking(f"step {step}, which nobody hears")
            following = asyncio.create_task(client.follow(ended(recorder.stream.run)))
            await settled(lambda: client.connections == 2)
            await settled(lambda: site.sockets() == 1)
            recorder.completed()
            site.end(recorder)
            await following
            await client.close()
            await settled(lambda: site.sockets() == 0)
    assert site.history.check()["delivered"] == 42


async def test_a_client_that_stops_reading_holds_up_nobody_and_comes_back_by_a_snapshot(monkeypatch) -> None:
    """The server gives it up: the client itself would wait for ever."""
    monkeypatch.setattr(sockets, "ACK_SECONDS", 0.5)
    site = Site(History(3), websocket_delivery_timeout=0.5)
    with site.serving():
        async with FaultProxy(site.port, seed=3) as proxy:
            recorder = site.run("stops-reading")
            stopped = site.client(recorder.user, "stopped", port=proxy.port, silence=60)
            reading = site.client(recorder.user, "reading")
            recorder.started()
            following = [asyncio.create_task(tab.follow(ended(recorder.stream.run))) for tab in (stopped, reading)]
            await settled(lambda: bool(stopped.messages))
            proxy.pause()
            for step in range(1_500):
                recorder.thinking(f"step {step}: " + "x" * 1_000)
                if step % 20 == 0:
                    await asyncio.sleep(0.002)
            recorder.completed()
            site.end(recorder)
            # The other tab had everything while this one took nothing.
            await following[1]
            assert not stopped.ended
            await settled(lambda: site.sockets() == 1)
            proxy.resume()
            await following[0]
            for tab in (stopped, reading):
                await tab.close()
    totals = site.history.check()
    assert totals["snapshot"] > 0
    assert stopped.modes == ["exact", "snapshot"]
    assert stopped.codes in ([4008], [None]), "the server may have cut off what was not taken"


async def test_a_client_that_reads_and_never_acknowledges_is_sent_away_and_resumes(monkeypatch) -> None:
    monkeypatch.setattr(sockets, "ACK_SECONDS", 0.3)
    site = Site(History(3), websocket_delivery_timeout=0.2)
    with site.serving():
        recorder = site.run("never-acks")
        client = site.client(recorder.user, acks=False)
        following = asyncio.create_task(client.follow(ended(recorder.stream.run)))
        recorder.started()
        for step in range(1_200):
            # More than may be un-acknowledged: the socket pauses, and is closed.
            recorder.publish("note", {"step": step})
            if step % 50 == 0:
                await asyncio.sleep(0.01)
        await settled(lambda: 4008 in client.codes)
        assert [bye["code"] for bye in client.byes] == [4008] * len(client.codes)
        client.acks = True
        recorder.completed()
        site.end(recorder)
        await following
        await client.close()
    totals = site.history.check()
    assert totals["delivered"] + totals["snapshot"] == 1_202


async def test_a_plain_client_that_stops_reading_is_given_up() -> None:
    """It has no acks and no positions: only the deadline of a write finds it."""
    site = Site(History(3), websocket_delivery_timeout=0.3)
    with site.serving():
        async with FaultProxy(site.port, seed=3) as proxy:
            recorder = site.run("plain", max_events=100_000, max_run_bytes=64 << 20, max_user_bytes=64 << 20)
            async with connect(
                f"ws://127.0.0.1:{proxy.port}/ws",
                subprotocols=["events", f"bearer.{recorder.user}"],
                compression=None,
                close_timeout=0.1,
            ):
                await settled(lambda: site.sockets() == 1)
                proxy.pause()
                recorder.started()
                for step in range(20_000):
                    recorder.thinking(f"step {step}: " + "x" * 1_000)
                await settled(lambda: site.sockets() == 0)
                proxy.cut()
            recorder.completed()
            site.end(recorder)
            proxy.heal()
            client = site.client(recorder.user, port=proxy.port)
            await client.follow(ended(recorder.stream.run))
            await client.close()
    assert site.history.check()["delivered"] == 20_002


async def test_eight_kilobytes_a_second(proxied) -> None:
    site, proxy = proxied
    proxy.throttle(8_000)
    recorder = site.run("modem")
    client = site.client(recorder.user, port=proxy.port)
    following = asyncio.create_task(client.follow(ended(recorder.stream.run)))
    recorder.started()
    for step in range(300):
        # Two answers at once: their parts are neighbours, and no part of one belongs to the other.
        recorder.publish("text", {"delta": f"word{step} "}, message_id=f"answer-{step // 7 % 2}")
        await asyncio.sleep(0.004)
    recorder.completed()
    site.end(recorder)
    await following
    await client.close()
    totals = site.history.check()
    assert totals["merged"] > 100, "what a slow client is sent is merged"
    assert totals["delivered"] + totals["merged"] == 302


async def test_ten_thousand_events_before_anybody_connects(proxied) -> None:
    site, proxy = proxied
    recorder = site.run("early-bird")
    recorder.started()
    for step in range(9_998):
        recorder.publish("note", {"step": step})
    client = site.client(recorder.user, port=proxy.port)
    following = asyncio.create_task(client.follow(ended(recorder.stream.run)))
    await settled(lambda: client.frames > 2)
    recorder.completed()
    site.end(recorder)
    await following
    await client.close()
    totals = site.history.check()
    assert client.modes == ["snapshot"]
    assert totals["snapshot"] >= 8_000
    assert totals["snapshot"] + totals["delivered"] == 10_000


async def test_two_tabs_at_different_speeds_see_one_order(proxied) -> None:
    site, proxy = proxied
    proxy.throttle(60_000)
    recorder = site.run("two-tabs")
    fast = site.client(recorder.user, "fast")
    slow = site.client(recorder.user, "slow", port=proxy.port, read_pause=0.01)
    following = [asyncio.create_task(tab.follow(ended(recorder.stream.run))) for tab in (fast, slow)]
    recorder.started()
    for step in range(400):
        match step % 4:
            case 0:
                recorder.thinking(f"step {step}")
            case 1:
                recorder.publish("progress", {"at": step}, priority=3, key="bar")
            case 2:
                recorder.publish("text", {"delta": f"{step} "}, message_id=f"m{step // 40}")
            case _:
                recorder.publish("trace", {"at": step}, priority=4)
        await asyncio.sleep(0.001)
    recorder.completed()
    site.end(recorder)
    await asyncio.gather(*following)
    for tab in (fast, slow):
        await tab.close()
    site.history.check()


@pytest.mark.parametrize("priority", [2, 4], ids=["content", "traces"])
async def test_a_flood_in_one_run_does_not_hold_up_another(proxied, priority) -> None:
    """The flood goes on until the other run was seen to its end, so that its end cannot come after the flood."""
    site, proxy = proxied
    proxy.throttle(400_000)
    flood, calm = site.run("flooded"), site.run("flooded")
    client = site.client(flood.user, port=proxy.port)
    following = asyncio.create_task(client.follow(ended(flood.stream.run, calm.stream.run), seconds=60))
    flood.started()
    calm.started()
    for step in range(30):
        for at in range(300 if priority == 4 else 50):
            flood.publish("trace", {"step": step, "at": at, "more": "x" * 200}, priority=priority)
        calm.executing("search")
        calm.executed("search")
        await asyncio.sleep(0.005)
    calm.completed()
    site.end(calm)
    for _ in range(1_000):
        if calm.stream.run in client.ended:
            break
        for at in range(20):
            flood.publish("trace", {"at": at, "more": "x" * 200}, priority=priority)
        await asyncio.sleep(0.005)
    assert calm.stream.run in client.ended, "the other run waits for the flood to be over"
    flood.completed()
    site.end(flood)
    await following
    await client.close()
    site.history.check()
    account = next(each for (_, run, _), each in site.history.accounts.items() if run == calm.stream.run)
    assert (account.delivered, account.skipped, account.merged, account.snapshot) == (62, 0, 0, 0)
    flooded = next(each for (_, run, _), each in site.history.accounts.items() if run == flood.stream.run)
    if priority == 4:
        assert flooded.skipped > 1_000


async def test_what_is_too_old_at_the_end_of_a_log_is_declared_skipped() -> None:
    """Nothing comes after it that could say so."""
    site = Site(History(3))
    with site.serving():
        recorder = site.run("too-old", progress_ttl=0.2)
        client = site.client(recorder.user)
        recorder.started()
        await client.follow(lambda tab: bool(tab.messages))
        client.drop()
        for step in range(10):
            recorder.publish("progress", {"at": step}, priority=3, key=f"bar-{step % 2}")
        await asyncio.sleep(0.4)
        await client.follow(lambda tab: tab.positions[recorder.stream.run][1] == 11)
        recorder.completed()
        site.end(recorder)
        await client.follow(ended(recorder.stream.run))
        await client.close()
    totals = site.history.check()
    assert (totals["delivered"], totals["skipped"]) == (2, 10)


async def test_what_may_wait_is_written_when_nothing_urgent_comes(proxied) -> None:
    site, proxy = proxied
    recorder = site.run("may-wait")
    client = site.client(recorder.user, port=proxy.port, silence=60)
    recorder.started()
    await client.follow(lambda tab: bool(tab.messages))
    for priority in (3, 4):
        for part in range(5):
            number = recorder.publish("progress", {"at": part}, priority=priority)
        await client.follow(lambda tab, number=number: tab.positions[recorder.stream.run][1] == number, seconds=8)
    recorder.completed()
    site.end(recorder)
    await client.follow(ended(recorder.stream.run))
    await client.close()
    site.history.check()


async def test_a_loop_that_is_blocked_closes_nobody(proxied) -> None:
    site, proxy = proxied
    recorder = site.run("blocked")
    client = site.client(recorder.user, port=proxy.port)
    following = asyncio.create_task(client.follow(ended(recorder.stream.run)))
    recorder.started()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}") as http:
        for _ in range(3):
            blocking = asyncio.create_task(http.post("/block/200"))
            while not blocking.done():
                recorder.thinking("nobody writes this now")
                await asyncio.sleep(0.005)
    recorder.completed()
    site.end(recorder)
    await following
    await client.close()
    assert client.connections == 1
    totals = site.history.check()
    assert totals["delivered"] == recorder.stream.head
