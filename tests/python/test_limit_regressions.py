"""Faults that limits written by hand have, each also run against such a limit: there it must be noticed."""

from __future__ import annotations

import asyncio
import collections
import gc
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import isolane
import pytest
from isolane import BaseAgent, LimitTimeout, OptimizedSemaphoreManager, ResourceTimeoutError, UserContextFactory

from tests.support.naive_slots import NaiveRun, NaiveSlots, SlotTimeoutError
from tests.support.virtual_time import in_virtual_time

NOT_HAD = (ResourceTimeoutError, SlotTimeoutError)


class OurSlots(OptimizedSemaphoreManager):
    """With a name for the figure that both kinds have."""

    def mean_hold(self, user_id: str) -> float:
        return self.get_semaphore_stats(user_id).avg_hold_time_ms / 1000


Scenario = Callable[[Any], Coroutine[Any, Any, None]]


def check(scenario: Scenario, naive: Callable[[], Any] = NaiveSlots, *, at_most: float = 30.0) -> None:
    """Run a scenario, which has to pass with our slots and to fail with the naive ones."""

    async def with_ours() -> None:
        slots = OurSlots()
        await scenario(slots)
        await asyncio.sleep(0)
        stats = slots.stats_collector
        assert (stats.current_holders, stats.waiting, stats.leaked_count) == (0, 0, 0)

    async def with_naive() -> None:
        await scenario(naive())

    in_virtual_time(with_ours, at_most=at_most)
    with pytest.raises((AssertionError, AttributeError, *NOT_HAD)):
        in_virtual_time(with_naive, at_most=at_most)


class Crowd:
    """Who runs, counted beside the limits."""

    def __init__(self) -> None:
        self.running: collections.Counter[str] = collections.Counter()
        self.peaks: collections.Counter[str] = collections.Counter()

    async def job(self, slots: Any, user: str, hold: float, timeout: float = 2.0) -> str:  # noqa: ASYNC109 - the slots' own
        try:
            async with slots.acquire_execution_slot(user, timeout=timeout):
                self.running[user] += 1
                self.peaks[user] = max(self.peaks[user], self.running[user])
                self.peaks[""] = max(self.peaks[""], self.running.total())
                try:
                    await asyncio.sleep(hold)
                finally:
                    self.running[user] -= 1
        except NOT_HAD:
            return "timed out"
        return "ran"


# -- the thirteen ------------------------------------------------------------------------------------------------------


def test_01_a_free_slot_can_be_had():
    async def scenario(slots: Any) -> None:
        async with slots.acquire_execution_slot("ann"):
            pass

    check(scenario, lambda: NaiveSlots(as_written=True))


def test_02_who_timed_out_returns_nothing():
    async def scenario(slots: Any) -> None:
        flood, after = Crowd(), Crowd()
        ends = await asyncio.gather(*(flood.job(slots, "ann", 0.5, 0.05) for _ in range(60)))
        assert (ends.count("ran"), flood.peaks["ann"]) == (5, 5)
        await asyncio.gather(*(after.job(slots, f"user-{at % 40}", 0.05, 20) for at in range(200)))
        assert after.peaks[""] == 10

    check(scenario)


def test_03_who_waits_for_its_own_limit_takes_nothing_from_others():
    async def scenario(slots: Any) -> None:
        crowd = Crowd()
        jobs = [asyncio.create_task(crowd.job(slots, "ann", 1.0, 5)) for _ in range(10)]
        await asyncio.sleep(0.1)
        assert crowd.running == {"ann": 5}
        assert await crowd.job(slots, "ben", 0.01, 0.05) == "ran"
        await asyncio.gather(*jobs)

    check(scenario)


def test_04_one_timeout_covers_the_whole_wait():
    async def scenario(slots: Any) -> None:
        crowd, loop = Crowd(), asyncio.get_running_loop()
        # Ann's limit is free after 0.9 s, that of all after 1.5 s.
        jobs = [asyncio.create_task(crowd.job(slots, "ann", 0.9)) for _ in range(5)]
        jobs += [asyncio.create_task(crowd.job(slots, "ben", 1.5)) for _ in range(5)]
        await asyncio.sleep(0.05)
        jobs += [asyncio.create_task(crowd.job(slots, user, 1.5, 1)) for user in ("cho", "dot", "eve", "fay", "gus")]
        await asyncio.sleep(0.01)
        began = loop.time()
        await crowd.job(slots, "ann", 0.0, 1.0)
        assert loop.time() - began <= 1.0 + 0.05
        await asyncio.gather(*jobs)

    check(scenario)


