"""Both clients against isolane under uvicorn, through a network that does harm."""

from __future__ import annotations

import asyncio

import pytest
from isolane.client import Ended, Event, Replaced, Skipped, StateChanged, connect

from tests.clients.followers import FOLLOWERS, Follower
from tests.faults.site import Site, settled
from tests.support.event_history import History
from tests.support.fault_proxy import FaultProxy

EVENTS = 60


@pytest.fixture
async def proxied():
    """A served site, and a proxy before it."""
    site = Site(
        History(1),
        websocket_heartbeat_interval=1.0,
        websocket_max_reconnect_attempts=0,
        websocket_accept_then_close=True,
    )
    # The users of these tests have names of their own already, which are their tokens.
    site.mark = ""
    # The library below compresses too, unless it is told not to.
    with site.serving(ws_per_message_deflate=False):
        async with FaultProxy(site.port, seed=1) as proxy:
            yield site, proxy


def address(proxy: FaultProxy) -> str:
    return f"ws://127.0.0.1:{proxy.port}/ws"


def shows_all(follower: Follower, run: str, count: int) -> None:
    """Each event once, in order, and one end after them."""
    assert follower.numbers(run) == list(range(1, count + 1))
    told = [record for record in follower.of("event", "replace", "skip", "end") if record[1] == run]
    assert [record[0] for record in told] == ["event"] * count + ["end"]


async def test_a_run_is_followed_live(follower, proxied, user) -> None:
    site, proxy = proxied
    await follower.start(address(proxy), token=user)
    await follower.until(lambda: "open" in follower.states())
    run = site.run(user)
    foreign = site.run(f"not-{user}")
    for recorder in (run, foreign):
        site.story(recorder, EVENTS)
        site.end(recorder)
    await follower.until(lambda: follower.of("end"))
    shows_all(follower, run.stream.run, EVENTS)
    assert follower.numbers(foreign.stream.run) == []


@pytest.mark.parametrize("inside", [0, 1, 9])
async def test_cut_again_and_again_nothing_is_lost_or_doubled(follower, proxied, user, inside) -> None:
    """After each second frame, between frames and inside of one."""
    site, proxy = proxied
    run = site.run(user)
    proxy.cut_after_frames(3, inside=inside)
    await follower.start(address(proxy), token=user)
    for step in range(6):
        await follower.until(lambda: follower.states()[-1:] == ["open"])
        if step == 0:
            run.started()
        for part in range(8):
            run.thinking(f"step {step}.{part}")
            await asyncio.sleep(0.002)
        proxy.cut_after_frames(2 + step, inside=inside)
    run.completed()
    site.end(run)
    proxy.heal()
    await follower.until(lambda: follower.of("end"))
    assert proxy.cuts > 0
    shows_all(follower, run.stream.run, 50)


async def test_a_cut_in_every_place(follower, proxied, user) -> None:
    """Bytes, not frames: each connection lives for a drawn number of them."""
    site, proxy = proxied
    proxy.cut_each(700, 12_000)
    proxy.chop(200)
    run = site.run(user)
    site.story(run, EVENTS)
    site.end(run)
    await follower.start(address(proxy), token=user, compress=False)
    await follower.until(lambda: follower.of("end") or proxy.cuts >= 5)
    proxy.heal()
    await follower.until(lambda: follower.of("end"))
    assert proxy.cuts > 0
    shows_all(follower, run.stream.run, EVENTS)


async def test_a_network_that_swallows_everything_is_noticed(follower, proxied, user) -> None:
    """Nobody closes anything: two pings and ten seconds without a word."""
    site, proxy = proxied
    await follower.start(address(proxy), token=user)
    await follower.until(lambda: "open" in follower.states())
    run = site.run(user)
    run.started()
    await follower.until(lambda: follower.numbers(run.stream.run))
    proxy.half_open()
    run.completed()
    site.end(run)
    await follower.until(lambda: follower.of("end"))
    shows_all(follower, run.stream.run, 2)


