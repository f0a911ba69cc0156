"""What the limiter guarantees, one by one, through its Python API."""

from __future__ import annotations

import asyncio
import collections
import gc
import math
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
from isolane import FairLimiter, LimitRejected, LimitTimeout, Permit
from isolane.testing import manual_clock

from tests.support.virtual_time import in_virtual_time


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def permit(limiter: FairLimiter, user: str, **options: Any) -> Permit:
    return await limiter.acquire(user, **options)


def ask(limiter: FairLimiter, user: str, **options: Any) -> asyncio.Task[Permit]:
    return asyncio.create_task(permit(limiter, user, **options))


def idle(limiter: FairLimiter) -> bool:
    limiter.evict(0)
    stats = limiter.stats()
    resources = all(resource["running"] == 0 for resource in stats["resources"].values())
    return resources and (stats["running"], stats["queued"]) == (0, 0) and stats["granted"] == stats["released"]


# -- 1: one decision for everything ------------------------------------------------------------------------------------


async def test_01_several_resources_come_together_or_not_at_all():
    limiter = FairLimiter(10, 10, resources={"llm": 1, "database": 1})
    llm = limiter.slot_nowait("ann", resources="llm")
    waiting = ask(limiter, "ben", resources=["llm", "database"], timeout=5)
    await turns()
    # Who waits for the one holds nothing of the other.
    with limiter.slot_nowait("cho", resources=("database",)):
        assert limiter.stats()["resources"]["database"]["running"] == 1
        llm.release()
        await turns()
        assert not waiting.done()
    both = await waiting
    assert [resource["running"] for resource in limiter.stats()["resources"].values()] == [1, 1]
    with pytest.raises(LimitRejected, match="llm") as caught:
        limiter.slot_nowait("cho", resources="llm")
    assert (caught.value.resource, caught.value.limit, caught.value.reason) == ("llm", "global", "full")
    with pytest.raises(LimitTimeout) as late:
        await limiter.acquire("cho", resources=["database"], timeout=0.01)
    assert (late.value.resource, late.value.limit, late.value.reason) == ("database", "global", "timeout")
    # And who needs neither is held up by nobody.
    limiter.slot_nowait("cho").release()
    both.release()
    assert idle(limiter)


async def test_01_a_cancelled_wait_for_several_resources_takes_none_with_it():
    limiter = FairLimiter(10, 10, resources={"llm": 1, "database": 1})
    held = limiter.slot_nowait("ann", resources="llm")
    waiting = ask(limiter, "ben", resources=["llm", "database"], timeout=60)
    await turns()
    held.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    limiter.slot_nowait("cho", resources=["llm", "database"]).release()
    assert idle(limiter)


def test_01_resources_are_known_by_name():
    with pytest.raises(ValueError, match=r'no resource "gpu"; it has: llm'):
        FairLimiter(resources={"llm": 3}).slot("ann", resources=["gpu"])
    with pytest.raises(TypeError, match="a name or a sequence of names"):
        FairLimiter(resources={"llm": 3}).slot("ann", resources=7)


# -- 2: the limits hold always -----------------------------------------------------------------------------------------


async def test_02_between_a_release_and_the_turn_of_who_was_granted_nobody_slips_in():
    limiter = FairLimiter(2, 1)
    held = [limiter.slot_nowait("ann"), limiter.slot_nowait("ben")]
    waiting = [ask(limiter, user, timeout=5) for user in ("ann", "ben")]
    await turns()
    for one in held:
        one.release()
    assert limiter.try_slot("ann") is None
    assert limiter.try_slot("cho") is None
    assert limiter.stats()["running"] == 2
    for task in waiting:
        (await task).release()
    assert limiter.stats()["peak"] == 2
    assert idle(limiter)


# -- 3: order ----------------------------------------------------------------------------------------------------------


