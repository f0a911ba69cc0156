"""The end of engines: by time, by idleness, to make room; and agents that are left behind, whose writes are refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    EngineDrainingError,
    EngineLimitError,
    ExecutionEngineFactory,
    ExecutionStatus,
    FairLimiter,
    RunClosed,
    RunExpiredError,
    RunFenced,
    UserExecutionContext,
)
from isolane.testing import manual_clock

GRACE = 0.05


class Zombie(BaseAgent):
    """Ignores its cancellation, and tries all that it should no longer do once it is told to."""

    name = "zombie"
    release: ClassVar[asyncio.Event]
    tried: ClassVar[dict[str, BaseException | None]]
    before: ClassVar[list[Callable[[], Any]]]
    limiter: ClassVar[FairLimiter]

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        emitter = context.get_websocket_emitter()
        child = context.create_child_context("made earlier")
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
        above = request
        own = context.active_runs
        attempts: dict[str, Callable[[], Any]] = {
            "event": lambda: emitter.notify_agent_thinking("late"),
            "event of a child": lambda: child.get_websocket_emitter().notify_agent_thinking("late"),
            "emitter": context.get_websocket_emitter,
            "emitter of the run": above.get_websocket_emitter,
            "child context": lambda: context.create_child_context("late"),
            "grandchild context": lambda: child.create_child_context("late"),
            "child of the run": lambda: above.create_child_context("late"),
            "run record": lambda: context.record_run_start(agent_type="late"),
            "run record of the run": lambda: above.record_run_start(agent_type="late"),
            "end of a record": lambda: context.record_run_success(next(iter(own), "none"), 1),
            "cleanup callback": lambda: context.register_cleanup_callback(lambda: None),
            "detach": context.detach,
            "session": context.get_database_session,
            "session factory": lambda: context.bind_session_factory(lambda _: None),
            "lock": context.acquire_execution_lock,
            "permit": lambda: self.limiter.slot_nowait(context.user_id, ctx=context),
            "permit of a child": lambda: self.limiter.acquire(context.user_id, ctx=child),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
                self.tried[name] = None
            except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
                self.tried[name] = error
        return "late"


class Wait(BaseAgent):
    name = "wait"
    gate: ClassVar[asyncio.Event]

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> str:
        await self.gate.wait()
        return "waited"


class CleansUp(BaseAgent):
    """Ends within its grace, and writes a last event."""

    name = "cleans-up"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            context.get_websocket_emitter().notify_agent_thinking("saved")


@pytest.fixture
def limiter() -> FairLimiter:
    return FairLimiter()


@pytest.fixture
async def new_factory(limiter) -> AsyncIterator[Callable[..., ExecutionEngineFactory]]:
    registry = AgentRegistry()
    for agent in (Zombie, Wait, CleansUp):
        registry.register(agent)
    Zombie.release, Zombie.tried, Zombie.limiter = asyncio.Event(), {}, limiter
    Wait.gate = asyncio.Event()

    def make(**options: Any) -> ExecutionEngineFactory:
        settings = {"limiter": limiter, "grace": GRACE, **options}
        return ExecutionEngineFactory(agent_factory=AgentInstanceFactory(registry), **settings)

    yield make
    # While the loop runs, or it would never close after a test that failed.
    Zombie.release.set()
    Wait.gate.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def nothing_left(factory: ExecutionEngineFactory, limiter: FairLimiter) -> bool:
    slots, permits, metrics = factory._slots.stats(), limiter.stats(), factory.get_factory_metrics()
    held = (slots["running"], slots["queued"], permits["running"], permits["queued"])
    return held == (0, 0, 0, 0) and (metrics["engines_active"], metrics["engines_leaked"]) == (0, 0)


# -- the time is over --------------------------------------------------------------------------------------------------


async def test_a_run_whose_time_is_over_fails_and_is_cleaned_up(new_factory, limiter, context, read_plain):
    factory = new_factory(engine_timeout_seconds=0.05, grace=5)
    called: list[str] = []
    context.register_cleanup_callback(lambda: called.append("first registered"))
    context.register_cleanup_callback(lambda: called.append("last registered"))
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("cleans-up"))
    await asyncio.sleep(0)
    assert context.status is ExecutionStatus.EXECUTING
    with pytest.raises(RunExpiredError, match=r"took longer than 0.05 s; raise engine_timeout_seconds") as caught:
        await task
    assert (caught.value.reason, caught.value.retry_after > 0) == ("lifetime", True)
    await until(lambda: context.status is ExecutionStatus.CLEANED)
    assert (engine.end_reason, engine.is_active()) == ("lifetime", False)
    assert called == ["last registered", "first registered"]
    assert context.execution_metrics.failed_runs == 1
    types = [message["type"] for message in read_plain(context.user_id, context.run_id)]
    # What an agent writes while it ends in time is still written.
    assert types == ["agent_started", "agent_thinking", "agent_error"]
    metrics = factory.get_factory_metrics()
    assert (metrics["engines_expired"], metrics["engines_forced"], metrics["late_writes_refused"]) == (1, 0, 0)
    assert nothing_left(factory, limiter)


async def test_the_context_is_failed_for_its_lifetime_while_its_agents_have_their_grace(new_factory, context):
    factory = new_factory(engine_timeout_seconds=0.2, grace=0.2)
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("zombie", context))
    await until(lambda: not engine.is_active())
    assert context.status is ExecutionStatus.FAILED
    assert "lifetime" in str(context.get_audit_trail())
    await until(lambda: context.status is ExecutionStatus.CLEANED)
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_idle_run_whose_time_is_over_fails_as_well(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=0.2)
    await factory.create_for_user(context)
    await until(lambda: context.status is ExecutionStatus.CLEANED)
    assert factory.get_factory_metrics()["engines_expired"] == 1
    assert nothing_left(factory, limiter)


async def test_the_end_comes_soon_after_the_deadline(new_factory, new_context, caplog):
    """Within 100 ms on a loop that is idle. A slow machine makes it later, so only a minute fails the test."""
    factory = new_factory(engine_timeout_seconds=0.2)
    engines = [await factory.create_for_user(new_context()) for _ in range(20)]
    began = time.monotonic()
    await until(lambda: not any(engine.is_active() for engine in engines))
    assert time.monotonic() - began < 60
    # Not the sweep, which comes once a minute, but the deadlines.
    assert factory.get_factory_metrics()["found_by_audit"] == 0


async def test_callbacks_each_have_their_own_time_and_all_errors_are_counted(new_factory, limiter, context, caplog):
    factory = new_factory(engine_timeout_seconds=0.2)
    called = []

    def fail(what: str) -> None:
        called.append(what)
        raise OSError(what)

    context.register_cleanup_callback(lambda: fail("first"))
    context.register_cleanup_callback(lambda: asyncio.sleep(60), timeout=0.01)
    context.register_cleanup_callback(lambda: fail("last"))
    with caplog.at_level(logging.ERROR, "isolane.engines"):
        await factory.create_for_user(context)
        await until(lambda: context.status is ExecutionStatus.CLEANED)
    assert called == ["last", "first"]
    await until(lambda: factory.get_factory_metrics()["cleanup_errors"] == 3)
    assert nothing_left(factory, limiter)


async def test_a_context_that_another_engine_runs_goes_on(new_factory, limiter, context, read_plain):
    factory = new_factory(engine_timeout_seconds=0.2)
    first = await factory.create_for_user(context)
    task = asyncio.create_task(first.execute_agent("zombie", context))
    factory.engine_timeout_seconds = 60
    second = await factory.create_for_user(context)
    await until(lambda: factory.get_factory_metrics()["engines_forced"] == 1)
    assert second.is_active()
    assert (first.is_active(), context.status is ExecutionStatus.CLEANED) == (False, False)
    Wait.gate.set()
    assert (await second.execute_agent("wait")).success
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert isinstance(Zombie.tried["event"], RunFenced)
    # The run itself is not the zombie's alone.
    assert Zombie.tried["child of the run"] is None
    await second.cleanup()
    types = [message["type"] for message in read_plain(context.user_id, context.run_id)]
    assert types.count("agent_error") == types.count("agent_completed") == 1
    assert nothing_left(factory, limiter)


class Starts(BaseAgent):
    """Runs another agent of its run in a task of its own, and waits for it whatever happens."""

    name = "starts"
    cancelled: ClassVar[list[bool]]

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        task = asyncio.create_task(request.execute_agent("wait"))
        try:
            await asyncio.wait([task])
        finally:
            await asyncio.wait([task])
            self.cancelled.append(task.cancelled())


class Swallows(BaseAgent):
    """Makes something of its cancellation, in time."""

    name = "swallows"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "saved"


async def test_who_is_told_that_the_time_is_over_is_not_cancelled(new_factory, limiter, context):
    """The caller's task goes on as any that has caught an error, with time limits that still work."""
    factory = new_factory(engine_timeout_seconds=0.2, grace=5)

    async def caller() -> int:
        async with asyncio.timeout(30), asyncio.TaskGroup():
            engine = await factory.create_for_user(context)
            with pytest.raises(RunExpiredError):
                await engine.execute_agent("wait")
            with pytest.raises(RunExpiredError):
                await engine.execute_agent("wait")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await asyncio.create_task(caller()) == 0
    await until(lambda: nothing_left(factory, limiter))


