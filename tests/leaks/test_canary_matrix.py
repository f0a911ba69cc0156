"""Many users at once, with canaries in all of their data, all kinds of events, every scan point: nothing crosses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any

import httpx
import pytest
from isolane import ContaminationDetector
from websockets.asyncio.client import connect

from tests.faults.site import auth
from tests.leaks.service import Service, line_server
from tests.support.server import serving

numbers = itertools.count(1)
KINDS = {"agent_started", "tool_executing", "tool_completed", "agent_completed", "agent_error", "tab", "notice"}
SEEN_BY_ITSELF = ("ws_out", "error", "cache_put", "cache_get", "http_out")


async def day_of(users: list[str], service: Service, port: int) -> dict[str, list[str]]:
    """Each user asks, fails, and is told something, all of them at once. Returns what each was sent."""
    received: dict[str, list[str]] = {user: [] for user in users}

    async def live(user: str, client: httpx.AsyncClient) -> None:
        async with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=auth(user)) as socket:

            async def read() -> None:
                async for message in socket:
                    received[user].append(str(message))

            reader = asyncio.create_task(read())
            for path, body in (("/ask", {}), ("/notice", {}), ("/ask", {"fail": True})):
                headers = {**auth(user), "X-Thread-ID": "thread-1"}
                answer = await client.post(path, json={"query": "costs", **body}, headers=headers)
                assert answer.status_code == 200
                received[user].append(answer.text)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    while not any('"type":"agent_error"' in text for text in received[user]):
                        await asyncio.sleep(0.01)
            reader.cancel()
            await asyncio.wait({reader})

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        await asyncio.gather(*(live(user, client) for user in users))
    return received


@pytest.mark.parametrize("count", [2, 10, 50])
async def test_each_user_sees_its_own_canaries_and_nobody_elses(count: int) -> None:
    mark = next(numbers)
    users = [f"user{number}-of-matrix-{mark}" for number in range(count)]
    detector = ContaminationDetector("enforce")
    service: Service

    async with line_server(lambda user: service.data[user]["note"]) as port:
        service = Service(tuple(users), detector, port)
        with service.logging(), serving(service.app) as served:
            received = await day_of(users, service, served)
        service.threads.shutdown()

    owners = {canary: user for user, data in service.data.items() for canary in data.values()}
    for user, texts in received.items():
        text = "\n".join(texts)
        # The plain search has no part in the detector.
        found = {owner for canary, owner in owners.items() if canary in text}
        assert found == {user}
        assert all(canary in text for canary in service.data[user].values())
        assert {json.loads(one)["type"] for one in texts if '"type":' in one} >= KINDS
    figures: dict[str, Any] = detector.figures()
    assert (figures["violations"], figures["errors"]) == (0, 0)
    assert all(figures["boundaries"][name]["own"] >= count for name in SEEN_BY_ITSELF)
    assert detector.sweep().verdict == "clean"
    assert not any("iso1_" in line for line in service.lines_logged)