def shares(holds: dict[str, float], weights: dict[str, float], seconds: float = 40.0) -> dict[str, float]:
    """Permit-seconds of backlogged users."""
    limiter = FairLimiter(4, 4, queue=10_000)
    for user, weight in weights.items():
        limiter.set_limit(user=user, weight=weight)
    held: dict[str, float] = dict.fromkeys(holds, 0.0)

    async def worker(user: str) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < 1_000 + seconds:
            async with limiter.slot(user, timeout=1_000):
                await asyncio.sleep(holds[user])
            held[user] += holds[user]

    async def main() -> None:
        await asyncio.gather(*(worker(user) for user in holds for _ in range(8)))

    in_virtual_time(main, step=0.05, at_most=500)
    return held


def jain(values: list[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def test_03_users_share_the_time_and_not_the_count():
    held = shares({"ann": 0.1, "ben": 0.5, "cho": 1.0, "dot": 0.1}, {})
    assert jain(list(held.values())) >= 0.98


def test_03_a_weight_of_two_is_twice_the_time():
    held = shares({"ann": 0.2, "ben": 0.2, "cho": 0.2}, {"ann": 2.0})
    assert held["ann"] / held["ben"] == pytest.approx(2.0, rel=0.1)
    assert held["ben"] / held["cho"] == pytest.approx(1.0, rel=0.1)


def test_03_what_a_permit_was_really_held_for_counts():
    """One run that is longer than all before it is made up for by turns of the other user."""
    limiter, order = FairLimiter(1, 1), []

    async def job(user: str, hold: float) -> None:
        async with limiter.slot(user, timeout=1_000):
            order.append(user)
            await asyncio.sleep(hold)

    async def main() -> None:
        for user in ("ann", "ben"):
            await job(user, 0.5)
        order.clear()
        jobs = [asyncio.create_task(job("ann", 3.0))]
        await turns()
        jobs += [asyncio.create_task(job(user, 0.5)) for _ in range(6) for user in ("ann", "ben")]
        await asyncio.gather(*jobs)

    in_virtual_time(main, step=0.25)
    assert order[:5] == ["ann", "ben", "ben", "ben", "ben"]


def test_03_a_cost_counts_time_as_more():
    limiter = FairLimiter(1, 1, queue=10_000)
    held: collections.Counter[str] = collections.Counter()

    async def worker(user: str, cost: float) -> None:
        while held.total() < 300:
            async with limiter.slot(user, timeout=1_000, cost=cost):
                await asyncio.sleep(0.1)
            held[user] += 1

    async def main() -> None:
        await asyncio.gather(*(worker(user, cost) for user, cost in (("ann", 3.0), ("ben", 1.0)) for _ in range(3)))

    in_virtual_time(main, step=0.1, at_most=500)
    assert held["ben"] / held["ann"] == pytest.approx(3.0, rel=0.1)


def test_03_first_in_first_out_within_a_user_and_class():
    limiter, order = FairLimiter(1, 1), []

    async def job(at: int, priority: int) -> None:
        async with limiter.slot("ann", priority=priority, timeout=1_000):
            order.append((priority, at))

    async def main() -> None:
        held = limiter.slot_nowait("ann")
        jobs = [asyncio.create_task(job(at, 1 + at % 4)) for at in range(40)]
        await turns()
        held.release()
        await asyncio.gather(*jobs)

    in_virtual_time(main)
    assert order == sorted(order)


# -- 4: priority with aging --------------------------------------------------------------------------------------------


def test_04_the_least_urgent_is_served_before_its_time_is_over_though_urgent_ones_keep_coming():
    limiter = FairLimiter(1, 1, aging=1.0, per_user_queue=1_000)
    served_at = []

    async def urgent() -> None:
        while not served_at:
            async with limiter.slot("ann", priority=1, timeout=1_000):
                await asyncio.sleep(0.2)

    async def least() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with limiter.slot("ann", priority=4, timeout=1_000):
            served_at.append(loop.time() - began)

    async def main() -> None:
        await asyncio.gather(*(urgent() for _ in range(4)), least())

    in_virtual_time(main, step=0.1, at_most=100)
    # Three classes of a second each, and then the turns of those who came before.
    assert 2.0 <= served_at[0] <= 6.0


# -- 5: one deadline ---------------------------------------------------------------------------------------------------


async def test_05_the_deadline_is_known_to_the_holder_and_is_monotonic():
    import time  # noqa: PLC0415 - only here

    limiter = FairLimiter(1, 1)
    before = time.monotonic()
    async with limiter.slot("ann", timeout=30) as held:
        assert held.deadline == pytest.approx(before + 30, abs=1.0)
    async with limiter.slot("ann", timeout=float("inf")) as held:
        assert held.deadline is None


def test_05_a_wait_ends_at_its_deadline_however_often_others_are_served():
    limiter, ended = FairLimiter(1, 1), []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        held = limiter.slot_nowait("ann")
        began = loop.time()
        for timeout in (0.5, 1.0, 1.5):
            task = ask(limiter, "ann", timeout=timeout)
            task.add_done_callback(lambda _: ended.append(loop.time() - began))
        await asyncio.sleep(3)
        held.release()
        gc.collect()

    in_virtual_time(main, step=0.05)
    assert ended == pytest.approx([0.5, 1.0, 1.5], abs=0.06)
    assert limiter.stats()["timed_out"] == 3
    assert idle(limiter)


# -- 6: cancellation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(13))
async def test_06_cancelled_at_any_tick_the_permit_goes_to_the_next(ticks):
    limiter = FairLimiter(1, 1, resources={"llm": 1})
    held = limiter.slot_nowait("ann", resources="llm")
    first, second = (ask(limiter, user, resources="llm", timeout=60) for user in ("ann", "ben"))
    await turns()
    held.release()
    await turns(ticks)
    was_done = first.done()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    if was_done:
        first.result().release()
    else:
        assert first.cancelled()
    (await asyncio.wait_for(second, 5)).release()
    del first, second
    assert idle(limiter)


async def test_06_returning_twice_is_counted_and_does_nothing():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    assert [held.release() for _ in range(3)] == [True, False, False]
    stats = limiter.stats()
    assert (stats["released"], stats["released_twice"], stats["running"]) == (1, 2, 0)


async def test_06_fences_grow_with_each_grant():
    limiter = FairLimiter(3, 3)
    fences = []
    for user in ("ann", "ben", "ann"):
        with limiter.slot_nowait(user) as held:
            fences.append(held.fence)
        assert held.fence == 0
    assert fences == sorted(set(fences))


# -- 7: what the body raises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TimeoutError("own"), LimitTimeout("own"), LimitRejected("own"), KeyboardInterrupt()])
async def test_07_what_a_block_raises_passes_as_it_is(error):
    limiter = FairLimiter(1, 1)
    with pytest.raises(type(error)) as caught:
        async with limiter.slot("ann"):
            raise error
    assert caught.value is error
    with pytest.raises(type(error)) as caught, limiter.slot_nowait("ann"):
        raise error
    assert caught.value is error
    assert idle(limiter)


# -- 8: what nobody returns --------------------------------------------------------------------------------------------


async def test_08_a_permit_that_is_dropped_returns_and_is_counted_as_leaked():
    limiter = FairLimiter(1, 1)
    limiter.slot_nowait("ann")
    assert (limiter.stats()["leaked"], limiter.stats("ann")["leaked"]) == (1, 1)
    (await limiter.acquire("ann")).release()
    assert limiter.stats()["leaked"] == 1
    assert idle(limiter)


def run_in_development_mode(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )


LEAK = """
    import asyncio, isolane
    limiter = isolane.FairLimiter(1, 1)
    def careless():
        return limiter.slot_nowait("ann")
    {ending}
    """


def test_08_in_development_mode_a_warning_names_the_line():
    ran = run_in_development_mode(LEAK.format(ending="careless()"), "-X", "dev", "-W", "always::ResourceWarning")
    assert ran.returncode == 0, ran.stderr
    assert "ResourceWarning" in ran.stderr
    assert "<string>:5" in ran.stderr
    for quiet in ("careless().release()", "p = careless().bind(lambda *_: None); del p"):
        ran = run_in_development_mode(LEAK.format(ending=quiet), "-X", "dev")
        assert (ran.returncode, "ResourceWarning" in ran.stderr) == (0, False), ran.stderr
    ran = run_in_development_mode(LEAK.format(ending="careless()"))
    assert (ran.returncode, ran.stderr) == (0, "")


# -- 9: threads and loops ----------------------------------------------------------------------------------------------


def test_09_threads_and_loops_share_one_limiter():
    limiter = FairLimiter(3, 2, per_user_queue=1_000)
    lock, running, worst = threading.Lock(), collections.Counter(), [0, 0]
    done: list[str] = []

    def enter(user: str) -> None:
        with lock:
            running[user] += 1
            worst[0] = max(worst[0], running.total())
            worst[1] = max(worst[1], *running.values())

    def leave(user: str) -> None:
        with lock:
            running[user] -= 1
        done.append(user)

    async def job(user: str) -> None:
        async with limiter.slot(user, timeout=60):
            enter(user)
            await asyncio.sleep(0)
            leave(user)

    async def main() -> None:
        await asyncio.gather(*(job(user) for _ in range(60) for user in ("ann", "ben")))

    def thread() -> None:
        for at in range(120):
            user = ("ann", "ben")[at % 2]
            with limiter.slot_sync(user, timeout=60) as held:
                assert held.held
                enter(user)
                leave(user)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    threads += [threading.Thread(target=thread) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len(done) == 600
    assert worst[0] <= 3
    assert worst[1] <= 2
    assert idle(limiter)


def test_09_a_thread_waits_times_out_and_is_woken():
    limiter = FairLimiter(1, 1)
    held = limiter.acquire_sync("ann")
    with pytest.raises(LimitTimeout), limiter.slot_sync("ann", timeout=0.01):
        pass
    with pytest.raises(LimitTimeout):
        limiter.acquire_sync("ben", timeout=0)
    threading.Timer(0.02, held.release).start()
    with limiter.slot_sync("ben", timeout=30):
        assert limiter.stats()["running"] == 1
    assert idle(limiter)


async def test_09_the_synchronous_form_is_refused_where_it_would_block_a_loop():
    limiter = FairLimiter(1, 1)
    with pytest.raises(RuntimeError, match="would block the running event loop"), limiter.slot_sync("ann"):
        pass
    with pytest.raises(RuntimeError, match="would block the running event loop"):
        limiter.acquire_sync("ann")
    assert await asyncio.to_thread(lambda: limiter.acquire_sync("ann").release())
    assert idle(limiter)


def test_09_a_thread_that_waits_hears_an_interrupt():
    code = """
        import _thread, signal, threading, isolane
        # A program that was started in the background ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        limiter = isolane.FairLimiter(1, 1)
        held = limiter.acquire_sync("ann")
        threading.Timer(0.2, _thread.interrupt_main).start()
        try:
            limiter.acquire_sync("ann", timeout=20)
        except KeyboardInterrupt:
            print("interrupted", limiter.stats()["queued"], limiter.stats()["cancelled"])
        held.release()
        limiter.acquire_sync("ann", timeout=0).release()
        """
    ran = run_in_development_mode(code)
    assert (ran.returncode, ran.stdout.strip()) == (0, "interrupted 0 1"), ran.stderr


# -- 10: refusing early ------------------------------------------------------------------------------------------------


def test_10_what_cannot_be_had_in_time_is_refused_at_once_with_the_time_to_come_back():
    limiter = FairLimiter(10, 1)

    async def main() -> None:
        for _ in range(16):
            async with limiter.slot("ann", timeout=60):
                await asyncio.sleep(4)
        held = limiter.slot_nowait("ann")
        # One wait of 4 s: too long for 3, not for 5.
        with pytest.raises(LimitRejected) as caught:
            await limiter.acquire("ann", timeout=3)
        assert (caught.value.reason, caught.value.limit, caught.value.retry_after) == ("predicted", "user", 4)
        waiting = [ask(limiter, "ann", timeout=5), ask(limiter, "ann", timeout=9)]
        await turns()
        with pytest.raises(LimitRejected) as caught:
            await limiter.acquire("ann", timeout=11)
        assert (caught.value.retry_after, caught.value.queued) == (12, 2)
        # Another user is none of it, nor is a step of an admitted run.
        limiter.slot_nowait("ben").release()
        step = ask(limiter, "ann", timeout=1, admitted=True)
        await turns()
        assert not step.done()
        for task in (*waiting, step):
            task.cancel()
        await asyncio.gather(*waiting, step, return_exceptions=True)
        held.release()

    in_virtual_time(main, step=0.5, at_most=200)
    assert idle(limiter)


def test_10_the_time_to_come_back_is_between_1_and_60():
    limiter = FairLimiter(1, 1)

    async def main() -> None:
        for _ in range(20):
            async with limiter.slot("ann", timeout=1_000):
                await asyncio.sleep(100)
        with limiter.slot_nowait("ann"), pytest.raises(LimitRejected) as caught:
            limiter.slot_nowait("ann")
        assert (caught.value.retry_after, caught.value.reason) == (60, "full")

    in_virtual_time(main, step=10, at_most=10_000)


# -- 11: statistics ----------------------------------------------------------------------------------------------------


def test_11_statistics_are_those_of_what_happened():
    limiter = FairLimiter(1, 1, per_user_queue=1)
    waits, holds = [], []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def job(hold: float) -> None:
            began = loop.time()
            async with limiter.slot("ann", timeout=100):
                waits.append(loop.time() - began)
                await asyncio.sleep(hold)
            holds.append(loop.time() - began - waits[-1])

        for at in range(2, 42):
            first = asyncio.create_task(job(at / 10))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(job(0.1))
            await turns()
            with pytest.raises(LimitRejected):
                await limiter.acquire("ann", timeout=100)
            await asyncio.gather(first, second)

    in_virtual_time(main, step=0.1, at_most=1_000)

    def quantile(values: list[float], percent: int) -> float:
        return sorted(values)[math.ceil(percent * len(values) / 100) - 1]

    # Over all users two digits are kept. A user's percentiles begin with the fourth permit, and are the ends of places
    # that are at most a quarter as wide as where they begin.
    for stats, first, wide in ((limiter.stats(), 0, 0.01), (limiter.stats("ann"), 3, 0.25)):
        assert (stats["granted"], stats["released"], stats["refused"], stats["leaked"]) == (80, 80, 40, 0)
        assert stats["success_rate"] == pytest.approx(80 / 120)
        for name, values in (("wait", waits), ("hold", holds)):
            assert stats[name]["count"] == 80
            assert stats[name]["avg"] == pytest.approx(sum(values) / 80, abs=1e-5)
            for percent in (50, 95, 99):
                exact, said = quantile(values[first:], percent), stats[name][f"p{percent}"]
                assert exact - 1e-4 <= said <= exact * (1 + wide) + 1e-4, (name, percent, first)
    assert limiter.stats("ann")["recent_waits"] == pytest.approx(waits[-64:], rel=0.004, abs=1e-4)


# -- 12: forgetting ----------------------------------------------------------------------------------------------------


def test_12_idle_users_are_forgotten_and_totals_stay():
    with manual_clock() as clock:
        limiter = FairLimiter(50, 5, idle=300)
        for at in range(30):
            limiter.slot_nowait(f"user-{at}").release()
        busy = limiter.slot_nowait("ann")
        assert limiter.stats()["users"] == 31
        assert limiter.evict() == 0
        clock.advance(301)
        assert limiter.evict() == 30
        stats = limiter.stats()
        assert (stats["users"], stats["evicted"], stats["granted"], stats["hold"]["count"]) == (1, 30, 31, 30)
        assert limiter.stats("user-1")["granted"] == 0
        assert limiter.stats("ann")["running"] == 1
        busy.release()
        assert limiter.evict(0) == 1
        assert limiter.stats()["released"] == 31


def test_12_no_more_users_are_remembered_than_allowed():
    limiter = FairLimiter(50, 5, max_users=100)
    for at in range(1_000):
        limiter.slot_nowait(f"user-{at}-of-many").release()
    stats = limiter.stats()
    assert stats["users"] <= 101
    assert (stats["granted"], stats["users"] + stats["evicted"]) == (1_000, 1_000)


# -- 13: limits that change --------------------------------------------------------------------------------------------


async def test_13_a_lower_limit_stops_nobody_and_a_higher_one_wakes_in_order():
    limiter = FairLimiter(4, 4)
    held = [limiter.slot_nowait("ann") for _ in range(4)]
    limiter.set_limit(total=2)
    assert all(one.held for one in held)
    waiting = [ask(limiter, user, timeout=60) for user in ("ben", "cho", "ben", "cho")]
    await turns()
    for at, one in enumerate(held):
        one.release()
        await turns()
        # Two come back before anybody may run again.
        assert sum(task.done() for task in waiting) == max(0, at - 1)
    assert [task.done() for task in waiting] == [True, True, False, False]
    limiter.set_limit(total=3)
    await turns()
    assert sum(task.done() for task in waiting) == 3
    limiter.set_limit(total=0)
    for task in waiting[:3]:
        (await task).release()
    await turns()
    assert not waiting[3].done()
    assert limiter.try_slot("ann") is None
    limiter.set_limit(total=1)
    (await asyncio.wait_for(waiting[3], 5)).release()
    del task
    waiting.clear()
    assert idle(limiter)


async def test_13_limits_of_users_and_of_one_user_change_alike():
    limiter = FairLimiter(10, 1, resources={"llm": 1})
    held = limiter.slot_nowait("ann", resources="llm")
    waiting = ask(limiter, "ann", timeout=60)
    other = ask(limiter, "ben", resources="llm", timeout=60)
    await turns()
    limiter.set_limit(user="ann", per_user=2)
    (await asyncio.wait_for(waiting, 5)).release()
    limiter.set_limit(resource="llm", limit=2)
    (await asyncio.wait_for(other, 5)).release()
    assert (limiter.stats("ann")["limit"], limiter.stats("ben")["limit"]) == (2, 1)
    limiter.reset_user("ann")
    assert limiter.stats("ann")["limit"] == 1
    limiter.set_limit(per_user=0)
    assert limiter.try_slot("ben") is None
    limiter.set_limit(per_user=1)
    limiter.slot_nowait("ben").release()
    held.release()
    for wrong in (
        {"weight": 2.0},
        {"resource": "llm"},
        {"resource": "gpu", "limit": 1},
        {"user": "ann", "weight": 0.0},
    ):
        with pytest.raises(ValueError):
            limiter.set_limit(**wrong)
    assert idle(limiter)


async def test_13_under_load_a_changing_limit_is_never_exceeded():
    limiter, most, seen = FairLimiter(8, 8, queue=5_000, per_user_queue=5_000), 8, []

    async def job(at: int) -> None:
        async with limiter.slot(f"user-{at % 5}", timeout=60):
            seen.append(limiter.stats()["running"] - most)
            await turns(at % 4)

    jobs = [asyncio.create_task(job(at)) for at in range(600)]
    for limit in (3, 8, 1, 0, 5, 2, 8):
        limiter.set_limit(total=limit)
        for _ in range(30):
            # Those who run above a lower limit end; nobody joins them.
            most = max(limit, min(most, limiter.stats()["running"]))
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*jobs), 30)
    assert (len(seen), max(seen)) == (600, 0)
    jobs.clear()
    assert idle(limiter)
