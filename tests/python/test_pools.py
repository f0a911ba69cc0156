"""Pools: admission over the user's limit and the pools', its ends, sizes by use, and the figures of all of it."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
from typing import Any

import isolane
import pytest
from isolane import LimitRejected, LimitTimeout, PoolUnavailableError, ResourcePoolManager
from isolane.testing import manual_clock


def nothing_is_left(pools: ResourcePoolManager) -> bool:
    records = [*pools.statistics().values(), *pools.get_usage_patterns().values()]
    return all((record.in_use, record.waiting) == (0, 0) for record in records)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def hold(pools: ResourcePoolManager, user: str, *names: str, until: asyncio.Event, **options: Any) -> None:
    async with pools.connection(user, *names, **options):
        await until.wait()


# -- admission ---------------------------------------------------------------------------------------------------------


async def test_the_defaults_are_those_of_the_design():
    pools = ResourcePoolManager()
    assert {name: record.limit for name, record in pools.statistics().items()} == {
        "database": 50,
        "redis": 20,
        "llm": 10,
        "http": 30,
    }
    pool = await pools.get_user_pool("ann")
    assert (pool.max_connections, pool.connection_timeout, pools.min_per_user, pools.max_per_user) == (3, 1.0, 1, 5)


async def test_a_user_has_so_many_at_once_over_all_pools():
    pools = ResourcePoolManager({"database": 9, "http": 9}, per_user=2)
    async with pools.connection("ann", "database"), pools.connection("ann", "http"):
        with pytest.raises(LimitTimeout) as caught:
            await pools.connection("ann", "http", timeout=0)
        assert caught.value.limit == "user"
        async with pools.connection("ben", "http"):
            assert pools.statistics()["http"].in_use == 2
    assert nothing_is_left(pools)


async def test_a_pool_has_so_many_for_all_users():
    pools = ResourcePoolManager({"database": 1, "http": 1})
    async with pools.connection("ann", "database"):
        with pytest.raises(LimitTimeout) as caught:
            await pools.connection("ben", "database", timeout=0)
        assert caught.value.limit == "global"
        assert caught.value.retry_after >= 1
        async with pools.connection("ben", "http"):
            pass
    assert nothing_is_left(pools)


async def test_several_pools_are_granted_together_or_not_at_all():
    pools = ResourcePoolManager({"database": 1, "http": 1})
    release = asyncio.Event()
    holder = asyncio.create_task(hold(pools, "ann", "http", until=release))
    await turns()
    both = asyncio.create_task(hold(pools, "ben", "database", "http", until=release, timeout=30))
    await turns()
    async with pools.connection("cho", "database", timeout=0.05):
        pass
    assert not both.done()
    release.set()
    await asyncio.gather(holder, both)
    assert pools.user_statistics("ben").granted == 1
    assert nothing_is_left(pools)


async def test_users_take_turns():
    pools = ResourcePoolManager({"database": 1}, per_user=1, connection_timeout=30)
    order: list[str] = []

    async def use(user: str) -> None:
        async with pools.connection(user, "database"):
            order.append(user)
            await turns(1)

    first = await pools.connection("zoe", "database")
    tasks = [asyncio.create_task(use("ann")) for _ in range(10)]
    await turns()
    tasks.append(asyncio.create_task(use("ben")))
    await turns()
    first.release()
    await asyncio.gather(*tasks)
    assert order.index("ben") <= 2
    assert nothing_is_left(pools)


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        ((), {}, "name one pool"),
        (("database", "database"), {}, "several different ones"),
        (("files",), {}, "there is no pool 'files'; there are: database, redis, llm, http"),
        (("database",), {"timeout": -1}, "0 or more seconds"),
        (("database",), {"timeout": float("nan")}, "0 or more seconds"),
        (("database",), {"priority": 5}, "1, 2, 3 or 4"),
    ],
)
def test_what_is_asked_for_is_checked(names, options, text):
    with pytest.raises(ValueError, match=text):
        ResourcePoolManager().connection("ann", *names, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pools": {}}, "name at least one pool"),
        ({"pools": {"database": 0}}, "a whole number of at least 1"),
        ({"pools": {"database": 1.5}}, "a whole number of at least 1"),
        ({"per_user": 6}, "between min_per_user"),
        ({"per_user": 0}, "between min_per_user"),
        ({"connection_timeout": 0}, "connection_timeout is 0: it must be more than 0"),
        ({"close_timeout": float("inf")}, "more than 0 seconds"),
        ({"max_users": 0}, "at least 1"),
    ],
)
def test_options_are_checked(options, text):
    with pytest.raises(ValueError, match=text):
        ResourcePoolManager(**options)


async def test_a_context_stands_for_its_user_and_ids_are_checked(new_context):
    pools = ResourcePoolManager()
    ctx = new_context("ann-of-pools")
    async with pools.connection(ctx, "database") as lease, pools.connection(ctx.create_child_context("x"), "http"):
        assert lease.user_id == "ann-of-pools"
        assert pools.user_statistics(ctx).in_use == 2
    async with pools.connection(" ann-of-pools ", "http"):
        assert pools.user_statistics("ann-of-pools").in_use == 1
    with pytest.raises(isolane.InvalidContextError):
        await pools.connection("default", "database")
    for wrong in (None, 7, b"ann"):
        with pytest.raises((TypeError, isolane.InvalidContextError)):
            await pools.connection(wrong, "database")
    assert nothing_is_left(pools)


# -- the ends of a lease -----------------------------------------------------------------------------------------------


async def test_a_lease_is_returned_once():
    pools = ResourcePoolManager({"database": 1})
    lease = await pools.connection("ann", "database")
    assert lease.held
    assert repr(lease) == "<Lease of database, held>"
    assert lease.release() is True
    assert lease.release() is False
    with await pools.connection("ben", "database"):
        assert lease.release() is False
        assert pools.statistics()["database"].in_use == 1
    assert nothing_is_left(pools)


async def test_what_a_block_raises_is_its_own():
    pools = ResourcePoolManager({"database": 1})
    with pytest.raises(TimeoutError, match="the body's own") as caught:
        async with pools.connection("ann", "database"):
            raise TimeoutError("the body's own")
    assert not isinstance(caught.value, LimitTimeout)
    assert pools.statistics()["database"].timeouts == 0
    assert nothing_is_left(pools)


async def test_a_block_is_for_one_at_a_time_and_may_be_used_again():
    pools = ResourcePoolManager({"database": 2})
    block = pools.connection("ann", "database")
    async with block:
        with pytest.raises(RuntimeError, match=r"call pools\.connection\(\) for each block"):
            async with block:
                pass
    async with block:
        pass
    assert nothing_is_left(pools)


async def test_a_dropped_lease_returns_itself_and_is_counted():
    pools = ResourcePoolManager({"database": 1})
    lease = await pools.connection("ann", "database")
    cycle: list[Any] = [lease]
    cycle.append(cycle)
    with pytest.warns(ResourceWarning, match="a lease of .*database.* was never released"):  # noqa: PT031
        del lease, cycle
        gc.collect()
    async with pools.connection("ben", "database", timeout=0):
        pass
    assert pools.statistics()["database"].collected == 1
    assert pools.user_statistics("ann").collected == 1
    assert nothing_is_left(pools)


async def test_what_is_never_awaited_takes_nothing():
    pools = ResourcePoolManager({"database": 1})
    pools.connection("ann", "database")
    entering = pools.connection("ann", "database").__aenter__()
    entering.close()
    task = asyncio.create_task(hold(pools, "ann", "database", until=asyncio.Event()))
    task.cancel()  # before its first step
    await asyncio.wait({task})
    assert pools.statistics()["database"].granted == 0
    assert nothing_is_left(pools)


async def test_cancelled_while_it_waits_or_as_it_is_granted_it_leaves_nothing():
    pools = ResourcePoolManager({"database": 1}, connection_timeout=30)
    for together in (False, True):
        lease = await pools.connection("ann", "database")
        task = asyncio.create_task(hold(pools, "ben", "database", until=asyncio.Event()))
        await turns()
        assert pools.statistics()["database"].waiting == 1
        if together:
            lease.release()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        lease.release()
        async with pools.connection("cho", "database", timeout=0):
            pass
        assert nothing_is_left(pools)
    assert pools.user_statistics("ben").cancelled >= 1


async def test_a_waiting_coroutine_that_is_collected_leaves_nothing():
    pools = ResourcePoolManager({"database": 1}, connection_timeout=30)
    lease = await pools.connection("ann", "database")
    waiting = pools.connection("ben", "database").__aenter__()
    waiting.send(None)
    assert pools.statistics()["database"].waiting == 1
    del waiting
    gc.collect()
    assert pools.statistics()["database"].waiting == 0
    lease.release()
    await (cho := pools.connection("cho", "database", timeout=0)).__aenter__()
    await cho.__aexit__(None, None, None)
    assert nothing_is_left(pools)


async def test_twenty_users_hammer_the_pools_and_nothing_is_left():
    pools = ResourcePoolManager({"database": 5, "redis": 3, "http": 4}, connection_timeout=30)
    choices = [("database",), ("redis",), ("http",), ("database", "http"), ("redis", "database", "http")]

    async def request(user: int, number: int) -> None:
        with contextlib.suppress(LimitTimeout, TimeoutError):
            async with asyncio.timeout(0.002 if number % 5 == 4 else 30):
                timeout = 0.001 if number % 7 == 6 else None
                async with pools.connection(f"user-{user}", *choices[(user + number) % 5], timeout=timeout):
                    for name, record in pools.statistics().items():
                        assert record.in_use <= record.limit, name
                    assert pools.user_statistics(f"user-{user}").in_use <= 3
                    await turns(number % 4)

    await asyncio.gather(*(request(user, number) for user in range(20) for number in range(30)))
    assert nothing_is_left(pools)
    for record in pools.statistics().values():
        assert 0 < record.peak <= record.limit
    asked = sum(
        record.granted + record.timeouts + record.cancelled + record.refused
        for record in pools.get_usage_patterns().values()
    )
    assert asked <= 600


# -- binding anything --------------------------------------------------------------------------------------------------


class Things:
    """What an application may bind: it counts what happens, and can be told to fail or to wait."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: set[str] = set()

    async def open(self) -> str:
        self.log.append("open")
        await self.gate.wait()
        if "open" in self.fails:
            raise KeyError("open")
        return "thing"

    async def close(self, thing: str) -> None:
        self.log.append("close")
        await self.gate.wait()
        if "close" in self.fails:
            raise KeyError("close")

    def discard(self, thing: str) -> None:
        self.log.append("discard")
        if "discard" in self.fails:
            raise KeyError("discard")

    def bind(self, pools: ResourcePoolManager, **options: Any) -> Any:
        return pools.bind("ann", "llm", self.open, self.close, discard=self.discard, **options)


