"""The machines of a migration: only what is in their tables, as they are drawn, and real checks behind them."""

import asyncio
import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ExecutionEngineFactory,
    GuardPolicy,
    MigrationFeatureFlags,
    RolloutGuard,
    UserExecutionContext,
    install_flags,
)
from isolane._core import log_accounts
from isolane.migration.states import (
    MACHINES,
    CompatibilityMode,
    HealthMonitoring,
    IllegalMoveError,
    Machine,
    MigrationPhase,
    RequestLifecycle,
    RequestRouting,
    RollbackProcedure,
    Table,
    Validation,
    ValidationLayer,
    check_data_integrity,
    kind_of,
)
from isolane.migration.states.integrity import check_audit, check_logs, check_owners
from isolane.migration.states.machine import rows
from isolane.security.audit import AuditLogger, CallableKey, EncryptedAuditStorage
from isolane.security.events import AuditClass, SecurityEvent

ROOT = Path(__file__).resolve().parents[2]
FLAG = "modern_execution"


def bare(kind: type[Machine]) -> Machine:
    """A machine without what its checks need."""
    machine = object.__new__(kind)
    Machine.__init__(machine)
    return machine


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MACHINES)
def test_every_state_is_reached_and_every_way_ends(kind: type[Machine]) -> None:
    table = kind.table

    def reached(start: str, pairs: set[tuple[str, str]]) -> set[str]:
        found, left = {start}, [start]
        while left:
            here = left.pop()
            for source, target in pairs:
                if source == here and target not in found:
                    found.add(target)
                    left.append(target)
        return found

    pairs = {(move.source, move.target) for move in table.moves}
    assert reached(table.start, pairs) == set(table.states)
    assert table.finals
    backwards = {(target, source) for source, target in pairs}
    ends = set().union(*(reached(final, backwards) for final in table.finals))
    assert ends == set(table.states), "no state keeps a machine for ever"


@pytest.mark.parametrize("kind", MACHINES)
def test_each_machine_is_drawn_in_the_document_from_its_table(kind: type[Machine]) -> None:
    drawn = f"```mermaid\n{kind.table.mermaid()}\n```"
    assert drawn in (ROOT / "docs/guard.md").read_text(encoding="utf-8")


@given(data=st.data(), kind=st.sampled_from(MACHINES))
def test_a_machine_moves_by_its_table_alone(data: st.DataObject, kind: type[Machine]) -> None:
    machine, told = bare(kind), []
    machine._on_move = told.append
    triggers = [*sorted({move.trigger for move in kind.table.moves}), "no such trigger"]
    wanted = {(move.source, move.trigger): move.target for move in kind.table.moves}
    for trigger in data.draw(st.lists(st.sampled_from(triggers), max_size=40)):
        here, before = machine.state, len(told)
        if (here, trigger) in wanted:
            assert trigger in machine.allowed
            assert machine.move(trigger) == machine.state == wanted[here, trigger]
            assert (told[-1].source, told[-1].target) == (here, machine.state)
            assert machine.history[-1] == told[-1]
        else:
            with pytest.raises(IllegalMoveError) as caught:
                machine.move(trigger)
            assert (caught.value.state, caught.value.trigger, caught.value.allowed) == (here, trigger, machine.allowed)
            assert machine.state == here
            assert len(told) == before
        assert machine.is_over == (machine.allowed == ())


def test_a_table_that_says_two_things_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows for one state and trigger"):
        Table("t", "a", rows(("a", "go", "b"), ("a", "go", "c")))
    with pytest.raises(ValueError, match="a state twice, or one that is not there"):
        Table("t", "a", rows(("a", "go", "b")), {"g": ("a", "c")})


# -- requests ----------------------------------------------------------------------------------------------------------


def context(user: str, number: int = 1) -> UserExecutionContext:
    return UserExecutionContext(user, f"thread-{user}", f"run-{user}-{number}")


def test_a_request_is_routed_by_what_it_brings() -> None:
    legacy = SimpleNamespace(user_id="ann", run_id="r", chat_thread_id="t")
    for request, kind, path in [
        (context("st-ann"), "modern", "ModernPath"),
        (legacy, "legacy", "LegacyPath"),
        (object(), "neither", "ErrorState"),
        (None, "neither", "ErrorState"),
    ]:
        assert kind_of(request) == kind
        routing = RequestRouting()
        routing.route(request)
        assert routing.phase == path
        with pytest.raises(IllegalMoveError):
            routing.route(request)


def test_what_was_adapted_is_cleaned_up_as_such() -> None:
    for request, end in [
        (SimpleNamespace(user_id="a", run_id="r"), "LegacyCleanup"),
        (context("st-a"), "ModernCleanup"),
    ]:
        mode = CompatibilityMode()
        mode.detect(request)
        if mode.state == "LegacyAdapter":
            mode.move("adapted")
        mode.move("begun")
        with pytest.raises(IllegalMoveError):
            mode.decide_cleanup()
        mode.move("ended")
        assert mode.decide_cleanup() == end


class Goes(BaseAgent):
    name = "goes"

    async def execute_with_context(self, context: UserExecutionContext, request: Any) -> Any:
        await request.wait()


