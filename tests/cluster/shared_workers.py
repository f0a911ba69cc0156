"""Workers in processes of their own, as a test drives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 60.0


class RemoteWorker:
    """One process. Its methods are those of ``tests.cluster.shared_worker.Worker``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, url: str, prefix: str, log: Path, **environ: str) -> RemoteWorker:
        with log.open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.cluster.shared_worker",
                url,
                prefix,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
                limit=1 << 24,
                env={**os.environ, "PYTHONWARNINGS": "ignore", **environ},
            )
        worker = cls(process)
        try:
            async with asyncio.timeout(SECONDS):
                line = await process.stdout.readline()
            assert line == b"ready\n", f"it did not start; see {log}"
        except BaseException:
            await worker.kill()
            raise
        return worker

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any, **options: Any) -> Any:
            async with self._turn, asyncio.timeout(SECONDS):
                self.process.stdin.write(json.dumps([name, arguments, options]).encode() + b"\n")
                await self.process.stdin.drain()
                answer = json.loads(await self.process.stdout.readline())
            assert "failed" not in answer, answer
            return answer["is"]

        return call

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.end()

    async def stop(self) -> None:
        self.process.stdin.close()
        await self.end()

    async def end(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.process.wait()
        # So that the transport is gone before the loop is.
        self.process._transport.close()


class Crew:
    """Workers on one Redis."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.prefix = f"test-{secrets.token_hex(4)}"
        self.folder = folder
        self.members: list[RemoteWorker] = []

    async def hire(self, **environ: str) -> RemoteWorker:
        log = self.folder / f"worker-{len(self.members)}.log"
        worker = await RemoteWorker.start(self.url, self.prefix, log, **environ)
        self.members.append(worker)
        return worker

    def said(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))


@contextlib.asynccontextmanager
async def crew(server: Any, folder: Path, count: int = 3) -> AsyncIterator[Crew]:
    """So many workers; none is left afterwards."""
    made = Crew(server.url, folder)
    try:
        await asyncio.gather(*(made.hire() for _ in range(count)))
        yield made
    finally:
        for worker in made.members:
            with contextlib.suppress(ProcessLookupError):
                worker.signal(signal.SIGCONT)
            await worker.kill()


async def eventually(ask: Callable[[], Any], holds: Callable[[Any], bool], seconds: float = SECONDS) -> float:
    """Ask until it holds. Returns how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        answer = await ask()
        if holds(answer):
            return loop.time() - began
        assert loop.time() < began + seconds, f"it did not come to that; it is {str(answer)[:500]}"
        await asyncio.sleep(0.02)
