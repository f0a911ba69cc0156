"""Permits per user and process: bounds, order, deadlines, cancellation, threads, and what refusals say."""

import asyncio
import collections
import contextlib
import gc
import random
import threading
from typing import Any

import isolane
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from isolane import FairLimiter, InvalidContextError, LimitRejected, LimitTimeout
from isolane.testing import manual_clock

USERS = ("ann", "ben", "cho", "dot")


def idle(limiter: FairLimiter) -> bool:
    """Whether nothing of anybody is left in the limiter."""
    limiter.evict(0)
    stats = limiter.stats()
    return (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0) and stats["granted"] == stats["released"]


def load(limiter: FairLimiter, user: str) -> tuple[int, int]:
    stats = limiter.stats(user)
    return stats["running"], stats["queued"]


async def permit(limiter: FairLimiter, user: str, **options: Any) -> isolane.Permit:
    return await limiter.acquire(user, **options)


def ask(limiter: FairLimiter, user: str, **options: Any) -> asyncio.Task[isolane.Permit]:
    """Ask for a permit in a task of its own."""
    return asyncio.create_task(permit(limiter, user, **options))


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- bounds and decisions ----------------------------------------------------------------------------------------------


def test_the_check_for_leaks_finds_a_planted_one():
    limiter = FairLimiter(2, 1)
    permit = limiter.slot_nowait("ann")
    assert not idle(limiter)
    permit.release()
    assert idle(limiter)


def test_both_limits_hold_in_one_decision():
    limiter = FairLimiter(3, 2)
    held = [limiter.try_slot("ann"), limiter.try_slot("ann")]
    assert limiter.try_slot("ann") is None
    held.append(limiter.try_slot("ben"))
    assert limiter.try_slot("ben") is None
    assert limiter.stats()["running"] == 3
    assert load(limiter, "ann") == (2, 0)
    assert load(limiter, "nobody") == (0, 0)
    for permit in held:
        permit.release()
    assert idle(limiter)


def test_a_permit_is_returned_once():
    limiter = FairLimiter(1, 1)
    permit = limiter.slot_nowait("ann")
    assert permit.held
    assert permit.release() is True
    assert permit.release() is False
    assert not permit.held
    again = limiter.slot_nowait("ann")
    permit.release()
    assert limiter.stats()["running"] == 1
    with again:
        pass
    assert idle(limiter)


def test_a_permit_that_nobody_holds_returns_itself():
    limiter = FairLimiter(1, 1)
    permit = limiter.slot_nowait("ann")
    cycle: list = [permit]
    cycle.append(cycle)
    del permit, cycle
    gc.collect()
    assert idle(limiter)


def test_a_permit_is_returned_when_the_body_raises_and_the_error_is_the_bodys():
    limiter = FairLimiter(1, 1)

    async def main() -> None:
        with pytest.raises(TimeoutError, match="the body's own"):
            async with limiter.slot("ann"):
                raise TimeoutError("the body's own")

    asyncio.run(main())
    assert idle(limiter)


async def test_a_free_permit_is_had_without_a_turn_of_the_loop():
    limiter = FairLimiter(1, 1)
    turned = []
    asyncio.get_running_loop().call_soon(turned.append, 1)
    async with limiter.slot("ann") as permit:
        assert permit.held
    permit = await limiter.acquire("ann")
    assert permit.held
    permit.release()
    assert turned == []


def test_a_permit_that_is_free_needs_no_loop_to_be_asked_for():
    limiter = FairLimiter(1, 1)
    with pytest.raises(StopIteration) as done:
        limiter.acquire("ann").__await__().__next__()
    with done.value.value as permit:
        assert permit.held
    assert idle(limiter)


async def test_the_awaitables_work_wherever_awaitables_do():
    limiter = FairLimiter(2, 1)
    permits = await asyncio.gather(limiter.acquire("ann"), asyncio.wait_for(limiter.acquire("ben"), 1))
    task = asyncio.ensure_future(limiter.acquire("ann"))
    await turns()
    for permit in permits:
        permit.release()
    (await asyncio.wait_for(task, 1)).release()
    ready = limiter.acquire("ann")
    (await ready).release()
    with pytest.raises(RuntimeError, match="was released"):
        await ready
    assert idle(limiter)


