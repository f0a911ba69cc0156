"""Pools in a FastAPI application: what a client is told, and how long a streaming response holds its connection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from isolane import ResourcePoolManager
from isolane.fastapi import Ctx, IsolaneSettings, setup
from isolane.pools import Lease

from tests.integrations.conftest import who
from tests.integrations.pool_cancelling import settled
from tests.support.server import serving


async def llm(request: Request, ctx: Ctx) -> AsyncIterator[Lease]:
    async with request.app.state.pools.connection(ctx, "llm", timeout=0.05) as lease:
        yield lease


Llm = Annotated[Lease, Depends(llm)]


def make_app(pools: ResourcePoolManager) -> FastAPI:
    app = FastAPI()
    app.state.pools = pools
    setup(app, IsolaneSettings(drain_seconds=0.2), who)

    @app.get("/answer")
    async def answer(lease: Llm) -> dict[str, Any]:
        return {"user": lease.user_id, "in_use": pools.statistics()["llm"].in_use}

    @app.get("/stream")
    async def stream(lease: Llm) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for _ in range(1000):
                yield f"{lease.held}\n"
                await asyncio.sleep(0.005)

        return StreamingResponse(body())

    @app.get("/bound")
    async def bound(ctx: Ctx) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for _ in range(1000):
                yield f"{pools.statistics()['llm'].in_use}\n"
                await asyncio.sleep(0.005)

        async with pools.connection(ctx, "llm") as lease:
            return lease.bind(StreamingResponse(body()))

    return app


@pytest.fixture
async def pools():
    return ResourcePoolManager({"llm": 2}, per_user=1)


@pytest.fixture
async def client(pools):
    with serving(make_app(pools)) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield client


def by(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


async def test_a_streaming_response_holds_its_connection_until_it_ends_and_others_are_told(client, pools):
    assert (await client.get("/answer", headers=by("ann"))).json() == {"user": "ann", "in_use": 1}
    assert pools.statistics()["llm"].in_use == 0
    async with client.stream("GET", "/stream", headers=by("ann")) as first:
        lines = first.aiter_lines()
        assert await anext(lines) == "True"
        # The user's own limit is theirs to wait for; the pool's is the service's.
        refused = await client.get("/answer", headers=by("ann"))
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit")
        assert int(refused.headers["retry-after"]) >= 1
        async with client.stream("GET", "/stream", headers=by("ben")) as second:
            more = second.aiter_lines()
            assert await anext(more) == "True"
            refused = await client.get("/answer", headers=by("cho"))
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert pools.statistics()["llm"].in_use == 2
    # Both clients went away in the middle.
    await settled(pools)
    assert (await client.get("/answer", headers=by("cho"))).status_code == 200


async def test_a_lease_that_is_bound_to_a_response_ends_with_it(client, pools):
    async with client.stream("GET", "/bound", headers=by("ann")) as response:
        lines = response.aiter_lines()
        assert [await anext(lines), await anext(lines)] == ["1", "1"]
    await settled(pools)


async def test_a_bound_response_that_is_never_sent_returns_its_lease():
    pools = ResourcePoolManager({"llm": 1})
    async with pools.connection("ann", "llm") as lease:
        response = lease.bind(StreamingResponse(iter("a body that never starts")))
    assert pools.statistics()["llm"].in_use == 1
    del response, lease
    gc.collect()
    assert pools.statistics()["llm"].in_use == 0
    lease = await pools.connection("ann", "llm")
    lease.release()
    with pytest.raises(RuntimeError, match="was released already"):
        lease.bind(StreamingResponse(iter("")))


async def test_an_unhealthy_pool_is_a_503_with_the_time_to_come_back(client, pools):
    async def down() -> bool:
        return False

    pools.register_health_check("llm", down, failures=1)
    await pools.check_health()
    refused = await client.get("/answer", headers=by("ann"))
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "5")
    await pools.close()
    refused = await client.get("/answer", headers=by("ann"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