async def test_anything_is_opened_after_admission_and_closed_before_it_is_returned():
    pools, things = ResourcePoolManager({"llm": 1}), Things()
    async with things.bind(pools) as thing:
        assert thing == "thing"
        assert pools.statistics()["llm"].in_use == 1
    assert things.log == ["open", "close"]
    assert nothing_is_left(pools)


def test_what_is_left_open_when_its_loop_is_gone_is_discarded():
    pools, things = ResourcePoolManager({"llm": 1}), Things()
    kept: list[Any] = []

    async def use() -> None:
        async with things.bind(pools):
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        coroutine = use()
        waits_for = coroutine.send(None)
        while things.log != ["open"] or not waits_for.done():
            await asyncio.sleep(0)
        waits_for._asyncio_future_blocking = False
        coroutine.send(None)
        kept.append(coroutine)

    asyncio.run(main())
    assert pools.statistics()["llm"].in_use == 1
    kept.clear()
    gc.collect()
    assert things.log == ["open", "discard"]
    assert nothing_is_left(pools)


async def test_what_fails_to_open_returns_the_admission():
    pools, things = ResourcePoolManager({"llm": 1}), Things()
    things.fails = {"open"}
    with pytest.raises(KeyError, match="open"):
        async with things.bind(pools):
            pass
    assert nothing_is_left(pools)


