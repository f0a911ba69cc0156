"""Clients that come back with positions that are older, newer, of another log, or none at all."""

from __future__ import annotations

from typing import Any

import pytest
import websockets

from tests.faults.site import Site, ended
from tests.support.event_history import History

HALF, WHOLE = 30, 60
OLDER: list[Any] = [0, 1, 17, 29]
NEWER: list[Any] = [61, 10_000, 2**53, 2**63, 2**64 - 1]
NO_NUMBER: list[Any] = [-1, -(2**63), 2**64, 10**30, "30", "", 30.5, 1e300, True, [30], {"n": 30}]
NO_EPOCH: list[Any] = ["", "K3x9", "e" * 5_000, 7, True, ["e"], {"e": "e"}]


@pytest.mark.parametrize(
    ("numbers", "modes"),
    [(OLDER, {"exact"}), ([HALF, WHOLE], {"exact"}), (NEWER, {"reset"}), (NO_NUMBER, {"exact", "reset"})],
    ids=["older", "its own or newer", "of the future", "of the wrong type"],
)
async def test_a_number(numbers, modes) -> None:
    site = Site(History(4))
    with site.serving():
        for at, number in enumerate(numbers):
            client, recorder = await halfway(site, f"number-{at}")
            await client.connect()
            await client.receive()
            if number == WHOLE:
                # It had the rest from elsewhere, and lies about it here: it gets the end and nothing else.
                client.log.complete = False
            await client.subscribe(recorder.stream.run, recorder.stream.epoch, number)
            await client.follow(ended(recorder.stream.run))
            await client.close()
            assert client.modes[-1] in modes, number
            assert len(client.messages[recorder.stream.run]) == (HALF if number == WHOLE else WHOLE), number
    site.history.check()


@pytest.mark.parametrize("number", [None, 0, HALF, 10_000])
async def test_an_epoch_of_another_log_is_no_position(number) -> None:
    site = Site(History(4))
    with site.serving():
        for at, epoch in enumerate(NO_EPOCH):
            client, recorder = await halfway(site, f"epoch-{at}")
            await client.connect()
            await client.receive()
            await client.subscribe(recorder.stream.run, epoch, number)
            await client.follow(ended(recorder.stream.run))
            await client.close()
            assert client.modes[-1] in {"reset", "exact"}, epoch
            if isinstance(epoch, str):
                assert client.modes[-1] == "reset", epoch
            assert len(client.messages[recorder.stream.run]) == WHOLE, epoch
    site.history.check()


async def test_a_position_behind_the_fold_is_answered_by_a_snapshot() -> None:
    site = Site(History(4))
    with site.serving():
        recorder = site.run("behind", max_events=50)
        recorder.started()
        client = site.client("behind")
        await client.follow(lambda tab: bool(tab.messages))
        client.drop()
        for step in range(250):
            recorder.thinking(f"step {step}")
            recorder.publish("text", {"delta": f"{step} "}, message_id=f"answer-{step % 3}")
        recorder.completed()
        site.end(recorder)
        await client.follow(ended(recorder.stream.run))
        await client.close()
    assert client.modes == ["exact", "snapshot"]
    totals = site.history.check()
    assert totals["snapshot"] + totals["delivered"] == 502


async def test_unknown_and_foreign_streams_are_gone_alike() -> None:
    site = Site(History(4))
    with site.serving():
        secret = site.run("owner")
        site.story(secret, 20)
        client = site.client("curious")
        await client.connect()
        await client.receive()
        asked = [secret.stream.run, secret.stream.run[:-1] + "x", "run_of_nobody", ""]
        answers = []
        for name in asked:
            for epoch, number in ((None, None), (secret.stream.epoch, 5), ("other", 2**63)):
                await client.subscribe(name, epoch, number)
                answer = await client.receive()
                assert answer.pop("s") == name
                answers.append(answer)
        assert answers == [{"v": 1, "t": "sub", "mode": "gone"}] * 12
        await client.close()
        site.end(secret)
        owner = site.client("owner")
        await owner.follow(ended(secret.stream.run))
        await owner.close()
    site.history.check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        '"sub"',
        "{",
        "{}",
        '{"t":7}',
        '{"t":"sub"}',
        '{"t":"sub","s":7}',
        "x" * 70_000,
        b"\x00\x01",
    ],
)
async def test_what_is_no_frame_ends_the_connection_for_good(text) -> None:
    site = Site(History(4))
    with site.serving():
        recorder = site.run("speaks-nonsense")
        client = site.client(recorder.user, complete=False)
        await client.connect()
        await client.receive()
        await client.socket.send(text)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await client.receive()
        assert closed.value.rcvd.code == 4500
        # And ends nothing else.
        recorder.started()
        recorder.completed()
        site.end(recorder)
        other = site.client(recorder.user, "other")
        await other.follow(ended(recorder.stream.run))
        await other.close()
    site.history.check()


async def halfway(site: Site, user: str) -> tuple[Any, Any]:
    """A client that had the first half of a run when its connection broke; it subscribes to nothing by itself."""
    recorder = site.run(user)
    recorder.started()
    for step in range(HALF - 1):
        recorder.thinking(f"step {step}")
    client = site.client(user)
    await client.follow(lambda tab: len(tab.messages[recorder.stream.run]) == HALF)
    client.drop()
    client.asks = False
    for step in range(HALF - 1):
        recorder.thinking(f"step {step} of the second half")
    recorder.completed()
    site.end(recorder)
    return client, recorder
