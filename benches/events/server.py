"""`python -m benches.events.server WAY`: uvicorn in a process of its own. Prints its port, then answers commands."""

import argparse
import asyncio
import contextlib
import gc
import socket
import time
from typing import Any

import uvicorn

from benches.events.commands import allow_files, obey
from benches.events.services import Emit, Service, make
from benches.events.shape import FILES, Way, user
from benches.python.memory import resident
from benches.python.processes import stay_on

LEAD = 0.2
"""Seconds before the first event, in which all producers are made."""


async def produce(emit: Emit, first: float, period: float, events: int) -> None:
    """What an agent does: publish, then work for a while. Late ones are published at once, none is left out."""
    for number in range(1, events + 1):
        due = first + (number - 1) * period
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await emit(number, time.monotonic_ns(), round(due * 1e9))


class Commands:
    """What the measuring process can ask for."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.emits: list[Emit] = []
        self.published = 0

    async def open(self, users: int) -> dict[str, Any]:
        """Begin a run for each of the first users."""
        names = [user(number) for number in range(users)]
        await self.service.open(names)
        self.emits = [self.service.emit(name) for name in names]
        return {}

    async def live(self, rate: float, events: int) -> dict[str, Any]:
        """Publish for everybody at a rate. The users take turns, evenly. Answers the processor time of an event."""
        period = 1 / rate
        first = time.monotonic() + LEAD
        spent = time.process_time()
        async with asyncio.TaskGroup() as producers:
            for number, emit in enumerate(self.emits):
                producers.create_task(produce(emit, first + number * period / len(self.emits), period, events))
        # What a transport has not written yet belongs to it as well.
        await asyncio.sleep(LEAD)
        return {"processor": (time.process_time() - spent) / (events * len(self.emits))}

    async def publish(self, events: int) -> dict[str, Any]:
        """Publish so many more events for everybody, as fast as it goes."""
        for emit in self.emits:
            for number in range(self.published + 1, self.published + events + 1):
                now = time.monotonic_ns()
                await emit(number, now, now)
            await asyncio.sleep(0)
        self.published += events
        return {}

    async def memory(self) -> dict[str, Any]:
        """The bytes of this process that are in memory."""
        await asyncio.sleep(0.1)
        gc.collect()
        return {"resident": resident()}

    async def obey(self) -> None:
        await obey({"open": self.open, "live": self.live, "publish": self.publish, "memory": self.memory})


class Announcing(uvicorn.Server):
    """Says its port when it takes connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            print(listener.getsockname()[1], flush=True)


async def serve(server: uvicorn.Server, listener: socket.socket, commands: Commands) -> None:
    """Serve until there are no more commands, or until a signal."""
    serving = asyncio.create_task(server.serve([listener]))
    obeying = asyncio.create_task(commands.obey())
    await asyncio.wait({serving, obeying}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = server.force_exit = True
    await serving
    if obeying.done():
        obeying.result()
    obeying.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.events.server", description=__doc__)
    parser.add_argument("way", type=Way, choices=list(Way))
    parser.add_argument("--core", type=int, help="run on this core only")
    options = parser.parse_args()
    stay_on(options.core)
    allow_files(FILES)
    listener = socket.create_server(("127.0.0.1", 0))
    service = make(options.way)
    config = uvicorn.Config(service.app, log_level="error", lifespan="on")
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve(Announcing(config), listener, Commands(service)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