async def test_what_fails_to_close_is_discarded_and_said(caplog):
    pools, things = ResourcePoolManager({"llm": 1}), Things()
    things.fails = {"close"}
    with pytest.raises(KeyError, match="close"):
        async with things.bind(pools):
            pass
    with pytest.raises(ValueError, match="the body's own"):
        async with things.bind(pools):
            raise ValueError("the body's own")
    assert "a connection could not be closed" in caplog.text
    things.fails.add("discard")
    with pytest.raises(KeyError, match="close"):
        async with things.bind(pools):
            pass
    assert "a connection could not be discarded" in caplog.text
    assert things.log == ["open", "close", "discard"] * 3
    assert nothing_is_left(pools)


async def test_what_does_not_close_in_time_is_discarded():
    pools, things = ResourcePoolManager({"llm": 1}, close_timeout=0.02), Things()
    with pytest.raises(TimeoutError):
        async with things.bind(pools):
            things.gate.clear()
    assert things.log == ["open", "close", "discard"]
    assert nothing_is_left(pools)


async def test_what_opens_too_late_is_closed_for_nobody():
    pools, things = ResourcePoolManager({"llm": 1}), Things()
    things.gate.clear()
    with pytest.raises(LimitTimeout, match="gave no connection in time"):
        async with things.bind(pools, timeout=0.02):
            pass
    assert pools.statistics()["llm"].in_use == 1
    things.gate.set()
    await pools.close()
    assert things.log == ["open", "close"]
    assert nothing_is_left(pools)