def test_05_a_timeout_of_the_body_is_the_bodys():
    async def scenario(slots: Any) -> None:
        with pytest.raises(TimeoutError) as caught:
            async with slots.acquire_execution_slot("ann"):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(1)
        assert not isinstance(caught.value, LimitTimeout)
        own = TimeoutError("of the body")
        with pytest.raises(TimeoutError) as caught:
            async with slots.acquire_execution_slot("ann"):
                raise own
        assert caught.value is own

    check(scenario)


def test_06_a_cancelled_waiter_returns_nothing():
    async def scenario(slots: Any) -> None:
        crowd = Crowd()
        jobs = [asyncio.create_task(crowd.job(slots, "ann", 0.5)) for _ in range(5)]
        await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(crowd.job(slots, "ann", 0.5)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*jobs, *waiting, return_exceptions=True)
        await asyncio.gather(*(crowd.job(slots, "ann", 0.1) for _ in range(12)))
        assert crowd.peaks["ann"] == 5

    check(scenario)


def test_07_the_time_that_a_slot_is_held_begins_at_its_grant():
    async def scenario(slots: Any) -> None:
        crowd = Crowd()
        jobs = [asyncio.create_task(crowd.job(slots, f"user-{at}", 1.0)) for at in range(10)]
        await asyncio.sleep(0.01)
        await crowd.job(slots, "ann", 0.1)
        await asyncio.gather(*jobs)
        assert slots.mean_hold("ann") == pytest.approx(0.1, abs=0.05)

    check(scenario, lambda: NaiveSlots(clock=asyncio.get_running_loop().time))


def test_08_a_wall_clock_that_jumps_changes_no_figure(monkeypatch):
    real = time.time

    async def scenario(slots: Any) -> None:
        async with slots.acquire_execution_slot("ann"):
            monkeypatch.setattr(time, "time", lambda: real() - 3_600)
        monkeypatch.undo()
        assert 0 <= slots.mean_hold("ann") < 60

    check(scenario, lambda: NaiveSlots(clock=lambda: time.time()))  # noqa: PLW0108 - looked up when called


def test_09_priorities_order_a_users_waiters():
    async def scenario(slots: Any) -> None:
        order = []

        async def job(priority: int) -> None:
            async with slots.acquire_execution_slot("ann", priority, 30):
                order.append(priority)
                await asyncio.sleep(0.01)

        crowd = Crowd()
        held = [asyncio.create_task(crowd.job(slots, "ann", 0.2)) for _ in range(5)]
        await asyncio.sleep(0.01)
        jobs = []
        for priority in (4, 3, 2, 1, 4, 3, 2, 1):
            jobs.append(asyncio.create_task(job(priority)))
            await asyncio.sleep(0)
        await asyncio.gather(*held, *jobs)
        assert order == [1, 1, 2, 2, 3, 3, 4, 4]

    check(scenario)


def test_10_users_that_are_gone_are_forgotten():
    slots = OptimizedSemaphoreManager(max_users=100)
    naive = NaiveSlots()

    async def many(slots: Any) -> int:
        for at in range(1_000):
            async with slots.acquire_execution_slot(f"user-{at}-of-many"):
                pass
        return len(slots.user_semaphores)

    assert asyncio.run(many(slots)) == 100
    assert slots.stats_collector.users <= 101
    assert slots.stats_collector.total_acquisitions == 1_000
    assert asyncio.run(many(naive)) == 1_000


def test_11_an_error_while_releasing_is_not_hidden(monkeypatch):
    def planted(*_: Any) -> None:
        raise OSError("planted")

    async def scenario(slots: Any) -> None:
        with pytest.raises(OSError, match="planted"):
            async with slots.acquire_execution_slot("ann"):
                kind = slots.user_semaphores["ann"]
                monkeypatch.setattr(kind, "ended" if isinstance(slots, OurSlots) else "release", planted)

    async def ours() -> None:
        await scenario(OurSlots())

    async def naive() -> None:
        await scenario(NaiveSlots())

    asyncio.run(ours())
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        asyncio.run(naive())


