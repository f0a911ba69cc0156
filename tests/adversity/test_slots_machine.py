"""Engine slots against a model: making, refusing, waiting, running, ending, lifetimes and grace, by a moved clock."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from dataclasses import dataclass
from typing import Any

import isolane
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
from isolane import (
    BaseAgent,
    EngineClosedError,
    EngineDrainingError,
    EngineLimitError,
    ExecutionEngineFactory,
    ExecutionEngineFactoryError,
    ExecutionResult,
    FairLimiter,
    UserContextFactory,
    UserExecutionContext,
    UserExecutionEngine,
)
from isolane._core import end_stream
from isolane.testing import manual_clock

from tests.adversity.manual_loop import ManualLoop

pytestmark = pytest.mark.timeout(1_800)

_examples = itertools.count(1)
USERS = ("ann", "ben", "cho")
# No two of them add up to the same moment.
LIFETIME, GRACE, WAIT, STEP = 100.7507, 5.5011, 2.2503, 3.1309
A_MOMENT = 0.0001


class Quick(BaseAgent):
    async def execute_with_context(self, context: UserExecutionContext, gate: asyncio.Event) -> str:
        await asyncio.sleep(0)
        return "done"


class Failing(BaseAgent):
    async def execute_with_context(self, context: UserExecutionContext, gate: asyncio.Event) -> str:
        raise LookupError("as planned")


class Hanging(BaseAgent):
    """Runs until its gate opens or it is cancelled."""

    timeout_seconds = 10_000.0

    async def execute_with_context(self, context: UserExecutionContext, gate: asyncio.Event) -> str:
        await gate.wait()
        return "done"


class Stubborn(BaseAgent):
    """Runs until its gate opens, whoever cancels it."""

    timeout_seconds = 10_000.0

    async def execute_with_context(self, context: UserExecutionContext, gate: asyncio.Event) -> str:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return "done"


class Slow(Hanging):
    """Takes longer than it may."""

    timeout_seconds = STEP


@dataclass(eq=False)
class Living:
    """An engine that has its slot."""

    user: str
    ctx: UserExecutionContext
    engine: UserExecutionEngine
    deadline: float
    ending: bool = False
    """Its life is over, and an agent that ignores its cancellation keeps it."""


@dataclass(eq=False)
class Making:
    """Somebody who waits for a slot."""

    user: str
    ctx: UserExecutionContext
    task: asyncio.Task[UserExecutionEngine]
    deadline: float


@dataclass(eq=False)
class Running:
    """An agent that has not returned."""

    living: Living
    agent: type[BaseAgent]
    gate: asyncio.Event
    task: asyncio.Task[ExecutionResult]
    deadline: float
    until: float | None = None
    """When its engine is closed by force."""


class SlotMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        logging.disable(logging.WARNING)
        number = next(_examples)
        self.names = [f"{user}-{number}-of-slots" for user in USERS]
        self.living: list[Living] = []
        self.making: list[Making] = []
        self.running: list[Running] = []
        self.over: list[UserExecutionEngine] = []
        self.background: set[asyncio.Task[Any]] = set()
        self.created = self.refused = self.failed = self.expired = self.forced = self.ended = 0
        self.draining = False
        self.factory: ExecutionEngineFactory | None = None

    def new_factory(self, **options: Any) -> ExecutionEngineFactory:
        return ExecutionEngineFactory(**options)

    @initialize(
        per_user=st.integers(1, 3), total=st.none() | st.integers(1, 4), at_limit=st.sampled_from(["reject", "wait"])
    )
    def make(self, per_user: int, total: int | None, at_limit: str) -> None:
        self.per_user, self.total, self.waits = per_user, total or 1_000, at_limit == "wait"
        self.limiter = FairLimiter(100, 100)
        self.factory = self.new_factory(
            max_engines_per_user=per_user,
            max_engines=total,
            at_limit=at_limit,
            engine_timeout_seconds=LIFETIME,
            grace=GRACE,
            wait_timeout=WAIT,
            limiter=self.limiter,
        )

    def load(self, user: str | None = None) -> int:
        return sum(user in {None, one.user} for one in self.living)

    def free(self, user: str) -> bool:
        waiting = any(one.user == user for one in self.making)
        return self.load() < self.total and self.load(user) < self.per_user and not waiting

    # -- the loop and the clock ----------------------------------------------------------------------------------------

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self.loop.turns(25)
        return task

    def settle(self) -> None:
        """Let the loop run, and check who got a slot."""
        self.loop.turns(25)
        done = [one for one in self.making if one.task.done()]
        while done:
            one = next(one for one in done if next(first for first in self.making if first.user == one.user) is one)
            assert self.load() < self.total, "a slot too many"
            assert self.load(one.user) < self.per_user, "a slot too many for the user"
            done.remove(one)
            self.making.remove(one)
            if self.draining:
                assert isinstance(one.task.exception(), EngineDrainingError)
            else:
                self.live(one.user, one.ctx, one.task.result())

    def live(self, user: str, ctx: UserExecutionContext, engine: UserExecutionEngine) -> None:
        self.created += 1
        self.living.append(Living(user, ctx, engine, self.loop.time() + LIFETIME))

    def next_moment(self) -> float:
        moments = [one.deadline for one in [*self.living, *self.making, *self.running]]
        moments += [one.until for one in self.running if one.until is not None]
        return min((moment for moment in moments if moment > self.loop.time()), default=float("inf"))

    @rule(seconds=st.sampled_from([1, 4, 60, 110]))
    def wait(self, seconds: float) -> None:
        """Move the clock from one moment at which something happens to the next."""
        target = self.loop.time() + seconds
        while (moment := self.next_moment() + A_MOMENT) < target:
            self.loop.advance(moment - self.loop.time())
            self.pass_moment()
        self.loop.advance(target - self.loop.time())
        self.pass_moment()

    def pass_moment(self) -> None:
        now = self.loop.time()
        late = [one for one in self.making if one.deadline <= now]
        self.making = [one for one in self.making if one not in late]
        slow = [one for one in self.running if one.deadline <= now]
        self.running = [one for one in self.running if one not in slow]
        for one in [one for one in self.running if one.until is not None and one.until <= now]:
            self.close_by_force(one)
        for one in [one for one in self.living if one.deadline <= now and not one.ending]:
            self.expire(one)
        self.settle()
        for one in late:
            assert isinstance(one.task.exception(), EngineLimitError)
            self.refused += 1
        for one in slow:
            assert isinstance(one.task.result().error, TimeoutError)

    def expire(self, one: Living) -> None:
        stubborn = [run for run in self.running if run.living is one and run.agent is Stubborn]
        self.running = [run for run in self.running if run.living is not one or run in stubborn]
        if stubborn:
            one.ending = True
            for run in stubborn:
                run.until = one.deadline + GRACE
        else:
            self.expired += 1
            self.gone(one)

    def close_by_force(self, run: Running) -> None:
        """What ignores its cancellation goes on without engine, slot and permit."""
        runs = [other for other in self.running if other.living is run.living]
        self.running = [other for other in self.running if other not in runs]
        for other in runs:
            self.background.add(other.task)
            self.loop.call_later(1_000_000, other.gate.set)
        if run.living in self.living:
            self.forced += 1
            self.gone(run.living)

    def gone(self, one: Living) -> None:
        self.ended += 1
        if one in self.living:
            self.living.remove(one)
        self.over.append(one.engine)

    # -- making --------------------------------------------------------------------------------------------------------

    @rule(user=st.integers(0, 2), data=st.data())
    def create(self, user: int, data: st.DataObject) -> None:
        """An engine for a new run, or one more for a run that has one."""
        name = self.names[user]
        shared = [one.ctx for one in self.living if one.user == name and not one.ending]
        ctx = UserContextFactory.create_context(name)
        free = self.free(name)
        if shared and free and data.draw(st.booleans(), label="for a context that has one"):
            ctx = shared[0]
        task = self.start(self.factory.create_for_user(ctx))
        if self.draining:
            assert isinstance(task.exception(), EngineDrainingError)
        elif free:
            self.live(name, ctx, task.result())
        elif self.waits and task.done():
            # By what slots were held for lately it would wait in vain.
            assert task.exception().__cause__.reason == "predicted"
            self.refused += 1
        elif self.waits:
            self.making.append(Making(name, ctx, task, self.loop.time() + WAIT))
        else:
            error = task.exception()
            assert isinstance(error, EngineLimitError)
            assert error.limit == ("user" if self.load(name) >= self.per_user else "global")
            assert error.retry_after >= 1
            self.refused += 1

    @rule(user=st.integers(0, 2), data=st.data(), count=st.integers(2, 4))
    def create_several(self, user: int, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            self.create(user, data)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def create_for_a_child(self, data: st.DataObject) -> None:
        """The engine of the run above, without a slot of its own."""
        one = data.draw(st.sampled_from(self.living))
        engine = self.start(self.factory.create_for_user(one.ctx.create_child_context("part"))).result()
        assert engine.context is one.ctx

    @rule(user=st.integers(0, 2), how=st.sampled_from(["foreign run", "ended", "no context"]))
    def fail_to_create(self, user: int, how: str) -> None:
        """What fails while an engine is made gives its slot back."""
        name = self.names[user]
        mine = UserContextFactory.create_context(name)
        held: Any = None
        if how == "foreign run":
            if not self.free(name):
                return
            held = UserContextFactory.create_context(self.names[(user + 1) % 3])
            held.get_websocket_emitter()
            mine = UserExecutionContext(name, "thread-1", held.run_id)
            self.failed += 1
        elif how == "ended":
            mine.get_websocket_emitter()
            end_stream(mine)
        else:
            mine = object()
        task = self.start(self.factory.create_for_user(mine))
        assert isinstance(task.exception(), ExecutionEngineFactoryError)

    @precondition(lambda self: self.making)
    @rule(data=st.data())
    def give_up_making(self, data: st.DataObject) -> None:
        one = self.making.pop(data.draw(st.integers(0, len(self.making) - 1)))
        one.task.cancel()
        self.settle()
        assert one.task.cancelled()

    # -- running -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(not one.ending for one in self.living))
    @rule(data=st.data(), agent=st.sampled_from([Quick, Failing, Hanging, Stubborn, Slow]))
    def run_an_agent(self, data: st.DataObject, agent: type[BaseAgent]) -> None:
        one = data.draw(st.sampled_from([one for one in self.living if not one.ending]))
        gate = asyncio.Event()
        task = self.start(one.engine.execute_agent(agent, gate))
        if agent is Quick:
            assert task.result().success
        elif agent is Failing:
            assert isinstance(task.result().error, LookupError)
        else:
            assert not task.done()
            deadline = self.loop.time() + STEP if agent is Slow else float("inf")
            self.running.append(Running(one, agent, gate, task, deadline))

    @precondition(lambda self: any(run.until is None for run in self.running))
    @rule(data=st.data())
    def let_an_agent_return(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([run for run in self.running if run.until is None]))
        self.running.remove(run)
        run.gate.set()
        self.settle()
        assert run.task.result().success

    @precondition(lambda self: any(run.until is None and run.agent is not Stubborn for run in self.running))
    @rule(data=st.data())
    def cancel_an_agent(self, data: st.DataObject) -> None:
        able = [run for run in self.running if run.until is None and run.agent is not Stubborn]
        run = data.draw(st.sampled_from(able))
        self.running.remove(run)
        run.task.cancel()
        self.settle()
        assert run.task.cancelled()

    # -- ending --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.living)
    @rule(data=st.data(), way=st.sampled_from(["factory", "engine", "user"]))
    def end(self, data: st.DataObject, way: str) -> None:
        one = data.draw(st.sampled_from(self.living))
        ending = [other for other in self.living if other is one or (way == "user" and other.user == one.user)]
        call = {
            "factory": lambda: self.factory.cleanup_engine(one.engine),
            "engine": one.engine.cleanup,
            "user": lambda: self.factory.cleanup_user_context(one.user),
        }[way]
        for other in [other for other in ending if not other.ending]:
            self.living.remove(other)
            self.ended += 1
            self.over.append(other.engine)
            for run in [run for run in self.running if run.living is other]:
                if run.agent is Stubborn:
                    # The slot goes first; the engine has its grace.
                    run.until = self.loop.time() + GRACE
                else:
                    self.running.remove(run)
        task = self.loop.create_task(call())
        self.background.add(task)
        self.settle()

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def use_what_is_over(self, data: st.DataObject) -> None:
        """Ending twice does nothing, and running is refused."""
        engine = data.draw(st.sampled_from(self.over))
        self.start(self.factory.cleanup_engine(engine)).result()
        assert not engine.is_active()
        assert isinstance(self.start(engine.execute_agent(Quick)).exception(), EngineClosedError)

    @rule(data=st.data())
    def refuse_for_a_while(self, data: st.DataObject) -> None:
        """Nobody gets an engine, nor who waits for a slot that becomes free."""
        self.draining = True
        self.factory.refuse()
        self.create(0, data)
        if self.living:
            self.end(data, "engine")
        self.draining = False
        self.factory.reopen()

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        if self.factory is None:
            return
        metrics = self.factory.get_factory_metrics()
        assert metrics["engines_active"] == len(self.living)
        assert metrics["engines_created"] == self.created
        assert metrics["engines_cleaned"] == self.ended
        assert metrics["engines_expired"] == self.expired
        assert metrics["engines_forced"] == self.forced
        assert metrics["user_limit_rejections"] == self.refused
        assert metrics["creation_errors"] == self.failed
        assert metrics["cleanup_errors"] == 0
        slots = self.factory._slots.stats()
        assert (slots["running"], slots["queued"]) == (len(self.living), len(self.making))
        assert self.limiter.stats()["running"] == len(self.running)
        summary = self.factory.get_active_engines_summary()
        assert sorted(view["user_id"] for view in summary) == sorted(one.user for one in self.living)

    @invariant()
    def nobody_waits_who_could_have_a_slot(self) -> None:
        for one in self.making:
            assert self.load() >= self.total or self.load(one.user) >= self.per_user

    def teardown(self) -> None:
        try:
            if self.factory is not None:
                for run in self.running:
                    run.gate.set()
                self.running.clear()
                self.loop.turns(25)
                for one in self.making:
                    one.task.cancel()
                self.making.clear()
                self.loop.turns(25)
                shutdown = self.start(self.factory.shutdown(drain=0))
                self.loop.advance(GRACE + 1)
                self.loop.turns(25)
                shutdown.result()
                # Those that were closed by force end at last.
                self.loop.advance(1_000_001)
                self.loop.turns(25)
                assert all(task.done() for task in self.background)
                assert not any(task.cancelled() for task in self.background)
                # Those that went on without their engine are told so in the end.
                ends = [task.exception() for task in self.background]
                assert all(error is None or isinstance(error, EngineClosedError) for error in ends)
                assert self.factory._slots.stats()["running"] == 0
                assert self.limiter.stats()["running"] == 0
                assert self.factory.get_factory_metrics()["engines_active"] == 0
                assert not any([self.factory._engines, self.factory._numbers, self.factory._closing])
                assert self.loop._scheduled == [] or all(timer.cancelled() for timer in self.loop._scheduled)
        finally:
            logging.disable(logging.NOTSET)
            self.living.clear()
            self.over.clear()
            self.background.clear()
            self.loop.close()


SlotMachine.TestCase.settings = settings(settings.get_profile("machines"), stateful_step_count=60)
TestSlots = SlotMachine.TestCase


class NeverEnds(ExecutionEngineFactory):
    async def cleanup_engine(self, engine: UserExecutionEngine | None) -> None:
        """Keep the slot."""


class NeverExpires(ExecutionEngineFactory):
    def _expire(self, numbers: list[int]) -> None:
        """Let it live."""


class ReservesTwice(ExecutionEngineFactory):
    async def _reserve(self, context: UserExecutionContext) -> Any:
        self.extra = self._slots.try_slot(context.user_id)
        return await super()._reserve(context)


@pytest.mark.parametrize("fault", [NeverEnds, NeverExpires, ReservesTwice])
def test_the_machine_finds_a_planted_fault(fault) -> None:
    class Faulty(SlotMachine):
        def new_factory(self, **options: Any) -> ExecutionEngineFactory:
            return fault(**options)

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=settings(settings.get_profile("short"), phases=[Phase.generate]))
    gc.collect()


def test_a_run_that_ends_while_its_second_engine_waits() -> None:
    """Refused as it is when the run has ended before: its engine could run nothing."""
    loop = ManualLoop()
    factory = ExecutionEngineFactory(max_engines_per_user=1, at_limit="wait", limiter=FairLimiter())
    ctx = UserContextFactory.create_context("dot-of-slots")
    first = loop.run(factory.create_for_user(ctx))
    second = loop.create_task(factory.create_for_user(ctx))
    loop.turns()
    try:
        loop.run(factory.cleanup_engine(first))
        loop.turns()
        assert isinstance(second.exception(), ExecutionEngineFactoryError)
        assert factory._slots.stats()["running"] == 0
    finally:
        loop.run(factory.shutdown(0))
        loop.close()


def test_nothing_of_the_users_is_left() -> None:
    """After the machines: engines, contexts and tasks are garbage, so the lanes hold ended logs at most."""
    # A task whose error nobody asked for is logged when it is collected, and pytest keeps the record with its frames.
    logging.disable(logging.CRITICAL)
    try:
        gc.unfreeze()
        gc.collect()
    finally:
        logging.disable(logging.NOTSET)
    with manual_clock() as clock:
        clock.advance(1_000_000)
        isolane.sweep_lanes(idle_lanes=True)
    for number in range(1, next(_examples)):
        for user in USERS:
            assert isolane.lane_usage(f"{user}-{number}-of-slots") is None
