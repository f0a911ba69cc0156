"""Both clients over real sockets, against a server that follows a script."""

from __future__ import annotations

import asyncio

import pytest

from tests.clients.scripted import Peer, ScriptedServer, deflated, end, ev, sub


async def serve_run(peer: Peer) -> None:
    """Three events and the end."""
    await peer.welcome(("r", "A"))
    await peer.hears("sub")
    await peer.say(sub(head=3), ev(1, 2), ev(3, critical=True), end(3))


async def test_events_an_ack_and_the_end(follower) -> None:
    server = ScriptedServer(serve_run)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        assert (await server.peers[0].hears("ack"))["s"] == {"r": 3}
        assert follower.numbers() == [1, 2, 3]
        assert follower.of("end") == [["end", "r", "completed"]]
        assert follower.states() == ["connecting", "open"]


async def test_a_cut_connection_is_resumed_from_the_position(follower) -> None:
    async def cut(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.hears("sub")
        await peer.say(sub(head=5), ev(1, 2))
        peer.connection.transport.abort()

    async def resume(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        assert await peer.hears("sub") == {"t": "sub", "s": "r", "e": "A", "n": 2}
        await peer.say(sub("exact", 2, 5), ev(2, 3), ev(4, 5, critical=True), end(5))

    server = ScriptedServer(cut, resume)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        assert follower.numbers() == [1, 2, 3, 4, 5]
        assert follower.states() == ["connecting", "open", "waiting", "connecting", "open"]


async def test_nothing_is_tried_again_at_once(follower) -> None:
    """The shortest wait is half a second, and it grows."""

    async def refuse(peer: Peer) -> None:
        await peer.connection.close(1011)

    server = ScriptedServer(refuse)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: len(server.times) == 4)
        gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
        assert min(gaps) >= 0.49
        delays = [record[4] for record in follower.of("state") if record[1] == "waiting"]
        assert all(500 <= delay <= min(20_000, 1000 * 2**index) for index, delay in enumerate(delays))


async def test_the_server_says_when_to_come_back(follower) -> None:
    async def drain(peer: Peer) -> None:
        await peer.welcome()
        await peer.bye(4001, 1200)

    server = ScriptedServer(drain, serve_run)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        (waiting,) = [record for record in follower.of("state") if record[1] == "waiting"]
        assert waiting[2] == 4001
        assert waiting[4] == 1200
        assert server.times[1] - server.times[0] >= 1.19


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4504, 4999])
async def test_from_4500_on_a_close_is_final(follower, code) -> None:
    async def close(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.connection.close(code)

    server = ScriptedServer(close)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: "closed" in follower.states())
        assert follower.of("state")[-1][1:4] == ["closed", code, True]
        follower.ask("cancel")
        await follower.until(lambda: follower.of("cancelled"))
        assert follower.of("cancelled")[0][2].startswith("error: the client is closed")
        await asyncio.sleep(1.2)
        assert len(server.peers) == 1


async def test_the_attempts_are_the_servers(follower) -> None:
    """Two in a row, then it is given up; it may be taken up again."""

    async def once(peer: Peer) -> None:
        await peer.welcome(reconnect={"attempts": 2})
        await peer.connection.close(1011)

    async def refuse(peer: Peer) -> None:
        await peer.connection.close(1011)

    server = ScriptedServer(once, refuse, refuse, serve_run)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: "closed" in follower.states())
        assert len(server.peers) == 3
        assert follower.of("state")[-1][1:4] == ["closed", 1011, False]
        follower.ask("reconnect")
        await follower.until(lambda: follower.of("end"))
        assert follower.numbers() == [1, 2, 3]


async def test_a_success_resets_the_attempts(follower) -> None:
    async def once(peer: Peer) -> None:
        await peer.welcome(reconnect={"attempts": 1})
        await peer.connection.close(1011)

    server = ScriptedServer(once, once, once, serve_run)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        assert "closed" not in follower.states()


async def test_compressed_frames_keep_their_place(follower) -> None:
    """Compressed and plain ones in turns, written at once."""

    async def mixed(peer: Peer) -> None:
        assert "compress=deflate-raw" in peer.request.path
        await peer.welcome(("r", "A"), z="deflate-raw")
        await peer.hears("sub")
        await peer.say(sub(head=400))
        for number in range(1, 400, 2):
            await peer.say_deflated(ev(number, text="x" * 2000))
            await peer.say(ev(number + 1))
        await peer.say_deflated(end(400))

    server = ScriptedServer(mixed)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        assert follower.numbers() == list(range(1, 401))
        assert follower.records[-1] == ["end", "r", "completed"]
        assert len(server.peers) == 1