async def test_who_is_cancelled_from_outside_as_well_is_told_so(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=60, grace=5)
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("wait"))
    await asyncio.sleep(0)
    ending = asyncio.create_task(factory._end(engine, "expired", "the run took longer than 60 s"))
    task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await ending
    assert engine.end_reason == "lifetime"
    assert nothing_left(factory, limiter)


async def test_a_time_limit_of_the_caller_that_ends_with_the_engine_is_still_that(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=60, grace=5)
    engine = await factory.create_for_user(context)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60) as limit:
            asyncio.get_running_loop().call_later(0.01, limit.reschedule, 0)
            asyncio.get_running_loop().call_later(
                0.01, lambda: asyncio.ensure_future(factory._end(engine, "expired", "the run took longer than 60 s"))
            )
            await engine.execute_agent("wait")
    assert asyncio.current_task().cancelling() == 0
    await until(lambda: nothing_left(factory, limiter))


async def test_a_cancel_that_was_asked_for_stays_one(new_factory, limiter, context):
    async with new_factory().user_execution_scope(context) as engine:
        task = asyncio.create_task(engine.execute_agent("wait"))
        await asyncio.sleep(0)
        engine.cancel("the user pressed stop")
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_a_step_started_ends_by_the_cancellation_and_the_caller_is_told_why(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=0.2, grace=5)
    factory.agent_factory.registry.register(Starts)
    Starts.cancelled = []
    engine = await factory.create_for_user(context)
    with pytest.raises(RunExpiredError):
        await engine.execute_agent("starts", engine)
    assert Starts.cancelled == [True]
    await until(lambda: nothing_left(factory, limiter))


