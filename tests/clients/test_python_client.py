"""What is the Python client's own: arguments, the buffer, cancellation, waits."""

from __future__ import annotations

import asyncio
import http
import time

import pytest
from isolane.client import Client, Ended, Event, Position, StateChanged, connect
from isolane.client.pace import COMMANDS, Pace, asked_wait, backoff
from websockets.asyncio.server import serve

from tests.clients.scripted import Peer, ScriptedServer, end, ev, sub


async def told_until(client: Client, kind: type) -> list:
    """Read up to a record of this kind."""
    records = []
    async for record in client.events():
        records.append(record)
        if isinstance(record, kind):
            break
    return records


async def serve_run(peer: Peer) -> None:
    await peer.welcome(("r", "A"))
    asked = await peer.hears("sub")
    await peer.say(sub("exact", asked["n"], 3), *(ev(n) for n in range(asked["n"] + 1, 4)), end(3))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/ws", "127.0.0.1:8000/ws", "/ws"])
def test_an_address_of_another_kind_is_refused(url) -> None:
    with pytest.raises(ValueError, match="it begins with ws:// or wss://"):
        connect(url)


def test_a_buffer_takes_at_least_one_record() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        connect("ws://127.0.0.1/ws", buffer=0)


async def test_outside_of_its_block_a_client_does_nothing() -> None:
    async with ScriptedServer(serve_run).running() as url:
        client = connect(url)
        with pytest.raises(ConnectionError, match="within `async with connect"):
            await client.cancel("r")
        async with client:
            await told_until(client, Ended)
        with pytest.raises(ConnectionError, match="the client is closed"):
            await client.cancel("r")
        assert [record async for record in client.events()] == []
        with pytest.raises(RuntimeError, match="entered once"):
            await client.__aenter__()


async def test_an_http_address_and_headers() -> None:
    server = ScriptedServer(serve_run)
    async with (
        server.running() as url,
        connect(url.replace("ws://", "http://"), token="t", headers={"X-Thread": "7"}) as client,
    ):
        await told_until(client, Ended)
        headers = server.peers[0].request.headers
        assert (headers["X-Thread"], headers["Authorization"]) == ("7", "Bearer t")
        assert headers["Sec-WebSocket-Protocol"] == "isolane.v1"


async def test_a_kept_position_goes_on() -> None:
    async with ScriptedServer(serve_run).running() as url, connect(url, positions={"r": Position("A", 2)}) as client:
        records = await told_until(client, Ended)
        assert [record.number for record in records if isinstance(record, Event)] == [3]
        assert client.position("r") == Position("A", 3, ended=True)
        assert client.position("x") is None


@pytest.mark.parametrize(("status", "code"), [(401, 4501), (403, 4503), (404, 4500)])
async def test_a_refused_handshake_is_final(status, code) -> None:
    async def refuse(connection, request):
        return connection.respond(http.HTTPStatus(status), "no\n")

    async with serve(lambda connection: None, "127.0.0.1", 0, process_request=refuse) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/ws") as client:
            records = [record async for record in client.events()]
    assert records == [
        StateChanged("connecting"),
        StateChanged("closed", code, f"the server answered {status}", final=True),
    ]


async def test_a_server_without_the_protocol_is_final() -> None:
    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/ws") as client:
            records = [record async for record in client.events()]
    assert records[-1] == StateChanged("closed", 4500, "the server does not speak isolane.v1", final=True)


async def test_what_is_not_read_is_not_acknowledged() -> None:
    """The buffer holds what had been sent; the acks come when it is read."""
    acked = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        await peer.hears("sub")
        await peer.say(sub(head=40))
        for number in range(1, 41):
            await peer.say(ev(number, critical=True))
        while (await peer.hears("ack"))["s"]["r"] < 40:
            pass
        acked.set()

    server = ScriptedServer(talk)
    async with server.running() as url, connect(url, buffer=10) as client:
        while (position := client.position("r")) is None or position.number < 40:
            await asyncio.sleep(0.01)
        acks = [frame["s"]["r"] for frame in server.peers[0].heard if frame["t"] == "ack"]
        assert all(number < 10 for number in acks)
        assert not acked.is_set()
        numbers = []
        async for record in client.events():
            if isinstance(record, Event):
                numbers.append(record.number)
            if len(numbers) == 40:
                break
        assert numbers == list(range(1, 41))
        await asyncio.wait_for(acked.wait(), 20)


