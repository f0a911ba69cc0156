"""Each class of leaks, made in a service that runs on a real server with real sockets: the detector catches it.

What reached the clients is judged a second time, by plain search for the canaries, which the detector has no part in.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from typing import Any

import httpx
import pytest
from isolane import ContaminationDetector
from websockets.asyncio.client import connect

from tests.faults.site import auth
from tests.leaks.faults import LEAKS, LeakClass
from tests.leaks.service import Service, line_server
from tests.support.server import serving

numbers = itertools.count(1)
EXPECTED_OWN = 40
ASKED = 7
"""Requests of a day that run an agent."""


class Day:
    """Two users, a tab and a few requests each, at the same time and one after the other."""

    def __init__(self, mode: str, fault: Any = None) -> None:
        mark = next(numbers)
        self.ann, self.bob = (f"{name}-leaks-{mark}" for name in ("ann", "bob"))
        self.detector = ContaminationDetector(mode)
        self.fault = fault
        self.received: dict[str, list[str]] = {self.ann: [], self.bob: []}
        self.service: Service

    async def run(self) -> None:
        async with line_server(lambda user: self.service.data[user]["note"]) as port:
            self.service = Service((self.ann, self.bob), self.detector, port)
            if self.fault is not None:
                self.fault(self.service)
            with self.service.logging(), serving(self.service.app) as served:
                await self._live(served)
            self.service.threads.shutdown()

    async def _live(self, port: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20))
            readers = []
            for user in (self.ann, self.bob):
                socket = await stack.enter_async_context(
                    connect(f"ws://127.0.0.1:{port}/ws", additional_headers=auth(user))
                )
                readers.append(asyncio.create_task(self._read(user, socket)))

            async def ask(user: str, **body: Any) -> None:
                await self._post(client, user, "/ask", {"query": "costs", **body})

            await ask(self.ann)
            await ask(self.bob)
            await asyncio.gather(*(ask(user, together=True) for user in (self.ann, self.bob)))
            await ask(self.ann, fail=True)
            await ask(self.bob, fail=True)
            await self._post(client, self.ann, "/notice", {})
            await ask(self.bob, metadata={"user_id": self.ann})
            await self._until_all_is_sent(readers)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _until_all_is_sent(self, readers: list[asyncio.Task[None]]) -> None:
        """Until the ends of all executions have arrived, or the sockets were closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while not all(reader.done() for reader in readers):
                    texts = [text for texts in self.received.values() for text in texts]
                    ends = sum('"type":"agent_completed"' in text or '"type":"agent_error"' in text for text in texts)
                    if ends >= ASKED:
                        break
                    await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    async def _read(self, user: str, socket: Any) -> None:
        async for message in socket:
            self.received[user].append(message)

    async def _post(self, client: httpx.AsyncClient, user: str, path: str, body: dict[str, Any]) -> None:
        answer = await client.post(path, json=body, headers={**auth(user), "X-Thread-ID": "thread-1"})
        self.received[user].append(answer.text)

    # -- what came of it -------------------------------------------------------------------------------------------

    def leaked(self) -> set[str]:
        """The users who were sent a canary of the other one, by plain search."""
        found = set()
        for user, other in ((self.ann, self.bob), (self.bob, self.ann)):
            theirs = set(self.service.data[other].values())
            if any(canary in text for text in self.received[user] for canary in theirs):
                found.add(user)
        return found

    def logged(self) -> bool:
        canary = re.compile("iso1_[0-9a-z]{32}")
        return any(canary.search(line) for line in self.service.lines_logged)

    def foreign(self) -> dict[str, int]:
        """By boundary, how much of somebody else the detector has seen."""
        boundaries = self.detector.figures()["boundaries"]
        return {name: figures["foreign"] for name, figures in boundaries.items() if figures["foreign"]}


async def test_without_a_fault_nothing_is_found_and_much_was_seen() -> None:
    day = Day("enforce")
    await day.run()
    figures = day.detector.figures()
    assert (figures["violations"], figures["withheld"], figures["errors"], day.foreign()) == (0, 0, 0, {})
    assert day.leaked() == set()
    assert not day.logged()
    # The positive controls: the users were sent their own canaries, and the scan points saw them.
    for user in (day.ann, day.bob):
        own = set(day.service.data[user].values())
        assert all(any(canary in text for text in day.received[user]) for canary in own)
    seen = {name: boundary["own"] for name, boundary in figures["boundaries"].items()}
    assert seen["ws_out"] > EXPECTED_OWN
    assert min(seen["http_out"], seen["cache_put"], seen["cache_get"], seen["error"]) > 0
    assert day.detector.sweep().verdict == "clean"
    assert len(day.service.lines_logged) == 2


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
async def test_a_leak_is_caught_and_withheld(leak: LeakClass, caught) -> None:
    day = Day("enforce", leak.fault)
    await day.run()
    foreign = day.foreign()
    assert set(leak.boundaries) <= set(foreign), (foreign, day.detector.figures())
    assert day.detector.figures()["violations"] > 0
    assert day.leaked() == set(), "what is withheld reaches nobody"
    assert not day.logged()
    codes = [text for texts in day.received.values() for text in texts if "withheld" in text]
    assert codes or leak.boundaries == ("error", "log"), "the user is told that something was withheld"
    caught(leak.name, ", ".join(f"`{name}`" for name in sorted(foreign)))


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
async def test_the_fault_leaks_where_nobody_withholds(leak: LeakClass) -> None:
    """The fault is one: with a detector that only observes, the data gets to the other user, or into the log."""
    day = Day("observe", leak.fault)
    await day.run()
    assert day.leaked() or day.logged()
    assert day.detector.figures()["violations"] > 0


def test_there_are_thirteen_classes_and_their_faults_of_the_core_exist() -> None:
    assert [leak.name for leak in LEAKS] == [f"K{number}" for number in range(1, 14)]
    from tests.mutants.table import KILLERS  # noqa: PLC0415 - only here

    assert {name for leak in LEAKS for name in leak.core} <= set(KILLERS)