async def test_a_background_run_tells_it_too(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=0.2, grace=5)
    engine = await factory.create_for_user(context)
    context.detach()
    with pytest.raises(RunExpiredError):
        await engine.start_agent_pipeline(["wait"])
    await until(lambda: nothing_left(factory, limiter))


async def test_what_an_agent_makes_of_its_grace_is_its_result(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=0.2, grace=5)
    factory.agent_factory.registry.register(Swallows)
    engine = await factory.create_for_user(context)
    assert (await engine.execute_agent("swallows")).result == "saved"
    assert asyncio.current_task().cancelling() == 0
    assert factory.get_factory_metrics()["engines_forced"] == 0
    await until(lambda: nothing_left(factory, limiter))


async def test_what_comes_after_the_grace_is_no_result(new_factory, limiter, context):
    factory = new_factory(engine_timeout_seconds=0.2, grace=0.02)
    task = await leave_behind(factory, context)
    Zombie.release.set()
    with pytest.raises(RunExpiredError):
        await task
    assert nothing_left(factory, limiter)


@pytest.mark.parametrize("expires", [True, False])
async def test_a_caller_that_lives_on_is_no_agent_that_did_not_stop(new_factory, limiter, context, caplog, expires):
    """The engine waits for its executions, and not for the task that had asked for them."""
    factory = new_factory(engine_timeout_seconds=0.2 if expires else 60, grace=0.05)
    engine = await factory.create_for_user(context)
    go_on = asyncio.Event()

    async def caller() -> None:
        with contextlib.suppress(asyncio.CancelledError, RunExpiredError):
            await engine.execute_agent("cleans-up")
        await go_on.wait()

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    if expires:
        await until(lambda: context.status is ExecutionStatus.CLEANED)
    else:
        await engine.cleanup()
    metrics = factory.get_factory_metrics()
    assert (metrics["engines_forced"], metrics["engines_expired"]) == (0, int(expires))
    assert "by force" not in caplog.text
    assert engine._watches == []
    assert not task.done()
    assert nothing_left(factory, limiter)
    go_on.set()
    await task