async def test_who_does_not_read_does_not_connect_again() -> None:
    async def cut(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        asked = await peer.hears("sub")
        await peer.say(sub("exact", asked["n"], 99), ev(*range(asked["n"] + 1, asked["n"] + 31)))
        await peer.connection.close(4008)

    server = ScriptedServer(cut)
    async with server.running() as url, connect(url, buffer=20) as client:
        await asyncio.sleep(2.5)
        assert len(server.peers) == 1
        numbers: list[int] = []
        async for record in client.events():
            if isinstance(record, Event):
                numbers.append(record.number)
            if len(numbers) == 60:
                break
        assert numbers == list(range(1, 61))


async def test_who_stops_waiting_for_a_cancel_takes_nothing_back() -> None:
    asked = asyncio.Event()
    answer = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.welcome(("r", "A"))
        frame = await peer.hears("cancel")
        asked.set()
        await answer.wait()
        await peer.say({"v": 1, "t": "cancel", "s": "r", "cid": frame["cid"], "state": "accepted"})

    server = ScriptedServer(talk)
    async with server.running() as url, connect(url) as client:
        waits, impatient = asyncio.create_task(client.cancel("r")), asyncio.create_task(client.cancel("r"))
        await asked.wait()
        impatient.cancel()
        await asyncio.wait({impatient})
        answer.set()
        assert await waits == "accepted"
        assert len([frame for frame in server.peers[0].heard if frame["t"] == "cancel"]) == 1


async def test_pending_cancels_are_bounded_and_refused_at_the_end() -> None:
    async def ignore(peer: Peer) -> None:
        await peer.welcome()

    async with ScriptedServer(ignore).running() as url:
        async with connect(url) as client:
            pending = [asyncio.create_task(client.cancel(f"r{index}")) for index in range(64)]
            await asyncio.sleep(0)
            with pytest.raises(ConnectionError, match="64 cancels wait"):
                await client.cancel("one more")
        for error in await asyncio.gather(*pending, return_exceptions=True):
            assert isinstance(error, ConnectionError)


async def test_what_the_body_raises_comes_out() -> None:
    async with ScriptedServer(serve_run).running() as url:
        with pytest.raises(LookupError):
            async with connect(url) as client:
                await told_until(client, Ended)
                raise LookupError


async def test_a_token_that_cannot_be_made_comes_out() -> None:
    """An error of the application's is not tried again; a network that is away is."""
    tries = []

    def token() -> str:
        tries.append(1)
        raise OSError("no network") if len(tries) == 1 else LookupError("no such key")

    with pytest.raises(LookupError, match="no such key"):
        async with connect("ws://127.0.0.1:9/ws", token=token) as client:
            records = [record async for record in client.events()]
            assert [record.state for record in records] == ["connecting", "waiting", "connecting"]
            assert records[1].reason == "no network"


def test_the_waits_between_attempts() -> None:
    for failures in range(2000):
        assert 0.5 <= backoff(failures) <= min(20.0, 2.0 ** min(failures, 9))
    assert len({backoff(9) for _ in range(20)}) > 10
    assert [asked_wait(seconds) for seconds in (0.0, 3.1, 1e9)] == [0.5, 3.1, 60.0]


def test_the_pace_of_commands() -> None:
    """Within any second the server's bucket takes them: 64, and 32 for each second."""
    pace, began = Pace(), time.monotonic()
    waits = [pace.take() for _ in range(COMMANDS + 48)]
    assert waits[:COMMANDS] == [0.0] * COMMANDS
    assert waits[-1] == pytest.approx(2.0, abs=0.1 + time.monotonic() - began)
