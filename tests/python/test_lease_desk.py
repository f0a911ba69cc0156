"""The desk of shared limiters, carried by hand or by a task, on a store that is a dictionary."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from isolane import FairLimiter, LimitRejected, LimitTimeout
from isolane._core import LeaseDesk, LeaseOperation, lease_scripts
from isolane.testing import manual_clock

PATIENCE = 20.0


class Store:
    """What Redis does, in a dictionary: no lease of it expires by itself."""

    def __init__(self) -> None:
        self.sets: dict[tuple[str, str], set[bytes]] = {}
        self.fence = 0
        self.peak = 0

    def of(self, operation: LeaseOperation) -> list[tuple[set[bytes], int, str]]:
        sets = []
        if operation.user_limit >= 0:
            key = (operation.limit_name, f"u:{operation.user_id}")
            sets.append((self.sets.setdefault(key, set()), operation.user_limit, "user"))
        if operation.total_limit >= 0:
            sets.append((self.sets.setdefault((operation.limit_name, "g"), set()), operation.total_limit, "total"))
        return sets

    def run(self, operation: LeaseOperation) -> list[Any] | None:
        sets, reply = self.of(operation), []
        for each in operation.ids:
            lives = all(each in held for held, _, _ in sets)
            if operation.kind == "release":
                for held, _, _ in sets:
                    held.discard(each)
                continue
            if operation.kind == "renew":
                reply.append(lives)
                continue
            why = next((which for held, limit, which in sets if each not in held and len(held) >= limit), None)
            if operation.kind == "acquire" and why is not None:
                reply.append((False, 0, why, 0))
                continue
            self.fence += 1
            for held, _, _ in sets:
                held.add(each)
            reply.append((True, self.fence, None, 0) if operation.kind == "acquire" else self.fence)
        self.peak = max(self.peak, *(len(held) for held in self.sets.values()), 0)
        return None if operation.kind == "release" else reply

    @property
    def leases(self) -> int:
        return sum(len(held) for held in self.sets.values())


async def carry(desk: LeaseDesk, store: Store) -> None:
    """Do what a manager does, and let the loop run between a call and its answer."""
    while True:
        await desk.wait()
        desk.lost()
        for operation in desk.take():
            await asyncio.sleep(0)
            reply = store.run(operation)
            await asyncio.sleep(0)
            desk.replied(operation.number, reply)


@contextlib.asynccontextmanager
async def carried(desk: LeaseDesk, store: Store) -> AsyncIterator[None]:
    assert desk.take() == []
    task = asyncio.create_task(carry(desk, store))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_two_limiters_share_a_limit_and_the_second_waits_for_the_first() -> None:
    store = Store()
    limiters = [FairLimiter(10, 1) for _ in range(2)]
    desks = [LeaseDesk(reuse=0.01) for _ in limiters]
    for desk, limiter in zip(desks, limiters, strict=True):
        desk.share(limiter, "engines")
    async with carried(desks[0], store), carried(desks[1], store):
        first = await limiters[0].acquire("ann", timeout=PATIENCE)
        assert first.lease_fence == 1
        assert not first.is_lost
        with pytest.raises(LimitTimeout) as refused:
            await limiters[1].acquire("ann", timeout=0.05)
        assert refused.value.limit == "cluster"
        other = await limiters[1].acquire("bob", timeout=PATIENCE)
        waiting = asyncio.ensure_future(limiters[1].acquire("ann", timeout=PATIENCE))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        first.release()
        second = await waiting
        assert (second.lease_fence or 0) > 1
        second.release()
        other.release()
        await until(lambda: store.leases == 0)
    assert store.peak == 1


async def test_who_asks_once_is_refused_by_the_cluster_and_at_once_by_the_limiter() -> None:
    store = Store()
    limiter, desk = FairLimiter(10, 1), LeaseDesk()
    desk.share(limiter, "engines")
    store.sets["engines", "u:ann"] = {b"of another process"}
    async with carried(desk, store):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LimitRejected) as refused:
                await limiter.acquire("ann", ask_once=True, timeout=None)
        assert (refused.value.limit, refused.value.reason, refused.value.retry_after) == ("cluster", "full", 1)
        async with limiter.slot("bob", ask_once=True):
            with pytest.raises(LimitRejected) as refused:
                await limiter.acquire("bob", ask_once=True)
            assert refused.value.limit == "user"
    assert limiter.stats()["queued"] == 0
    alone = FairLimiter(10, 1)
    async with alone.slot("ann", ask_once=True):
        with pytest.raises(LimitRejected):
            await alone.acquire("ann", ask_once=True)


async def test_without_a_wait_only_what_is_leased_is_given() -> None:
    store = Store()
    limiter, desk = FairLimiter(10, 1), LeaseDesk()
    desk.share(limiter, "engines", total=True)
    async with carried(desk, store):
        assert limiter.try_slot("ann") is None
        with pytest.raises(LimitRejected) as refused:
            limiter.slot_nowait("ann")
        assert refused.value.limit == "cluster"
        (await limiter.acquire("ann", timeout=PATIENCE)).release()
        permit = limiter.try_slot("ann")
        assert permit is not None
        assert permit.lease_fence == 1
        permit.release()


async def test_a_thread_waits_for_a_lease_and_hears_a_refusal() -> None:
    store = Store()
    limiter, desk = FairLimiter(10, 1), LeaseDesk(reuse=0.01)
    desk.share(limiter, "engines", fail="closed")

    def run() -> int | None:
        with limiter.slot_sync("ann", timeout=PATIENCE) as permit:
            return permit.lease_fence

    async with carried(desk, store):
        assert await asyncio.to_thread(run) == 1
        await until(lambda: store.leases == 0)
    waiting = asyncio.create_task(asyncio.to_thread(run))
    await until(lambda: limiter.stats()["queued"] == 1)
    for _ in range(3):
        async with asyncio.timeout(PATIENCE):
            while not (operations := desk.take()):
                await asyncio.sleep(0.01)
        for operation in operations:
            desk.failed(operation.number)
    with pytest.raises(LimitRejected) as refused:
        await waiting
    assert (refused.value.limit, refused.value.reason) == ("cluster", "unavailable")
    assert desk.mode == "closed"


async def test_callers_who_are_cancelled_leave_no_lease() -> None:
    store = Store()
    limiter, desk = FairLimiter(6, 2), LeaseDesk(reuse=0.001)
    desk.share(limiter, "engines", total=True)
    rng = random.Random(7)

    async def use(user: str) -> None:
        async with limiter.slot(user, timeout=PATIENCE):
            await asyncio.sleep(rng.random() * 0.002)

    async with carried(desk, store):
        tasks = [asyncio.create_task(use(f"user-{at % 5}")) for at in range(300)]
        for task in rng.sample(tasks, 200):
            await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: store.leases == 0)
    assert store.peak <= 6
    assert limiter.stats()["running"] == 0


async def test_a_lease_that_is_not_renewed_is_lost_and_names_its_permit() -> None:
    limiter, desk, store = FairLimiter(10, 2), LeaseDesk(), Store()
    desk.share(limiter, "engines", on_lost="cancel")
    assert desk.take() == []
    with manual_clock() as clock:
        task = asyncio.ensure_future(limiter.acquire("ann", timeout=PATIENCE))
        await asyncio.sleep(0)
        for operation in desk.take():
            desk.replied(operation.number, store.run(operation))
        permit = await task
        clock.advance(31)
        desk.take()
        assert permit.is_lost
        assert desk.lost() == [("engines", "ann", permit.fence, permit.lease_fence)]
        assert desk.figures()["limits"]["engines"]["lost"] == 1
        assert desk.figures()["limits"]["engines"]["on_lost"] == "cancel"
    permit.release()
    assert not permit.is_lost


async def test_a_wait_for_the_desk_can_be_cancelled_and_dropped() -> None:
    desk = LeaseDesk()
    for _ in range(3):
        waiting = asyncio.ensure_future(desk.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    limiter = FairLimiter(10, 2)
    waiting = asyncio.ensure_future(desk.wait())
    await asyncio.sleep(0)
    desk.share(limiter, "engines")
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert desk.take() == []
    dropped = desk.wait()
    del dropped
    gc.collect()


async def test_a_desk_that_is_closed_gives_back_and_frees_its_limiters() -> None:
    store = Store()
    limiter, desk = FairLimiter(10, 1), LeaseDesk()
    desk.share(limiter, "engines")
    async with carried(desk, store):
        permit = await limiter.acquire("ann", timeout=PATIENCE)
    waiting = asyncio.ensure_future(limiter.acquire("bob", timeout=PATIENCE))
    await asyncio.sleep(0)
    for operation in desk.close():
        assert operation.kind == "release"
        store.run(operation)
    assert store.leases == 0
    (await waiting).release()
    permit.release()
    with pytest.raises(ValueError, match="closed"):
        desk.share(limiter, "engines")


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": False},
        {"on_lost": "ignore"},
        {"fail": "maybe"},
    ],
)
def test_what_cannot_be_shared_is_refused(wrong: dict[str, Any]) -> None:
    desk = LeaseDesk()
    with pytest.raises(ValueError, match=r"must be|share"):
        desk.share(FairLimiter(), "engines", **wrong)


def test_a_limiter_and_a_name_are_shared_once() -> None:
    desk, limiter, other = LeaseDesk(), FairLimiter(), FairLimiter()
    desk.share(limiter, "engines")
    with pytest.raises(ValueError, match="shared already"):
        desk.share(limiter, "others")
    with pytest.raises(ValueError, match="another limiter"):
        desk.share(other, "engines")
    assert desk.unshare(limiter)
    assert not desk.unshare(limiter)
    desk.share(other, "engines")


@pytest.mark.parametrize("wrong", [{"ttl": 0}, {"ttl": 1.0, "renew": 1.0}, {"renew": -1}, {"call_timeout": 0}])
def test_a_desk_whose_leases_could_not_be_renewed_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"renew must|must be more"):
        LeaseDesk(**wrong)


async def test_an_answer_that_does_not_fit_counts_as_a_failure() -> None:
    desk, limiter = LeaseDesk(), FairLimiter()
    desk.share(limiter, "engines")
    assert desk.take() == []
    waiting = asyncio.ensure_future(limiter.acquire("ann", timeout=0.5))
    await asyncio.sleep(0)
    (operation,) = desk.take()
    with pytest.raises(TypeError):
        desk.replied(operation.number, "OK")
    assert desk.figures()["failures"] == 1
    assert not desk.replied(operation.number, [(True, 1, None, 0)])
    assert desk.figures()["late"] == 1
    with pytest.raises(LimitTimeout):
        await waiting


def test_scripts_and_operations_are_for_backends() -> None:
    assert set(lease_scripts()) == {"acquire", "renew", "release", "restore"}
    operation = LeaseOperation(1, "acquire", "engines", "ann", [b"x" * 16], 30_000, 2)
    assert (operation.kind, operation.ids, operation.total_limit) == ("acquire", [b"x" * 16], -1)
    with pytest.raises(ValueError, match="kind"):
        LeaseOperation(1, "take", "engines", "ann", [], 30_000)


async def test_a_desk_and_its_limiter_are_collected() -> None:
    limiter, desk = FairLimiter(), LeaseDesk()
    desk.share(limiter, "engines")
    waiting = desk.wait()
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    seen = weakref.ref(task)
    task.cancel()
    await asyncio.wait([task])
    del task, waiting, limiter, desk
    gc.collect()
    assert seen() is None