# -- agents that are left behind ---------------------------------------------------------------------------------------


async def leave_behind(factory: ExecutionEngineFactory, context: UserExecutionContext) -> asyncio.Task[Any]:
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("zombie", context))
    await until(lambda: factory.get_factory_metrics()["engines_forced"] == 1)
    await until(lambda: context.status is ExecutionStatus.CLEANED)
    assert not task.done()
    return task


async def test_whatever_a_zombie_writes_late_is_refused_and_counted(new_factory, limiter, context, read_plain):
    factory = new_factory(engine_timeout_seconds=0.2)
    task = await leave_behind(factory, context)
    assert nothing_left(factory, limiter)
    before = read_plain(context.user_id, context.run_id)
    runs, record = context.execution_metrics.total_runs, context.get_audit_trail()["record"]
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert {name: type(error) for name, error in Zombie.tried.items()} == dict.fromkeys(Zombie.tried, RunFenced)
    assert len(Zombie.tried) == 17
    error = Zombie.tried["child context"]
    assert "ended by force" in str(error)
    assert "let asyncio.CancelledError pass" in str(error)
    assert isinstance(error, RunClosed)
    assert error.args == (str(error),)
    assert read_plain(context.user_id, context.run_id) == before
    assert (context.execution_metrics.total_runs, context.get_audit_trail()["record"]) == (runs, record)
    metrics = factory.get_factory_metrics()
    assert metrics["late_writes_refused"] >= len(Zombie.tried)
    assert metrics["late_releases_refused"] == 1
    assert nothing_left(factory, limiter)


async def test_a_permit_that_a_zombie_gives_back_late_is_not_given_back_twice(new_factory, context, new_context):
    """Else another user's run would find one permit too many."""
    limiter = FairLimiter(1, 1)
    factory = new_factory(engine_timeout_seconds=0.2, limiter=limiter)
    task = await leave_behind(factory, context)
    other = limiter.slot_nowait(new_context().user_id)
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert limiter.stats()["running"] == 1
    assert limiter.try_slot(new_context().user_id) is None
    other.release()
    assert factory.get_factory_metrics()["late_releases_refused"] == 1


async def test_permits_that_a_zombie_took_itself_go_back_too(new_factory, context, new_context):
    class Greedy(BaseAgent):
        name = "greedy"
        release: ClassVar[asyncio.Event] = asyncio.Event()
        own: ClassVar[list[bool]] = []

        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> None:
            child = context.create_child_context("inner")
            async with limiter.slot(context.user_id, ctx=child, resources="llm") as permit:
                # Another one waits in a task of its own, and would run when that one is gone.
                task = asyncio.create_task(self.wait(context))
                while not self.release.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await self.release.wait()
                self.own.append(permit.held)
            await asyncio.gather(task, return_exceptions=True)
            assert isinstance(task.exception(), RunFenced)

        async def wait(self, context: UserExecutionContext) -> None:
            child = context.create_child_context("waiting")
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    async with limiter.slot(context.user_id, ctx=child, resources="llm", timeout=60):
                        self.own.append(True)
                    return

    limiter = FairLimiter(1, 1, resources={"llm": 1})
    factory = new_factory(engine_timeout_seconds=0.5, limiter=limiter)
    factory.agent_factory.registry.register(Greedy)
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("greedy"))
    try:
        await until(lambda: not engine.is_active() and factory.get_factory_metrics()["engines_forced"] == 1)
        # Who waited is granted what came back, and refused in its own turn.
        await until(lambda: limiter.stats()["running"] == 0)
        stats = limiter.stats()
        assert (stats["running"], stats["resources"]["llm"]["running"]) == (0, 0)
        other = limiter.slot_nowait(new_context().user_id, resources="llm")
    finally:
        # Or the loop would never close after a failure.
        Greedy.release.set()
    await asyncio.gather(task, return_exceptions=True)
    stats = limiter.stats()
    assert (stats["running"], stats["resources"]["llm"]["running"]) == (1, 1), "what came back late was not counted"
    other.release()
    assert (limiter.stats()["running"], limiter.stats()["queued"]) == (0, 0)
    assert Greedy.own == [True]


