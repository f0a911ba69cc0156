"""Permits against a model that one can check by eye.

Users, nested permits, named resources, urgency, limits that change, suspension, cancellations, deadlines, full queues,
loops that die and the collector.

The model knows which permits are held and under which, and who waits; how many units are in use follows: a permit with
something below it has lent its unit, so each permit with nothing below it is one unit. Which user is next is the fair
order's, which other tests look at; here, whoever is served must have been the first of its user, resources and urgency.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from isolane import FairLimiter, LimitRejected, LimitTimeout, Permit, UserContextFactory, UserExecutionContext

from tests.adversity.manual_loop import ManualLoop

pytestmark = pytest.mark.timeout(1_800)

USERS = ("ann-of-permits", "ben-of-permits", "cho-of-permits")
SYNCHRONOUS = "this thread"
"""Who asks outside of a task: all of them are one, as they are one thread."""
DEEPEST = 18
"""Permits above one another, safely below the limiter's bound."""
NEVER = 1e6
"""An aging that makes nobody more urgent within a test."""


@dataclass(eq=False)
class Held:
    """A permit that somebody has."""

    user: str
    ctx: UserExecutionContext | None
    asker: object
    parent: Held | None
    permit: Permit
    order: int
    resources: frozenset[str]


@dataclass(eq=False)
class Waiting:
    """Somebody who waits for one."""

    user: str
    ctx: UserExecutionContext | None
    parent: Held | None
    task: asyncio.Task[None]
    box: list[Permit]
    """What the task got. As its result it would be in a cycle with it, and a dropped one would not return at once."""
    deadline: float
    priority: int
    order: int
    resources: frozenset[str]


@dataclass(eq=False)
class Suspended:
    """A permit that was given back for a while, and what ends that while."""

    held: Held
    block: Any


class PermitMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        self.held: list[Held] = []
        self.waiting: list[Waiting] = []
        self.suspended: list[Suspended] = []
        self.contexts: list[UserExecutionContext] = []
        self.above: dict[UserExecutionContext, UserExecutionContext | None] = {}
        self.own: dict[str, int] = {}
        self.refused = self.timed_out = self.gave_up = self.leaked = self.numbers = 0

    @initialize(
        total=st.integers(1, 4),
        per_user=st.integers(1, 3),
        queue=st.integers(1, 6),
        per_user_queue=st.integers(1, 4),
        llm=st.integers(1, 2),
        database=st.integers(1, 3),
    )
    def make(self, total: int, per_user: int, queue: int, per_user_queue: int, llm: int, database: int) -> None:
        self.total, self.per_user, self.queue, self.per_user_queue = total, per_user, queue, per_user_queue
        self.most = total
        self.resources = {"llm": llm, "database": database}
        self.limiter = self.new_limiter(
            total,
            per_user,
            queue=queue,
            per_user_queue=per_user_queue,
            aging=NEVER,
            resources=self.resources,
            idle=NEVER,
        )
        for user in USERS:
            root = UserContextFactory.create_context(user)
            child = root.create_child_context("step")
            family = [(root, None), (child, root), (root.create_child_context("other"), root)]
            family.append((child.create_child_context("below"), child))
            for ctx, above in family:
                self.contexts.append(ctx)
                self.above[ctx] = above

    def new_limiter(self, *arguments: Any, **options: Any) -> FairLimiter:
        return FairLimiter(*arguments, **options)

    # -- the model -----------------------------------------------------------------------------------------------------

    def below(self, held: Held | None) -> int:
        return sum(one.parent is held for one in self.held) if held is not None else 0

    def units(self, user: str | None = None) -> int:
        return sum(not self.below(one) and user in {None, one.user} for one in self.held)

    def limit_of(self, user: str) -> int:
        return self.own.get(user, self.per_user)

    def queued(self, user: str) -> int:
        return sum(one.user == user for one in self.waiting)

    def lacking(self, resources: frozenset[str]) -> set[str]:
        used = {name: sum(name in one.resources for one in self.held) for name in resources}
        return {name for name in resources if used[name] >= self.resources[name]}

    def lender(self, ctx: UserExecutionContext | None, asker: object) -> Held | None:
        """Return the permit under which this one is asked for: of the asker itself, or of the nearest context above."""
        if ctx is None:
            return None
        own = [one for one in self.held if one.ctx is ctx and one.asker is asker]
        if own:
            return max(own, key=lambda one: one.order)
        above = self.above[ctx]
        while above is not None:
            found = [one for one in self.held if one.ctx is above]
            if found:
                return max(found, key=lambda one: one.order)
            above = self.above[above]
        return None

    def depth(self, held: Held | None) -> int:
        return 0 if held is None else 1 + self.depth(held.parent)

    def has_room(self, user: str, resources: frozenset[str]) -> bool:
        return self.units() < self.total and self.units(user) < self.limit_of(user) and not self.lacking(resources)

    def free(self, user: str, lender: Held | None, resources: frozenset[str]) -> bool:
        if lender is not None and not self.below(lender):
            return True
        others = any(one.user == user and one.resources == resources for one in self.waiting)
        return self.has_room(user, resources) and not others

    def is_first(self, one: Waiting) -> bool:
        """Whether nobody of the same user and resources is more urgent, or as urgent and earlier."""
        rivals = (other for other in self.waiting if (other.user, other.resources) == (one.user, one.resources))
        return min(rivals, key=lambda other: (other.priority, other.order)) is one

    def is_lent_to(self, one: Waiting) -> bool:
        """Whether the permit above has its unit to lend, and nobody below it asked earlier."""
        if one.parent is None or self.below(one.parent):
            return False
        return (
            min((other for other in self.waiting if other.parent is one.parent), key=lambda other: other.order) is one
        )

    def hold(self, one: Any, asker: object, parent: Held | None, permit: Permit) -> None:
        assert permit.held
        self.numbers += 1
        held = Held(one.user, one.ctx, asker, parent, permit, self.numbers, one.resources)
        self.held.append(held)
        # Who asked before there was a permit above is below it from now on.
        for other in self.waiting:
            if self.lender(other.ctx, other.task) is held:
                other.parent = held

    def serve(self, one: Waiting) -> None:
        self.waiting.remove(one)
        self.hold(one, one.task, one.parent, one.box.pop())

    def return_in_model(self, one: Held) -> Waiting | None:
        """Take the permit out. Returns who must get its unit, if that is decided by the nesting alone."""
        lent = self.below(one)
        self.held.remove(one)
        if lent:
            for other in [*self.held, *self.waiting]:
                if other.parent is one:
                    other.parent = one.parent
            return None
        if one.parent is not None and self.below(one.parent):
            return next((other for other in self.waiting if other.parent is one.parent), None)
        return None

    def settle(self, next_one: Waiting | None = None) -> None:
        """Let the loop run, and check that who was served is who had to be."""
        self.loop.turns()
        served = [one for one in self.waiting if one.task.done()]
        if next_one is not None:
            assert next_one in served, "a sibling under the same permit comes first"
            served.remove(next_one)
            self.serve(next_one)
        while served:
            in_turn = (one for one in served if self.has_room(one.user, one.resources) and self.is_first(one))
            one = next((one for one in served if self.is_lent_to(one)), None) or next(in_turn, None)
            assert one is not None, "served out of turn or over a limit"
            served.remove(one)
            self.serve(one)

    # -- asking --------------------------------------------------------------------------------------------------------

    def place(self, user: int, at: int | None) -> tuple[str, UserExecutionContext | None]:
        return USERS[user], None if at is None else self.contexts[4 * user + at]

    def judge_refusal(self, error: BaseException | None, user: str, resources: frozenset[str], *reasons: str) -> None:
        assert isinstance(error, LimitRejected | LimitTimeout)
        assert error.reason in reasons
        assert 1 <= error.retry_after <= 60
        has_unit = self.units() < self.total and self.units(user) < self.limit_of(user)
        lacking = self.lacking(resources)
        if has_unit and lacking:
            assert (error.limit, error.resource in lacking) == ("global", True)
            return
        over = self.units(user) >= self.limit_of(user) or self.queued(user) >= self.per_user_queue
        assert (error.limit, error.resource) == ("user" if over else "global", "")

    def wait_for(self, one: Waiting, *, admitted: bool, timeout: float) -> None:
        """Take in how a request went that was just made."""
        free = self.free(one.user, one.parent, one.resources)
        full = len(self.waiting) >= self.queue or self.queued(one.user) >= self.per_user_queue
        self.loop.turns()
        if free:
            self.hold(one, one.task, one.parent, one.box.pop())
            self.settle()
            return
        error = one.task.exception() if one.task.done() else None
        # Who runs on what the run holds already is not refused early.
        if full and not admitted and one.parent is None:
            self.refused += 1
            assert isinstance(error, LimitRejected)
            assert error.reason == "queue"
        elif isinstance(error, LimitRejected):
            # By what permits were held for: the model does not compute that.
            assert (error.reason, admitted, one.parent) == ("predicted", False, None)
            self.refused += 1
        elif timeout == 0:
            self.timed_out += 1
            assert isinstance(error, LimitTimeout)
        else:
            assert not one.task.done()
            self.numbers += 1
            one.order = self.numbers
            self.waiting.append(one)
            return
        self.judge_refusal(error, one.user, one.resources, "queue", "predicted", "timeout")

    @rule(
        user=st.integers(0, 2),
        at=st.none() | st.integers(0, 3),
        timeout=st.sampled_from([0, 1, 7, 30]),
        admitted=st.booleans(),
        through=st.sampled_from(["acquire", "slot"]),
        priority=st.integers(1, 4),
        resources=st.sets(st.sampled_from(["llm", "database"])),
    )
    def ask(
        self,
        user: int,
        at: int | None,
        timeout: float,
        admitted: bool,
        through: str,
        priority: int,
        resources: set[str],
    ) -> None:
        name, ctx = self.place(user, at)
        # What is nested lends resources as well, which the tests of the core look at.
        wanted = frozenset(resources if ctx is None else ())
        lender = self.lender(ctx, None)
        if self.depth(lender) > DEEPEST:
            return
        box: list[Permit] = []
        options: Any = {"ctx": ctx, "admitted": admitted, "priority": priority, "resources": sorted(wanted)}

        async def asking() -> None:
            if through == "acquire":
                box.append(await self.limiter.acquire(name, timeout=timeout, **options))
            else:
                box.append(await self.limiter.slot(name, timeout=timeout, **options).__aenter__())

        task = self.loop.create_task(asking())
        one = Waiting(name, ctx, lender, task, box, self.loop.time() + timeout, priority, 0, wanted)
        self.wait_for(one, admitted=admitted, timeout=timeout)

    @rule(
        user=st.integers(0, 2),
        at=st.none() | st.integers(0, 3),
        refuse=st.booleans(),
        resources=st.sets(st.sampled_from(["llm", "database"])),
    )
    def ask_at_once(self, user: int, at: int | None, refuse: bool, resources: set[str]) -> None:
        name, ctx = self.place(user, at)
        wanted = frozenset(resources if ctx is None else ())
        lender = self.lender(ctx, SYNCHRONOUS)
        if self.depth(lender) > DEEPEST:
            return
        free = self.free(name, lender, wanted)
        permit = None
        if refuse:
            try:
                permit = self.limiter.slot_nowait(name, ctx=ctx, resources=sorted(wanted))
            except LimitRejected as error:
                self.judge_refusal(error, name, wanted, "full")
        else:
            permit = self.limiter.try_slot(name, ctx=ctx, resources=sorted(wanted))
        assert (permit is not None) == free
        if permit is None:
            self.refused += 1
        else:
            one = Waiting(name, ctx, lender, None, [], 0.0, 2, 0, wanted)  # type: ignore[arg-type]
            self.hold(one, SYNCHRONOUS, lender, permit)
            self.settle()

    @rule(user=st.integers(0, 2))
    def ask_in_a_loop_that_dies(self, user: int) -> None:
        """A permit of a task that never runs again, because its loop was closed."""
        if not self.free(USERS[user], None, frozenset()):
            # A waiter of a closed loop stays in the queue until its turn, which test_limits.py looks at.
            return
        loop = asyncio.SelectorEventLoop()

        async def asking() -> None:
            async with self.limiter.slot(USERS[user], timeout=0):
                await asyncio.sleep(1_000)

        task = loop.create_task(asking())
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert self.limiter.stats()["running"] == self.units() + 1
        task._log_destroy_pending = False
        # Its block is left when the coroutine is thrown away.
        del task, asking
        gc.collect()
        self.settle()

    # -- giving back ---------------------------------------------------------------------------------------------------

    def give_back(self, one: Held, how: str) -> None:
        if how == "release":
            assert one.permit.release()
            assert not one.permit.release()
        elif how == "block":
            with one.permit:
                pass
        elif how == "cycle":
            cycle: list[Any] = [one.permit]
            cycle.append(cycle)
        self.leaked += how in {"drop", "cycle"}
        one.permit = None  # type: ignore[assignment]
        one.asker = None
        if how == "cycle":
            del cycle
            gc.collect()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["release", "block", "drop", "cycle"]))
    def give_one_back(self, data: st.DataObject, how: str) -> None:
        one = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        next_one = self.return_in_model(one)
        self.give_back(one, how)
        self.settle(next_one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        one.task.cancel()
        self.settle()
        assert one.task.cancelled()
        self.gave_up += 1

    @precondition(lambda self: self.waiting and self.held)
    @rule(data=st.data(), first=st.booleans())
    def give_back_and_cancel_in_one_turn(self, data: st.DataObject, first: bool) -> None:
        """What was granted to a task that is cancelled in the same turn goes to the next."""
        out = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        one = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        next_one = self.return_in_model(one)
        if first:
            out.task.cancel()
        self.give_back(one, "release")
        out.task.cancel()
        self.settle(next_one)
        assert out.task.cancelled()
        # Whether it counts as granted and returned or as cancelled is the limiter's own affair.
        self.gave_up += self.limiter.stats()["cancelled"] - self.gave_up

    @rule(seconds=st.sampled_from([0.5, 3, 10, 40]))
    def wait(self, seconds: float) -> None:
        late = [one for one in self.waiting if one.deadline <= self.loop.time() + seconds]
        self.waiting = [one for one in self.waiting if one not in late]
        self.loop.advance(seconds)
        self.settle()
        for one in late:
            error = one.task.exception()
            assert isinstance(error, LimitTimeout)
            assert error.limit in {"user", "global"}
        self.timed_out += len(late)

    # -- suspending ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.held)
    @rule(data=st.data(), timeout=st.sampled_from([0, 3, 20]))
    def suspend(self, data: st.DataObject, timeout: float) -> None:
        one = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        block = one.permit.suspend(timeout)
        next_one = self.return_in_model(one)

        async def enter() -> None:
            await block.__aenter__()

        task = self.loop.create_task(enter())
        self.settle(next_one)
        assert task.done()
        assert not one.permit.held
        self.suspended.append(Suspended(one, (block, timeout)))

    @precondition(lambda self: self.suspended)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        again = self.suspended[data.draw(st.integers(0, len(self.suspended) - 1))]
        held, (block, timeout) = again.held, again.block
        lender = self.lender(held.ctx, None)
        if self.depth(lender) > DEEPEST:
            return
        self.suspended.remove(again)
        box: list[Permit] = []

        async def leave(block: Any, permit: Permit) -> None:
            await block.__aexit__(None, None, None)
            box.append(permit)

        task = self.loop.create_task(leave(block, held.permit))
        held.permit = None  # type: ignore[assignment]
        one = Waiting(held.user, held.ctx, lender, task, box, self.loop.time() + timeout, 2, 0, held.resources)
        # The task keeps the permit alive for as long as it waits, and no longer.
        del held, again, block
        self.wait_for(one, admitted=True, timeout=timeout)

    # -- limits that change --------------------------------------------------------------------------------------------

    @rule(total=st.integers(0, 4))
    def set_total(self, total: int) -> None:
        self.total = total
        self.limiter.set_limit(total=total)
        self.settle()

    @rule(per_user=st.integers(0, 3), user=st.none() | st.integers(0, 2))
    def set_per_user(self, per_user: int, user: int | None) -> None:
        if user is None:
            self.per_user = per_user
            self.limiter.set_limit(per_user=per_user)
        else:
            self.own[USERS[user]] = per_user
            self.limiter.set_limit(user=USERS[user], per_user=per_user)
        self.settle()

    @rule(user=st.integers(0, 2))
    def reset_user(self, user: int) -> None:
        self.own.pop(USERS[user], None)
        self.limiter.reset_user(USERS[user])
        self.settle()

    @rule(name=st.sampled_from(["llm", "database"]), limit=st.integers(0, 3))
    def set_resource(self, name: str, limit: int) -> None:
        self.resources[name] = limit
        self.limiter.set_limit(resource=name, limit=limit)
        self.settle()

    @rule()
    def evict(self) -> None:
        before = self.limiter.stats()["users"]
        busy = {one.user for one in [*self.held, *self.waiting]} | set(self.own)
        dropped = self.limiter.evict(0)
        assert self.limiter.stats()["users"] == before - dropped == len(busy)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        if not self.contexts:
            return
        stats = self.limiter.stats()
        assert (stats["running"], stats["queued"]) == (self.units(), len(self.waiting))
        assert stats["granted"] - stats["released"] == len(self.held)
        assert (stats["refused"], stats["timed_out"]) == (self.refused, self.timed_out)
        assert (stats["cancelled"], stats["leaked"]) == (self.gave_up, self.leaked)
        # Above a limit that was lowered are only those who ran then.
        self.most = max(self.total, min(self.most, self.units()))
        assert self.units() <= self.most
        for name, limit in self.resources.items():
            resource = stats["resources"][name]
            assert (resource["limit"], resource["running"]) == (limit, sum(name in one.resources for one in self.held))
        for user in USERS:
            of = self.limiter.stats(user)
            assert (of["running"], of["queued"], of["limit"]) == (
                self.units(user),
                self.queued(user),
                self.limit_of(user),
            )
        assert all(one.permit.held for one in self.held)

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        if self.contexts:
            assert not any(self.has_room(one.user, one.resources) for one in self.waiting)

    def teardown(self) -> None:
        try:
            if self.contexts:
                self.suspended.clear()
                self.own.clear()
                for user in USERS:
                    self.limiter.reset_user(user)
                self.total = self.per_user = self.most = 100
                self.resources = {"llm": 100, "database": 100}
                self.limiter.set_limit(total=100, per_user=100)
                for name in self.resources:
                    self.limiter.set_limit(resource=name, limit=100)
                self.settle()
            while self.held:
                one = self.held[-1]
                next_one = self.return_in_model(one)
                self.give_back(one, "release")
                self.settle(next_one)
            if self.contexts:
                assert not self.waiting, "somebody waits for nobody"
                self.limiter.evict(0)
                stats = self.limiter.stats()
                assert (stats["running"], stats["queued"], stats["users"]) == (0, 0, 0)
                assert stats["granted"] == stats["released"]
                assert stats["leaked"] == self.leaked
        finally:
            for left in self.waiting:
                left.task.cancel()
            self.loop.turns()
            self.loop.close()


PermitMachine.TestCase.settings = settings.get_profile("machines")
TestPermits = PermitMachine.TestCase


class Faulty:
    """A limiter that is a little wrong; everything else is passed on."""

    def __init__(self, fault: str, *arguments: Any, **options: Any) -> None:
        self.fault = fault
        self.inner = FairLimiter(*arguments, **options)
        self.lost: list[Permit] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def try_slot(self, user: str, **options: Any) -> Permit | None:
        got = self.inner.try_slot(user, **options)
        if self.fault == "a permit is lost" and got is not None:
            self.lost.append(got)
            return None
        if self.fault == "one too many is given" and got is None:
            return FairLimiter(1, 1).slot_nowait(user)
        return got

    def set_limit(self, **limits: Any) -> None:
        if self.fault == "a lower limit is forgotten" and limits.get("total", 9) < self.inner.stats()["total"]:
            return
        self.inner.set_limit(**limits)

    def stats(self, user: str | None = None) -> dict[str, Any]:
        stats = self.inner.stats(user)
        if self.fault == "a waiter is forgotten" and stats["queued"] > 1:
            stats["queued"] -= 1
        return stats


FAULTS = ["a permit is lost", "one too many is given", "a waiter is forgotten", "a lower limit is forgotten"]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_machine_finds_a_planted_fault(fault) -> None:
    """The positive control: the same rules over a limiter that is a little wrong."""

    class FaultyMachine(PermitMachine):
        def new_limiter(self, *arguments: Any, **options: Any) -> Any:
            return Faulty(fault, *arguments, **options)

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            FaultyMachine, settings=settings(settings.get_profile("short"), phases=[Phase.generate])
        )


def test_the_machine_passes_over_a_wrapper_that_is_not_wrong() -> None:
    """The control of the control."""

    class Wrapped(PermitMachine):
        def new_limiter(self, *arguments: Any, **options: Any) -> Any:
            return Faulty("none", *arguments, **options)

    run_state_machine_as_test(Wrapped, settings=settings(settings.get_profile("short"), max_examples=10))
