"""One way to use both clients in tests: what they are told, as lists, and what they can be asked to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolane.client import Ended, Event, Replaced, Skipped, StateChanged, connect

from tests.clients.javascript import node

PROGRAM = Path(__file__).with_name("follow.mjs")
PATIENCE = 60.0


class Follower:
    """What a client was told, in order."""

    def __init__(self) -> None:
        self.records: list[list[Any]] = []
        self._changed = asyncio.Event()

    def told(self, record: list[Any]) -> None:
        self.records.append(record)
        self._changed.set()

    def of(self, *kinds: str) -> list[list[Any]]:
        return [record for record in self.records if record[0] in kinds]

    def numbers(self, run: str = "r") -> list[int]:
        return [record[2] for record in self.of("event") if record[1] == run]

    def states(self) -> list[str]:
        return [record[1] for record in self.of("state")]

    async def until(self, reached: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not reached():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    # Looks now and then by itself: what is waited for may be the server's.
                    await asyncio.wait_for(self._changed.wait(), 0.05)


class PythonFollower(Follower):
    _reading: asyncio.Task[None] | None = None

    async def start(self, url: str, *, tokens: list[str] | None = None, **options: Any) -> None:
        if tokens is not None:
            options["token"] = lambda: tokens.pop(0)
        if "tickets" in options:
            tickets = options.pop("tickets")
            options["ticket"] = lambda: tickets.pop(0)
        self.client = connect(url, **options)
        self._reading = asyncio.create_task(self._read())
        self._cancels: set[asyncio.Task[None]] = set()
        await asyncio.sleep(0)

    async def _read(self) -> None:
        async with self.client as client:
            async for record in client.events():
                match record:
                    case Event():
                        self.told(["event", record.run_id, record.number, record.message, record.skipped])
                    case Replaced():
                        self.told(["replace", record.run_id, record.messages])
                    case Skipped():
                        self.told(["skip", record.run_id, record.count])
                    case Ended():
                        self.told(["end", record.run_id, record.outcome])
                    case StateChanged():
                        delay = None if record.delay is None else record.delay * 1000
                        self.told(["state", record.state, record.code, record.final, delay])

    def ask(self, name: str, run: str = "r") -> None:
        if name == "cancel":
            task = asyncio.create_task(self._cancel(run))
            self._cancels.add(task)
        elif name == "position":
            position = self.client.position(run)
            shown = position and {"epoch": position.epoch, "number": position.number, "ended": position.ended}
            self.told(["position", run, shown])
        elif name == "reconnect":
            self.client.reconnect()
        else:
            getattr(self.client, name)(run)

    async def _cancel(self, run: str) -> None:
        try:
            self.told(["cancelled", run, await self.client.cancel(run)])
        except ConnectionError as error:
            self.told(["cancelled", run, f"error: {error}"])

    async def stop(self) -> None:
        if self._reading is None:
            return
        self._reading.cancel()
        await asyncio.wait({self._reading})
        if not self._reading.cancelled():
            self._reading.result()
        for task in self._cancels:
            await task


class JavaScriptFollower(Follower):
    _process: asyncio.subprocess.Process | None = None

    async def start(self, url: str, **options: Any) -> None:
        command = [*node(), str(PROGRAM), json.dumps({"url": url, **options})]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=16 * 2**20
        )
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.told(json.loads(line))

    def ask(self, name: str, run: str = "r") -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"name": name, "run": run}).encode() + b"\n")

    async def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            await self._process.wait()
        await self._reading


FOLLOWERS = {"python": PythonFollower, "javascript": JavaScriptFollower}
