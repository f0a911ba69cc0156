"""`python -m benches.scale.limit_worker HOLDER URL`: takes places and gives them back. Answers commands."""

import argparse
import asyncio
import time
from array import array
from contextlib import AsyncExitStack
from typing import Any

from benches.events.client import loop_factory
from benches.events.commands import obey
from benches.events.percentiles import summary
from benches.scale.holders import Places, make
from benches.scale.shape import Holder

WARM = 50


class Commands:
    """What the measuring process can ask for."""

    def __init__(self, places: Places, name: str) -> None:
        self.places = places
        self.name = name
        self.taken = array("q")

    async def _some(self, count: int, first: int, step: int, users: int) -> None:
        take, give = self.places.take, self.places.give
        for turn in range(first, count, step):
            user = f"{self.name}-{turn % users}"
            begin = time.monotonic_ns()
            place = await take(user)
            self.taken.append(time.monotonic_ns() - begin)
            given = give(place)
            if given is not None:
                await given

    async def _all(self, count: int, users: int, at_once: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(at_once):
                tasks.create_task(self._some(count, number, at_once, users))

    async def warm(self) -> dict[str, Any]:
        """Connections, scripts and code are there from here on."""
        await self._all(WARM, WARM, 1)
        # What is kept for its user is given back by now.
        await asyncio.sleep(0.5)
        return {}

    async def cycles(self, count: int, users: int, at_once: int) -> dict[str, Any]:
        """Take and give back so many places. Answers how long taking one took, and what all of it took."""
        self.taken = array("q")
        spent, begin = time.process_time(), time.monotonic()
        await self._all(count, users, at_once)
        seconds, spent = time.monotonic() - begin, time.process_time() - spent
        return {**summary(self.taken), "seconds": seconds, "processor": spent}

    async def settle(self) -> dict[str, Any]:
        """Let what is given back later be given back."""
        await asyncio.sleep(0.5)
        return {}

    async def obey(self) -> None:
        await obey({"warm": self.warm, "cycles": self.cycles, "settle": self.settle})


async def work(holder: Holder, url: str, name: str) -> None:
    async with AsyncExitStack() as stack:
        await Commands(await make(holder, url, stack), name).obey()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.scale.limit_worker", description=__doc__)
    parser.add_argument("holder", type=Holder, choices=list(Holder))
    parser.add_argument("url")
    parser.add_argument("name", help="part of the names of its users")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(options.holder, options.url, options.name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