async def test_a_slot_serves_one_block_at_a_time():
    limiter = FairLimiter(2, 2)
    slot = limiter.slot("ann")
    async with slot:
        with pytest.raises(RuntimeError, match=r"call limiter\.slot\(\) for each block"):
            async with slot:
                pass
    async with slot:
        assert limiter.stats()["running"] == 1
    assert idle(limiter)


@pytest.mark.parametrize(("total", "per_user"), [(0, 1), (1, 0)])
def test_limits_are_at_least_one(total, per_user):
    with pytest.raises(ValueError, match="must be from 1 to"):
        FairLimiter(total, per_user)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout):
    limiter = FairLimiter()
    for make in (lambda: FairLimiter(timeout=timeout), lambda: limiter.slot("ann", timeout=timeout)):
        with pytest.raises(ValueError, match="0 or more seconds"):
            make()


def test_users_are_checked_by_the_rule_of_contexts():
    limiter = FairLimiter()
    for user in ("", "default", "temp_7", "a\nb"):
        with pytest.raises(InvalidContextError):
            limiter.slot_nowait(user)


def test_a_context_of_another_user_is_refused(new_context):
    limiter = FairLimiter()
    ctx = new_context("ben-of-limits")
    for ask in (limiter.slot, limiter.acquire, limiter.try_slot, limiter.slot_nowait):
        with pytest.raises(isolane.ContextIsolationError) as caught:
            ask("ann", ctx=ctx)
        assert caught.value.boundary == "bind"
        assert "ben" not in str(caught.value)
        assert "ann" not in str(caught.value)
    assert idle(limiter)


def test_the_limiter_of_the_process_is_50_and_5_and_can_be_replaced():
    limiter = isolane.default_limiter()
    assert (limiter.stats()["total"], limiter.stats()["per_user"]) == (50, 5)
    assert isolane.default_limiter() is limiter
    own = FairLimiter(1, 1)
    assert isolane.set_default_limiter(own) is limiter
    try:
        assert isolane.default_limiter() is own
        assert isolane.set_default_limiter(None) is own
        assert isolane.set_default_limiter(None) is None
        made = isolane.default_limiter()
        assert made not in {own, limiter}
        assert made.stats()["per_user"] == 5
    finally:
        isolane.set_default_limiter(limiter)


# -- order -------------------------------------------------------------------------------------------------------------


async def test_waiters_of_a_user_go_in_order_and_users_take_turns():
    # With a clock that stands still, every permit is held for the same time.
    with manual_clock():
        limiter = FairLimiter(1, 1)
        order: list[str] = []
        first = limiter.slot_nowait("dot")

        async def job(user: str, at: int) -> None:
            async with limiter.slot(user, timeout=5):
                order.append(f"{user}{at}")

        # A flood of one user arrives before anybody else.
        tasks = [asyncio.create_task(job("ann", at)) for at in range(4)]
        tasks += [asyncio.create_task(job(user, at)) for user in ("ben", "cho") for at in range(2)]
        await turns()
        first.release()
        await asyncio.gather(*tasks)
        assert order == ["ann0", "ben0", "cho0", "ann1", "ben1", "cho1", "ann2", "ann3"]
        assert idle(limiter)


async def test_a_newcomer_does_not_overtake_those_of_the_same_user_who_wait():
    limiter = FairLimiter(2, 1)
    order: list[str] = []
    held = limiter.slot_nowait("ann")

    async def job(name: str) -> None:
        async with limiter.slot("ann", timeout=5):
            order.append(name)

    waiting = asyncio.create_task(job("waited"))
    await turns()
    held.release()
    # Granted to who waited, though that task has not run yet.
    assert limiter.try_slot("ann") is None
    newcomer = asyncio.create_task(job("came later"))
    await asyncio.gather(waiting, newcomer)
    assert order == ["waited", "came later"]


