"""Lending: who runs under a permit lends it to its children: nesting neither deadlocks nor exceeds a limit."""

import asyncio
import contextlib
import gc
import random
from typing import Any

import isolane
import pytest
from isolane import FairLimiter, LimitRejected, LimitTimeout, UserContextFactory, UserExecutionContext


def idle(limiter: FairLimiter) -> bool:
    limiter.evict(0)
    stats = limiter.stats()
    return (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0) and stats["granted"] == stats["released"]


async def permit(limiter: FairLimiter, user: str, **options: Any) -> isolane.Permit:
    return await limiter.acquire(user, **options)


def ask(limiter: FairLimiter, user: str, **options: Any) -> asyncio.Task[isolane.Permit]:
    """Ask for a permit in a task of its own."""
    return asyncio.create_task(permit(limiter, user, **options))


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def root(user: str = "ann-of-trees") -> UserExecutionContext:
    return UserContextFactory.create_context(user)


async def test_a_child_borrows_the_permit_of_its_parent_at_any_depth():
    limiter, ctx = FairLimiter(1, 1), root()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(limiter.slot(ctx.user_id, ctx=ctx))
        child = ctx
        for _ in range(10):
            child = child.create_child_context("deeper")
            await stack.enter_async_context(limiter.slot(ctx.user_id, ctx=child, timeout=0))
            assert limiter.stats()["running"] == 1
    assert idle(limiter)


async def test_a_grandchild_borrows_over_a_child_that_holds_nothing():
    limiter, ctx = FairLimiter(1, 1), root()
    grandchild = ctx.create_child_context("a").create_child_context("b")
    async with limiter.slot(ctx.user_id, ctx=ctx), limiter.slot(ctx.user_id, ctx=grandchild, timeout=0):
        assert limiter.stats()["running"] == 1
    assert idle(limiter)


async def test_another_run_of_the_same_user_borrows_nothing():
    limiter, ctx, other = FairLimiter(2, 1), root(), root()
    async with limiter.slot(ctx.user_id, ctx=ctx):
        for ask in ({"ctx": other}, {}):
            with pytest.raises(LimitTimeout):
                async with limiter.slot(ctx.user_id, timeout=0, **ask):
                    pass
    assert idle(limiter)


async def test_the_children_of_one_node_share_its_unit_and_those_of_the_pool():
    limiter, ctx = FairLimiter(2, 2), root()
    running = peak = 0

    async def child(name: str) -> None:
        nonlocal running, peak
        async with limiter.slot(ctx.user_id, ctx=ctx.create_child_context(name), timeout=5):
            running += 1
            peak = max(peak, running)
            await turns()
            running -= 1

    async with limiter.slot(ctx.user_id, ctx=ctx):
        await asyncio.gather(*(child(f"c{at}") for at in range(6)))
        assert limiter.stats()["running"] == 1
    assert peak == 2
    assert idle(limiter)


async def test_siblings_wait_for_the_unit_of_their_parent_and_pass_it_on():
    limiter, ctx = FairLimiter(1, 1), root()
    order: list[str] = []

    async def child(name: str) -> None:
        async with limiter.slot(ctx.user_id, ctx=ctx.create_child_context(name), timeout=5):
            order.append(f"+{name}")
            await turns()
            order.append(f"-{name}")

    async with limiter.slot(ctx.user_id, ctx=ctx):
        await asyncio.gather(child("a"), child("b"), child("c"))
    assert order == ["+a", "-a", "+b", "-b", "+c", "-c"]
    assert idle(limiter)


async def test_a_waiting_sibling_comes_before_another_user_because_the_parent_depends_on_it():
    limiter, ctx = FairLimiter(1, 1), root()
    order: list[str] = []

    async def job(name: str, **ask) -> None:
        async with limiter.slot(ask.pop("user"), timeout=5, **ask):
            order.append(name)
            await turns()

    async def parent() -> None:
        async with limiter.slot(ctx.user_id, ctx=ctx):
            other = asyncio.create_task(job("other user", user="ben-of-trees"))
            await turns()
            children = [ctx.create_child_context(name) for name in "ab"]
            await asyncio.gather(*(job(child.request_id[-1], user=ctx.user_id, ctx=child) for child in children))
            order.append("parent")
        await other

    await asyncio.wait_for(parent(), 5)
    assert order == ["a", "b", "parent", "other user"]
    assert idle(limiter)


async def test_tasks_of_one_context_that_nothing_nests_do_not_run_at_once_on_one_unit():
    """A unit is lent to what runs inside its holder's block, not to whoever names the same context."""
    limiter, ctx = FairLimiter(1, 1), root()
    running = peak = 0

    async def job() -> None:
        nonlocal running, peak
        async with limiter.slot(ctx.user_id, ctx=ctx, timeout=5):
            running += 1
            peak = max(peak, running)
            await turns()
            running -= 1

    await asyncio.gather(*(job() for _ in range(4)))
    assert peak == 1
    assert idle(limiter)


async def test_sixteen_hundred_nested_nodes_finish_within_the_limits():
    """Ten users, forty roots of depth three and fan-out three, ten permits: naive nesting finishes none of them."""
    limiter = FairLimiter(10, 5, queue=5_000, per_user_queue=5_000)
    running = peak = nodes = 0

    async def node(ctx: UserExecutionContext, depth: int) -> None:
        nonlocal running, peak, nodes
        async with limiter.slot(ctx.user_id, ctx=ctx, timeout=60):
            nodes += 1
            running += 1
            peak = max(peak, running)
            assert limiter.stats(ctx.user_id)["running"] <= 5
            await turns(1)
            running -= 1
            if depth < 3:
                await asyncio.gather(*(node(ctx.create_child_context(f"n{at}"), depth + 1) for at in range(3)))

    users = [f"user-{at}-of-trees" for at in range(10)]
    await asyncio.wait_for(asyncio.gather(*(node(root(user), 0) for user in users for _ in range(4))), 60)
    assert nodes == 1_600
    assert peak <= 10
    assert limiter.stats()["peak"] == 10
    assert idle(limiter)