def factory() -> ExecutionEngineFactory:
    agents = AgentRegistry()
    agents.register(Goes)
    return ExecutionEngineFactory(agent_factory=AgentInstanceFactory(agents), grace=0.05)


async def test_a_lifecycle_follows_a_real_request_and_never_goes_back() -> None:
    engines, life, gate = factory(), RequestLifecycle(), asyncio.Event()
    request = context("st-bea")
    assert life.follow(request) == "FactoryInstantiation"
    engine = await engines.create_for_user(request)
    assert life.follow(request, engine) == "SemaphoreAcquisition"
    run = asyncio.create_task(engine.execute_agent(Goes, gate))
    await asyncio.sleep(0.01)
    assert life.follow(request, engine) == "AgentProcessing"
    assert life.phase == "ExecutionEngine"
    gate.set()
    await run
    assert life.follow(request, engine) == "ExecutionComplete"
    await engine.cleanup()
    assert life.follow(request, engine) == "ResourceRelease"
    await request.cleanup()
    assert life.follow(request, engine) == "Ended"
    assert [move.source for move in life.history][-4:] == [
        *("ResourceRelease", "CacheCleanup", "ConnectionCleanup", "MetricsUpdate"),
    ]
    with pytest.raises(IllegalMoveError, match="where 'to FactoryInstantiation' cannot happen"):
        life.follow(context("st-bea", 2))


# -- validation --------------------------------------------------------------------------------------------------------


async def test_the_first_validation_that_fails_ends_them() -> None:
    done: list[str] = []

    def check(name: str, *problems: str, checked: int = 1) -> Any:
        def one() -> Validation:
            done.append(name)
            return Validation(name, problems, checked)

        return one

    async def slow() -> Validation:
        return check("PerformanceCheck")()

    good = {name: check(name) for name in ("ContextValidation", "IsolationCheck", "SecurityAudit")}
    layer = ValidationLayer({**good, "PerformanceCheck": slow})
    assert await layer.run() == "ProductionReady"
    assert done == ["ContextValidation", "IsolationCheck", "PerformanceCheck", "SecurityAudit"]
    done.clear()
    layer = ValidationLayer({**good, "PerformanceCheck": slow, "IsolationCheck": check("IsolationCheck", "leak")})
    assert await layer.run() == "RollbackRequired"
    assert done == ["ContextValidation", "IsolationCheck"]
    layer = ValidationLayer({**good, "PerformanceCheck": check("PerformanceCheck", checked=0)})
    assert await layer.run() == "RollbackRequired", "nothing looked at is no success"

    def broken() -> Validation:
        raise OSError("no disk")

    layer = ValidationLayer({**good, "PerformanceCheck": broken})
    assert await layer.run() == "RollbackRequired"
    assert layer.results[-1].problems == ("it could not be done: OSError",)
    with pytest.raises(ValueError, match="checks must be exactly"):
        ValidationLayer({})


def guard_of(**policy: Any) -> RolloutGuard:
    flags = MigrationFeatureFlags({"schema": 1, "revision": 1, "flags": {FLAG: {"rollout": 100_000}}})
    return RolloutGuard(flags, policy=GuardPolicy(min_samples=5, **policy))


def feed(guard: RolloutGuard) -> None:
    for metric in ("run_error", "slow_run", "slow_event", "dropped_event"):
        guard.observe(metric, 0, seen=5)
    guard.observe("slow_run", 0, "legacy", seen=5)


@pytest.fixture
def audit(tmp_path: Path) -> EncryptedAuditStorage:
    storage = EncryptedAuditStorage(tmp_path / "audit", CallableKey(lambda: b"k" * 32))
    logger = AuditLogger(storage)
    for number in range(5):
        logger.record(SecurityEvent(name="n", audit_class=AuditClass.ADMIN, user_id="ann", data={"n": number}))
    logger.close()
    return storage


async def test_a_migration_is_ready_when_everything_was_looked_at_and_is_well(audit: EncryptedAuditStorage) -> None:
    guard, request = guard_of(), context("st-cho")
    phase = MigrationPhase(guard, audit)
    assert await phase.validate(request) == "RollbackRequired", "there is no data"
    assert phase.results[-1].name == "PerformanceCheck"
    feed(guard)
    phase = MigrationPhase(guard, audit)
    assert await phase.validate(request) == "ProductionReady", phase.results
    assert await MigrationPhase(guard).validate(request) == "RollbackRequired", "there is no audit log"
    assert await MigrationPhase(guard, audit).validate() == "RollbackRequired", "there are no contexts"
    assert await MigrationPhase(guard, audit).validate("nobody") == "RollbackRequired"  # type: ignore[arg-type]
    with pytest.raises(IllegalMoveError):
        await phase.validate(request)


# -- integrity ---------------------------------------------------------------------------------------------------------


