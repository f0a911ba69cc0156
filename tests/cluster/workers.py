"""Several workers of one site as real processes, with one Redis, and clients on all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.journal import collect
from tests.faults.site import auth
from tests.support.event_history import History
from tests.support.framed_client import FramedClient

ROOT = Path(__file__).resolve().parents[2]
GENEROUS = 90.0
"""How long a test waits for what is to happen. It says when something never does, and nothing of how fast it is."""


class Worker:
    """One process of the site."""

    def __init__(self, process: subprocess.Popen[str], journal: Path) -> None:
        self.process = process
        self.journal = journal
        self.port = 0
        self.name = ""

    def ready(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line, "the worker did not start"
        self.port, self.name = int(line[0]), line[1]

    async def ask(self, method: str, path: str, user: str, body: Any = None) -> Any:
        """Ask it something over HTTP."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=GENEROUS) as http:
            answer = await http.request(method, path, json=body, headers=auth(user))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def start(self, agent: str, user: str, **request: Any) -> str:
        """Start an agent here. Returns its run."""
        return str((await self.ask("POST", f"/start/{agent}", user, request))["run_id"])

    async def stream(self, user: str, run: str) -> dict[str, Any]:
        """What this worker says of a run of the user."""
        streams = await self.ask("GET", "/streams", user)
        return next((stream for stream in streams if stream["run_id"] == run), {})

    async def figures(self) -> dict[str, Any]:
        """What it counts."""
        return dict(await self.ask("GET", "/figures", "operator"))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10)

    def pause(self) -> None:
        """kill -STOP."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """kill -CONT."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Stop it, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Workers:
    """The workers of a site, and what their clients saw."""

    def __init__(self, folder: Path, redis_url: str, seed: int = 9, **settings: Any) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.history = History(seed)
        self.history.several_workers = True
        self.settings = settings
        self.workers: list[Worker] = []
        self.clients: list[FramedClient] = []
        self._read: dict[Path, int] = {}

    def begin(self, redis_url: str | None = None) -> Worker:
        """Start one more."""
        journal = self.folder / f"worker-{len(self.workers)}.jsonl"
        command = [sys.executable, "-m", "tests.cluster.worker", str(self.history.seed), str(journal)]
        environment = {**os.environ, "ISOLANE_REDIS_URL": redis_url or self.redis_url}
        process = subprocess.Popen(
            [*command, json.dumps(self.settings)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        worker = Worker(process, journal)
        self.workers.append(worker)
        return worker

    def client(self, user: str, worker: Worker, tab: str = "tab", **options: Any) -> FramedClient:
        """One tab of a user, on a worker."""
        client = FramedClient(worker.port, user, self.history, f"{user} {tab}", **options)
        self.clients.append(client)
        return client

    def collect(self) -> None:
        """Read what the workers have written down since the last time."""
        collect(self.history, [worker.journal for worker in self.workers], self._read)

    def check(self) -> dict[str, int]:
        """Look at everything that was published, sent and acknowledged."""
        self.collect()
        return dict(self.history.check())


def move(client: FramedClient, worker: Worker) -> None:
    """Let a client come back to another worker."""
    client.drop()
    client.url = f"ws://127.0.0.1:{worker.port}/ws"


@contextlib.asynccontextmanager
async def workers(folder: Path, redis_url: str, count: int = 3, **settings: Any) -> AsyncIterator[Workers]:
    """Serve a site with so many workers."""
    site = Workers(folder, redis_url, **settings)
    try:
        for worker in [site.begin() for _ in range(count)]:
            await asyncio.to_thread(worker.ready)
        await settled(lambda: all_know(site, count))
        yield site
    finally:
        for client in site.clients:
            client.drop()
        await asyncio.gather(*(asyncio.to_thread(worker.end) for worker in site.workers))


async def all_know(site: Workers, count: int) -> bool:
    """Whether each worker knows of all."""
    figures = [await worker.figures() for worker in site.workers]
    return all(each["state"] == "up" and each["processes"] >= count for each in figures)


async def settled(check: Any, seconds: float = GENEROUS) -> None:
    """Wait until something that follows from what was done has happened."""
    limit = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < limit, f"it did not happen within {seconds} s"
        await asyncio.sleep(0.05)


async def follow(client: FramedClient, until: Any) -> None:
    """Read until the condition holds."""
    await client.follow(until, seconds=GENEROUS)
