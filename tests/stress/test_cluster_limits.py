"""Limits over many processes on a real Redis, seen by a witness that knows nothing of leases."""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import time

import pytest
from isolane import FairLimiter, LimitRejected, LimitTimeout
from isolane._core import lease_scripts
from isolane.cluster import Plane
from isolane.cluster.limits import ClusterLimits
from redis.asyncio import ConnectionPool, Redis

from tests.support.lease_workers import Workers, leases_left, none_left
from tests.support.redis_server import RedisServer, clean_redis, fresh_redis, redis_nodes, redis_server

__all__ = ["clean_redis", "fresh_redis", "redis_nodes", "redis_server"]

pytestmark = pytest.mark.timeout(600)

PER_USER = 2
USERS = 4
TTL = 2.0
AT_ONCE = 50
SHORT = {"ttl": TTL, "renew": 0.6}


@pytest.fixture
def seconds(request):
    """How long a check goes on: less in the short form."""
    return lambda full: max(2.0, full / 10) if request.config.getoption("--short") else full


def ended(workers: Workers) -> list[dict]:
    """End all, and look for what none may have."""
    ends = [worker.end() for worker in workers.all if worker.process.poll() is None]
    assert [end["errors"] for end in ends] == [0] * len(ends), ends
    return ends


@pytest.mark.parametrize(
    ("share", "limit"),
    [({"share_total": False}, None), ({"share_total": True, "total": 6}, 6), ({"share_total": True, "total": 60}, 60)],
    ids=["users", "users-and-6", "users-and-60"],
)
def test_twelve_processes_never_run_more_than_the_limits(clean_redis, tmp_path, seconds, found, share, limit):
    # With 60, a worker takes the total in pieces of 2.
    users = 40 if limit == 60 else USERS
    with Workers(tmp_path, clean_redis.url, 12, users, per_user=PER_USER, **share, **SHORT) as workers:
        workers.start(12)
        time.sleep(seconds(30))
        ends = ended(workers)
        witness = workers.witness
        assert max(witness.peaks) == PER_USER, "the limit is used, and never passed"
        if limit is not None:
            assert witness.peak <= limit
        assert all(end["ran"] > 0 for end in ends), "each worker had its part"
        assert [end["lost"] for end in ends] == [0] * 12
        assert none_left(clean_redis, within=2 * TTL)
        found(f"{sum(witness.admitted)} runs, {min(witness.admitted)} to {max(witness.admitted)} a worker, 0 over")


def test_the_witness_sees_what_is_over_a_limit(clean_redis, tmp_path, found):
    """The positive control: each worker keeps to the limit, and nobody to that of all."""
    with Workers(tmp_path, clean_redis.url, 4, 1, per_user=PER_USER, share=False, hold=(0.01, 0.03)) as workers:
        workers.start(4)
        workers.until(lambda: workers.witness.peak > PER_USER, "more than the limit")
        ended(workers)
        found(f"{workers.witness.peak} at once where {PER_USER} are the limit")


def test_the_place_of_a_killed_worker_comes_back_within_a_lease(clean_redis, tmp_path, rounds, found):
    took = []
    many = rounds(50)
    with Workers(tmp_path, clean_redis.url, 2 * many, 1, per_user=PER_USER, timeout=30.0, **SHORT) as workers:
        for _ in range(many):
            (holder,) = workers.start(1, keep=PER_USER)
            holder.expect("holding")
            (other,) = workers.start(1)
            assert workers.witness.admitted[other.row] == 0
            holder.kill()
            workers.witness.dead(holder.row)
            took.append(
                workers.until(lambda row=other.row: workers.witness.admitted[row] > 0, "the place is taken again")
            )
            assert other.end()["errors"] == 0
        assert max(workers.witness.peaks) <= PER_USER
    assert none_left(clean_redis, within=2 * TTL)
    found(f"{min(took):.1f} to {max(took):.1f} s after the kill, with leases of {TTL:g} s")