async def test_no_compression_is_asked_for_where_none_is_wanted(follower) -> None:
    server = ScriptedServer(serve_run)
    async with server.running() as url:
        await follower.start(url + "?thread=1", compress=False)
        await follower.until(lambda: follower.of("end"))
        assert server.peers[0].request.path == "/ws?thread=1"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\xff\xff\xff",
        deflated(ev(1))[:-4],
        "{",
        "[]",
        '{"t":"ev","s":"r","e":"A","b":7}',
        deflated({"t": "x" * 17 * 2**20}),
    ],
    ids=["no deflate", "cut off", "no JSON", "no object", "no list", "too large"],
)
async def test_a_frame_that_cannot_be_read_costs_the_connection_and_nothing_else(follower, rubbish) -> None:
    async def speak_rubbish(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.hears("sub")
        await peer.say(sub(head=3), ev(1))
        await peer.connection.send(rubbish)

    async def resume(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        assert (await peer.hears("sub"))["n"] == 1
        await peer.say(sub("exact", 1, 3), ev(2, 3), end(3))

    server = ScriptedServer(speak_rubbish, resume)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        assert follower.numbers() == [1, 2, 3]


async def test_a_cancel_is_answered(follower) -> None:
    async def answer(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        for state in ("accepted", "ended"):
            asked = await peer.hears("cancel")
            await peer.say({"v": 1, "t": "cancel", "s": asked["s"], "cid": asked["cid"], "state": state})

    server = ScriptedServer(answer)
    async with server.running() as url:
        await follower.start(url)
        for count, state in enumerate(("accepted", "ended"), 1):
            follower.ask("cancel")
            await follower.until(lambda count=count: len(follower.of("cancelled")) == count)
            assert follower.of("cancelled")[-1] == ["cancelled", "r", state]


async def test_a_cancel_outlives_the_connection(follower) -> None:
    """Asked before there is one, and asked again on the next."""

    async def lose(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.hears("cancel")
        peer.connection.transport.abort()

    async def answer(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        asked = await peer.hears("cancel")
        await peer.say({"v": 1, "t": "cancel", "s": "x", "cid": asked["cid"], "state": "gone"})
        await peer.say({"v": 1, "t": "cancel", "s": "r", "cid": "of another", "state": "gone"})
        await peer.say({"v": 1, "t": "cancel", "s": "r", "cid": asked["cid"], "state": "accepted"})

    server = ScriptedServer(lose, answer)
    async with server.running() as url:
        await follower.start(url)
        follower.ask("cancel")
        follower.ask("cancel")
        await follower.until(lambda: len(follower.of("cancelled")) == 2)
        assert follower.of("cancelled") == [["cancelled", "r", "accepted"]] * 2
        assert [len([one for one in peer.heard if one["t"] == "cancel"]) for peer in server.peers] == [1, 1]


async def test_many_runs_are_asked_for_slowly(follower) -> None:
    """The server takes 64 commands at once, then 32 a second."""
    runs = [(f"r{index}", "A") for index in range(100)]
    times: list[float] = []

    async def listen(peer: Peer) -> None:
        await peer.welcome(*runs)
        for _ in runs:
            await peer.hears("sub")
            times.append(asyncio.get_running_loop().time())

    server = ScriptedServer(listen)
    async with server.running() as url:
        await follower.start(url)
        await follower.until(lambda: len(times) == 100)
        # What arrives by any moment after the first is within the server's bucket.
        assert all(index + 1 <= 64 + 32 * (time - times[0] + 0.1) for index, time in enumerate(times))


async def test_a_ping_is_answered(follower) -> None:
    answered = asyncio.Event()

    async def ask(peer: Peer) -> None:
        await peer.welcome()
        await peer.say({"v": 1, "t": "ping", "head": {}})
        await peer.hears("pong")
        answered.set()

    async with ScriptedServer(ask).running() as url:
        await follower.start(url)
        await follower.until(answered.is_set)


async def test_a_server_that_falls_silent_is_left(follower) -> None:
    """No close, no reset: two missed pings and ten seconds."""

    async def fall_silent(peer: Peer) -> None:
        await peer.welcome(("r", "A"), ping_ms=10)
        await peer.hears("sub")
        await peer.say(sub(head=3), ev(1))

    async def resume(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        assert (await peer.hears("sub"))["n"] == 1
        await peer.say(sub("exact", 1, 3), ev(2, 3), end(3))

    async with ScriptedServer(fall_silent, resume).running() as url:
        await follower.start(url)
        await follower.until(lambda: follower.of("end"))
        assert follower.numbers() == [1, 2, 3]


async def test_a_run_that_the_server_does_not_know_is_lost(follower) -> None:
    async def forget(peer: Peer) -> None:
        await peer.welcome()
        asked = await peer.hears("sub")
        await peer.say({"v": 1, "t": "sub", "s": asked["s"], "mode": "gone"})

    async with ScriptedServer(forget).running() as url:
        await follower.start(url)
        follower.ask("subscribe", "elsewhere")
        await follower.until(lambda: follower.of("end"))
        assert follower.of("end") == [["end", "elsewhere", "lost"]]
        follower.ask("position", "elsewhere")
        await follower.until(lambda: follower.of("position"))
        assert follower.of("position") == [["position", "elsewhere", None]]


async def test_a_token_is_asked_for_each_connection(follower) -> None:
    async def cut(peer: Peer) -> None:
        await peer.welcome()
        peer.connection.transport.abort()

    server = ScriptedServer(cut, serve_run)
    async with server.running() as url:
        await follower.start(url, tokens=["one", "two"])
        await follower.until(lambda: follower.of("end"))
        tokens = [
            headers.get("Authorization", headers["Sec-WebSocket-Protocol"]).lower().replace("isolane.v1, ", "")
            for headers in (peer.request.headers for peer in server.peers)
        ]
        assert [token.replace("bearer ", "bearer.") for token in tokens] == ["bearer.one", "bearer.two"]


async def test_a_server_that_comes_up_later_is_found(follower) -> None:
    server = ScriptedServer(serve_run)
    async with ScriptedServer(serve_run).running() as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
    await follower.start(url)
    await follower.until(lambda: "waiting" in follower.states())
    async with server.running(port):
        await follower.until(lambda: follower.of("end"))
        assert follower.numbers() == [1, 2, 3]
