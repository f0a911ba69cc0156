"""The site as a process of its own, to be killed: ``python -m tests.faults.program seed``. Prints its port."""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from tests.faults.site import Site
from tests.support.event_history import History


async def main(seed: int) -> None:
    """Serve until a signal comes."""
    site = Site(History(seed), drain_seconds=1)
    server = uvicorn.Server(uvicorn.Config(site.app, host="127.0.0.1", port=0, log_config=None, backlog=1024))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
