"""One worker that shares a limiter with others: ``python -m tests.support.lease_worker '{"url": …}'``.

It says ``ready`` when it begins, and as JSON what came of it when SIGTERM tells it to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from typing import Any

from isolane import FairLimiter, LimitRejected, LimitTimeout
from isolane.cluster.limits import ClusterLimits
from isolane.cluster.plane import Plane

from tests.support.lease_witness import Witness


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


class Worker:
    """Runs bodies under a shared limiter until it is told to end."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.witness = Witness(config["witness"], config["processes"], config["users"], config["row"])
        self.limiter = FairLimiter(
            config.get("total", 1000), config.get("per_user", 2), queue=10_000, per_user_queue=10_000
        )
        self.limits = ClusterLimits(
            ttl=config.get("ttl", 3.0), renew=config.get("renew", 1.0), call_timeout=config.get("call_timeout", 0.5)
        )
        if config.get("share", True):
            self.limits.share(
                self.limiter,
                "test",
                user=config.get("share_user", True),
                total=config.get("share_total", False),
                fail=config.get("fail", "local"),
                on_lost="cancel",
                lost=self.lost,
            )
        self.plane = Plane(
            config["url"], prefix=config.get("prefix", "isolane"), call_timeout=config.get("call_timeout", 0.5)
        )
        self.plane.add(self.limits)
        self.done = asyncio.Event()
        self.draw = random.Random(config["row"])
        self.running: dict[int, asyncio.Task[None]] = {}
        self.counts = {"ran": 0, "timeout": 0, "rejected": 0, "lost": 0, "lost_late": 0, "errors": 0, "longest": 0.0}
        self.modes: list[str] = []

    def lost(self, loss: Any) -> None:
        self.counts["lost"] += 1
        say({"lost": time.monotonic(), "lease_fence": loss.lease_fence})
        task = self.running.pop(loss.permit_fence, None)
        if task is None:
            self.counts["lost_late"] += 1
        else:
            task.cancel()

    async def body(self, user: int, seconds: float) -> None:
        began = time.monotonic()
        try:
            permit = await self.limiter.acquire(f"user-{user}", timeout=self.config.get("timeout", 2.0))
        except (LimitTimeout, LimitRejected) as error:
            self.counts["timeout" if isinstance(error, LimitTimeout) else "rejected"] += 1
            self.counts["longest"] = max(self.counts["longest"], time.monotonic() - began)
            await asyncio.sleep(0.02)
            return
        fence = permit.fence
        task = asyncio.current_task()
        self.running[fence] = task
        self.witness.enter(user)
        try:
            await asyncio.sleep(seconds)
            self.counts["ran"] += 1
        finally:
            self.witness.leave(user)
            self.running.pop(fence, None)
            permit.release()

    async def forever(self) -> None:
        low, high = self.config.get("hold", (0.001, 0.02))
        while not self.done.is_set():
            seconds = self.draw.uniform(low, high)
            try:
                await self.body(self.draw.randrange(self.config["users"]), seconds)
            except asyncio.CancelledError:
                if self.done.is_set():
                    raise
                # A lost lease ended it.
                asyncio.current_task().uncancel()
            except Exception as error:  # noqa: BLE001 - the parent is told
                self.counts["errors"] += 1
                say({"error": repr(error)})
                await asyncio.sleep(0.05)

    async def hold(self) -> None:
        """Take places of the first user, and keep them."""
        user = 0

        async def one() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await self.body(user, 1e6)

        tasks = [asyncio.create_task(one()) for _ in range(self.config["keep"])]
        while len(self.running) < self.config["keep"]:
            await asyncio.sleep(0.01)
        say({"holding": sorted(self.running)})
        await self.done.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def watch_mode(self) -> None:
        while True:
            if not self.modes or self.modes[-1] != self.limits.mode:
                self.modes.append(self.limits.mode)
                say({"mode": self.limits.mode})
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.done.set)
        loop.set_exception_handler(self.unhandled)
        await self.plane.start()
        watching = asyncio.create_task(self.watch_mode())
        say({"ready": True})
        if self.config.get("keep"):
            await self.hold()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.config.get("tasks", 8)):
                    group.create_task(self.forever())
        watching.cancel()
        figures = self.limits.figures()
        await self.plane.stop()
        say(
            {
                "end": {
                    **self.counts,
                    "modes": self.modes,
                    "figures": repr(figures),
                    "stats": self.limiter.stats()["running"],
                }
            }
        )

    def unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        self.counts["errors"] += 1
        say({"error": repr(context)})


if __name__ == "__main__":
    asyncio.run(Worker(json.loads(sys.argv[1])).run())
