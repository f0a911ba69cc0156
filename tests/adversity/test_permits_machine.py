"""Permits against a model that one can check by eye: users, nested permits, cancellations, deadlines and full queues.

The model knows which permits are held and under which, and who waits; how many units are in use follows: a permit with
something below it has lent its unit, so each permit with nothing below it is one unit.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from dataclasses import dataclass, field
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


@dataclass(eq=False)
class Held:
    """A permit that somebody has."""

    user: str
    ctx: UserExecutionContext | None
    asker: object
    parent: Held | None
    permit: Permit
    order: int


@dataclass(eq=False)
class Waiting:
    """Somebody who waits for one. ``passed`` counts who was served while it could have been."""

    user: str
    ctx: UserExecutionContext | None
    parent: Held | None
    task: asyncio.Task[None]
    box: list[Permit]
    """What the task got. As its result it would be in a cycle with it, and a dropped one would not return at once."""
    deadline: float
    passed: collections.Counter[str] = field(default_factory=collections.Counter)


class PermitMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        self.held: list[Held] = []
        self.waiting: list[Waiting] = []
        self.contexts: list[UserExecutionContext] = []
        self.above: dict[UserExecutionContext, UserExecutionContext | None] = {}
        self.refused = self.timed_out = self.gave_up = self.numbers = 0

    @initialize(
        total=st.integers(1, 4), per_user=st.integers(1, 3), queue=st.integers(1, 6), per_user_queue=st.integers(1, 4)
    )
    def make(self, total: int, per_user: int, queue: int, per_user_queue: int) -> None:
        self.total, self.per_user, self.queue, self.per_user_queue = total, per_user, queue, per_user_queue
        self.limiter = self.new_limiter(total, per_user, queue=queue, per_user_queue=per_user_queue)
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
        return sum(one.parent is held for one in [*self.held, *self.waiting]) if held is not None else 0

    def units(self, user: str | None = None) -> int:
        return sum(not self.below(one) and user in {None, one.user} for one in self.held)

    def queued(self, user: str) -> int:
        return sum(one.user == user for one in self.waiting)

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

    def free(self, user: str, lender: Held | None) -> bool:
        if lender is not None and not self.below(lender):
            return True
        return self.units() < self.total and self.units(user) < self.per_user and not self.queued(user)

    def could_run(self, one: Waiting) -> bool:
        return self.units(one.user) < self.per_user

    def hold(self, user: str, ctx: Any, asker: object, parent: Held | None, permit: Permit) -> None:
        assert permit.held
        self.numbers += 1
        self.held.append(Held(user, ctx, asker, parent, permit, self.numbers))

    def serve(self, one: Waiting) -> None:
        self.waiting.remove(one)
        self.hold(one.user, one.ctx, one.task, one.parent, one.box.pop())

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

    def settle(self, next_one: Waiting | None = None, *, blameless: str = "") -> None:
        """Let the loop run, and check that who was served is who had to be."""
        self.loop.turns()
        served = [one for one in self.waiting if one.task.done()]
        if next_one is not None:
            assert next_one in served, "a sibling under the same permit comes first"
            served.remove(next_one)
            self.serve(next_one)
        while served:
            one = next(
                (
                    one
                    for one in served
                    if self.units() < self.total
                    and self.could_run(one)
                    and next(other for other in self.waiting if other.user == one.user) is one
                ),
                None,
            )
            assert one is not None, "served out of turn or over a limit"
            could = [other for other in self.waiting if other.user != one.user and self.could_run(other)]
            served.remove(one)
            self.serve(one)
            for other in could:
                other.passed[one.user] += 1
                if other.user == blameless:
                    other.passed.clear()
                first = next(waiting for waiting in self.waiting if waiting.user == other.user) is other
                assert not first or other.passed[one.user] <= 2, "one user was served again and again before another"
        for one in self.waiting:
            if not self.could_run(one):
                one.passed.clear()
            if any(other.user == one.user for other in self.waiting[: self.waiting.index(one)]):
                one.passed.clear()

    # -- asking --------------------------------------------------------------------------------------------------------

    def place(self, user: int, at: int | None) -> tuple[str, UserExecutionContext | None]:
        return USERS[user], None if at is None else self.contexts[4 * user + at]

    @rule(
        user=st.integers(0, 2),
        at=st.none() | st.integers(0, 3),
        timeout=st.sampled_from([0, 1, 7, 30]),
        admitted=st.booleans(),
        through=st.sampled_from(["acquire", "slot"]),
    )
    def ask(self, user: int, at: int | None, timeout: float, admitted: bool, through: str) -> None:
        name, ctx = self.place(user, at)
        lender = self.lender(ctx, None)

        box: list[Permit] = []

        async def asking() -> None:
            if through == "acquire":
                box.append(await self.limiter.acquire(name, timeout=timeout, ctx=ctx, admitted=admitted))
            else:
                box.append(await self.limiter.slot(name, timeout=timeout, ctx=ctx, admitted=admitted).__aenter__())

        free = self.free(name, lender)
        full = len(self.waiting) >= self.queue or self.queued(name) >= self.per_user_queue
        task = self.loop.create_task(asking())
        self.loop.turns()
        if free:
            self.hold(name, ctx, task, lender, box.pop())
        elif full and not admitted:
            self.refused += 1
            error = task.exception()
            assert isinstance(error, LimitRejected)
            over = self.units(name) >= self.per_user or self.queued(name) >= self.per_user_queue
            assert error.limit == ("user" if over else "global")
            assert 1 <= error.retry_after <= 60
        elif timeout == 0:
            self.timed_out += 1
            assert isinstance(task.exception(), LimitTimeout)
        else:
            assert not task.done()
            self.waiting.append(Waiting(name, ctx, lender, task, box, self.loop.time() + timeout))

    @rule(user=st.integers(0, 2), at=st.none() | st.integers(0, 3), refuse=st.booleans())
    def ask_at_once(self, user: int, at: int | None, refuse: bool) -> None:
        name, ctx = self.place(user, at)
        lender = self.lender(ctx, SYNCHRONOUS)
        free = self.free(name, lender)
        permit = None
        if refuse:
            with contextlib.suppress(LimitRejected):
                permit = self.limiter.slot_nowait(name, ctx=ctx)
        else:
            permit = self.limiter.try_slot(name, ctx=ctx)
        assert (permit is not None) == free
        if permit is None:
            self.refused += 1
        else:
            self.hold(name, ctx, SYNCHRONOUS, lender, permit)

    # -- giving back ---------------------------------------------------------------------------------------------------

    def give_back(self, one: Held, how: str) -> None:
        if how == "release":
            assert one.permit.release()
            assert not one.permit.release()
        elif how == "block":
            with one.permit:
                pass
        one.permit = None  # type: ignore[assignment]
        one.asker = None

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["release", "block", "drop"]))
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
        self.settle(next_one, blameless=out.user)
        assert out.task.cancelled()
        # Whether it counts as granted and returned or as cancelled is the limiter's own affair.
        self.gave_up += self.limiter.stats()["cancelled"] - self.gave_up
        for other in self.waiting:
            other.passed.clear()

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

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        if not self.contexts:
            return
        stats = self.limiter.stats()
        assert (stats["running"], stats["queued"]) == (self.units(), len(self.waiting))
        assert stats["running"] <= self.total
        assert stats["granted"] - stats["released"] == len(self.held)
        assert (stats["refused"], stats["timed_out"]) == (self.refused, self.timed_out)
        assert stats["cancelled"] == self.gave_up
        for user in USERS:
            assert self.limiter.stats(user) == {"running": self.units(user), "queued": self.queued(user)}
            assert self.units(user) <= self.per_user
        assert all(one.permit.held for one in self.held)

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        if self.contexts and self.units() < self.total:
            assert not any(self.could_run(one) for one in self.waiting)

    def teardown(self) -> None:
        try:
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

    def try_slot(self, user: str, *, ctx: Any = None) -> Permit | None:
        got = self.inner.try_slot(user, ctx=ctx)
        if self.fault == "a permit is lost" and got is not None:
            self.lost.append(got)
            return None
        if self.fault == "one too many is given" and got is None:
            return FairLimiter(1, 1).slot_nowait(user)
        return got

    def stats(self, user: str | None = None) -> dict[str, int]:
        stats = self.inner.stats(user)
        if self.fault == "a waiter is forgotten" and stats["queued"] > 1:
            stats["queued"] -= 1
        return stats


@pytest.mark.parametrize("fault", ["a permit is lost", "one too many is given", "a waiter is forgotten"])
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
