"""The same for the client: a server in memory welcomes it, tells it of a run, and answers its cancel."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from isolane.client import Client, Ended
from isolane.client.sockets import SocketClosedError

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


class MemorySocket:
    """A socket of the client's, and the server behind it."""

    open = 0

    def __init__(self) -> None:
        type(self).open += 1
        self.closed = False
        self.over = False
        self.waiting: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        streams = [{"s": "r", "e": "A", "n": 1, "state": "running", "thread_id": "t"}]
        self.waiting.put_nowait({"t": "welcome", "conn": "c", "streams": streams, "ping_ms": 15_000})

    async def receive(self) -> str:
        frame = await self.waiting.get()
        if frame is None:
            raise SocketClosedError(1006, "closed")
        return json.dumps(frame)

    async def send(self, text: str) -> None:
        await ticks(1)
        frame = json.loads(text)
        if frame["t"] == "sub":
            self.waiting.put_nowait({"t": "sub", "s": "r", "e": "A", "mode": "exact", "n": frame["n"], "head": 1})
            entry = {"n": 1, "f": 1, "p": 1, "ts": 1, "id": "evt_A_1", "ev": {"seq": 1}}
            self.waiting.put_nowait({"t": "ev", "s": "r", "e": "A", "b": [entry]})
            self._tell_the_end()
        elif frame["t"] == "cancel":
            self.waiting.put_nowait({"t": "cancel", "s": "r", "cid": frame["cid"], "state": "accepted"})
            self.over = True
            self._tell_the_end()

    def _tell_the_end(self) -> None:
        if self.over:
            self.waiting.put_nowait({"t": "end", "s": "r", "e": "A", "n": 1, "outcome": "cancelled"})

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            type(self).open -= 1
        await ticks(1)


@uses("Client.__aenter__", "Client.__aexit__", "Client.events", "Client.cancel", "headers_of")
async def a_client_follows_a_run_and_cancels_it(world: World) -> None:
    sockets: list[MemorySocket] = []

    async def open_socket() -> MemorySocket:
        await ticks(1)
        sockets.append(MemorySocket())
        return sockets[-1]

    try:
        async with Client(open_socket, buffer=4, positions=None) as client:
            assert await client.cancel("r") == "accepted"
            async for record in client.events():
                if isinstance(record, Ended):
                    assert record.outcome == "cancelled"
                    break
    finally:

        async def all_closed() -> None:
            while not all(socket.closed for socket in sockets):
                await asyncio.sleep(0)

        world.owed.append(all_closed)
