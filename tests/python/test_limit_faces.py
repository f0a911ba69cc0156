"""Semaphores by the names of the second design document: what they do, over the limiter that decides."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import gc
import random

import isolane
import pytest
from isolane import (
    AdaptiveController,
    AdaptiveSemaphore,
    InvalidContextError,
    LimitRejected,
    LimitTimeout,
    OptimizedSemaphoreManager,
    ResourceTimeoutError,
    SemaphoreStats,
    SemaphoreStatsCollector,
    UserSemaphoreManager,
)
from isolane.limits import nesting

from tests.support.virtual_time import in_virtual_time


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def idle(manager) -> bool:
    stats = manager.stats_collector
    return (stats.current_holders, stats.waiting, stats.leaked_count) == (0, 0, 0)


# -- OptimizedSemaphoreManager -----------------------------------------------------------------------------------------


async def test_slots_are_ten_in_all_and_five_a_user():
    manager, over = OptimizedSemaphoreManager(), asyncio.Event()

    async def hold(user: str) -> None:
        async with manager.acquire_execution_slot(user, 1, 0) as permit:
            assert permit.held
            await over.wait()

    held = [asyncio.create_task(hold("ann")) for _ in range(5)]
    await turns()
    with pytest.raises(ResourceTimeoutError) as caught:
        await hold("ann")
    assert (caught.value.limit, caught.value.running, caught.value.reason) == ("user", 5, "timeout")
    held += [asyncio.create_task(hold("ben")) for _ in range(5)]
    await turns()
    with pytest.raises(ResourceTimeoutError) as caught:
        await hold("cho")
    assert (caught.value.limit, caught.value.running) == ("global", 10)
    assert isinstance(caught.value, LimitTimeout)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value.__cause__, LimitTimeout)
    assert "cho" not in str(caught.value)
    over.set()
    await asyncio.gather(*held)
    assert idle(manager)


async def test_a_slot_that_is_refused_at_once_is_the_same_error_with_its_reason():
    manager = OptimizedSemaphoreManager(total=1, per_user=1)
    async with manager.acquire_execution_slot("ann"):
        waiting = [asyncio.ensure_future(manager.limiter.acquire("ben", timeout=60)) for _ in range(100)]
        await turns()
        with pytest.raises(ResourceTimeoutError) as caught:
            async with manager.acquire_execution_slot("ben"):
                pass
        assert (caught.value.reason, caught.value.limit) == ("queue", "user")
        assert isinstance(caught.value.__cause__, LimitRejected)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert idle(manager)


async def test_a_slot_serves_one_block_at_a_time_and_may_be_used_again():
    manager = OptimizedSemaphoreManager()
    slot = manager.acquire_execution_slot("ann")
    for _ in range(2):
        async with slot as permit:
            assert permit.held
            with pytest.raises(RuntimeError, match="one for each block"):
                async with slot:
                    pass
    assert idle(manager)


@pytest.mark.parametrize("priority", [0, 5])
async def test_priorities_are_one_to_four(priority):
    with pytest.raises(ValueError, match=r"1 \(most urgent\) to 4"):
        async with OptimizedSemaphoreManager().acquire_execution_slot("ann", priority):
            pass


async def test_users_are_checked_by_the_rule_of_contexts():
    with pytest.raises(InvalidContextError):
        OptimizedSemaphoreManager().acquire_execution_slot("default")


async def test_another_user_and_another_manager_inside_a_slot_borrow_nothing():
    manager, other = OptimizedSemaphoreManager(total=1, per_user=1), OptimizedSemaphoreManager(total=1, per_user=1)
    async with manager.acquire_execution_slot("ann"), other.acquire_execution_slot("ann"):
        with pytest.raises(ResourceTimeoutError):
            async with manager.acquire_execution_slot("ben", timeout=0):
                pass
        # Inside both, each borrows from its own.
        async with manager.acquire_execution_slot("ann", timeout=0), other.acquire_execution_slot("ann", timeout=0):
            assert manager.limiter.stats()["running"] == other.limiter.stats()["running"] == 1
    async with manager.acquire_execution_slot("ben", timeout=0):
        pass
    assert idle(manager)
    assert idle(other)


async def test_a_slot_after_another_is_not_inside_of_it():
    manager = OptimizedSemaphoreManager(total=1, per_user=1)
    async with manager.acquire_execution_slot("ann"):
        started = asyncio.Event()

        async def later() -> str:
            await started.wait()
            async with manager.acquire_execution_slot("ann", timeout=5):
                return "ran"

        task = asyncio.create_task(later())
    async with manager.acquire_execution_slot("ann") as permit:
        started.set()
        await turns()
        # The task began in the first block, which has ended: the permit of the second is not its to borrow.
        assert not task.done()
        assert permit.held
    assert await task == "ran"
    assert idle(manager)


async def test_a_task_that_outlives_its_slot_is_nested_in_it_no_longer():
    async def outcomes(start) -> collections.Counter[str]:
        manager, go, seen = OptimizedSemaphoreManager(), asyncio.Event(), collections.Counter()

        async def job() -> None:
            try:
                async with manager.acquire_execution_slot("ann", timeout=60):
                    seen["most"] = max(seen["most"], manager.limiter.stats("ann")["running"])
                    await turns(2)
                seen["ran"] += 1
            except LimitTimeout as error:
                seen[f"{error.limit} {error.reason}"] += 1

        async def many() -> None:
            await go.wait()
            await asyncio.gather(*(job() for _ in range(150)))

        task = await start(manager, many)
        go.set()
        await task
        assert idle(manager)
        return seen

    async def inside(manager, many) -> asyncio.Task[None]:
        async with manager.acquire_execution_slot("ann"):
            return asyncio.create_task(many())

    async def outside(_manager, many) -> asyncio.Task[None]:
        return asyncio.create_task(many())

    # The user's queue takes 100, whoever asks.
    assert await outcomes(outside) == {"ran": 105, "user queue": 45, "most": 5}
    assert await outcomes(inside) == await outcomes(outside)


async def test_a_task_that_outlives_an_inner_slot_is_nested_in_the_outer_one():
    manager, go = OptimizedSemaphoreManager(total=1, per_user=1), asyncio.Event()

    async def later() -> None:
        await go.wait()
        async with manager.acquire_execution_slot("ann", timeout=0):
            assert manager.limiter.stats()["running"] == 1

    async with manager.acquire_execution_slot("ann"):
        async with manager.acquire_execution_slot("ann"):
            task = asyncio.create_task(later())
        go.set()
        await task
    assert idle(manager)


async def test_slots_one_after_the_other_leave_no_trace():
    manager = OptimizedSemaphoreManager()
    for _ in range(50):
        async with manager.acquire_execution_slot("ann"):
            assert nesting._around.get().outer is None
        assert nesting._around.get() is None
    (semaphore,) = manager.user_semaphores.values()
    assert semaphore._held == {}


async def test_nesting_beyond_its_bound_is_refused_as_such():
    manager = OptimizedSemaphoreManager()

    async def nest(level: int) -> None:
        async with manager.acquire_execution_slot("ann", timeout=0):
            if level < 30:
                await nest(level + 1)

    with pytest.raises(ResourceTimeoutError) as caught:
        await nest(0)
    assert (caught.value.limit, caught.value.reason) == ("tree", "nesting")
    assert isinstance(caught.value.__cause__, LimitRejected)
    assert idle(manager)


@pytest.mark.parametrize("ticks", range(8))
async def test_a_slot_cancelled_at_any_tick_leaves_nothing(ticks):
    manager = OptimizedSemaphoreManager(total=1, per_user=1)
    held = manager.acquire_execution_slot("ann")
    await held.__aenter__()

    async def job() -> None:
        async with (
            manager.acquire_execution_slot("ben", timeout=5),
            manager.acquire_execution_slot("ben", timeout=5),
        ):
            await turns(3)

    task = asyncio.create_task(job())
    await turns(2)
    await held.__aexit__(None, None, None)
    await turns(ticks)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert idle(manager)
    assert not any(semaphore.in_use for semaphore in manager.user_semaphores.values())


async def test_a_slot_bound_to_a_response_is_held_after_its_block():
    manager = OptimizedSemaphoreManager()

    async def response(scope, receive, send) -> None:
        assert manager.limiter.stats()["running"] == 1

    async with manager.acquire_execution_slot("ann") as permit:
        bound = permit.bind(response)
    assert manager.limiter.stats()["running"] == 1
    await bound({}, None, None)
    assert idle(manager)


# -- UserSemaphoreManager ----------------------------------------------------------------------------------------------


async def test_a_users_semaphore_is_its_share_of_the_limiter():
    manager = UserSemaphoreManager(2, acquire_timeout=0.01, total=3)
    semaphore = manager.get_user_semaphore("ann")
    assert manager.get_user_semaphore("ann") is semaphore
    assert (semaphore.base_capacity, semaphore.current_capacity, semaphore.predict_optimal_capacity()) == (2, 2, 2)
    async with manager.acquire_with_timeout("ann"):
        assert await semaphore.acquire_adaptive()
        assert semaphore.locked()
        assert not await semaphore.acquire_adaptive(0)
        with pytest.raises(ResourceTimeoutError):
            await asyncio.create_task(manager.acquire_with_timeout("ann").__aenter__(), context=_empty())
        assert len(semaphore.holder_start_times) == 2
        assert semaphore.release_adaptive()
        # The other user has the rest.
        assert await manager.get_user_semaphore("ben").acquire_adaptive(0)
        assert await manager.get_user_semaphore("ben").acquire_adaptive(0)
        assert manager.get_user_semaphore("cho").locked()
        assert manager.release_user_semaphore("ben")
        assert manager.release_user_semaphore("ben")
        assert not manager.release_user_semaphore("ben")
    stats = manager.get_semaphore_stats("ann")
    assert (stats.total_acquisitions, stats.current_holders, stats.timeout_count) == (2, 0, 2)
    assert stats.success_rate == 0.5
    assert set(manager.semaphore_stats) == {"ann", "ben", "cho"}
    assert idle(manager)


def _empty():
    """A context without the slots around."""
    import contextvars  # noqa: PLC0415 - only here

    return contextvars.Context()


async def test_a_permit_returned_before_its_block_ends_is_returned_once():
    manager = UserSemaphoreManager(1)
    async with manager.acquire_with_timeout("ann") as permit:
        assert manager.release_user_semaphore("ann")
        assert not permit.held
        assert not manager.release_user_semaphore("ann")
    stats = manager.limiter.stats()
    assert (stats["granted"], stats["released"], stats["released_twice"]) == (1, 1, 0)


async def test_unused_semaphores_are_dropped_and_those_in_use_are_kept():
    manager = UserSemaphoreManager(1)
    held, waited = manager.get_user_semaphore("ann"), manager.get_user_semaphore("ben")
    assert await held.acquire_adaptive()
    assert await waited.acquire_adaptive()
    waiting = asyncio.create_task(waited.acquire_adaptive())
    await turns()
    for user in ("cho", "dot"):
        async with manager.acquire_with_timeout(user):
            pass
    assert manager.cleanup_unused_semaphores(idle=0) == 2
    assert manager.user_semaphores == {"ann": held, "ben": waited}
    assert manager.limiter.stats()["users"] == 2
    assert manager.stats_collector.total_acquisitions == 4
    assert (waited.waiting, len(waited.wait_queue), waited.wait_queue.qsize(), held.wait_queue.empty()) == (
        1,
        1,
        1,
        True,
    )
    assert waited.release_adaptive()
    assert await waiting
    assert waited.release_adaptive()
    assert held.release_adaptive()
    assert manager.cleanup_unused_semaphores(idle=0) == 2
    assert idle(manager)


async def test_users_limits_stay_and_the_limit_of_all_follows_its_controller():
    controller = AdaptiveController(initial=3, max=20)
    manager = UserSemaphoreManager(5, total=20, adaptive=controller)
    async with manager.acquire_with_timeout("ann"):
        pass
    assert manager.limiter.stats()["total"] == controller.limit == 3
    manager.optimize_semaphore_limits()
    assert manager.get_user_semaphore("ann").current_capacity == 5


def test_a_users_limit_follows_its_own_controller_only_when_that_was_asked_for():
    async def load(manager) -> int:
        semaphore = manager.get_user_semaphore("ann")

        async def job() -> None:
            async with manager.acquire_with_timeout("ann", 60):
                await asyncio.sleep(0)
                semaphore._controller and semaphore._controller.sample(1.0, 5, "dropped")

        for _ in range(100):
            await asyncio.gather(*(job() for _ in range(5)))
        manager.optimize_semaphore_limits()
        return semaphore.current_capacity

    assert asyncio.run(load(UserSemaphoreManager())) == 5
    manager = UserSemaphoreManager(adapt_users=True)
    assert asyncio.run(load(manager)) < 5
    # Its limit is its own again when its semaphore goes.
    assert manager.cleanup_unused_semaphores() == 1
    assert manager.limiter.stats("ann")["limit"] == 5


# -- AdaptiveSemaphore -------------------------------------------------------------------------------------------------


async def test_an_adaptive_semaphore_holds_its_capacity_and_never_grows_by_releases():
    semaphore = AdaptiveSemaphore(2, adaptation_enabled=False)
    assert semaphore.capacity_adjustment_factor == 0.5
    assert not semaphore.release_adaptive()
    assert [await semaphore.acquire_adaptive(0) for _ in range(3)] == [True, True, False]
    assert semaphore.locked()
    assert (semaphore.release_adaptive(), semaphore.release_adaptive(), semaphore.release_adaptive()) == (
        True,
        True,
        False,
    )
    assert not semaphore.locked()
    assert [await semaphore.acquire_adaptive(0) for _ in range(3)] == [True, True, False]
    assert semaphore.current_capacity == semaphore.base_capacity == semaphore.predict_optimal_capacity() == 2
    semaphore.adjust_capacity_based_on_load()
    assert semaphore.current_capacity == 2
    while semaphore.release_adaptive():
        pass


async def test_a_task_returns_its_own_and_a_stranger_the_oldest():
    semaphore = AdaptiveSemaphore(3, adaptation_enabled=False)
    done = asyncio.Event()

    async def other() -> None:
        await semaphore.acquire_adaptive()
        await done.wait()
        semaphore.release_adaptive()

    await semaphore.acquire_adaptive()
    task = asyncio.create_task(other())
    await turns()
    oldest, others = semaphore.holder_start_times
    semaphore.release_adaptive()
    assert list(semaphore.holder_start_times) == [others]
    await semaphore.acquire_adaptive()
    done.set()
    await task
    assert others not in semaphore.holder_start_times
    await asyncio.to_thread(semaphore.release_adaptive)
    assert semaphore.holder_start_times == {}
    assert oldest not in semaphore.holder_start_times


async def test_it_is_a_context_manager_and_first_in_first_out():
    semaphore, order = AdaptiveSemaphore(1, adaptation_enabled=False), []

    async def job(at: int) -> None:
        async with semaphore:
            order.append(at)
            await asyncio.sleep(0)

    await asyncio.gather(*(job(at) for at in range(20)))
    assert order == list(range(20))
    with pytest.raises(OSError):
        async with semaphore:
            raise OSError
    assert not semaphore.in_use


def backend(capacity: int, service: float, calls: int = 6_000) -> int:
    """A backend that takes ``capacity`` calls at once, under a load of more; answers what the semaphore settles on."""
    draw = random.Random(7)

    async def main() -> int:
        at_once, semaphore, left = asyncio.Semaphore(capacity), AdaptiveSemaphore(5), calls

        async def client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await semaphore.acquire_adaptive()
                async with at_once:
                    await asyncio.sleep(service * draw.uniform(0.5, 1.5))
                semaphore.release_adaptive()

        await asyncio.gather(*(client() for _ in range(60)))
        assert semaphore.current_capacity <= 64
        return semaphore.predict_optimal_capacity()

    return in_virtual_time(main, step=0.01, at_most=10_000)


@pytest.mark.parametrize("capacity", [3, 12])
def test_the_capacity_follows_what_the_backend_takes(capacity):
    assert 0.6 * capacity <= backend(capacity, 0.1) <= 2.0 * capacity


async def test_calls_that_fail_as_an_overloaded_backend_does_lower_the_capacity():
    ends = {}
    for outcome in ("dropped", "ignored"):
        semaphore = AdaptiveSemaphore(5)

        async def call(semaphore: AdaptiveSemaphore = semaphore, outcome: str = outcome) -> None:
            await semaphore.acquire_adaptive()
            await asyncio.sleep(0)
            semaphore.release_adaptive(outcome)

        for _ in range(60):
            await asyncio.gather(*(call() for _ in range(5)))
        ends[outcome] = semaphore.current_capacity
    assert ends["dropped"] < 5 == ends["ignored"]


def test_a_capacity_is_at_least_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        AdaptiveSemaphore(0)


async def test_a_cancelled_waiter_of_a_semaphore_leaves_nothing():
    semaphore = AdaptiveSemaphore(1)
    await semaphore.acquire_adaptive()
    waiting = asyncio.create_task(semaphore.acquire_adaptive())
    await turns()
    semaphore.release_adaptive()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not semaphore.in_use
    assert await semaphore.acquire_adaptive(0)
    semaphore.release_adaptive()


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_are_recorded_and_bounded():
    stats = SemaphoreStats()
    assert stats.success_rate == 1.0
    stats.record_release(1.0)
    assert (stats.current_holders, stats.avg_hold_time_ms) == (0, 0)
    for at in range(1, 101):
        stats.record_acquisition(at / 100)
    for hold in (0.1, 0.3):
        stats.record_release(hold)
    for _ in range(25):
        stats.record_timeout()
    assert (stats.total_acquisitions, stats.current_holders, stats.timeout_count) == (100, 98, 25)
    assert stats.success_rate == 0.8
    assert stats.avg_hold_time_ms == pytest.approx(200)
    assert stats.recent_wait_times == [at / 100 for at in range(37, 101)]
    metrics = stats.get_performance_metrics()
    # By nearest rank of the 64 values 0.37 … 1.00.
    assert metrics["p50_wait_ms"] == pytest.approx(680)
    assert metrics["p95_wait_ms"] == pytest.approx(970)
    assert metrics["p99_wait_ms"] == pytest.approx(1000)
    assert all(isinstance(value, float) for value in metrics.values())
    assert SemaphoreStats().get_performance_metrics()["avg_hold_ms"] == 0


def test_statistics_of_all_users_are_a_frozen_record():
    manager = OptimizedSemaphoreManager(total=1, per_user=1)

    async def main() -> None:
        async with manager.acquire_execution_slot("ann"):
            await asyncio.sleep(0.2)
        held = manager.limiter.slot_nowait("ben")
        with pytest.raises(ResourceTimeoutError):
            async with manager.acquire_execution_slot("ann", timeout=0.1):
                pass
        held.release()

    in_virtual_time(main)
    stats = manager.stats_collector
    assert isinstance(stats, SemaphoreStatsCollector)
    assert (stats.total_acquisitions, stats.timeout_count, stats.peak_holders, stats.users) == (2, 1, 1, 2)
    assert stats.success_rate == pytest.approx(2 / 3)
    assert stats.get_performance_metrics()["p99_hold_ms"] == pytest.approx(200, rel=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.users = 5  # type: ignore[misc]


def test_errors_of_slots_can_be_made_and_thrown_away():
    error = ResourceTimeoutError("a text", "user", 7, 1, 2, "llm", "queue")
    fields = (error.limit, error.retry_after, error.running, error.queued, error.resource, error.reason)
    assert fields == ("user", 7, 1, 2, "llm", "queue")
    assert (ResourceTimeoutError("x").reason, LimitTimeout("x").reason) == ("timeout", "timeout")
    assert isolane.ResourceTimeoutError is ResourceTimeoutError
    del error
    gc.collect()