def test_a_worker_that_stood_still_is_told_that_it_lost_its_place(clean_redis, tmp_path, rounds, found):
    many = rounds(50)
    over, told = 0, []
    with Workers(tmp_path, clean_redis.url, 2 * many, 1, per_user=PER_USER, timeout=30.0, **SHORT) as workers:
        for _ in range(many):
            (holder,) = workers.start(1, keep=PER_USER)
            holder.expect("holding")
            (other,) = workers.start(1)
            assert workers.witness.admitted[other.row] == 0
            holder.freeze()
            workers.until(lambda row=other.row: workers.witness.admitted[row] > 10, "others run instead")
            over = max(over, max(workers.witness.peaks) - PER_USER)
            assert over <= PER_USER, "as many too many as the worker has, and no more"
            began = time.monotonic()
            holder.thaw()
            fences = [holder.expect("lease_fence") for _ in range(PER_USER)]
            told.append(time.monotonic() - began)
            last = int(clean_redis.do("GET", "{isolane:lim:test}:fence"))
            assert all(fence < last for fence in fences), "what it writes late is refused by the fence"
            workers.until(lambda: workers.witness.now(0) <= PER_USER, "what lost its place has ended")
            # It gave back what was not its own any more: nobody else lost a place by that.
            workers.witness.forget_peaks()
            before = workers.witness.admitted[other.row]
            workers.until(
                lambda row=other.row, before=before: workers.witness.admitted[row] > before + 20, "others go on"
            )
            assert max(workers.witness.peaks) <= PER_USER
            assert [worker.end()["errors"] for worker in (holder, other)] == [0, 0]
    assert none_left(clean_redis, within=2 * TTL)
    found(f"at most {over} too many while it stood still; told {max(told) * 1000:.0f} ms after it went on")