async def test_a_user_at_its_limit_does_not_keep_others_waiting():
    limiter = FairLimiter(2, 1)
    held = limiter.slot_nowait("ann")
    waiting = ask(limiter, "ann", timeout=5)
    await turns()
    async with limiter.slot("ben"):
        assert limiter.stats()["running"] == 2
    held.release()
    (await waiting).release()
    assert idle(limiter)


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_wait_that_times_out_says_which_limit_and_when_to_come_back():
    limiter = FairLimiter(2, 1)
    with limiter.slot_nowait("ann"):
        with pytest.raises(LimitTimeout, match=r"user limit: 1 running of 1") as caught:
            async with limiter.slot("ann", timeout=0.01):
                pass
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert (error.limit, error.running, error.retry_after >= 1) == ("user", 1, True)
        assert "raise per_user" in str(error)
        with limiter.slot_nowait("ben"):
            with pytest.raises(LimitTimeout, match="global limit: 2 running of 2") as caught:
                await limiter.acquire("cho", timeout=0.01)
            assert caught.value.limit == "global"
            for user in USERS:
                assert user not in str(caught.value)
    assert limiter.stats()["timed_out"] == 2
    assert idle(limiter)


async def test_the_time_out_of_the_limiter_counts_where_none_is_given():
    limiter = FairLimiter(1, 1, timeout=0.01)
    with limiter.slot_nowait("ann"), pytest.raises(LimitTimeout):
        await limiter.acquire("ann")
    assert idle(limiter)


async def test_a_zero_time_out_still_gets_what_is_free():
    limiter = FairLimiter(1, 1)
    async with limiter.slot("ann", timeout=0):
        with pytest.raises(LimitTimeout):
            async with limiter.slot("ann", timeout=0):
                pass
    assert idle(limiter)


async def test_an_endless_wait_is_allowed():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    task = ask(limiter, "ann", timeout=float("inf"))
    await turns()
    held.release()
    (await task).release()
    assert idle(limiter)


async def test_the_many_who_time_out_leave_the_limits_as_they_were():
    """The seed's sample grows its semaphore from 10 to 60 permits here."""
    limiter = FairLimiter(10, 5)
    over = asyncio.Event()

    async def job() -> None:
        async with limiter.slot("ann", timeout=0.01):
            await over.wait()

    tasks = [asyncio.create_task(job()) for _ in range(60)]
    while limiter.stats()["timed_out"] < 55:
        await asyncio.sleep(0.01)
    over.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, LimitTimeout) for result in results) == 55
    running = peak = 0

    async def probe(user: str) -> None:
        nonlocal running, peak
        async with limiter.slot(user, timeout=5):
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(probe(f"user-{at}") for at in range(40)))
    assert peak == 10
    assert idle(limiter)


async def test_full_queues_refuse_at_once_but_never_the_step_of_an_admitted_run():
    limiter = FairLimiter(1, 1, queue=2, per_user_queue=1)
    held = limiter.slot_nowait("ann")
    tasks = [ask(limiter, "ann", timeout=5)]
    await turns()
    with pytest.raises(LimitRejected, match="user limit") as caught:
        await limiter.acquire("ann")
    assert (caught.value.limit, caught.value.queued) == ("user", 1)
    tasks.append(ask(limiter, "ben", timeout=5))
    await turns()
    with pytest.raises(LimitRejected, match="global limit") as caught:
        await limiter.acquire("cho")
    assert (caught.value.limit, caught.value.queued) == ("global", 2)
    assert not isinstance(caught.value, TimeoutError)
    tasks.append(ask(limiter, "ann", timeout=5, admitted=True))
    await turns()
    assert limiter.stats()["queued"] == 3
    held.release()
    for task in asyncio.as_completed(tasks):
        (await task).release()
    assert limiter.stats()["refused"] == 2
    assert idle(limiter)


def test_a_refusal_at_once_says_which_limit_refused():
    limiter = FairLimiter(1, 1)
    with limiter.slot_nowait("ann"):
        with pytest.raises(LimitRejected) as caught:
            limiter.slot_nowait("ann")
        assert caught.value.limit == "user"
        with pytest.raises(LimitRejected) as caught:
            limiter.slot_nowait("ben")
        assert caught.value.limit == "global"
        assert "ann" not in str(caught.value)
        assert 1 <= caught.value.retry_after <= 60


