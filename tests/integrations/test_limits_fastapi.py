"""What a client is told of each refusal of a limit, on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from isolane import (
    FairLimiter,
    OptimizedSemaphoreManager,
    Permit,
    UserContextFactory,
    default_limiter,
    set_default_limiter,
)
from isolane.fastapi import IsolaneSettings, setup

from tests.integrations.conftest import who
from tests.support.server import serving


class Refusals:
    """An application whose limiter is full, in each of the ways there are."""

    def __init__(self) -> None:
        self.limiter = FairLimiter(3, 1, resources={"llm": 1}, per_user_queue=1)
        self.slots = OptimizedSemaphoreManager(total=1, per_user=1)
        self.app = FastAPI()
        isolane = setup(self.app, IsolaneSettings(drain_seconds=0.2), who, limiter=self.limiter)
        assert isolane.limiter is self.limiter
        assert isolane.factory.limiter is self.limiter
        self.app.get("/{what}")(self.ask)

    async def ask(self, what: str) -> dict[str, Any]:
        return await getattr(self, what)()

    async def user_full(self) -> Any:
        with self.limiter.slot_nowait("ann"):
            self.limiter.slot_nowait("ann")

    async def user_timeout(self) -> Any:
        with self.limiter.slot_nowait("ann"):
            await self.limiter.acquire("ann", timeout=0.01)

    async def user_queue(self) -> Any:
        with self.limiter.slot_nowait("ann"):
            waiting = asyncio.ensure_future(self.limiter.acquire("ann", timeout=60))
            await asyncio.sleep(0)
            try:
                await self.limiter.acquire("ann")
            finally:
                waiting.cancel()

    async def user_predicted(self) -> Any:
        limiter = FairLimiter(3, 1)
        for _ in range(16):
            async with limiter.slot("ann"):
                await asyncio.sleep(0.02)
        with limiter.slot_nowait("ann"):
            await limiter.acquire("ann", timeout=0.001)

    async def process_full(self) -> Any:
        held = [self.limiter.slot_nowait(user) for user in ("ann", "ben", "cho")]
        try:
            self.limiter.slot_nowait("dot")
        finally:
            self.give_back(held)

    async def resource_full(self) -> Any:
        with self.limiter.slot_nowait("ann", resources="llm"):
            self.limiter.slot_nowait("ben", resources="llm")

    async def resource_timeout(self) -> Any:
        with self.limiter.slot_nowait("ann", resources="llm"):
            await self.limiter.acquire("ben", resources="llm", timeout=0.01)

    async def tree(self) -> Any:
        limiter, ctx = FairLimiter(100, 100), UserContextFactory.create_context("ann")
        held = [limiter.slot_nowait("ann", ctx=ctx)]
        try:
            while True:
                held.append(limiter.slot_nowait("ann", ctx=ctx.create_child_context("child")))
        finally:
            self.give_back(held)

    async def slot_of_the_process(self) -> Any:
        with self.slots.limiter.slot_nowait("ann"):
            async with self.slots.acquire_execution_slot("ben", timeout=0.01):
                pass

    async def slot_of_the_user(self) -> Any:
        slots = OptimizedSemaphoreManager(total=2, per_user=1)
        with slots.limiter.slot_nowait("ann"):
            async with slots.acquire_execution_slot("ann", timeout=0.01):
                pass

    async def free(self) -> Any:
        async with self.slots.acquire_execution_slot("ann"), self.limiter.slot("ann", resources="llm"):
            return {"ran": True}

    def give_back(self, held: list[Permit]) -> None:
        for permit in held:
            permit.release()


TOLD = {
    "user_full": (429, "queue_full"),
    "user_queue": (429, "queue_full"),
    "user_predicted": (429, "queue_full"),
    "user_timeout": (429, "rate_limit"),
    "tree": (429, "queue_full"),
    "process_full": (503, "overloaded"),
    "resource_full": (503, "overloaded"),
    "resource_timeout": (503, "overloaded"),
    "slot_of_the_user": (429, "rate_limit"),
    "slot_of_the_process": (503, "overloaded"),
}


@pytest.fixture(scope="module")
def client():
    refusals = Refusals()
    with serving(refusals.app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client
    for limiter in (refusals.limiter, refusals.slots.limiter):
        assert (limiter.stats()["running"], limiter.stats()["queued"], limiter.stats()["leaked"]) == (0, 0, 0)


@pytest.mark.parametrize("what", sorted(TOLD))
def test_a_refusal_has_its_status_and_the_time_to_come_back(client, what) -> None:
    status, code = TOLD[what]
    answer = client.get(f"/{what}")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    seconds = int(answer.headers["Retry-After"])
    assert 1 <= seconds <= 60
    assert answer.json()["retry_after_ms"] == seconds * 1000
    assert answer.json()["retriable"] is True
    assert "ann" not in answer.text
    # The nearest neighbour: what is free is had.
    assert client.get("/free").json() == {"ran": True}


def test_the_limiter_of_the_process_is_the_applications_while_it_runs() -> None:
    before = default_limiter()
    app = FastAPI()
    own = setup(app, IsolaneSettings(drain_seconds=0.2), who).limiter
    with serving(app):
        assert default_limiter() is own
    assert default_limiter() is before
    chosen = FairLimiter(2, 1)
    try:
        with serving(app):
            set_default_limiter(chosen)
        # Who set another meanwhile meant it.
        assert default_limiter() is chosen
    finally:
        set_default_limiter(before)