async def test_data_in_order_is_found_in_order(audit: EncryptedAuditStorage) -> None:
    request = context("st-dot")
    await request.get_websocket_emitter().notify_agent_started(agent_name="a")
    report = await check_data_integrity(audit)
    assert report.ok, report.problems
    assert {name: check.checked > 0 for name, check in report.checks.items()} == {
        "owners": True,
        "logs": True,
        "audit": True,
    }
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    assert set((await check_data_integrity()).checks) == {"owners", "logs"}


async def test_a_container_of_two_users_is_found() -> None:
    shared = {"rows": [1]}
    first, second = context("st-eve"), context("st-fay")
    for one in (first, second):
        one.agent_context["cache"] = shared
    found = check_owners()
    assert not found.ok
    assert "eve" not in " ".join(found.problems), "it names nobody"
    report = await check_data_integrity()
    assert not report.ok
    assert any(problem.startswith("owners: shared_container") for problem in report.problems)
    del first, second, one


async def test_a_lost_event_is_found() -> None:
    request = context("st-gil")
    for _ in range(3):
        await request.get_websocket_emitter().send_custom_event("note", {"x": 1})
    accounts = log_accounts()
    assert check_logs(accounts).ok
    assert check_logs().ok
    # Through the same check, with one event gone.
    lost = copy.deepcopy(accounts)
    lost[-1]["live"] -= 1
    assert "1 events fewer" in check_logs(lost).problems[0]
    moved = copy.deepcopy(accounts)
    moved[-1]["misplaced"] = 2
    assert "2 events that are not where they belong" in check_logs(moved).problems[0]
    assert len(check_logs(lost * 100).problems) == 65, "few are told one by one"


async def test_a_changed_record_is_found(audit: EncryptedAuditStorage) -> None:
    assert check_audit(audit).ok
    files = [path for path in (audit.path / "chain-000001").rglob("*") if path.is_file()]
    damaged = max(files, key=lambda path: path.stat().st_size)
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    report = await check_data_integrity(audit)
    assert not report.ok
    assert report.problems[0].startswith("audit: ")


async def test_a_check_that_cannot_be_done_has_failed(tmp_path: Path) -> None:
    report = await check_data_integrity(EncryptedAuditStorage(tmp_path / "nowhere"))
    assert not report.ok
    assert report.checks["audit"].checked == 0
    assert "could not be checked" in report.problems[0]


# -- rollback ----------------------------------------------------------------------------------------------------------


async def test_a_healthy_rollout_goes_on() -> None:
    guard = guard_of()
    procedure = RollbackProcedure(guard)
    assert await procedure.run() == "Healthy"
    assert guard.status().state != "rolled_back"
    with pytest.raises(IllegalMoveError):
        await procedure.run()


def worry(guard: RolloutGuard) -> None:
    guard.observe("run_error", 1, seen=5)
    assert guard.status().health == "warning"


async def test_a_degraded_rollout_is_relieved_or_paused() -> None:
    guard = guard_of()
    worry(guard)

    def helps() -> bool:
        guard.observe("run_error", 0, seen=2_000)
        return True

    async def fails() -> bool:
        raise OSError("no room")

    assert await RollbackProcedure(guard, load_balancing=helps).run() == "Recovery"
    assert not guard.status().paused
    guard = guard_of()
    worry(guard)
    procedure = RollbackProcedure(guard, load_balancing=lambda: True, resource_optimization=fails)
    assert await procedure.run() == "EscalateToModerate"
    assert guard.status().paused
    assert guard.status().state == "warning", "people decide"


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_critical_rollout_is_contained_checked_and_reverted(
    damaged: bool, audit: EncryptedAuditStorage
) -> None:
    guard, engines = guard_of(), factory()
    before = install_flags(guard.engine)
    guard.attach(SimpleNamespace(factory=engines))  # type: ignore[arg-type]
    request = context("st-hal")
    engine = await engines.create_for_user(request)
    run = asyncio.create_task(engine.execute_agent(Goes, asyncio.Event()))
    await asyncio.sleep(0.01)
    guard.rollback("a feeling", "ops")
    assert engine.is_active(), "it may finish"
    held = [context("st-ida"), context("st-jim")]
    if damaged:
        shared = {"rows": [1]}
        for one in held:
            one.agent_context["cache"] = shared
    procedure = RollbackProcedure(guard, audit=audit)
    end = await procedure.run()
    install_flags(before)
    assert not engine.is_active(), "it is contained before its data is judged"
    with pytest.raises(Exception, match="rolled back"):
        await run
    assert procedure.integrity is not None
    assert (end, procedure.integrity.ok) == (
        ("LegacyModeActivation", False) if damaged else ("GracefulFallback", True)
    ), procedure.integrity.problems
    assert guard.engine.is_killed is damaged
    await engines.shutdown(0)


def test_monitoring_looks_again_and_again() -> None:
    guard, monitor = guard_of(), HealthMonitoring()
    assert monitor.look(guard) == "Healthy"
    assert monitor.look(guard) == "Healthy"
    worry(guard)
    assert monitor.look(guard) == "InvestigateDegradation"
    assert monitor.look(guard) == "InvestigateDegradation"
    monitor.move("investigated")
    guard.observe("isolation_violation", True)
    assert monitor.look(guard) == "ImmediateContainment"
    assert monitor.phase == "Critical"
