"""What real runs tell the guard of a rollout, and what becomes of them when it rolls back."""

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import isolane
import pytest
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    ExecutionEngineFactory,
    FairLimiter,
    FlagWriter,
    GuardPolicy,
    LimitTimeout,
    MigrationFeatureFlags,
    RolloutGuard,
    RunCancelledError,
    RunExpiredError,
    RunRolledBackError,
    UserExecutionContext,
    install_flags,
)
from isolane._core import EventCursor, log_accounts, run_deliveries, user_streams
from isolane.migration.guard import waiting
from isolane.migration.guard.signals import is_violation
from isolane.migration.legacy.errors import BroadcastDeniedError, CrossUserSendError
from isolane.security.contamination import ContaminationDetector
from isolane.security.events import AuditClass, SecurityEvent
from isolane.testing import manual_clock

FLAG = "modern_execution"


class Works(BaseAgent):
    name = "works"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await asyncio.sleep(0)
        return request


class Breaks(BaseAgent):
    name = "breaks"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        raise ValueError("no such column")


class Leaks(BaseAgent):
    name = "leaks"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        try:
            raise ContextIsolationError("an object of another user", "bind")  # noqa: TRY301
        except ContextIsolationError as error:
            raise ValueError("it went wrong") from error


class Waits(BaseAgent):
    """Waits for a model: a second, of which nothing is its own."""

    name = "waits"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        with waiting():
            await asyncio.sleep(0.15)
        return "waited"


class Sleeps(BaseAgent):
    name = "sleeps"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await asyncio.sleep(request)


class Goes(BaseAgent):
    """Goes on until it is cancelled; `stubborn` says what it does then."""

    name = "goes"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name="wait", params={})
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if request == "returns":
                return "all the same"
            if request == "raises":
                raise ValueError("instead") from None
            if request == "goes on":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.3)
                return "late"
            raise


@dataclass
class App:
    factory: ExecutionEngineFactory
    flags: MigrationFeatureFlags
    contamination: ContaminationDetector | None = None
    audit: Any = None
    numbers: list[int] = field(default_factory=list)

    def context(self, user: str) -> UserExecutionContext:
        self.numbers.append(1)
        return UserExecutionContext(user, f"thread-{user}", f"run-{user}-{len(self.numbers)}")

    async def run(self, user: str, agent: type[BaseAgent], request: Any = None) -> Any:
        context = self.context(user)
        try:
            async with self.factory.user_execution_scope(context) as engine:
                return await engine.execute_agent(agent, request)
        finally:
            await context.cleanup()


def _side(user: str) -> dict[str, str]:
    return {"side": "modern" if user.startswith("m") else "legacy"}


def make(**more: Any) -> App:
    """An application in which users whose names begin with `m` are modern."""
    agents = AgentRegistry()
    for agent in (Works, Breaks, Leaks, Waits, Sleeps, Goes):
        agents.register(agent)
    factory = ExecutionEngineFactory(
        agent_factory=AgentInstanceFactory(agents), max_engines_per_user=64, grace=0.05, **more
    )
    rule = {"if": {"side": ["modern"]}, "rollout": 100_000}
    flags = MigrationFeatureFlags(
        {"schema": 1, "revision": 1, "flags": {FLAG: {"rollout": 0, "rules": [rule]}}},
        attributes_of=_side,
    )
    return App(factory, flags)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = make()
    before = install_flags(app.flags.engine)
    yield app
    install_flags(before)
    await app.factory.shutdown(0)


def figures(guard: RolloutGuard, metric: str) -> tuple[int, int, int, int]:
    of = guard.status().metrics[metric]
    return of.bad, of.seen, of.legacy_bad, of.legacy_seen


async def events_of(context: UserExecutionContext) -> list[dict[str, Any]]:
    """What a client of the user is told of a run."""
    cursor = EventCursor(context.user_id, framed=False)
    cursor.subscribe(context.run_id)
    return [json.loads(text) for text in cursor.read(1_000)]


