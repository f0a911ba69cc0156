"""Cancelling a run from a socket: at every time, from every tab, and by somebody whose run it is not."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.faults.site import Site, ended, settled
from tests.support.event_history import TERMINALS, History


async def cancel(client, run: str, cid: str) -> dict:
    """Send a cancel and wait for the answer to it, reading on."""
    await client.say(t="cancel", s=run, cid=cid)
    await client.follow(lambda tab: any(answer.get("cid") == cid for answer in tab.cancels), seconds=10)
    answer = next(answer for answer in client.cancels if answer.get("cid") == cid)
    assert (answer["v"], answer["s"]) == (1, run)
    return answer


async def opened(client) -> None:
    """Connect and read the welcome."""
    await client.connect()
    await client.receive()


def ends_of(client, run: str) -> list[str]:
    """The last events of the spans that the client was shown."""
    return [event["type"] for event in client.messages[run] if event["type"] in TERMINALS]


async def test_a_cancel_before_the_first_event_was_read() -> None:
    site = Site(History(5))
    with site.serving():
        client = site.client("before")
        await opened(client)
        run = await site.start("worker", "before")
        assert (await cancel(client, run, "c1"))["state"] == "accepted"
        await client.follow(ended(run))
        await site.over("before", run)
        await client.close()
    assert client.ended[run] == "cancelled"
    assert ends_of(client, run) == ["agent_error"]
    site.history.check()


async def test_a_cancel_of_a_run_that_is_not_there_yet_does_nothing_to_it() -> None:
    site = Site(History(5))
    with site.serving():
        client = site.client("too-early")
        await opened(client)
        assert (await cancel(client, "run_that_is_not_there", "c1"))["state"] == "gone"
        run = await site.start("worker", "too-early", events=5)
        await client.follow(ended(run))
        await site.over("too-early", run)
        await client.close()
    assert client.ended[run] == "completed"
    site.history.check()


async def test_cancelled_twice_and_after_its_end() -> None:
    site = Site(History(5))
    with site.serving():
        client = site.client("twice")
        await opened(client)
        run = await site.start("worker", "twice")
        await client.follow(lambda tab: len(tab.messages[run]) > 5)
        await client.say(t="cancel", s=run, cid="c1")
        second = await cancel(client, run, "c2")
        assert second["state"] in {"accepted", "ended"}
        await client.follow(ended(run))
        third = await cancel(client, run, "c3")
        assert third["state"] == "ended"
        assert [answer["cid"] for answer in client.cancels] == ["c1", "c2", "c3"]
        await site.over("twice", run)

        whole = await site.start("worker", "twice", events=3)
        await client.follow(ended(whole))
        assert (await cancel(client, whole, "c4"))["state"] == "ended"
        await site.over("twice", whole)
        await client.close()
    assert (client.ended[run], client.ended[whole]) == ("cancelled", "completed")
    assert ends_of(client, run) == ["agent_error"]
    site.history.check()


async def test_a_cancel_without_a_cid_is_answered_without_one() -> None:
    site = Site(History(5))
    with site.serving():
        client = site.client("no-cid")
        await opened(client)
        run = await site.start("worker", "no-cid")
        await client.say(t="cancel", s=run)
        await client.follow(lambda tab: bool(tab.cancels))
        assert client.cancels == [{"v": 1, "t": "cancel", "s": run, "state": "accepted"}]
        await client.follow(ended(run))
        await site.over("no-cid", run)
        await client.close()
    site.history.check()


async def test_a_cancel_from_another_tab_ends_the_run_for_all_tabs() -> None:
    site = Site(History(5))
    with site.serving():
        tabs = [site.client("other-tab", name) for name in ("a", "b", "c")]
        for tab in tabs:
            await opened(tab)
        run = await site.start("worker", "other-tab")
        following = [asyncio.create_task(tab.follow(ended(run))) for tab in (tabs[0], tabs[2])]
        await settled(lambda: len(tabs[0].messages[run]) > 5)
        assert (await cancel(tabs[1], run, "c1"))["state"] == "accepted"
        await tabs[1].follow(ended(run))
        await asyncio.gather(*following)
        await site.over("other-tab", run)
        for tab in tabs:
            await tab.close()
    assert [tab.ended[run] for tab in tabs] == ["cancelled"] * 3
    assert tabs[0].cancels == tabs[2].cancels == []
    site.history.check()


async def test_another_user_cancels_nothing_and_learns_nothing() -> None:
    site = Site(History(5))
    with site.serving():
        owner, other = site.client("owner"), site.client("other")
        await opened(owner)
        await opened(other)
        run = await site.start("worker", "owner", events=60)
        await owner.follow(lambda tab: len(tab.messages[run]) > 5)
        foreign, unknown = await cancel(other, run, "c1"), await cancel(other, "run_of_nobody", "c2")
        assert foreign["state"] == unknown["state"] == "gone"
        assert set(foreign) == set(unknown)
        await owner.follow(ended(run))
        await site.over("owner", run)
        for client in (owner, other):
            await client.close()
    assert owner.ended[run] == "completed"
    assert ends_of(owner, run) == ["agent_completed"]
    site.history.check()


async def test_an_agent_that_ignores_its_cancellation_cannot_publish_on() -> None:
    site = Site(History(5))
    stubborn: Any = site.agents.get("stubborn")
    with site.serving():
        client = site.client("stubborn")
        await opened(client)
        run = await site.start("stubborn", "stubborn")
        await client.follow(lambda tab: len(tab.messages[run]) > 5)
        assert (await cancel(client, run, "c1"))["state"] == "accepted"
        await client.follow(ended(run))
        await site.over("stubborn", run)
        await settled(lambda: stubborn.refused > 3)
        assert stubborn.ignored > 0
        stubborn.until = staticmethod(lambda: True)
        await client.close()
    assert client.ended[run] == "cancelled"
    assert ends_of(client, run) == ["agent_error"]
    site.history.check()


async def test_disconnecting_cancels_nothing(proxied) -> None:
    site, proxy = proxied
    client = site.client("leaves", port=proxy.port)
    await opened(client)
    run = await site.start("worker", "leaves", events=40)
    await client.follow(lambda tab: len(tab.messages[run]) > 5)
    proxy.cut()
    client.drop()
    await site.over("leaves", run)
    assert site.state("leaves", run)["outcome"] == "completed"
    await client.follow(ended(run))
    await client.close()
    site.history.check()