def test_errors_of_limits_can_be_made_and_thrown_away():
    for error in (LimitTimeout, LimitRejected):
        for _ in range(100):
            made = error("a text", "user", 7, 1, 2)
            assert (str(made), made.limit, made.retry_after, made.running, made.queued) == ("a text", "user", 7, 1, 2)
            del made
    gc.collect()


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(13))
@pytest.mark.parametrize("free", [True, False])
async def test_a_slot_cancelled_at_any_tick_leaves_nothing(ticks, free):
    limiter = FairLimiter(1, 1)
    held = None if free else limiter.slot_nowait("ann")

    async def job() -> None:
        async with limiter.slot("ann", timeout=5):
            await turns(3)

    task = asyncio.create_task(job())
    for tick in range(ticks):
        await asyncio.sleep(0)
        if tick == 4 and held:
            held.release()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if held:
        held.release()
    assert idle(limiter)


async def test_a_permit_granted_in_the_tick_of_the_cancellation_goes_to_the_next():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    first = ask(limiter, "ann", timeout=5)
    second = ask(limiter, "ann", timeout=5)
    await turns()
    held.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    permit = await asyncio.wait_for(second, 1)
    assert permit.held
    permit.release()
    assert limiter.stats()["cancelled"] == 0 or limiter.stats()["granted"] == limiter.stats()["released"]
    assert idle(limiter)


async def test_a_cancelled_wait_for_leaves_nothing():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(limiter.acquire("ann", timeout=60), 0.01)
    held.release()
    assert idle(limiter)


async def test_an_awaitable_that_nobody_awaits_leaves_the_queue():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    waiting = limiter.acquire("ann", timeout=60)
    assert limiter.stats()["queued"] == 1
    del waiting
    gc.collect()
    assert limiter.stats()["queued"] == 0
    held.release()
    unawaited = limiter.acquire("ann")
    assert limiter.stats()["running"] == 1
    del unawaited
    assert idle(limiter)


async def test_five_thousand_cancelled_waiters_leave_nothing_and_cost_little():
    limiter = FairLimiter(1, 1, queue=10_000, per_user_queue=10_000)
    held = limiter.slot_nowait("ann")
    tasks = [ask(limiter, "ann", timeout=60) for _ in range(5_000)]
    await turns()
    assert limiter.stats()["queued"] == 5_000
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limiter.stats()["cancelled"] == 5_000
    held.release()
    assert idle(limiter)


@pytest.mark.parametrize("seed", range(8))
async def test_random_cancellations_never_break_the_bounds_and_lose_no_wake_up(seed):
    draw = random.Random(seed)
    limiter = FairLimiter(4, 2)
    running: collections.Counter[str] = collections.Counter()
    done = 0

    async def job(user: str, hold: int) -> None:
        nonlocal done
        async with limiter.slot(user, timeout=30):
            running[user] += 1
            assert running[user] <= 2
            assert running.total() <= 4
            try:
                await turns(hold)
            finally:
                running[user] -= 1
        done += 1

    tasks: list[asyncio.Task] = []
    for _ in range(600):
        tasks.append(asyncio.create_task(job(draw.choice(USERS), draw.randrange(4))))
        if draw.random() < 0.4:
            draw.choice(tasks).cancel()
        if draw.random() < 0.5:
            await asyncio.sleep(0)
    # Whoever was not cancelled gets through: a lost wake-up would wait for its time-out.
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    errors = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, asyncio.CancelledError) for error in errors)
    assert done + len(errors) == 600
    assert limiter.stats()["peak"] == 4
    assert idle(limiter)


# -- loops and threads -------------------------------------------------------------------------------------------------


def test_one_limiter_serves_two_loops_in_two_threads():
    limiter = FairLimiter(3, 2, per_user_queue=1_000)
    running: collections.Counter[str] = collections.Counter()
    lock, worst, done = threading.Lock(), [0, 0], []

    async def job(user: str) -> None:
        async with limiter.slot(user, timeout=30):
            with lock:
                running[user] += 1
                worst[0] = max(worst[0], running.total())
                worst[1] = max(worst[1], running[user])
            await asyncio.sleep(0)
            with lock:
                running[user] -= 1
        done.append(user)

    async def main() -> None:
        await asyncio.gather(*(job(user) for _ in range(150) for user in ("ann", "ben")))

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 600
    assert worst[0] <= 3
    assert worst[1] <= 2
    assert idle(limiter)


