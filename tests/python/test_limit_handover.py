"""How permits are handed over: the interleavings that other limiters got wrong."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
from typing import Any

import isolane
import pytest
from isolane import FairLimiter, LimitTimeout, Permit


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def permit(limiter: FairLimiter, user: str, **options: Any) -> Permit:
    return await limiter.acquire(user, **options)


def ask(limiter: FairLimiter, user: str = "ann", **options: Any) -> asyncio.Task[Permit]:
    return asyncio.create_task(permit(limiter, user, **{"timeout": 60, **options}))


def idle(limiter: FairLimiter) -> bool:
    limiter.evict(0)
    stats = limiter.stats()
    return (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0) and stats["granted"] == stats["released"]


# -- who comes first ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["acquire", "slot", "try_slot", "slot_nowait"])
async def test_a_newcomer_in_the_turn_of_a_release_does_not_get_what_was_granted(how):
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    waiting = ask(limiter)
    await turns()
    held.release()
    # Granted, but the task has not run yet.
    if how == "try_slot":
        assert limiter.try_slot("ann") is None
    elif how == "slot_nowait":
        with pytest.raises(isolane.LimitRejected):
            limiter.slot_nowait("ann")
    else:
        with pytest.raises(LimitTimeout):
            if how == "acquire":
                await limiter.acquire("ann", timeout=0)
            else:
                async with limiter.slot("ann", timeout=0):
                    pass
    (await waiting).release()
    assert limiter.stats()["peak"] == 1
    assert idle(limiter)


async def test_a_release_and_a_new_request_of_the_same_task_go_to_the_back():
    """A task that asks again in a loop does not keep the others out."""
    limiter, order = FairLimiter(1, 1), []

    async def loop(name: str) -> None:
        for _ in range(5):
            async with limiter.slot("ann", timeout=60):
                order.append(name)
                await asyncio.sleep(0)

    await asyncio.gather(loop("a"), loop("b"))
    assert order == ["a", "b"] * 5


async def test_waiters_are_served_in_the_order_of_their_requests_though_some_leave():
    limiter, order = FairLimiter(1, 1), []

    async def job(at: int) -> None:
        async with limiter.slot("ann", timeout=60):
            order.append(at)

    held = limiter.slot_nowait("ann")
    jobs = [asyncio.create_task(job(at)) for at in range(20)]
    await turns()
    for at in (0, 3, 4, 19):
        jobs[at].cancel()
    await turns()
    held.release()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert order == [at for at in range(20) if at not in {0, 3, 4, 19}]
    assert idle(limiter)


# -- cancellation and grant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", list(itertools.permutations(["release", "cancel", "turn"])))
async def test_release_and_cancellation_in_any_order(steps):
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    first, second = ask(limiter), ask(limiter)
    await turns()
    for step in steps:
        if step == "release":
            held.release()
        elif step == "cancel":
            first.cancel()
        else:
            await asyncio.sleep(0)
    await asyncio.wait([first], timeout=5)
    if not first.cancelled():
        first.result().release()
    (await asyncio.wait_for(second, 5)).release()
    del first, second
    assert idle(limiter)


async def test_all_waiters_are_cancelled_in_the_turn_of_the_grants():
    limiter = FairLimiter(3, 3)
    held = [limiter.slot_nowait("ann") for _ in range(3)]
    waiting = [ask(limiter) for _ in range(9)]
    await turns()
    for one in held:
        one.release()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert all(task.cancelled() for task in waiting)
    assert [limiter.try_slot("ann") is not None for _ in range(3)] == [True] * 3
    gc.collect()
    assert idle(limiter)


async def test_a_task_that_is_cancelled_before_it_asks_gets_nothing():
    limiter = FairLimiter(1, 1)
    for kind in ("acquire", "slot"):

        async def job(kind: str = kind) -> None:
            asyncio.current_task().cancel()
            if kind == "acquire":
                got = await limiter.acquire("ann")
                # It was free, so nothing was waited for; the cancellation comes at the next wait.
                with got:
                    await asyncio.sleep(0)
            else:
                async with limiter.slot("ann"):
                    await asyncio.sleep(0)

        task = asyncio.create_task(job())
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert idle(limiter)


async def test_a_task_that_never_begins_returns_the_permit_it_was_given():
    """No ``finally`` of it runs; the permit goes with its arguments."""
    limiter = FairLimiter(1, 1)

    async def work(held: Permit) -> None:
        with held:
            await asyncio.sleep(1)

    task = asyncio.create_task(work(limiter.slot_nowait("ann")))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del task
    # The loop itself holds the frame for a turn more.
    await turns()
    gc.collect()
    assert idle(limiter)


async def test_a_shielded_request_whose_caller_is_gone_returns_what_it_gets():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")

    async def caller() -> None:
        await asyncio.shield(limiter.acquire("ann", timeout=60))

    task = asyncio.create_task(caller())
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert limiter.stats()["queued"] == 1
    held.release()
    await turns()
    del task
    gc.collect()
    assert idle(limiter)


async def test_who_timed_out_is_not_granted_afterwards():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    late = ask(limiter, timeout=0.01)
    await asyncio.wait([late])
    assert isinstance(late.exception(), LimitTimeout)
    held.release()
    limiter.slot_nowait("ann").release()
    assert idle(limiter)


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_time_out_in_the_turn_of_the_grant_is_one_of_both(cancel):
    limiter = FairLimiter(1, 1)
    for _ in range(20):
        held = limiter.slot_nowait("ann")
        waiting, after = ask(limiter, timeout=0.002), ask(limiter, timeout=60)
        await turns()
        # The timer is due by now, and runs in the turn after the release.
        end = asyncio.get_running_loop().time() + 0.004
        while asyncio.get_running_loop().time() < end:
            pass
        held.release()
        if cancel:
            waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled() and waiting.exception() is None:
            waiting.result().release()
        (await asyncio.wait_for(after, 5)).release()
        del waiting, after
        assert limiter.stats()["running"] == 0
    assert idle(limiter)


async def test_an_awaitable_that_nobody_polls_keeps_others_waiting_no_longer_than_it_lives():
    """Two requests of one task, the first of which is not awaited: its grant is parked with it."""
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    first, second = limiter.acquire("ann", timeout=60), limiter.acquire("ann", timeout=0.05)
    held.release()
    with pytest.raises(LimitTimeout):
        await second
    third = ask(limiter)
    await turns()
    assert not third.done()
    del first
    (await asyncio.wait_for(third, 5)).release()
    del third, second
    assert idle(limiter)


async def test_a_return_never_waits_behind_requests():
    limiter = FairLimiter(1, 1, queue=5, per_user_queue=5)
    held = limiter.slot_nowait("ann")
    waiting = [ask(limiter) for _ in range(5)]
    await turns()
    with pytest.raises(isolane.LimitRejected):
        await limiter.acquire("ann")
    # From a plain callback of the loop: there is nothing to await.
    asyncio.get_running_loop().call_soon(held.release)
    for task in waiting:
        (await asyncio.wait_for(task, 5)).release()
    del task
    waiting.clear()
    assert idle(limiter)


async def test_a_timeout_around_the_wait_leaves_nothing():
    limiter = FairLimiter(1, 1)
    with limiter.slot_nowait("ann"):
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01), limiter.slot("ann", timeout=60):
                pass
        assert not isinstance(caught.value, LimitTimeout)
        assert limiter.stats()["queued"] == 0
    assert idle(limiter)


async def test_a_group_that_fails_takes_its_waiters_out_of_the_queue():
    limiter = FairLimiter(1, 1)

    async def fail() -> None:
        await turns()
        raise OSError("planted")

    async def wait() -> None:
        async with limiter.slot("ann", timeout=60):
            pass

    with limiter.slot_nowait("ann"):
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(wait())
                group.create_task(fail())
        assert (limiter.stats()["queued"], limiter.stats()["cancelled"]) == (0, 3)
    assert idle(limiter)


# -- loops -------------------------------------------------------------------------------------------------------------


def test_a_limiter_that_is_made_outside_of_loops_serves_one_after_the_other():
    limiter = FairLimiter(1, 1)

    async def main() -> None:
        held = limiter.slot_nowait("ann")
        waiting = ask(limiter)
        await turns()
        held.release()
        (await waiting).release()

    for _ in range(3):
        asyncio.run(main())
    assert idle(limiter)


def test_a_loop_that_ends_with_waiters_leaves_none():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")

    async def main() -> None:
        for _ in range(3):
            ask(limiter)
        await turns()

    # ``run`` cancels what is left.
    asyncio.run(main())
    assert limiter.stats()["queued"] == 0
    held.release()
    assert idle(limiter)


# -- suspending --------------------------------------------------------------------------------------------------------


async def test_a_lone_permit_is_given_back_for_a_wait_and_had_again_after_it():
    limiter = FairLimiter(1, 1, resources={"llm": 1})
    async with limiter.slot("ann", resources="llm") as held:
        before = held.fence
        async with held.suspend():
            assert not held.held
            assert limiter.stats()["running"] == limiter.stats()["resources"]["llm"]["running"] == 0
            limiter.slot_nowait("ben", resources="llm").release()
        assert held.held
        assert held.fence > before
        assert limiter.stats()["resources"]["llm"]["running"] == 1
        with pytest.raises(OSError, match="of the wait"):
            async with held.suspend():
                raise OSError("of the wait")
        assert held.held
    assert idle(limiter)


async def test_to_resume_is_to_queue_and_may_time_out():
    limiter = FairLimiter(1, 1)
    async with limiter.slot("ann") as held:
        with pytest.raises(LimitTimeout):
            async with held.suspend(timeout=0.01):
                other = limiter.slot_nowait("ben")
        assert not held.held
        assert limiter.stats()["running"] == 1
        with pytest.raises(RuntimeError, match="not held"):
            async with held.suspend():
                pass
        other.release()
    assert (limiter.stats()["timed_out"], limiter.stats()["released_twice"]) == (1, 0)
    assert idle(limiter)


async def test_a_child_may_be_suspended_and_its_parent_goes_on():
    limiter = FairLimiter(1, 1)
    ctx = isolane.UserContextFactory.create_context("ann")
    async with limiter.slot("ann", ctx=ctx) as parent:
        async with limiter.slot("ann", ctx=ctx.create_child_context("child")) as child:
            async with child.suspend():
                assert parent.held
                async with limiter.slot("ann", ctx=ctx.create_child_context("other"), timeout=0):
                    assert limiter.stats()["running"] == 1
            assert child.held
        assert limiter.stats()["running"] == 1
    assert idle(limiter)


@pytest.mark.parametrize("where", ["suspended", "resuming", "granted"])
async def test_suspending_is_safe_to_cancel(where):
    limiter = FairLimiter(1, 1)
    reached, release = asyncio.Event(), asyncio.Event()

    async def job() -> None:
        async with limiter.slot("ann", timeout=60) as held, held.suspend(timeout=60):
            reached.set()
            await release.wait()

    task = asyncio.create_task(job())
    await reached.wait()
    other = limiter.slot_nowait("ben")
    if where != "suspended":
        release.set()
        await turns()
        assert limiter.stats()["queued"] == 1
    if where == "granted":
        other.release()
    task.cancel()
    await turns()
    other.release()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    del task
    gc.collect()
    assert idle(limiter)


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_no_wake_up_is_lost_whatever_happens_to_others(seed):
    draw = random.Random(seed)
    limiter = FairLimiter(3, 2, queue=5_000, per_user_queue=5_000, resources={"llm": 2, "database": 1})
    needs = ((), ("llm",), ("database",), ("llm", "database"))

    async def job(user: str) -> str:
        try:
            async with limiter.slot(
                user, priority=draw.randint(1, 4), timeout=draw.choice([0.003, 60]), resources=draw.choice(needs)
            ) as held:
                await turns(draw.randrange(4))
                if draw.random() < 0.2:
                    async with held.suspend(timeout=60):
                        await turns(2)
                await turns(draw.randrange(2))
        except (LimitTimeout, isolane.LimitRejected):
            return "late"
        return "ran"

    jobs = []
    for _ in range(400):
        jobs.append(asyncio.create_task(job(draw.choice(["ann", "ben", "cho"]))))
        if draw.random() < 0.3:
            draw.choice(jobs).cancel()
        if draw.random() < 0.02:
            limiter.set_limit(total=draw.randint(1, 3))
        if draw.random() < 0.4:
            await asyncio.sleep(0)
    ends = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 30)
    assert {type(end) for end in ends} <= {str, asyncio.CancelledError}
    assert "ran" in ends
    jobs.clear()
    gc.collect()
    assert idle(limiter)
    assert all(resource["running"] == 0 for resource in limiter.stats()["resources"].values())