async def test_what_never_opens_is_given_up():
    pools, things = ResourcePoolManager({"llm": 1}, close_timeout=0.02), Things()
    things.gate.clear()
    task = asyncio.create_task(things.bind(pools).__aenter__())
    await turns()
    task.cancel()
    await asyncio.wait({task})
    await pools.close()
    assert things.log == ["open"]
    assert nothing_is_left(pools)


# -- sizes by use ------------------------------------------------------------------------------------------------------


async def test_a_busy_user_grows_up_to_five_and_a_quiet_one_shrinks_to_one():
    with manual_clock() as clock:
        pools = ResourcePoolManager({"database": 50}, connection_timeout=1_000)
        release = asyncio.Event()
        busy = [asyncio.create_task(hold(pools, "ann", "database", until=release)) for _ in range(7)]
        steady = [asyncio.create_task(hold(pools, "ben", "database", until=release)) for _ in range(2)]
        async with pools.connection("cho", "database"):
            clock.advance(1)
        await turns()
        assert pools.user_statistics("ann").in_use == 3
        clock.advance(20)
        assert await pools.optimize_pool_sizes() == {"ann": 5, "cho": 1}
        ann, ben, cho = [await pools.get_user_pool(user) for user in ("ann", "ben", "cho")]
        assert (ann.max_connections, ben.max_connections, cho.max_connections) == (5, 3, 1)
        assert 6 < ann.stats.average_concurrent <= 7
        assert 1.9 < ben.stats.average_concurrent <= 2
        assert await pools.optimize_pool_sizes() == {}
        release.set()
        await asyncio.gather(*busy, *steady)
        assert ann.in_use == 0
        assert nothing_is_left(pools)


async def test_the_average_is_one_over_time_and_forgets():
    with manual_clock() as clock:
        pools = ResourcePoolManager({"database": 9}, window=60)
        for _ in range(30):
            async with pools.connection("ann", "database"):
                clock.advance(0.5)
            clock.advance(0.5)
        assert pools.user_statistics("ann").average_concurrent == pytest.approx(0.5, abs=0.02)
        async with pools.connection("ann", "database"), pools.connection("ann", "database"):
            clock.advance(61)
            assert pools.user_statistics("ann").average_concurrent == pytest.approx(2, abs=0.05)
        clock.advance(600)
        assert pools.user_statistics("ann").average_concurrent == 0
        # A long quiet time counts no more than the window.
        async with pools.connection("ann", "database"), pools.connection("ann", "database"):
            clock.advance(20)
            assert 0.75 < pools.user_statistics("ann").average_concurrent < 1.0


async def test_a_user_who_was_shrunk_grows_with_demand():
    with manual_clock() as clock:
        pools = ResourcePoolManager({"database": 9}, connection_timeout=1_000)
        pool = await pools.get_user_pool("ann")
        assert await pool.reduce_capacity(0.3) == 1
        release = asyncio.Event()
        tasks = [asyncio.create_task(hold(pools, "ann", "database", until=release)) for _ in range(2)]
        await turns()
        assert pool.in_use == 1
        clock.advance(60)
        assert await pools.optimize_pool_sizes() == {"ann": 2}
        release.set()
        await asyncio.gather(*tasks)


async def test_with_an_interval_a_user_who_asks_is_fitted_by_the_way():
    with manual_clock() as clock:
        pools = ResourcePoolManager({"database": 9}, optimize_interval=10)
        for seconds in (9, 2):
            assert (await pools.get_user_pool("ann")).max_connections == 3
            async with pools.connection("ann", "database"):
                pass
            clock.advance(seconds)
        async with pools.connection("ann", "database"):
            assert (await pools.get_user_pool("ann")).max_connections == 1
        assert len(asyncio.all_tasks()) == 1