@pytest.mark.parametrize("depth", [1, 3])
def test_12_a_slot_within_a_slot_does_not_wait_for_itself(depth):
    async def scenario(slots: Any) -> None:
        async def nested(user: str, levels: int) -> None:
            async with slots.acquire_execution_slot(user, timeout=1.0):
                await asyncio.sleep(0.01)
                if levels:
                    await nested(user, levels - 1)

        await asyncio.gather(*(nested(f"user-{at}", depth) for at in range(10)))

    check(scenario)


def test_12_so_do_slots_in_tasks_that_a_slot_awaits():
    async def scenario(slots: Any) -> None:
        async def child(user: str) -> None:
            async with slots.acquire_execution_slot(user, timeout=1.0):
                await asyncio.sleep(0.01)

        async def parent(user: str) -> None:
            async with slots.acquire_execution_slot(user, timeout=1.0):
                await asyncio.gather(*(child(user) for _ in range(3)))

        await asyncio.gather(*(parent(f"user-{at}") for at in range(10)))

    check(scenario)


async def test_13_what_fails_before_a_run_has_an_id_is_reported_as_it_is(new_context):
    def start() -> str:
        raise ValueError("no run can be started")

    with pytest.raises(UnboundLocalError):
        await NaiveRun().execute(start, lambda: None)

    class Worker(BaseAgent):
        name = "worker"

        async def execute_with_context(self, context, request, results):
            return request

    registry = isolane.AgentRegistry()
    registry.register(Worker)
    factory = isolane.ExecutionEngineFactory(agent_factory=isolane.AgentInstanceFactory(registry))
    context = new_context()
    async with factory.user_execution_scope(context) as engine:
        await context.cleanup()
        with pytest.raises(isolane.InvalidContextError, match="cleaned up"):
            await engine.execute_agent("worker", 1)
    assert factory.limiter.stats()["running"] == 0


# -- the findings beside them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [1, 10])
def test_light_users_get_through_beside_one_who_floods_and_beside_ten_keys_that_do(keys):
    """Caps alone do not help against a flood over ten keys: the order over users has to be fair."""

    async def scenario(slots: Any) -> None:
        ends: collections.Counter[str] = collections.Counter()
        crowd = Crowd()

        async def flood(at: int) -> None:
            while True:
                if await crowd.job(slots, f"flooder-{at % keys}", 0.25) != "ran":
                    await asyncio.sleep(0.1)

        async def light(at: int) -> None:
            await asyncio.sleep(at * 0.1)
            for _ in range(6):
                ends[await crowd.job(slots, f"light-{at}", 0.25)] += 1
                await asyncio.sleep(1.0)

        floods = [asyncio.create_task(flood(at)) for at in range(300)]
        await asyncio.gather(*(light(at) for at in range(9)))
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
        assert ends == {"ran": 54}

    check(scenario, at_most=120)


def test_a_cancellation_in_the_turn_of_the_grant_is_not_lost():
    """``wait_for`` of Python 3.11 returns what it waited for, and the cancellation is gone."""

    async def ours() -> None:
        limiter = isolane.FairLimiter(1, 1)
        for ticks in range(6):
            held = limiter.slot_nowait("ann")
            task = asyncio.ensure_future(asyncio.create_task(_take(limiter)))
            await asyncio.sleep(0.01)
            held.release()
            for _ in range(ticks):
                await asyncio.sleep(0)
            cancelled = task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled() == cancelled
            gc.collect()
            assert limiter.stats()["running"] == 0

    async def naive() -> bool:
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()

        async def take() -> None:
            await asyncio.wait_for(semaphore.acquire(), 5)

        task = asyncio.create_task(take())
        await asyncio.sleep(0.01)
        semaphore.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    in_virtual_time(ours)
    if sys.version_info < (3, 12):
        assert in_virtual_time(naive) is False


async def _take(limiter: isolane.FairLimiter) -> None:
    async with limiter.slot("ann", timeout=5):
        await asyncio.sleep(1)


def test_ten_times_parent_and_child_at_a_limit_of_ten_with_contexts():
    limiter = isolane.FairLimiter(10, 5)

    async def parent(user: str) -> None:
        ctx = UserContextFactory.create_context(user)
        async with limiter.slot(user, ctx=ctx):
            await asyncio.sleep(0.01)
            async with limiter.slot(user, ctx=ctx.create_child_context("child"), timeout=0):
                await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(parent(f"user-{at}") for at in range(10)))

    in_virtual_time(main)
    assert limiter.stats()["peak"] == 10