async def test_the_slot_of_a_zombie_is_free_for_the_next_run_of_its_user(new_factory, limiter, new_context, alice):
    factory = new_factory(engine_timeout_seconds=0.2, max_engines_per_user=1)
    task = await leave_behind(factory, new_context(alice))
    Wait.gate.set()
    async with factory.user_execution_scope(new_context(alice)) as engine:
        assert (await engine.execute_agent("wait")).success
        Zombie.release.set()
        await asyncio.gather(task, return_exceptions=True)
        # What it does late does not reach the user's next run.
        assert (await engine.execute_agent("wait")).success
    assert nothing_left(factory, limiter)


async def test_an_agent_that_stops_in_time_is_refused_nothing(new_factory, limiter, context, new_context):
    """The nearest neighbour of a zombie: its user's and others' contexts work on."""
    factory = new_factory(engine_timeout_seconds=0.2)
    task = await leave_behind(factory, context)
    neighbour = new_context(context.user_id)
    neighbour.create_child_context("works")
    neighbour.get_websocket_emitter().notify_agent_started(agent_name="works")
    neighbour.record_run_success(neighbour.record_run_start())
    with limiter.slot_nowait(neighbour.user_id, ctx=neighbour):
        pass
    await neighbour.cleanup()
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_zombie_that_ends_well_is_too_late_and_its_pipeline_goes_no_further(new_factory, limiter, context):
    factory = new_factory(grace=0.02)
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent_pipeline(["zombie", "wait"], context))
    await asyncio.sleep(0)
    await engine.cleanup()
    Zombie.release.set()
    with pytest.raises(isolane.EngineClosedError):
        await task
    assert context.execution_metrics.successful_runs == 0
    assert nothing_left(factory, limiter)


async def test_an_agent_that_ends_its_own_engine_keeps_its_context_to_the_end(new_factory, limiter, context):
    """It is not left behind: it is the one that waits."""
    factory = new_factory()
    seen = []

    class EndsIt(BaseAgent):
        async def execute_with_context(self, context: UserExecutionContext, request: Any) -> str:
            context.register_cleanup_callback(lambda: seen.append("cleaned up"))
            await engine.cleanup()
            seen.append(context.create_child_context("still works").operation_depth)
            return "ended"

    engine = await factory.create_for_user(context)
    assert (await engine.execute_agent(EndsIt)).success
    assert seen == [2, "cleaned up"]
    assert nothing_left(factory, limiter)


async def test_an_engine_closed_by_force_at_the_end_of_its_request_is_fenced_too(new_factory, limiter, context):
    factory = new_factory(grace=0.02)
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("zombie", context))
    await asyncio.sleep(0)
    await engine.cleanup()
    assert engine.end_reason == "closed"
    assert nothing_left(factory, limiter)
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert {type(error) for error in Zombie.tried.values()} == {RunFenced}
    assert await context.cleanup() == ()
    assert context.status is ExecutionStatus.CLEANED


async def test_what_an_engine_still_holds_after_its_end_is_found(new_factory, context, caplog, monkeypatch):
    """The check that is said to find leaks finds a planted one."""
    factory = new_factory()
    engine = await factory.create_for_user(context)

    async def nothing(_: Any) -> None: ...

    monkeypatch.setattr(factory, "_clean", nothing)
    task = asyncio.create_task(engine.execute_agent("zombie", context))
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR, "isolane.engines"):
        await engine.cleanup()
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert factory.get_factory_metrics()["engines_leaked"] == 1
    assert "still holds 1" in caplog.text
    await context.cleanup()


# -- idle engines ------------------------------------------------------------------------------------------------------


async def test_an_engine_that_runs_nothing_ends_after_its_idle_time(new_factory, limiter, context):
    factory = new_factory(idle_timeout=0.05)
    engine = await factory.create_for_user(context)
    await until(lambda: not engine.is_active())
    assert engine.end_reason == "idle"
    # The run's context is its owner's to end.
    assert context.status is ExecutionStatus.ACTIVE
    metrics = factory.get_factory_metrics()
    assert (metrics["engines_idle"], metrics["engines_expired"]) == (1, 0)
    assert nothing_left(factory, limiter)
    await context.cleanup()


async def test_an_engine_that_runs_something_is_not_idle(new_factory, limiter, context):
    with manual_clock() as clock:
        factory = new_factory(idle_timeout=5)
        engine = await factory.create_for_user(context)
        task = asyncio.create_task(engine.execute_agent("wait"))
        await asyncio.sleep(0)
        for _ in range(3):
            clock.advance(10)
            factory._on_deadline()
        await asyncio.sleep(0)
        assert engine.is_active()
        Wait.gate.set()
        await task
        factory._on_deadline()
        assert engine.is_active()
        clock.advance(6)
        factory._on_deadline()
        await asyncio.sleep(0)
        assert engine.end_reason == "idle"
        assert nothing_left(factory, limiter)
        await factory.shutdown(0)
    await context.cleanup()