async def test_capacities_are_whole_and_within_bounds():
    pools = ResourcePoolManager({"database": 9})
    pool = await pools.get_user_pool("ann")
    assert await pool.increase_capacity(2) == 3
    assert await pool.increase_capacity(3.2) == 4
    assert await pool.increase_capacity(99) == 5
    assert await pool.reduce_capacity(99) == 5
    assert await pool.reduce_capacity(1.5) == 2
    assert await pool.reduce_capacity(0) == 1
    with pytest.raises(ValueError, match="a number of connections"):
        await pool.increase_capacity(float("nan"))
    leases = [await pools.connection("ann", "database")]
    with pytest.raises(LimitTimeout):
        await pools.connection("ann", "database", timeout=0)
    await pool.increase_capacity(2)
    leases.append(await pools.connection("ann", "database", timeout=0))
    for lease in leases:
        lease.release()
    assert repr(pool) == "<UserResourcePool 0/2 in use, 0 waiting>"


async def test_a_pool_that_grows_lets_the_waiting_in_and_one_that_shrinks_takes_nothing_back():
    pools = ResourcePoolManager({"database": 1}, connection_timeout=30)
    release = asyncio.Event()
    tasks = [asyncio.create_task(hold(pools, user, "database", until=release)) for user in ("ann", "ben")]
    await turns()
    assert pools.statistics()["database"].in_use == 1
    pools.set_pool_size("database", 2)
    await turns()
    assert pools.statistics()["database"].in_use == 2
    pools.set_pool_size("database", 1)
    record = pools.statistics()["database"]
    assert (record.in_use, record.limit, record.utilization) == (2, 1, 2.0)
    with pytest.raises(LimitTimeout):
        await pools.connection("cho", "database", timeout=0)
    release.set()
    await asyncio.gather(*tasks)
    with pytest.raises(ValueError, match="at least 1"):
        pools.set_pool_size("database", 0)


# -- users come and go -------------------------------------------------------------------------------------------------


async def test_users_who_are_idle_are_forgotten_and_those_who_hold_are_not():
    with manual_clock() as clock:
        pools = ResourcePoolManager({"database": 50}, idle=300)
        lease = await pools.connection("ann", "database")
        async with pools.connection("ben", "database"):
            pass
        view = await pools.get_user_pool("ben")
        await view.increase_capacity(5)
        clock.advance(301)
        async with pools.connection("cho", "database"):
            pass
        assert set(pools.get_usage_patterns()) == {"ann", "cho"} or set(pools.get_usage_patterns()) == {
            "ann",
            "ben",
            "cho",
        }
        assert pools.evict(300) in (0, 1)
        assert set(pools.get_usage_patterns()) == {"ann", "cho"}
        assert view.max_connections == 3, "what was set for somebody who is gone is gone"
        lease.release()
        assert pools.evict() == 2
        assert pools.statistics()["database"].granted == 3


async def test_there_is_a_bound_of_users():
    pools = ResourcePoolManager({"database": 50}, max_users=10)
    lease = await pools.connection("ann", "database")
    for number in range(100):
        async with pools.connection(f"user-{number}", "database"):
            pass
    assert len(pools.get_usage_patterns()) <= 11
    assert pools.user_statistics("ann").in_use == 1
    lease.release()
    assert pools.statistics()["database"].granted == 101


# -- figures -----------------------------------------------------------------------------------------------------------


async def test_the_figures_say_what_happened():
    with manual_clock() as clock:
        pools = ResourcePoolManager({"database": 1}, connection_timeout=1_000, per_user_queue=1)
        lease = await pools.connection("ann", "database")
        release = asyncio.Event()
        waiting = asyncio.create_task(hold(pools, "ben", "database", until=release))
        await turns()
        with pytest.raises(LimitRejected):
            await pools.connection("ben", "database")
        clock.advance(3)
        record = pools.statistics()["database"]
        assert (record.in_use, record.waiting, record.granted, record.refused) == (1, 1, 1, 1)
        lease.release()
        await turns()
        record = pools.statistics()["database"]
        assert (record.in_use, record.waiting, record.granted, record.peak) == (1, 0, 2, 1)
        assert (record.wait_p50, record.wait_p99) == (0.0, pytest.approx(3.0))
        assert pools.user_statistics("ben").wait_p50 == pytest.approx(3.0)
        release.set()
        await waiting
        with pytest.raises(AttributeError):
            record.in_use = 7
        assert pools.user_statistics("nobody").granted == 0
        assert repr(pools) == "<ResourcePoolManager database 0/1>"