@pytest.mark.parametrize("canceller", sorted(FOLLOWERS))
async def test_a_run_is_cancelled_from_another_tab(follower, proxied, user, canceller) -> None:
    site, proxy = proxied
    other, stranger = FOLLOWERS[canceller](), FOLLOWERS[canceller]()
    await follower.start(address(proxy), token=user)
    await other.start(address(proxy), token=user)
    await stranger.start(address(proxy), token=f"not-{user}")
    try:
        run = await site.start("worker", user)
        await follower.until(lambda: len(follower.numbers(run)) > 5)
        stranger.ask("cancel", run)
        await stranger.until(lambda: stranger.of("cancelled"))
        assert stranger.of("cancelled") == [["cancelled", run, "gone"]]
        other.ask("cancel", run)
        await other.until(lambda: other.of("cancelled"))
        assert other.of("cancelled") == [["cancelled", run, "accepted"]]
        for tab in (follower, other):
            await tab.until(lambda tab=tab: tab.of("end"))
            assert tab.of("end") == [["end", run, "cancelled"]]
        other.ask("cancel", run)
        await other.until(lambda: len(other.of("cancelled")) == 2)
        assert other.of("cancelled")[-1] == ["cancelled", run, "ended"]
    finally:
        await other.stop()
        await stranger.stop()


async def test_large_frames_come_compressed(follower, proxied, user) -> None:
    """The same events, in a tenth of the bytes."""
    site, proxy = proxied
    run = site.run(user)
    run.started()
    for step in range(400):
        run.thinking(f"step {step}: " + "the same words again and again " * 20)
    run.completed()
    site.end(run)
    await follower.start(address(proxy), token=user)
    await follower.until(lambda: follower.of("end"))
    shows_all(follower, run.stream.run, 402)
    assert proxy.bytes_down < 402 * 600 / 4


async def test_a_late_client_gets_what_was_folded(follower, proxied, user) -> None:
    site, proxy = proxied
    run = site.run(user, max_events=100)
    run.started()
    for step in range(500):
        run.thinking(f"step {step}")
    run.completed()
    site.end(run)
    await follower.start(address(proxy), token=user)
    await follower.until(lambda: follower.of("end"))
    (replaced,) = follower.of("replace")
    numbers = follower.numbers(run.stream.run)
    assert numbers == list(range(numbers[0], 503))
    assert max(message["seq"] for message in replaced[2]) < numbers[0]


async def test_a_consumer_that_does_not_read_holds_the_server_back(proxied, user) -> None:
    """The buffer is bounded, and what was held back comes when it is read."""
    site, proxy = proxied
    run = site.run(user)
    async with connect(address(proxy), token=user, buffer=20) as client:
        reading = client.events()
        record = await anext(reading)
        while not (isinstance(record, StateChanged) and record.state == "open"):
            record = await anext(reading)
        run.started()
        for step in range(900):
            run.thinking(f"step {step}")
            if step % 50 == 0:
                await asyncio.sleep(0.01)
        run.completed()
        site.end(run)
        await asyncio.sleep(1.0)
        # The server stops at 512 events without an ack, or at 256 KiB of them.
        held = client.position(run.stream.run).number
        assert 20 <= held <= 20 + 512 + 64
        covered, outcome = 0, None
        async for record in reading:
            match record:
                case Event():
                    assert record.first == covered + 1
                    covered = record.number
                case Skipped():
                    covered = record.number
                case Replaced():
                    covered = record.number
                case Ended():
                    outcome = record.outcome
                    break
        assert (covered, outcome) == (902, "completed")
        await reading.aclose()


async def test_left_at_any_moment_it_leaves_no_socket(proxied, user) -> None:
    """Cancelled while it opens, reads, acks and closes."""
    site, proxy = proxied
    run = site.run(user)
    site.story(run, EVENTS)

    async def follow() -> None:
        async with connect(address(proxy), token=user) as client:
            async for _ in client.events():
                await asyncio.sleep(0)

    for step in range(25):
        task = asyncio.create_task(follow())
        await asyncio.sleep(0.002 * step)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    await settled(lambda: site.sockets() == 0)
    assert len(asyncio.all_tasks()) == 1


async def test_who_is_not_signed_in_is_told_so_for_good(follower, proxied) -> None:
    _, proxy = proxied
    await follower.start(address(proxy))
    await follower.until(lambda: "closed" in follower.states())
    assert follower.of("state")[-1][1:4] == ["closed", 4501, True]