FAULTS = {
    "restart with data": lambda server, seconds: server.restart(empty=False),
    "restart without data": lambda server, seconds: server.restart(empty=True),
    "flush": lambda server, seconds: server.flush(),
    "freeze": lambda server, seconds: (server.freeze(), time.sleep(seconds), server.thaw()),
    "down": lambda server, seconds: (server.kill(), time.sleep(seconds), server.start()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_more_than_the_limit_run_only_within_a_bound_when_redis_fails(tmp_path, seconds, rounds, found, fault):
    workers_of, over, modes = 4, 0, set()
    # Each worker may run its part, what is held counts until it runs out, and an emptied Redis grants once more before
    # those that run are there again.
    bound = workers_of * 1 + 2 * PER_USER
    with (
        RedisServer(tmp_path / "redis", keep=fault == "restart with data") as server,
        Workers(tmp_path, server.url, workers_of, 1, per_user=PER_USER, hold=(0.05, 0.3), **SHORT) as workers,
    ):
        workers.start(workers_of)
        for _ in range(rounds(50)):
            time.sleep(seconds(5))
            assert max(workers.witness.peaks) <= PER_USER, f"before: {[worker.seen() for worker in workers.all]}"
            FAULTS[fault](server, 3 * TTL)
            time.sleep(2 * TTL)
            over = max(over, max(workers.witness.peaks) - PER_USER)
            assert max(workers.witness.peaks) <= bound
            # Whatever ran too much has ended by now: it is whole again.
            workers.until(lambda: workers.witness.now(0) <= PER_USER, "no more than the limit")
            workers.witness.forget_peaks()
            before = sum(workers.witness.admitted)
            workers.until(lambda before=before: sum(workers.witness.admitted) > before + 10, "it goes on")
        ends = ended(workers)
        assert max(end["longest"] for end in ends) < 30, "nobody hangs"
        modes |= {mode for end in ends for mode in end["modes"]}
        assert modes <= {"whole", "local"}
        if fault in {"freeze", "down"}:
            assert "local" in modes
        assert all(end["modes"][-1] == "whole" for end in ends)
        assert none_left(server, within=2 * TTL)
    found(f"at most {over} too many, of {bound - PER_USER} that the bound allows")


def test_a_failover_that_loses_leases_gives_so_many_more_at_most(tmp_path, seconds, found):
    with RedisServer(tmp_path / "one") as primary, primary.replica(tmp_path / "two") as replica:
        urls = f"{primary.url},{replica.url}"
        with Workers(tmp_path, urls, 4, 1, per_user=PER_USER, hold=(0.05, 0.3), **SHORT) as workers:
            workers.start(4)
            time.sleep(seconds(5))
            before = sum(workers.witness.admitted)
            primary.kill()
            replica.promote()
            workers.until(lambda: sum(workers.witness.admitted) > before + 20, "it goes on")
            over = max(workers.witness.peaks) - PER_USER
            assert over <= 4 + PER_USER
            time.sleep(2 * TTL)
            workers.until(lambda: workers.witness.now(0) <= PER_USER, "no more than the limit")
            workers.witness.forget_peaks()
            before = sum(workers.witness.admitted)
            workers.until(lambda: sum(workers.witness.admitted) > before + 20, "it goes on")
            ends = ended(workers)
            assert max(workers.witness.peaks) <= PER_USER
            assert all(end["modes"][-1] == "whole" for end in ends)
        assert none_left(replica, within=2 * TTL)
    found(f"at most {max(0, over)} too many")


def test_a_cluster_keeps_the_limits_as_one_server_does(redis_nodes, tmp_path, seconds, found):
    with Workers(tmp_path, redis_nodes.url, 4, USERS, per_user=PER_USER, total=6, share_total=True, **SHORT) as workers:
        workers.start(4)
        time.sleep(seconds(10))
        ends = ended(workers)
        assert max(workers.witness.peaks) == PER_USER
        assert workers.witness.peak <= 6
        assert all(end["ran"] > 0 for end in ends)
        assert none_left(redis_nodes.owner("{isolane:lim:test}:g"), within=2 * TTL)
        found(f"{sum(workers.witness.admitted)} runs, 0 over")


@pytest.mark.parametrize(
    ("fail", "limit", "most"), [("local", 2, 3), ("local", 6, 6), ("open", 2, 6), ("closed", 2, 0)]
)
def test_what_runs_while_redis_is_away_is_what_the_limit_says(fresh_redis, tmp_path, found, fail, limit, most):
    with Workers(tmp_path, fresh_redis.url, 3, 1, per_user=limit, fail=fail, timeout=0.5, tasks=16, **SHORT) as workers:
        all_three = workers.start(3)
        workers.until(lambda: any(workers.witness.admitted), "something runs")
        # Each has heard of the others, which takes a beat of 3 s and a look each second.
        time.sleep(6)
        fresh_redis.kill()
        for worker in all_three:
            while worker.expect("mode") != fail:
                pass
        time.sleep(TTL)
        workers.until(lambda: workers.witness.now(0) <= most, "what was held before has ended")
        workers.witness.forget_peaks()
        before = sum(workers.witness.admitted)
        time.sleep(3)
        ran = sum(workers.witness.admitted) - before
        peak = max(workers.witness.peaks)
        assert peak <= most
        assert bool(ran) == (most > 0)
        fresh_redis.start()
        for worker in all_three:
            while worker.expect("mode") != "whole":
                pass
        before = sum(workers.witness.admitted)
        workers.until(lambda: sum(workers.witness.admitted) > before + 10, "it goes on")
        ends = ended(workers)
        assert max(end["longest"] for end in ends) < 30
    found(f"{peak} at once of {most} that may")


async def cancelled_at_random(acquire, release, many: int, window: float = 0.006) -> int:
    """Ask for places, and cancel at any moment: before, while, and after. Returns how many got one."""
    draw = random.Random(11)
    got = 0

    async def one() -> None:
        nonlocal got
        held = await acquire(f"user-{draw.randrange(10)}")
        got += 1
        try:
            await asyncio.sleep(draw.uniform(0, 0.004))
        finally:
            await release(held)

    def check(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        assert error is None or isinstance(error, (LimitRejected, LimitTimeout)), repr(error)

    running: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    for _ in range(many):
        task = asyncio.create_task(one())
        running.add(task)
        loop.call_later(draw.uniform(0, window), task.cancel)
        if len(running) >= AT_ONCE:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for done in [task for task in running if task.done()]:
                running.discard(done)
                check(done)
    for task in running:
        await asyncio.wait([task])
        check(task)
    return got


async def test_nine_thousand_cancelled_acquisitions_leave_no_lease(clean_redis, rounds, found):
    many = rounds(9_000)
    plane = Plane(clean_redis.url)
    limits = ClusterLimits(ttl=600, renew=200)
    limiter = FairLimiter(50, 5)
    limits.share(limiter, "test")
    plane.add(limits)
    await plane.start()
    try:

        async def acquire(user: str):
            return await limiter.acquire(user)

        async def release(permit) -> None:
            permit.release()

        got = await cancelled_at_random(acquire, release, many)
        assert limiter.stats()["running"] == 0
        await asyncio.sleep(1)
        until = time.monotonic() + 30
        while leases_left(clean_redis) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert leases_left(clean_redis) == 0
        assert 0 < got < many, "some were cancelled before, and some after"
        found(f"{got} of {many} had a place when they were cancelled; 0 leases left")
    finally:
        await plane.stop()


# Cancelled while it connects or reads, it also leaves sockets.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_naive_client_leaves_leases(clean_redis, found):
    """The positive control: one command to take, one to give back, as everybody writes it."""
    pool = ConnectionPool.from_url(clean_redis.url, max_connections=60)
    async with Redis(connection_pool=pool) as client:
        scripts = {name: client.register_script(text) for name, text in lease_scripts().items()}

        def keys(user: str) -> list[str]:
            return [f"{{isolane:lim:test}}:{end}" for end in (f"u:{user}", "g", "fence")]

        async def acquire(user: str):
            lease = secrets.token_bytes(16)
            ((granted, *_),) = await scripts["acquire"](keys(user), [600_000, 5, -1, lease])
            if not granted:
                raise LimitTimeout("full", "user")
            return user, lease

        async def release(held) -> None:
            user, lease = held
            await scripts["release"](keys(user), [600_000, 5, -1, lease])

        await cancelled_at_random(acquire, release, 600, 0.06)
    await pool.aclose()
    gc.collect()
    assert leases_left(clean_redis) > 0
    found(f"{leases_left(clean_redis)} leases left of 600 operations")