async def test_the_least_used_of_several_backends_is_found():
    pools = ResourcePoolManager({"east": 4, "west": 2})
    assert pools.least_used("east", "west") == "east"
    async with pools.connection("ann", "east"):
        assert pools.least_used("east", "west") == "west"
        async with pools.connection("ann", "west"):
            assert pools.least_used("east", "west") == "east"

    async def down() -> bool:
        return False

    pools.register_health_check("east", down, failures=1)
    await pools.check_health("east")
    async with pools.connection("ann", "west"):
        assert pools.least_used("east", "west") == "west"
    assert pools.least_used("east") == "east"
    with pytest.raises(ValueError, match="name the pools"):
        pools.least_used()


# -- health ------------------------------------------------------------------------------------------------------------


class Backend:
    """What a health check looks at."""

    def __init__(self) -> None:
        self.up = True
        self.checks = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def check(self) -> None:
        self.checks += 1
        await self.gate.wait()
        if not self.up:
            raise ConnectionError("of somebody's data")


async def test_checks_run_when_the_pool_is_used_and_at_most_so_often():
    with manual_clock() as clock:
        pools, backend = ResourcePoolManager({"database": 9, "http": 9}, health_check_interval=30), Backend()
        pools.register_health_check("database", backend.check)
        assert pools.health()["database"].state == "unchecked"
        await turns()
        assert backend.checks == 0, "it was checked without use"
        for _ in range(5):
            async with pools.connection("ann", "database"), pools.connection("ann", "http"):
                await turns(5)
        assert backend.checks == 1
        assert pools.health()["database"].state == "healthy"
        clock.advance(29)
        async with pools.connection("ann", "database"):
            await turns(5)
        assert backend.checks == 1
        clock.advance(2)
        async with pools.connection("ann", "database"):
            await turns(5)
        assert backend.checks == 2


async def test_no_request_waits_for_a_check_and_one_check_runs_at_a_time():
    pools, backend = ResourcePoolManager({"database": 9}), Backend()
    backend.gate.clear()
    pools.register_health_check("database", backend.check)
    for _ in range(3):
        async with pools.connection("ann", "database", timeout=0):
            await turns()
    assert backend.checks == 1
    waiting = [asyncio.create_task(pools.check_health()) for _ in range(3)]
    await turns()
    waiting[0].cancel()
    await turns()
    backend.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1]["database"].state == "healthy"
    assert backend.checks == 1
    await pools.close()


async def test_a_pool_whose_checks_fail_refuses_at_once_and_comes_back(caplog):
    with manual_clock() as clock:
        pools, backend = ResourcePoolManager({"database": 9, "http": 9}, health_retry=5), Backend()
        pools.register_health_check("database", backend.check, failures=2)
        backend.up = False
        await pools.check_health("database")
        async with pools.connection("ann", "database"):
            pass  # one failure is none
        health = (await pools.check_health("database"))["database"]
        assert (health.state, health.failures, health.last_error) == ("unhealthy", 2, "ConnectionError")
        with pytest.raises(PoolUnavailableError, match=r"pool 'database' is unhealthy: .* 2 times in a row") as caught:
            await pools.connection("ann", "database")
        assert (caught.value.limit, caught.value.retry_after, caught.value.resource) == ("global", 5, "database")
        assert isinstance(caught.value, LimitRejected)
        assert caught.value.reason == "unhealthy"
        assert "somebody" not in str(caught.value)
        assert "somebody" not in caplog.text
        async with pools.connection("ann", "http"):
            pass
        assert pools.statistics()["database"].refused == 1

        clock.advance(6)
        backend.gate.clear()
        checks = backend.checks
        for _ in range(3):
            with pytest.raises(PoolUnavailableError):
                await pools.connection("ann", "database")
            await turns()
        assert backend.checks == checks + 1, "one probe"
        assert pools.health()["database"].state == "probing"
        backend.up = True
        backend.gate.set()
        await turns(5)
        assert pools.health()["database"].state == "healthy"
        async with pools.connection("ann", "database"):
            pass
        assert "is healthy again" in caplog.text
        assert nothing_is_left(pools)


