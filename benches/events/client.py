"""`python -m benches.events.client WAY PORT`: all clients of a measurement in one process. Answers commands."""

import argparse
import asyncio
import gc
import importlib.util
import time
from typing import Any

from benches.events.commands import allow_files, obey
from benches.events.percentiles import after_warm_up, summary
from benches.events.readers import SOCKETS, Reader, Socket
from benches.events.shape import FILES, Way, user
from benches.python.processes import stay_on

AT_ONCE = 20
"""Sockets that are opened at once where that is not what is measured."""
PATIENCE = 60.0
PAUSE = 0.03
"""Between two resumes, in which the server is done with the socket before."""


class Commands:
    """What the measuring process can ask for."""

    def __init__(self, way: Way, port: int) -> None:
        self.way = way
        self.port = port
        self.readers: list[Reader] = []
        self.sockets: list[Socket] = []

    async def _open(self, reader: Reader) -> Socket:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            _, socket = await loop.create_connection(lambda: SOCKETS[self.way](reader), "127.0.0.1", self.port)
            await socket.ready
        return socket

    async def connect(self, clients: int) -> dict[str, Any]:
        """Open the sockets of so many more clients."""
        first = len(self.readers)
        added = [Reader(user(number)) for number in range(first, first + clients)]
        self.readers += added
        for some in range(0, clients, AT_ONCE):
            self.sockets += await asyncio.gather(*map(self._open, added[some : some + AT_ONCE]))
        return {}

    async def read(self, events: int) -> dict[str, Any]:
        """Wait until each client has read so many events."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(reader.until(events) for reader in self.readers))
        return {}

    async def latencies(self, events: int, warm_up: float) -> dict[str, Any]:
        """The same, and how long they took from being published and from being due."""
        await self.read(events)
        published = [at for reader in self.readers for at in reader.published]
        taken = [latency for reader in self.readers for latency in reader.latencies]
        delays = [delay for reader in self.readers for delay in reader.delays]
        return {
            "events": len(taken),
            "published": summary(after_warm_up(published, taken, warm_up)),
            "due": summary(after_warm_up(published, delays, warm_up)),
        }

    async def drop(self) -> dict[str, Any]:
        """All sockets are gone at once."""
        for socket in self.sockets:
            socket.drop()
        self.sockets.clear()
        await asyncio.sleep(0.5)
        return {}

    async def resume(self, times: int, until: int) -> dict[str, Any]:
        """One client comes back again and again from the same position. From connecting to the last event."""
        taken = []
        for _ in range(times):
            reader = self.readers[0].copy()
            complete = reader.until(until)
            begin = time.monotonic_ns()
            socket = await self._open(reader)
            async with asyncio.timeout(PATIENCE):
                taken.append(await complete - begin)
            socket.drop()
            await asyncio.sleep(PAUSE)
        return summary(taken)

    async def reconnect(self, until: int) -> dict[str, Any]:
        """All clients come back at once from their positions. From the first connecting to the last event of each."""
        waits = [reader.until(until) for reader in self.readers]
        begin = time.monotonic_ns()
        async with asyncio.timeout(PATIENCE):
            self.sockets += await asyncio.gather(*map(self._open, self.readers))
            return summary([moment - begin for moment in await asyncio.gather(*waits)])

    async def obey(self) -> None:
        names = ("connect", "read", "latencies", "drop", "resume", "reconnect")
        await obey({name: getattr(self, name) for name in names})


def loop_factory() -> Any:
    """The loop that uvicorn takes by itself, for the clients as well."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 - it may not be there

    return uvloop.new_event_loop


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.events.client", description=__doc__)
    parser.add_argument("way", type=Way, choices=list(Way))
    parser.add_argument("port", type=int)
    parser.add_argument("--core", type=int, help="run on this core only")
    options = parser.parse_args()
    stay_on(options.core)
    allow_files(FILES)
    # The server is what is measured: the clients' own pauses are not to be seen. They live for seconds.
    gc.disable()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(Commands(options.way, options.port).obey())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
