"""`python -m benches.scale.event_worker WAY URL`: uvicorn on a Redis. Prints its port, then answers commands."""

import argparse
import asyncio
import contextlib
import socket
import time
from typing import Any

import uvicorn

from benches.events import server
from benches.events.commands import allow_files, obey
from benches.events.services import Service
from benches.events.shape import FILES, Way, user


class Commands(server.Commands):
    """What the measuring process can ask for: of each worker it opens the users that are its own."""

    async def begin(self, numbers: list[int]) -> dict[str, Any]:
        """Begin a run for each of these users."""
        names = [user(number) for number in numbers]
        await self.service.open(names)
        self.emits = [self.service.emit(name) for name in names]
        return {}

    async def burst(self, events: int) -> dict[str, Any]:
        """Publish so many events for each of the users, as fast as it goes. Answers when that began."""
        began = time.monotonic_ns()
        # Users take turns, as they would: nobody's log is filled before the others have begun.
        for number in range(self.published + 1, self.published + events + 1):
            for emit in self.emits:
                now = time.monotonic_ns()
                await emit(number, now, now)
            await asyncio.sleep(0)
        self.published += events
        return {"began": began}

    async def processor(self) -> dict[str, Any]:
        """The processor time of this process so far."""
        return {"spent": time.process_time()}

    async def obey(self) -> None:
        await obey({"begin": self.begin, "live": self.live, "burst": self.burst, "processor": self.processor})


def make(way: Way, url: str) -> Service:
    """The service. What the other needs is not imported."""
    if way is Way.ISOLANE:
        from benches.events.services.own import IsolaneService  # noqa: PLC0415

        return IsolaneService(url)
    from benches.scale.room_service import RoomService  # noqa: PLC0415

    return RoomService(url)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.scale.event_worker", description=__doc__)
    parser.add_argument("way", type=Way, choices=[Way.ISOLANE, Way.SOCKETIO])
    parser.add_argument("url")
    options = parser.parse_args()
    allow_files(FILES)
    listener = socket.create_server(("127.0.0.1", 0))
    service = make(options.way, options.url)
    config = uvicorn.Config(service.app, log_level="error", lifespan="on")
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(server.Announcing(config), listener, Commands(service)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
