"""The limits of two workers of one application, as ``setup`` shares them."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from fastapi import FastAPI
from isolane import EngineLimitError, LimitTimeout, UserContextFactory
from isolane.fastapi import IsolaneSettings, Principal, setup

from tests.support.lease_workers import leases_left

SECONDS = 30.0


def worker(url: str, **settings):
    settings = {"max_engines_per_user": 1, "permits_per_user": 1, "permits_total": 2, **settings}
    return setup(
        FastAPI(),
        IsolaneSettings(signal_drain=False, drain_seconds=0.0, **settings),
        lambda conn: Principal(user_id="ann"),
        redis=url,
    )


@contextlib.asynccontextmanager
async def two(server, **settings):
    async with contextlib.AsyncExitStack() as stack:
        workers = [worker(server.url, **settings) for _ in range(2)]
        for each in workers:
            await stack.enter_async_context(each.running())
        yield workers
    for name in ("engines", "permits"):
        with leases_left(server, name=name) as left:
            assert left() == 0


def context(user: str = "ann"):
    return UserContextFactory().create_context(user, "thread-1")


async def test_engines_and_permits_of_a_user_count_over_the_workers(clean_redis):
    async with two(clean_redis) as (here, there):
        engine = await here.factory.create_for_user(context())
        with pytest.raises(EngineLimitError):
            await there.factory.create_for_user(context())
        other = await there.factory.create_for_user(context("bob"))
        permit = await here.limiter.acquire("ann")
        with pytest.raises(LimitTimeout):
            await there.limiter.acquire("ann", timeout=0.2)
        # Those of all users are each worker's own.
        more = [await there.limiter.acquire(user) for user in ("bob", "cleo")]
        for each in (permit, *more):
            each.release()
        await here.factory.cleanup_engine(engine)
        await there.factory.cleanup_engine(other)


async def test_what_has_the_scope_of_a_process_does_not(clean_redis):
    scopes = {"engines_scope": "process", "permits_scope": "process", "total_scope": "cluster"}
    async with two(clean_redis, permits_per_user=2, **scopes) as (here, there):
        engines = [await each.factory.create_for_user(context()) for each in (here, there)]
        permits = [await each.limiter.acquire("ann") for each in (here, there)]
        with pytest.raises(LimitTimeout):
            await there.limiter.acquire("bob", timeout=0.2)
        for permit in permits:
            permit.release()
        for each, engine in zip((here, there), engines, strict=True):
            await each.factory.cleanup_engine(engine)


async def test_operators_see_how_the_limits_are(clean_redis):
    async with two(clean_redis, lease_fail="closed") as (here, _):
        (await here.limiter.acquire("ann")).release()
        figures = here.introspect()["cluster"]["ClusterLimits"]
        assert (figures["mode"], figures["limits"]["permits"]["granted"]) == ("whole", 1)
        assert json.loads((await here.ready(None)).body)["status"] == "ready"
        clean_redis.freeze()
        async with asyncio.timeout(SECONDS):
            while here.cluster_limits.mode != "closed":
                with contextlib.suppress(Exception):
                    await here.limiter.acquire("bob", timeout=0.1)
        assert json.loads((await here.ready(None)).body)["status"] == "degraded"
        clean_redis.thaw()
        async with asyncio.timeout(SECONDS):
            while here.cluster_limits.mode != "whole" or here.plane.state != "up":
                await asyncio.sleep(0.05)


async def test_without_redis_nothing_is_shared(monkeypatch):
    monkeypatch.delenv("ISOLANE_REDIS_URL", raising=False)
    alone = setup(FastAPI(), IsolaneSettings(), lambda conn: Principal(user_id="ann"))
    assert (alone.plane, alone.cluster_limits) == (None, None)