async def test_the_nodes_of_one_run_are_bounded():
    limiter, ctx = FairLimiter(100, 100), root()
    permits = [limiter.slot_nowait(ctx.user_id, ctx=ctx)]
    below = [ctx.create_child_context(f"n{at}") for at in range(63)]
    permits += [limiter.slot_nowait(ctx.user_id, ctx=child) for child in below]
    with pytest.raises(LimitRejected, match="fewer nested agents") as caught:
        await limiter.acquire(ctx.user_id, ctx=ctx.create_child_context("one more"))
    assert caught.value.limit == "tree"
    for permit in permits:
        permit.release()
    assert idle(limiter)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 0, 1]])
def test_nested_permits_may_be_returned_in_any_order(order):
    limiter, ctx = FairLimiter(1, 1), root()
    child = ctx.create_child_context("a")
    contexts = [ctx, child, child.create_child_context("b")]
    permits = [limiter.slot_nowait(ctx.user_id, ctx=one) for one in contexts]
    for at in order:
        assert limiter.stats()["running"] == 1
        permits[at].release()
    assert idle(limiter)


@pytest.mark.parametrize("ticks", range(13))
async def test_a_tree_cancelled_at_any_tick_leaves_nothing(ticks):
    limiter, ctx = FairLimiter(2, 2), root()

    async def node(ctx: UserExecutionContext, depth: int) -> None:
        async with limiter.slot(ctx.user_id, ctx=ctx, timeout=30):
            await turns(1)
            if depth < 2:
                await asyncio.gather(*(node(ctx.create_child_context("n"), depth + 1) for _ in range(3)))

    task = asyncio.create_task(node(ctx, 0))
    await turns(ticks)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await turns(5)
    assert idle(limiter)


@pytest.mark.parametrize("seed", range(25))
async def test_random_cancellations_of_random_trees_leave_nothing_and_block_nobody(seed):
    draw = random.Random(seed)
    limiter = FairLimiter(4, 2, queue=5_000, per_user_queue=5_000)
    units = 0
    everyone: list[asyncio.Task[None]] = []

    async def node(ctx: UserExecutionContext, depth: int) -> None:
        nonlocal units
        async with limiter.slot(ctx.user_id, ctx=ctx, timeout=60):
            units += 1
            try:
                assert units <= 4
                await turns(draw.randrange(3))
            finally:
                units -= 1
            if depth == 3:
                return
            below = [ctx.create_child_context("n") for _ in range(draw.randrange(4))]
            children = [asyncio.create_task(node(child, depth + 1)) for child in below]
            everyone.extend(children)
            await turns(draw.randrange(4))
            if children and draw.random() < 0.4:
                draw.choice(children).cancel()
            results = await asyncio.gather(*children, return_exceptions=True)
            assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)

    tasks = [asyncio.create_task(node(root(f"u{at % 3}-of-trees"), 0)) for at in range(12)]
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    # A node that was cancelled before it awaited its children left them behind.
    await asyncio.wait_for(asyncio.gather(*everyone, return_exceptions=True), 30)
    assert limiter.stats()["peak"] <= 4
    assert idle(limiter)


async def test_a_parent_may_end_before_its_children():
    limiter, ctx = FairLimiter(1, 1), root()
    held = await limiter.acquire(ctx.user_id, ctx=ctx)
    running = ask(limiter, ctx.user_id, ctx=ctx.create_child_context("a"), timeout=5)
    waiting = ask(limiter, ctx.user_id, ctx=ctx.create_child_context("b"), timeout=5)
    await turns()
    held.release()
    assert limiter.stats()["running"] == 1
    first = await running
    assert not waiting.done()
    first.release()
    (await asyncio.wait_for(waiting, 1)).release()
    assert idle(limiter)


async def test_the_execution_lock_and_the_steps_under_it_share_one_unit():
    limiter, ctx = isolane.default_limiter(), root("lock-of-trees")
    async with ctx.acquire_execution_lock():
        assert limiter.stats(ctx.user_id)["running"] == 1
        async with limiter.slot(ctx.user_id, ctx=ctx.create_child_context("step")):
            assert limiter.stats(ctx.user_id)["running"] == 1
    assert limiter.stats(ctx.user_id)["running"] == 0


async def test_a_child_that_gives_up_gives_its_parent_back_what_it_had():
    limiter, ctx = FairLimiter(1, 1), root()
    async with limiter.slot(ctx.user_id, ctx=ctx):
        async with limiter.slot(ctx.user_id, ctx=ctx.create_child_context("a")):
            with pytest.raises(LimitTimeout):
                async with limiter.slot(ctx.user_id, ctx=ctx.create_child_context("b"), timeout=0.01):
                    pass
            assert limiter.try_slot(ctx.user_id, ctx=ctx.create_child_context("c")) is None
        async with limiter.slot(ctx.user_id, ctx=ctx.create_child_context("d"), timeout=0):
            pass
        assert limiter.stats()["running"] == 1
    gc.collect()
    assert idle(limiter)