async def test_room_is_made_by_the_engine_that_was_idle_longest(new_factory, limiter, new_context, alice, bob):
    factory = new_factory(at_limit="evict_idle")
    first, second = [await factory.create_for_user(new_context(alice)) for _ in range(2)]
    theirs = await factory.create_for_user(new_context(bob))
    Wait.gate.set()
    await first.execute_agent("wait")
    third = await factory.create_for_user(new_context(alice))
    assert (first.is_active(), second.is_active(), third.is_active()) == (True, False, True)
    assert second.end_reason == "evicted"
    assert theirs.is_active()
    metrics = factory.get_factory_metrics()
    assert (metrics["engines_evicted"], metrics["user_limit_rejections"]) == (1, 0)
    for engine in (first, third, theirs):
        await engine.cleanup()
    assert nothing_left(factory, limiter)


async def test_an_engine_that_runs_something_makes_no_room(new_factory, limiter, new_context, alice):
    factory = new_factory(at_limit="evict_idle")
    engines = [await factory.create_for_user(new_context(alice)) for _ in range(2)]
    tasks = [asyncio.create_task(engine.execute_agent("wait")) for engine in engines]
    await asyncio.sleep(0)
    with pytest.raises(EngineLimitError):
        await factory.create_for_user(new_context(alice))
    assert factory.get_factory_metrics()["user_limit_rejections"] == 1
    Wait.gate.set()
    await asyncio.gather(*tasks)
    made = await asyncio.gather(
        *(factory.create_for_user(new_context(alice)) for _ in range(5)), return_exceptions=True
    )
    living = [engine for engine in [*engines, *made] if not isinstance(engine, Exception) and engine.is_active()]
    assert len(living) == 2
    for engine in living:
        await engine.cleanup()
    assert nothing_left(factory, limiter)


async def test_the_limit_of_the_process_evicts_nobody(new_factory, limiter, new_context):
    factory = new_factory(at_limit="evict_idle", max_engines=1)
    engine = await factory.create_for_user(new_context())
    with pytest.raises(EngineLimitError, match="The service"):
        await factory.create_for_user(new_context())
    assert engine.is_active()
    await engine.cleanup()


# -- shutdown ----------------------------------------------------------------------------------------------------------


async def test_a_shutdown_ends_by_force_what_ignores_it_and_refuses_what_is_new(new_factory, limiter, new_context):
    factory = new_factory(grace=0.02)
    context = new_context()
    engine = await factory.create_for_user(context)
    task = asyncio.create_task(engine.execute_agent("zombie", context))
    await asyncio.sleep(0)
    await factory.shutdown(drain=0.02)
    with pytest.raises(EngineDrainingError) as caught:
        await factory.create_for_user(new_context())
    assert (caught.value.limit, caught.value.retry_after > 0) == ("global", True)
    assert nothing_left(factory, limiter)
    Zombie.release.set()
    await asyncio.gather(task, return_exceptions=True)
    assert isinstance(Zombie.tried["event"], RunFenced)


async def test_a_shutdown_waits_for_executions_and_not_for_callers_that_live_on(new_factory, limiter, context):
    factory = new_factory()
    engine = await factory.create_for_user(context)
    go_on = asyncio.Event()

    async def caller() -> bool:
        result = await engine.execute_agent("wait")
        await go_on.wait()
        return result.success

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(factory.shutdown(drain=60))
    await asyncio.sleep(0)
    Wait.gate.set()
    # It would fail by the time limit of all tests.
    async with asyncio.timeout(20):
        await stopping
    assert not task.done()
    go_on.set()
    assert await task, "the run was left to end"
    assert nothing_left(factory, limiter)


@pytest.mark.parametrize("options", [{"idle_timeout": 0}, {"idle_timeout": -1}, {"at_limit": "evict"}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        ExecutionEngineFactory(**options)


def test_the_error_is_public_and_can_be_made():
    error = isolane.RunFenced("made by hand")
    assert str(error) == "made by hand"
    assert isinstance(error, RuntimeError)