async def test_runs_are_told_by_cohort_as_they_began(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    guard.attach(app)
    for user in ("mia", "leo"):
        await app.run(user, Works)
        await app.run(user, Breaks)
    assert figures(guard, "run_error") == (1, 2, 1, 2)
    assert figures(guard, "slow_run") == (0, 2, 0, 2)
    guard.detach()
    await app.run("mia", Breaks)
    assert figures(guard, "run_error") == (1, 2, 1, 2)
    assert app.factory.run_observers == []


async def test_a_run_stays_in_the_cohort_in_which_it_began(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    context = app.context("mia")
    async with app.factory.user_execution_scope(context) as engine:
        app.flags.engine.kill()
        await engine.execute_agent(Works)
    app.flags.engine.unkill()
    assert figures(guard, "run_error") == (0, 1, 0, 0)
    assert guard.is_modern(context)


async def test_what_a_run_waits_for_does_not_make_it_slow(app: App) -> None:
    guard = RolloutGuard(app.flags, policy=GuardPolicy(slow_run_seconds=0.1))
    guard.attach(app)
    await app.run("mia", Waits)
    assert figures(guard, "slow_run") == (0, 1, 0, 0)
    await app.run("mia", Sleeps, 0.15)
    assert figures(guard, "slow_run") == (1, 2, 0, 0)


async def test_waiting_for_a_permit_does_not_make_a_run_slow() -> None:
    app = make(limiter=FairLimiter(1, 1))
    guard = RolloutGuard(app.flags, policy=GuardPolicy(slow_run_seconds=0.25))
    guard.attach(app)
    before = install_flags(app.flags.engine)
    await asyncio.gather(app.run("mia", Sleeps, 0.2), app.run("max", Sleeps, 0.2))
    install_flags(before)
    assert figures(guard, "slow_run") == (0, 2, 0, 0)
    await app.factory.shutdown(0)


async def test_refusals_and_cancellations_are_no_errors_and_an_expired_run_is_one() -> None:
    app = make(limiter=FairLimiter(1, 1), admission_timeout=0.05, engine_timeout_seconds=0.4)
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    before = install_flags(app.flags.engine)
    context = app.context("mia")
    engine = await app.factory.create_for_user(context)
    run = asyncio.create_task(engine.execute_agent(Goes))
    await asyncio.sleep(0)
    with pytest.raises(LimitTimeout):
        await app.run("max", Works)
    assert await app.factory.cancel_run("mia", context.run_id)
    with pytest.raises(RunCancelledError):
        await run
    task = asyncio.create_task(app.run("mia", Goes))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert figures(guard, "run_error") == (0, 0, 0, 0)
    with pytest.raises(RunExpiredError):
        await app.run("mia", Goes)
    assert figures(guard, "run_error") == (1, 1, 0, 0)
    install_flags(before)
    await app.factory.shutdown(0)


async def test_a_violation_inside_of_an_error_aborts_at_once(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    await app.run("leo", Leaks)
    assert guard.status().state != "rolled_back"
    await app.run("mia", Leaks)
    record = guard.status().record
    assert record is not None
    assert (record.metric, record.mode) == ("isolation_violation", "abort")


class Audit:
    def __init__(self) -> None:
        self.observers: list[Any] = []
        self.events: list[SecurityEvent] = []

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)
        for observer in self.observers:
            observer(event)

    def add_observer(self, observer: Any) -> Any:
        self.observers.append(observer)
        return lambda: self.observers.remove(observer)


@pytest.mark.parametrize(("user", "rolls_back"), [("mia", True), ("leo", False), (None, True)])
async def test_what_the_audit_log_is_told_of_violations(app: App, user: str | None, rolls_back: bool) -> None:
    app.audit = Audit()
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    app.audit.record(SecurityEvent(name="authz_fail", audit_class=AuditClass.PERMISSION, user_id=user))
    assert guard.status().state != "rolled_back"
    app.audit.record(SecurityEvent(name="isolation_violation", audit_class=AuditClass.ISOLATION, user_id=user))
    assert (guard.status().state == "rolled_back") is rolls_back
    recorded = [event.name for event in app.audit.events if event.name == "rollout_rolled_back"]
    assert len(recorded) == int(rolls_back), "the log of the application has it"
    guard.detach()
    assert app.audit.observers == []


@pytest.mark.parametrize(("reader", "rolls_back"), [("mia", True), ("leo", False)])
async def test_what_the_detector_finds(app: App, reader: str, rolls_back: bool) -> None:
    app.contamination = ContaminationDetector()
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    canary = app.contamination.mint("ann")
    assert app.contamination.check_sync(app.context("ann"), canary).violations == ()
    assert guard.status().state != "rolled_back"
    assert app.contamination.check_sync(app.context(reader), canary).violations
    assert (guard.status().state == "rolled_back") is rolls_back


@pytest.mark.parametrize("how", ["stops", "returns", "raises", "goes on"])
async def test_abort_cancels_the_modern_runs_with_one_last_event_each(app: App, how: str) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    contexts = {user: app.context(user) for user in ("mia", "max", "leo")}
    engines = {user: await app.factory.create_for_user(context) for user, context in contexts.items()}
    runs = {user: asyncio.create_task(engine.execute_agent(Goes, how)) for user, engine in engines.items()}
    await asyncio.sleep(0.01)
    assert guard.observe("isolation_violation", True) is not None
    await guard.settled()
    for user in ("mia", "max"):
        with pytest.raises(RunRolledBackError) as caught:
            await runs[user]
        assert (caught.value.reason, caught.value.retriable) == ("rolled_back", True)
        assert engines[user].end_reason == "rolled_back"
        assert user_streams(user)[-1]["outcome"] == "cancelled"
        events = await events_of(contexts[user])
        last = [event for event in events if event["type"] in {"agent_completed", "agent_error"}]
        assert [event["type"] for event in last] == ["agent_error"]
        assert (last[0]["payload"]["code"], last[0]["payload"]["retriable"]) == ("rolled_back", True)
        assert [event["type"] for event in events].count("tool_completed") == 1
    assert not runs["leo"].done(), "the legacy cohort goes on"
    assert engines["leo"].is_active()
    assert all(account["balanced"] for account in log_accounts())
    runs["leo"].cancel()
    await asyncio.gather(*runs.values(), return_exceptions=True)
    metrics = app.factory.get_factory_metrics()
    assert (metrics["engines_active"], metrics["engines_leaked"]) == (1, 0)


async def test_a_run_of_before_an_abort_that_begins_after_it_is_ended_as_well(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    contexts = {user: app.context(user) for user in ("mia", "leo")}
    assert guard.is_modern(contexts["mia"])
    assert guard.observe("isolation_violation", True) is not None
    await guard.settled()
    engines = {user: await app.factory.create_for_user(context) for user, context in contexts.items()}
    await guard.settled()
    with pytest.raises(RunRolledBackError):
        await engines["mia"].execute_agent(Sleeps, 0.0)
    assert (await engines["leo"].execute_agent(Sleeps, 0.0)).success
    await guard.resume("modern_execution", ack="INC-1", actor="ops")
    async with app.factory.user_execution_scope(app.context("max")) as engine:
        assert (await engine.execute_agent(Sleeps, 0.0)).success


@pytest.mark.parametrize("later", [False, True])
async def test_what_another_process_has_found_ends_the_runs_here_too(app: App, tmp_path: Path, later: bool) -> None:
    path = tmp_path / "flags.json"
    path.write_text(app.flags.engine.document())
    flags, others = (MigrationFeatureFlags(path, attributes_of=_side) for _ in range(2))
    install_flags(flags.engine)
    app.flags = flags
    guard, other = RolloutGuard(flags), RolloutGuard(others, writer=FlagWriter(path))
    guard.attach(app)
    engines = {user: await app.factory.create_for_user(app.context(user)) for user in ("mia", "leo")}
    runs = {user: asyncio.create_task(engine.execute_agent(Goes, "stops")) for user, engine in engines.items()}
    await asyncio.sleep(0.01)
    if later:
        other.rollback("a feeling", "ops")
        await other.settled()
        flags.refresh()
        guard.tick()
        await guard.settled()
        assert (guard.status().state, runs["mia"].done()) == ("rolled_back", False), "drained"
    other.observe("isolation_violation", True)
    await other.settled()
    flags.refresh()
    guard.tick()
    await guard.settled()
    with pytest.raises(RunRolledBackError):
        await runs["mia"]
    assert not runs["leo"].done()
    runs["leo"].cancel()
    await asyncio.gather(*runs.values(), return_exceptions=True)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (ContextIsolationError("met", "bind"), True),
        (CrossUserSendError("another user", reason="other_user"), True),
        (CrossUserSendError("has just gone", reason="not_connected"), False),
        (BroadcastDeniedError("to all", "publish"), False),
    ],
)
def test_a_refusal_in_which_nobody_met_anybody_is_no_violation(error: Exception, is_one: bool) -> None:
    wrapped = ValueError()
    wrapped.__cause__ = error
    assert (is_violation(error), is_violation(wrapped)) == (is_one, is_one)


async def test_drain_lets_the_modern_runs_finish_and_begins_no_new_ones(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    context = app.context("mia")
    engine = await app.factory.create_for_user(context)
    run = asyncio.create_task(engine.execute_agent(Sleeps, 0.05))
    await asyncio.sleep(0.01)
    record = guard.rollback("a feeling", "ops")
    assert record is not None
    assert record.mode == "drain"
    assert guard.is_modern(context)
    assert (await run).success
    assert not guard.is_modern(app.context("mia"))
    assert guard.rollback("again", "ops") is None
    worse = guard.rollback("end them", "ops", mode="abort")
    assert worse is not None
    await guard.settled()


async def test_deliveries_are_told_by_run() -> None:
    app = make()
    before = install_flags(app.flags.engine)
    guard = RolloutGuard(app.flags, policy=GuardPolicy(slow_event_seconds=0.05))
    guard.attach(app)
    context = app.context("mia")
    async with app.factory.user_execution_scope(context) as engine:
        cursor = EventCursor("mia", framed=False)
        cursor.subscribe(context.run_id)
        await engine.execute_agent(Works)
        cursor.read(100)
        await asyncio.sleep(0.06)
        await engine.execute_agent(Works)
        await asyncio.sleep(0.06)
        cursor.read(100)
        guard.tick()
        assert run_deliveries("mia", context.run_id) == (4, 2, 4, 0)
        assert figures(guard, "slow_event") == (2, 4, 0, 0)
        assert figures(guard, "dropped_event") == (0, 4, 0, 0)
        guard.tick()
        assert figures(guard, "slow_event") == (2, 4, 0, 0), "each counts once"
    assert run_deliveries("mia", "no such run") is None
    guard.detach()
    install_flags(before)
    await app.factory.shutdown(0)


async def test_runs_are_followed_as_long_as_they_have_an_engine(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    (signals,) = guard._signals
    for _ in range(3):
        context = app.context("mia")
        async with app.factory.user_execution_scope(context):
            """Nothing is executed."""
        await context.cleanup()
    engine = await app.factory.create_for_user(app.context("max"))
    await engine.execute_agent(Works)
    with manual_clock() as clock:
        guard.tick()
        clock.advance(3_600)
        guard.tick()
        assert [user for user, _ in signals._runs] == ["max"], "of which another step may come"
        app.flags.load(json.dumps({"schema": 1, "revision": 2, "flags": {FLAG: {"rollout": 0}}}))
        assert signals._cohort_of("max") == "modern", "as the run began"
        await app.factory.shutdown(0)
        guard.tick()
        clock.advance(3_600)
        guard.tick()
        assert not signals._runs


async def test_critical_events_without_room_are_told(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)
    context = app.context("mia")
    async with app.factory.user_execution_scope(context):
        emitter = context.get_websocket_emitter()
        with pytest.raises(isolane.BudgetExceeded):
            # Executions of a run are bounded.
            for _ in range(20_000):
                await emitter.notify_agent_started(agent_name="works")
                await emitter.notify_agent_completed(agent_name="works", result=None)
    guard.tick()
    bad, seen, *_ = figures(guard, "dropped_event")
    assert (bad, seen) == (1, 20_001)


async def test_an_observer_keeps_no_run_alive(app: App) -> None:
    guard = RolloutGuard(app.flags)
    guard.attach(app)

    async def one() -> weakref.ref[Any]:
        context = app.context("mia")
        async with app.factory.user_execution_scope(context) as engine:
            await engine.execute_agent(Breaks)
            return weakref.ref(engine)

    held = await one()
    gc.collect()
    assert held() is None


async def test_observers_that_fail_harm_no_run(app: App, caplog: pytest.LogCaptureFixture) -> None:
    broken = SimpleNamespace()
    app.factory.run_observers.append(broken)  # type: ignore[arg-type]
    assert (await app.run("mia", Works, 3)).result == 3
    assert "an observer of runs failed" in caplog.text
    app.factory.run_observers.clear()
