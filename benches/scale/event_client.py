"""`python -m benches.scale.event_client WAY`: all clients of a measurement in one process, at several workers."""

import argparse
import asyncio
import gc
from typing import Any

from benches.events import client
from benches.events.commands import allow_files, obey
from benches.events.readers import SOCKETS, Reader, Socket
from benches.events.shape import FILES, Way, user


class Commands(client.Commands):
    """What the measuring process can ask for."""

    def __init__(self, way: Way) -> None:
        super().__init__(way, 0)
        self.ports: dict[str, int] = {}

    async def _open(self, reader: Reader) -> Socket:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(client.PATIENCE):
            port = self.ports[reader.user]
            _, socket = await loop.create_connection(lambda: SOCKETS[self.way](reader), "127.0.0.1", port)
            await socket.ready
        return socket

    async def connect_to(self, ports: list[int]) -> dict[str, Any]:
        """Open the socket of each user at the port of its place."""
        self.ports = {user(number): port for number, port in enumerate(ports)}
        return await self.connect(len(ports))

    async def last(self, events: int) -> dict[str, Any]:
        """Wait until each client has read so many events. Answers when the last of them was read."""
        async with asyncio.timeout(client.PATIENCE):
            return {"ended": max(await asyncio.gather(*(reader.until(events) for reader in self.readers)))}

    async def obey(self) -> None:
        await obey({"connect_to": self.connect_to, "read": self.read, "latencies": self.latencies, "last": self.last})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.scale.event_client", description=__doc__)
    parser.add_argument("way", type=Way, choices=[Way.ISOLANE, Way.SOCKETIO])
    options = parser.parse_args()
    allow_files(FILES)
    # The workers are what is measured: the clients' own pauses are not to be seen. They live for seconds.
    gc.disable()
    with asyncio.Runner(loop_factory=client.loop_factory()) as runner:
        runner.run(Commands(options.way).obey())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