async def test_a_check_that_hangs_or_says_no_has_failed():
    pools, backend = ResourcePoolManager({"database": 9, "http": 9}), Backend()
    backend.gate.clear()
    pools.register_health_check("database", backend.check, failures=1, timeout=0.01)
    assert (await pools.check_health("database"))["database"].last_error == "TimeoutError"

    async def no() -> bool:
        return False

    pools.register_health_check("http", no, failures=1)
    assert (await pools.check_health())["http"].last_error == "returned False"
    for wrong in ({"failures": 0}, {"timeout": 0}):
        with pytest.raises(ValueError, match="at least 1, and more than 0 seconds"):
            pools.register_health_check("http", no, **wrong)
    with pytest.raises(ValueError, match="there is no pool"):
        pools.register_health_check("files", no)


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_closed_manager_waits_for_those_that_hold_and_refuses_the_rest():
    pools = ResourcePoolManager({"database": 1}, connection_timeout=30)
    lease = await pools.connection("ann", "database")
    waiting = asyncio.create_task(hold(pools, "ben", "database", until=asyncio.Event()))
    await turns()
    closing = asyncio.create_task(pools.close(drain=30))
    await turns()
    with pytest.raises(PoolUnavailableError, match="the pools are closed") as caught:
        await pools.connection("cho", "database")
    assert caught.value.reason == "closed"
    assert not closing.done()
    lease.release()
    assert await closing == 0
    with pytest.raises(PoolUnavailableError):
        await waiting
    assert pools.closed
    assert await pools.close() == 0
    assert nothing_is_left(pools)


async def test_closing_ends_by_force_what_does_not_end_by_itself():
    things = Things()
    async with ResourcePoolManager({"llm": 2, "http": 2}) as pools:
        bound = things.bind(pools)
        await bound.__aenter__()
        bare = await pools.connection("ann", "http")
        backend = Backend()
        backend.gate.clear()
        pools.register_health_check("http", backend.check)
        async with pools.connection("ann", "http"):
            await turns()
        assert await pools.close(drain=0.01) == 2
        assert things.log == ["open", "discard"]
        await bound.__aexit__(None, None, None)
        assert things.log == ["open", "discard"]
        bare.release()
    assert nothing_is_left(pools)
    assert len(asyncio.all_tasks()) == 1


# -- threads and loops -------------------------------------------------------------------------------------------------


def test_threads_share_the_pools():
    pools = ResourcePoolManager({"database": 2}, connection_timeout=30)
    inside, most, errors = [0], [0], []
    lock = threading.Lock()

    def use(user: str) -> None:
        try:
            for _ in range(20):
                with pools.connection(user, "database"):
                    with lock:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    with lock:
                        inside[0] -= 1
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=use, args=(f"user-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert most[0] <= 2
    assert pools.statistics()["database"].granted == 160
    assert nothing_is_left(pools)


async def test_a_thread_and_a_loop_wait_for_each_other():
    pools = ResourcePoolManager({"database": 1}, connection_timeout=30)
    lease = await pools.connection("ann", "database")

    def use() -> str:
        with pools.connection("ben", "database") as mine:
            return mine.user_id

    waiting = asyncio.create_task(asyncio.to_thread(use))
    async with asyncio.timeout(10):
        while pools.statistics()["database"].waiting == 0:
            await asyncio.sleep(0.001)
    lease.release()
    assert await waiting == "ben"
    with pytest.raises(RuntimeError, match="would stop the event loop"), pools.connection("ann", "database"):
        pass
    assert nothing_is_left(pools)


AFTER_A_FORK = """
import asyncio, gc, os, sys
from isolane import ForkedProcessError, ResourcePoolManager

pools = ResourcePoolManager({"database": 2})
lease = pools.connection("ann", "database").__enter__()
pools._accounts._lock._lock.acquire()  # as another thread may have had it
if os.fork() == 0:
    sys.unraisablehook = lambda unraisable: os._exit(9)
    async def ask():
        await pools.connection("ann", "database")
    for use in (lambda: asyncio.run(ask()), pools.statistics, lambda: pools.user_statistics("ann"), lease.release):
        try:
            use()
        except ForkedProcessError:
            continue
        os._exit(8)
    del lease
    gc.collect()
    fresh = ResourcePoolManager({"database": 1})
    with fresh.connection("ann", "database"):
        os._exit(0)
pools._accounts._lock._lock.release()
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert lease.held and pools.statistics()["database"].in_use == 1
assert lease.release()
"""


def test_after_a_fork_the_child_uses_and_returns_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AFTER_A_FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
