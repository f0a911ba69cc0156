"""One worker of a site that has several, as a process of its own: ``python -m tests.cluster.worker seed journal``.

Prints its port, and the name by which other workers know it. Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn
from fastapi import Request
from isolane import BaseAgent
from isolane._core import user_streams
from isolane.fastapi import Ctx

from tests.cluster.journal import JournalHistory
from tests.faults.site import Site, recorder_of


class Teller(BaseAgent):
    """Publishes events of every class, parts of texts among them."""

    name = "teller"
    history: JournalHistory

    async def execute_with_context(self, context, request, results) -> Any:
        recorder = recorder_of(self.history, context)
        for step in range(request.get("events", 100)):
            match step % 6:
                case 0:
                    recorder.executing()
                case 1:
                    recorder.executed()
                case 2:
                    recorder.publish("progress", {"done": step}, priority=3, key="bar")
                case 3 | 4:
                    recorder.publish("text", {"delta": f"part {step}. "}, message_id=f"m{step // 12}")
                case _:
                    recorder.publish("trace", {"step": step}, priority=4)
            if step % request.get("burst", 1) == 0:
                await asyncio.sleep(request.get("pause", 0.005))
        return {"owner": recorder.nonce}


async def note_ends(history: JournalHistory) -> None:
    """Write down how streams end."""
    while True:
        for stream in list(history.streams.values()):
            if stream.outcome is not None:
                continue
            for each in user_streams(stream.user):
                if (each["run_id"], each["epoch"]) == (stream.run, stream.epoch) and each["outcome"] is not None:
                    history.ended(stream, each["outcome"], each["head"])
        await asyncio.sleep(0.01)


async def main(seed: int, journal: str, settings: dict[str, Any]) -> None:
    """Serve until a signal comes."""
    history = JournalHistory(seed, journal)
    lease, is_deaf = settings.pop("lease", 15.0), settings.pop("deaf", False)
    site = Site(history, **{"drain_seconds": 1, "max_connections_per_user": 8, "max_engines_per_user": 20, **settings})
    site.agents.register(type("Teller", (Teller,), {"name": "teller", "history": history}))

    logs = site.isolane.logs
    assert logs is not None
    logs._lease = lease
    if is_deaf:
        # Every hint is lost.
        logs._heard = lambda user_id, is_news: None

    @site.app.get("/streams")
    async def streams(ctx: Ctx) -> list[dict[str, Any]]:
        return user_streams(ctx.user_id)

    @site.app.post("/cancel/{run_id}")
    async def cancel(run_id: str, ctx: Ctx) -> dict[str, str]:
        return {"state": await site.isolane.cancel_run_anywhere(ctx.user_id, run_id)}

    @site.app.post("/wait")
    async def wait(ctx: Ctx) -> dict[str, bool]:
        recorder = recorder_of(history, ctx)
        recorder.started()
        number = recorder.completed()
        found = {}
        for level in ("stored", "sent", "acked"):
            await recorder.emitter.wait(number, level=level, timeout=60)
            found[level] = True
        return found

    @site.app.post("/logout")
    async def logout(ctx: Ctx) -> dict[str, int]:
        return {"closed": site.isolane.logout(ctx.user_id)}

    @site.app.get("/figures")
    async def figures(request: Request) -> dict[str, Any]:
        return {"worker": site.isolane.plane.worker, **site.isolane.plane.figures()}

    server = uvicorn.Server(uvicorn.Config(site.app, host="127.0.0.1", port=0, log_config=None, backlog=1024))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    noting = asyncio.create_task(note_ends(history))
    print(server.servers[0].sockets[0].getsockname()[1], site.isolane.plane.worker, flush=True)
    await serving
    await asyncio.sleep(0.05)
    noting.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
