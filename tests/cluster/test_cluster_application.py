"""The limits of two workers of one application, as ``setup`` shares them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from fastapi import FastAPI
from isolane import EngineLimitError, ExecutionEngineFactory, FairLimiter, LimitTimeout, UserContextFactory
from isolane.cluster import Plane
from isolane.cluster.engines import share_engines
from isolane.cluster.limits import ClusterLimits
from isolane.fastapi import IsolaneSettings, Principal, setup

from tests.support.lease_workers import none_left

SECONDS = 30.0


def application(url: str | None, **settings):
    settings = {"max_engines_per_user": 1, "permits_per_user": 1, "permits_total": 2, **settings}
    return setup(
        FastAPI(),
        IsolaneSettings(signal_drain=False, drain_seconds=0.0, **settings),
        lambda conn: Principal(user_id="ann"),
        redis=url,
    )


class Other:
    """Another worker, without an application: a process has one."""

    def __init__(self, url: str, **share: Any) -> None:
        self.plane = Plane(url)
        self.limiter = FairLimiter(2, 1)
        self.factory = ExecutionEngineFactory(limiter=self.limiter, max_engines_per_user=1)
        limits = ClusterLimits()
        share_engines(limits, self.factory, **share)
        self.plane.add(limits)


@contextlib.asynccontextmanager
async def two(server, *, others: dict[str, Any] | None = None, **settings):
    here, there = application(server.url, **settings), Other(server.url, **(others or {}))
    async with here.running():
        await there.plane.start()
        yield here, there
        await there.factory.shutdown(0)
        await there.plane.stop()
    for name in ("engines", "permits"):
        assert none_left(server, name)


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
    async with two(clean_redis, others={"total": True}, **scopes) as (here, there):
        # The other has the only one of the user that counts over the workers.
        engines = [await each.factory.create_for_user(context()) for each in (there, here)]
        permits = [await each.limiter.acquire("ann") for each in (there, here)]
        with pytest.raises(LimitTimeout):
            await there.limiter.acquire("bob", timeout=0.2)
        for permit in permits:
            permit.release()
        for each, engine in zip((there, here), engines, strict=True):
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
    alone = application(None)
    assert (alone.plane, alone.cluster_limits) == (None, None)
