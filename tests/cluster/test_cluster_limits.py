"""Limits over two workers, which here are two planes of one process on one Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    EngineLimitError,
    ExecutionEngineFactory,
    FairLimiter,
    LeaseLost,
    LimitRejected,
    LimitTimeout,
    ResourcePoolManager,
    UserContextFactory,
    UserExecutionContext,
)
from isolane.cluster import Plane
from isolane.cluster.engines import share_engines
from isolane.cluster.limits import ClusterLimits, LeaseLoss
from isolane.cluster.memory import MemoryLeaseBackend

from tests.support.lease_workers import none_left

SECONDS = 30.0


class Goes(BaseAgent):
    name = "goes"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await asyncio.sleep(request)
        return "done"


async def until(holds, what: str) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < SECONDS, what
        await asyncio.sleep(0.005)
    return time.monotonic() - began


class Worker:
    def __init__(self, url: str, **settings: Any) -> None:
        self.plane = Plane(url)
        self.limits = ClusterLimits(**settings)
        self.plane.add(self.limits)

    def limiter(self, per_user: int = 2, most: int = 50, name: str = "test", **share: Any) -> FairLimiter:
        limiter = FairLimiter(most, per_user, timeout=SECONDS)
        self.limits.share(limiter, name, **share)
        return limiter

    def factory(self, *, on_lost: str = "cancel", **settings: Any) -> ExecutionEngineFactory:
        registry = AgentRegistry()
        registry.register(Goes)
        settings = {"max_engines_per_user": 1, "grace": 0.05, **settings}
        factory = ExecutionEngineFactory(
            agent_factory=AgentInstanceFactory(registry), limiter=FairLimiter(50, 5), **settings
        )
        share_engines(self.limits, factory, on_lost=on_lost)
        return factory


@pytest.fixture
async def workers(clean_redis):
    """Makes workers, starts them with ``start``, and stops them."""
    made: list[Worker] = []

    class Made(list):
        def make(self, many: int = 2, **settings: Any) -> list[Worker]:
            new = [Worker(clean_redis.url, **settings) for _ in range(many)]
            made.extend(new)
            return new

        async def start(self) -> None:
            for worker in made:
                await worker.plane.start()

    yield Made(made)
    clean_redis.thaw()
    clean_redis.start()
    for worker in made:
        await worker.plane.stop()
    assert none_left(clean_redis, within=2.0)


def context(user: str = "ann") -> UserExecutionContext:
    return UserContextFactory().create_context(user, "thread-1")


async def test_a_users_limit_counts_over_both_workers_and_another_users_does_not(workers):
    one, two = workers.make()
    here, there = one.limiter(), two.limiter()
    await workers.start()
    held = [await here.acquire("ann"), await there.acquire("ann")]
    assert all(permit.lease_fence for permit in held)
    for limiter in (here, there):
        with pytest.raises(LimitTimeout):
            await limiter.acquire("ann", timeout=0.3)
    other = await there.acquire("bob")
    waiting = asyncio.ensure_future(there.acquire("ann"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    fences = [each.lease_fence for each in held]
    held[0].release()
    # Within the time that it is kept for the same user here, and the delay after a refusal there.
    permit = await asyncio.wait_for(waiting, SECONDS)
    assert permit.lease_fence > max(fences)
    for each in (permit, held[1], other):
        each.release()


async def test_the_total_counts_over_both_workers(workers):
    one, two = workers.make()
    here, there = (worker.limiter(5, 2, user=False, total=True) for worker in (one, two))
    await workers.start()
    held = [await here.acquire("ann"), await there.acquire("bob")]
    with pytest.raises(LimitTimeout):
        await there.acquire("cleo", timeout=0.3)
    waiting = asyncio.ensure_future(there.acquire("cleo"))
    held[0].release()
    (await asyncio.wait_for(waiting, SECONDS)).release()
    held[1].release()


async def test_a_pool_counts_over_both_workers(workers):
    one, two = workers.make()
    pools = [ResourcePoolManager({"llm": 2}, 2, connection_timeout=SECONDS) for _ in range(2)]
    for worker, pool in zip((one, two), pools, strict=True):
        worker.limits.share(pool, "pool-llm", total=True)
    await workers.start()
    held = [await pool.connection("ann", "llm") for pool in pools]
    with pytest.raises(LimitTimeout):
        await pools[1].connection("bob", "llm", timeout=0.3)
    for lease in held:
        lease.release()
    (await pools[1].connection("bob", "llm")).release()
    with pytest.raises(ValueError, match="cannot be shared together"):
        one.limits.share(ResourcePoolManager({"llm": 2, "db": 3}), "both", total=True)
    one.limits.share(ResourcePoolManager({"llm": 2, "db": 3}), "both")


async def test_what_is_to_be_had_at_once_is_only_what_this_worker_has(workers):
    (one,) = workers.make(1, reuse=SECONDS)
    limiter = one.limiter()
    await workers.start()
    with pytest.raises(LimitRejected) as caught:
        limiter.slot_nowait("ann")
    assert caught.value.limit == "cluster"
    (await limiter.acquire("ann")).release()
    limiter.slot_nowait("ann").release()


@pytest.mark.parametrize("name", ["", "a b", "{x}", "a:b", "x" * 65, "ü"])
async def test_names_that_are_none_are_refused(workers, name):
    (one,) = workers.make(1)
    with pytest.raises(ValueError, match="the name of a shared limit"):
        one.limits.share(FairLimiter(), name)


async def test_a_name_is_shared_once_and_again_when_it_was_given_up(workers):
    one, two = workers.make()
    here, there = one.limiter(1), two.limiter(1)
    with pytest.raises(ValueError, match="already"):
        one.limiter(name="test")
    await workers.start()
    held = await there.acquire("ann")
    with pytest.raises(LimitTimeout):
        await here.acquire("ann", timeout=0.2)
    one.limits.unshare("test")
    (await here.acquire("ann")).release()
    one.limits.unshare("test")
    held.release()
    one.limits.share(here, "test")
    (await here.acquire("ann")).release()


async def test_two_workers_share_in_memory_as_well(workers):
    backend = MemoryLeaseBackend()
    one, two = workers.make(backend=backend)
    here, there = one.limiter(1), two.limiter(1)
    await workers.start()
    held = await here.acquire("ann")
    with pytest.raises(LimitTimeout):
        await there.acquire("ann", timeout=0.2)
    held.release()
    (await there.acquire("ann")).release()


# -- engines -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def factories(workers):
    made = []

    async def make(**settings: Any) -> list[ExecutionEngineFactory]:
        made.extend(worker.factory(**settings) for worker in workers.make(ttl=2.0, renew=0.5))
        await workers.start()
        return made

    yield make
    for factory in made:
        await factory.shutdown(0)


async def test_an_engine_over_the_limit_of_all_workers_is_refused_at_once(factories):
    here, there = await factories()
    engine = await here.create_for_user(context())
    began = time.monotonic()
    with pytest.raises(EngineLimitError, match="of all workers") as caught:
        await there.create_for_user(context())
    assert caught.value.limit == "user"
    assert time.monotonic() - began < 1.5, "it does not wait for a slot"
    await here.cleanup_engine(await here.create_for_user(context("bob")))
    await here.cleanup_engine(engine)
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(EngineLimitError):
                await there.cleanup_engine(await there.create_for_user(context()))
                break


async def test_an_engine_waits_for_a_slot_of_another_worker(factories):
    here, there = await factories(at_limit="wait", wait_timeout=SECONDS)
    engine = await here.create_for_user(context())
    waiting = asyncio.create_task(there.create_for_user(context()))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await here.cleanup_engine(engine)
    await there.cleanup_engine(await waiting)


async def test_room_is_made_by_an_idle_engine_of_this_worker_and_of_no_other(factories):
    here, there = await factories(at_limit="evict_idle", max_engines_per_user=2)
    mine, theirs = await here.create_for_user(context()), await there.create_for_user(context())
    third = await here.create_for_user(context())
    assert (mine.end_reason, theirs.is_active()) == ("evicted", True)
    await there.cleanup_engine(theirs)
    other = await there.create_for_user(context())
    run = asyncio.create_task(third.execute_agent(Goes, 60.0))
    await until(lambda: third._permits, "it runs")
    another = await there.create_for_user(context())
    assert other.end_reason == "evicted"
    await there.cleanup_engine(another)
    third.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_a_run_whose_lease_is_lost_ends_as_that(factories, clean_redis):
    here, _ = await factories()
    engine = await here.create_for_user(context())
    run = asyncio.create_task(engine.execute_agent(Goes, 60.0))
    await until(lambda: engine._permits, "it runs")
    await lose_all(clean_redis)
    with pytest.raises(LeaseLost) as caught:
        await asyncio.wait_for(run, SECONDS)
    assert caught.value.limit in {"engines", "permits"}
    assert engine.end_reason == "lease_lost"


async def test_a_run_whose_lease_is_lost_may_go_on_with_a_flag(factories, clean_redis, caplog):
    here, _ = await factories(on_lost="flag")
    engine = await here.create_for_user(context())
    run = asyncio.create_task(engine.execute_agent(Goes, 60.0))
    await until(lambda: engine._permits, "it runs")
    (permit,) = engine._permits
    with caplog.at_level(logging.WARNING, "isolane.cluster"):
        await lose_all(clean_redis)
        await until(lambda: engine.lease_lost is not None and permit.is_lost, "it is flagged")
    assert any("was lost" in record.getMessage() for record in caplog.records)
    assert not run.done()
    assert engine.is_active()
    engine.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def lose_all(server) -> None:
    """Stand still for longer than a lease, and let somebody else have the places meanwhile."""
    keys = server.do("KEYS", "{isolane:lim:*}:u:*")
    # The loop of this process stands still, as in a worker that was frozen.
    time.sleep(2.5)  # noqa: ASYNC251 - that it does is what is tested
    for key in keys:
        server.do("DEL", key)
        server.do("ZADD", key, (time.time() + 600) * 1000, "somebody else")
    await asyncio.sleep(0)


# -- without Redis ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fail", "runs"), [("local", 1), ("open", 2), ("closed", 0)])
async def test_without_redis_the_limit_is_what_was_chosen(workers, clean_redis, fail, runs, caplog):
    one, two = workers.make(ttl=1.5, renew=0.5)
    here, _ = (worker.limiter(2, fail=fail) for worker in (one, two))
    await workers.start()
    (await here.acquire("ann")).release()
    await until(lambda: len(one.plane.processes()) == 2, "they know of each other")
    await asyncio.sleep(1.5)
    clean_redis.freeze()
    with caplog.at_level(logging.WARNING, "isolane.cluster"):
        with contextlib.suppress(LimitTimeout, LimitRejected):
            (await here.acquire("cleo", timeout=2)).release()
        await until(lambda: one.limits.mode == fail, "the mode changes")
    held = []
    for _ in range(3):
        with contextlib.suppress(LimitTimeout, LimitRejected):
            held.append(await here.acquire("bob", timeout=0.3))
    assert len(held) == runs
    clean_redis.thaw()
    await until(lambda: one.limits.mode == "whole", "it is whole again")
    for permit in held:
        permit.release()
    (await here.acquire("ann")).release()


async def test_a_worker_that_starts_without_redis_begins_by_itself(workers, clean_redis):
    (one,) = workers.make(1)
    limiter = one.limiter(2)
    clean_redis.kill()
    await workers.start()
    began = time.monotonic()
    permit = await limiter.acquire("ann")
    assert time.monotonic() - began < SECONDS
    clean_redis.start()
    await until(lambda: one.limits.mode == "whole" and permit.lease_fence, "it is whole, and has a lease for what runs")
    permit.release()


async def test_an_application_may_be_started_again(workers):
    (one,) = workers.make(1)
    limiter = one.limiter()
    for _ in range(2):
        await one.plane.start()
        (await limiter.acquire("ann")).release()
        await one.plane.stop()


async def test_after_the_end_of_an_application_its_limiters_are_their_own(workers):
    """Such as the default limiter of the process: nobody would ask for leases any more."""
    one, two = workers.make(2)
    limiter, other = one.limiter(), two.limiter()
    await one.plane.start()
    await two.plane.start()
    held = [await other.acquire("ann") for _ in range(2)]
    with pytest.raises(LimitTimeout):
        await limiter.acquire("ann", timeout=0.3)
    await one.plane.stop()
    alone = await limiter.acquire("ann", timeout=SECONDS)
    alone.release()
    later = FairLimiter(50, 2, timeout=SECONDS)
    one.limits.share(later, "later")
    one.limits.unshare("later")
    await one.plane.start()
    with pytest.raises(LimitTimeout):
        await limiter.acquire("ann", timeout=0.3)
    for each in held:
        each.release()
    (await limiter.acquire("ann")).release()


async def test_what_is_told_of_a_loss_may_fail(workers, caplog):
    (one,) = workers.make(1)

    def fails(loss: LeaseLoss) -> None:
        raise ValueError("no")

    async def fails_later(loss: LeaseLoss) -> None:
        raise ValueError("no")

    one.limiter(name="a", lost=fails)
    one.limiter(name="b", lost=fails_later)
    await workers.start()
    for name in ("a", "b", "gone"):
        one.limits._tell(LeaseLoss(name, "ann", 1, 2))
    await asyncio.sleep(0.01)
    assert sum("what is told of lost leases failed" in record.getMessage() for record in caplog.records) == 2


async def test_figures_say_how_it_is(workers):
    (one,) = workers.make(1)
    limiter = one.limiter()
    await workers.start()
    permit = await limiter.acquire("ann")
    figures = one.limits.figures()
    assert figures["mode"] == one.limits.mode == limiter.stats()["mode"] == "whole"
    permit.release()