def test_a_release_in_a_thread_wakes_a_waiter_in_a_loop():
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")

    async def main() -> bool:
        threading.Timer(0.01, held.release).start()
        async with asyncio.timeout(5), limiter.slot("ann", timeout=60) as permit:
            return permit.held

    assert asyncio.run(main())
    assert idle(limiter)


def test_the_waiters_of_a_closed_loop_do_not_take_permits_with_them():
    """Also those that are granted a permit after their loop is gone."""
    limiter = FairLimiter(1, 1)
    held = limiter.slot_nowait("ann")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    tasks = [loop.create_task(permit(limiter, "ann", timeout=60)) for _ in range(2)]
    loop.run_until_complete(turns())
    assert limiter.stats()["queued"] == 2
    loop.close()
    held.release()
    for task in tasks:
        task._log_destroy_pending = False
    tasks.clear()
    del task
    gc.collect()
    assert idle(limiter)


def test_waiting_without_a_loop_says_so_and_leaves_nothing():
    limiter = FairLimiter(1, 1)
    with limiter.slot_nowait("ann"), pytest.raises(RuntimeError, match="no running event loop"):
        limiter.acquire("ann")
    assert idle(limiter)


# -- a model -----------------------------------------------------------------------------------------------------------


class LimiterMachine(RuleBasedStateMachine):
    """Requests, releases, cancellations and time-outs in any order, against a list that one can check by eye."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.limiter = FairLimiter(3, 2, queue=6, per_user_queue=3)
        self.held: list[tuple[str, isolane.Permit]] = []
        # Who waits, oldest first.
        self.waiting: list[tuple[str, asyncio.Task]] = []

    def turn(self) -> None:
        self.loop.run_until_complete(turns())
        granted: collections.Counter[str] = collections.Counter()
        left = []
        for user, task in self.waiting:
            if not task.done():
                left.append((user, task))
                continue
            granted[user] += 1
            # First in, first out: nobody of the same user who came earlier still waits.
            assert all(other != user for other, _ in left)
            self.held.append((user, task.result()))
        self.waiting = left

    def load(self, user: str) -> int:
        return sum(holder == user for holder, _ in self.held)

    @rule(user=st.sampled_from(USERS))
    def request(self, user: str) -> None:
        queued = sum(other == user for other, _ in self.waiting)
        full = len(self.held) >= 3 or self.load(user) >= 2 or queued > 0
        task = self.loop.create_task(permit(self.limiter, user, timeout=60))
        self.loop.run_until_complete(turns())
        if not full:
            self.held.append((user, task.result()))
        elif len(self.waiting) >= 6 or queued >= 3:
            assert isinstance(task.exception(), LimitRejected)
        else:
            assert not task.done()
            self.waiting.append((user, task))

    @rule(user=st.sampled_from(USERS))
    def try_at_once(self, user: str) -> None:
        queued = sum(other == user for other, _ in self.waiting)
        permit = self.limiter.try_slot(user)
        assert (permit is None) == (len(self.held) >= 3 or self.load(user) >= 2 or queued > 0)
        if permit is not None:
            self.held.append((user, permit))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        _, permit = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        assert permit.release()
        self.turn()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        _, task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        task.cancel()
        self.turn()
        assert task.cancelled()

    @precondition(lambda self: self.waiting and self.held)
    @rule(data=st.data())
    def release_and_cancel_at_once(self, data: st.DataObject) -> None:
        _, task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        _, permit = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        permit.release()
        task.cancel()
        self.turn()
        assert task.cancelled()

    @invariant()
    def counts_and_bounds_hold(self) -> None:
        stats = self.limiter.stats()
        assert (stats["running"], stats["queued"]) == (len(self.held), len(self.waiting))
        assert stats["running"] <= 3
        for user in USERS:
            assert self.limiter.stats(user)["running"] == self.load(user) <= 2

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        if len(self.held) < 3:
            assert all(self.load(user) >= 2 for user, _ in self.waiting)

    def teardown(self) -> None:
        while self.held:
            self.held.pop(0)[1].release()
            self.turn()
        assert not self.waiting
        assert idle(self.limiter)
        self.loop.close()


LimiterMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLimiterModel = LimiterMachine.TestCase
